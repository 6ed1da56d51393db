"""The readout alone: features once a study, the closed form, and the same face as a fine-tune by gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ftrect_ray.errors import InputError
from ftrect_ray.finetune import frozen, objectives, ridge
from ftrect_ray.finetune.frozen import FrozenFit
from ftrect_ray.finetune.opening import open_fit
from ftrect_ray.finetune.pilot import PilotSpec, measure
from ftrect_ray.finetune.spec import Coefficients, Rows
from ftrect_ray.predictor import Predictor
from ftrect_ray.study import Options

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def fitted(spec) -> FrozenFit:
    with FrozenFit(spec, CPU) as fit:
        fit.run()
        fit.finish()
    return fit


def own_rows(spec) -> Rows:
    parts = (spec.train, spec.stop)
    features = None if spec.train.features is None else np.concatenate([part.features for part in parts])
    return Rows(
        spec.train.ids + spec.stop.ids,
        spec.train.texts + spec.stop.texts,
        np.concatenate([part.answers for part in parts]),
        features=features,
    )


def test_it_is_ridge_regression_on_pooled_hidden_states(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_bert, train=60, stop=20, adapter="head")
    fit = fitted(spec)
    base = Predictor.create(spec.model)
    rows = own_rows(spec)
    x = base.features(base.encode(rows.texts).tokens, 2048).double().numpy()
    y = rows.answers
    z = (x - x.mean(0)) / x.std(0)
    # λ is not told; the fit is on the path of ridge regressions, so its slopes' projection finds it.
    slopes = (fit.predictor.head.weight[0].detach().double().numpy() * fit.scale.spread) * x.std(0)
    penalty = float(slopes @ (z.T @ (y - y.mean()) - z.T @ z @ slopes) / (slopes @ slopes))
    expected = np.linalg.solve(z.T @ z + penalty * np.eye(16), z.T @ (y - y.mean()))
    np.testing.assert_allclose(slopes, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(fit.predict(rows.texts), y.mean() + z @ expected, atol=1e-3)
    fit.save_model(tmp_path)
    loaded = Predictor.load(tmp_path)
    np.testing.assert_allclose(loaded.predict(rows.texts)[0], fit.predict(rows.texts), atol=1e-5)


def test_long_training_by_gradients_comes_to_the_same(tiny_bert: Path, make_spec, monkeypatch) -> None:
    from ftrect_ray.finetune.training import Fit

    monkeypatch.setattr(ridge, "PENALTIES", np.array([1e-9]))  # gradient steps know none
    spec = make_spec(
        tiny_bert, train=40, stop=0, adapter="head", batch_size=40, epochs=120, head_learning_rate=0.5, warmup=0.02
    )
    rows, fit = own_rows(spec), fitted(spec)
    with Fit.alone(spec) as slow:
        slow.run()
        slow.finish()
        trained = slow.predict(rows.texts)
    there, here = np.var(rows.answers - trained), np.var(rows.answers - fit.predict(rows.texts))
    assert here <= there * (1 + 1e-5)
    assert here == pytest.approx(there, rel=0.03)
    assert here < 0.6 * np.var(rows.answers)


@pytest.mark.parametrize("objective", ["variance", "mse", "coefficient", "trace", "determinant"])
def test_the_curve_has_the_objective_in_its_own_unit(objective: str, tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=60, stop=20, adapter="head", objective=objective, batch_size=32)
    if objective not in ("variance", "mse"):
        design = np.column_stack([np.ones(80), np.random.default_rng(1).normal(size=(80, 2))])
        train, stop = (
            replace(part, features=rows)
            for part, rows in zip((spec.train, spec.stop), np.split(design, [60]), strict=True)
        )
        coordinate = 1 if objective == "coefficient" else None
        spec = replace(spec, train=train, stop=stop, coefficients=Coefficients("identity", coordinate))
    fit, rows = fitted(spec), own_rows(spec)
    [epoch] = fit.curve
    assert (epoch.epoch, fit.best_epoch, fit.result.curve) == (1, 1, (epoch,))

    def metric(residual: np.ndarray) -> float:
        u = fit.influence.weights(rows) * residual[:, None]
        return objectives.metric(objective, torch.from_numpy(u))

    assert epoch.train_loss == pytest.approx(metric(rows.answers - fit.predict(rows.texts)), rel=1e-4)
    assert epoch.train_loss < epoch.stop_metric < metric(rows.answers - rows.answers.mean())
    assert fit.result.model_seconds == epoch.seconds > 0
    tenfold = replace(
        spec,
        train=replace(spec.train, answers=10 * spec.train.answers),
        stop=replace(spec.stop, answers=10 * spec.stop.answers),
    )
    assert fitted(tenfold).curve[0].stop_metric == pytest.approx(100 * epoch.stop_metric, rel=1e-4)


def test_features_are_computed_once_a_study(tiny_bert: Path, make_spec, tmp_path: Path, monkeypatch) -> None:
    spec = replace(make_spec(tiny_bert, adapter="head"), cache=str(tmp_path))
    computed: list[int] = []
    features = Predictor.features

    def count(self, tokens, batch_tokens):
        computed.append(len(tokens))
        return features(self, tokens, batch_tokens)

    monkeypatch.setattr(Predictor, "features", count)
    frozen.backbone.cache_clear()  # as in a new process
    first = fitted(spec)
    texts = len(set(own_rows(spec).texts))
    assert sum(computed) == texts
    computed.clear()
    again = fitted(replace(spec, name="fold-1", train=spec.train.take(np.arange(20)[::-1])))
    assert sum(computed) == 0
    again.predict(["a new film", spec.train.texts[0], "a new film"])
    assert sum(computed) == 1
    assert first.spec.key == replace(spec, cache=None).key  # where the cache is changes nothing


def test_the_order_of_computing_changes_no_bit(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_bert, adapter="head")
    alone = fitted(spec).predict(spec.stop.texts)
    cached = replace(spec, cache=str(tmp_path))
    fitted(replace(cached, train=spec.train.take(np.arange(5, 14)), stop=spec.stop.take(np.arange(3))))
    assert np.array_equal(fitted(cached).predict(spec.stop.texts), alone)
    for path in tmp_path.rglob("*.arrow"):
        path.write_bytes(b"broken")
    assert np.array_equal(fitted(cached).predict(spec.stop.texts), alone)


def test_a_prompts_features_are_the_same_bits_in_any_company(tiny_llama: Path, make_spec, tmp_path: Path) -> None:
    """Of the first layer, read at the last token of a prompt whose beginning is computed once."""
    words = "the film was good i love it the plot was bad i hate it the actor was dull"
    spec = make_spec(tiny_llama, adapter="head", layer=1, options=Options(prompt=words + " {text} it was"))
    spec = replace(spec, model=spec.model.model_copy(update={"max_tokens": 40}))
    with pytest.raises(InputError, match="reads 32 tokens at most"):
        fitted(spec)
    spec = replace(spec, model=spec.model.model_copy(update={"max_tokens": 32}))
    whole = fitted(spec)
    assert len(whole.predictor.prefix) == 18
    assert len(whole.predictor.base.layers) == 1
    cached = replace(spec, cache=str(tmp_path))
    fitted(replace(cached, train=spec.train.take(np.arange(5, 14)), stop=spec.stop.take(np.arange(3))))
    again = fitted(cached)
    assert np.array_equal(again.predict(spec.stop.texts), whole.predict(spec.stop.texts))
    again.save_model(tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(spec.stop.texts)[0], whole.predict(spec.stop.texts), atol=1e-5)


def test_unusable_texts_are_left_out_and_two_rows_are_needed(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=6, stop=2, adapter="head")
    holes = replace(spec, train=replace(spec.train, texts=("good", "", "bad", " ", "\ud800", "great")))
    predicted = fitted(holes).predict(["good", "", "\ud800"])
    assert np.isfinite(predicted).tolist() == [True, False, False]
    with pytest.raises(InputError, match="'fold-0' has 1 rows with a usable text; it needs 2"):
        fitted(replace(spec, train=replace(spec.train, texts=("good", *[""] * 5)), stop=spec.stop.take(np.arange(0))))


def test_equal_answers_give_that_answer(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=8, stop=2, adapter="head")
    spec = replace(
        spec, train=replace(spec.train, answers=np.full(8, 3.0)), stop=replace(spec.stop, answers=np.full(2, 3.0))
    )
    np.testing.assert_allclose(fitted(spec).predict(["good", "bad"]), 3.0, atol=1e-6)


def test_a_pilot_is_measured_by_it(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    whole = make_spec(tiny_bert, train=60, stop=60, adapter="head")
    fit = replace(whole, stop=whole.train.take(np.arange(50, 60)), train=whole.train.take(np.arange(50)))
    spec = PilotSpec("pilot-s60-r0", 60, 0, replace(fit, cache=str(tmp_path)), whole.stop)
    result = measure(spec)
    residual = whole.stop.answers - fitted(fit).predict(whole.stop.texts)
    assert result.residual_variance == pytest.approx(np.var(residual, ddof=1), rel=1e-9)
    assert (result.status, result.best_epoch, result.n_measure) == ("done", 1, 60)
    assert result.residual_variance < 0.9 * np.var(whole.stop.answers)


def test_which_fit_is_opened(tiny_bert: Path, make_spec) -> None:
    from ftrect_ray.finetune.training import Fit

    for adapter, kind in (("head", FrozenFit), ("lora", Fit)):
        with open_fit(make_spec(tiny_bert, adapter=adapter)) as fit:
            assert type(fit) is kind


@pytest.mark.ray
def test_two_ranks_share_the_features_and_solve_alike(tiny_bert: Path, make_spec, ranks, tmp_path: Path) -> None:
    spec = replace(make_spec(tiny_bert, train=40, adapter="head"), cache=str(tmp_path / "cache"))
    texts = [*spec.stop.texts, "", "a new film"]
    alone = fitted(replace(spec, cache=None)).predict(texts)
    fitted(replace(spec, train=spec.train.take(np.arange(7))))  # rank 0 finds a part of them in the cache
    told = ranks("frozen_fit", [spec, str(tmp_path / "model"), texts])
    assert not told["deepspeed"]
    for predictions in told["predictions"]:
        np.testing.assert_array_equal(predictions, alone)
    np.testing.assert_allclose(Predictor.load(tmp_path / "model").predict(texts)[0], alone, atol=1e-5)


@pytest.mark.ray
def test_ray_train_fits_it_on_two_workers(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    import ray

    from ftrect_ray.finetune import driver

    spec = replace(make_spec(tiny_bert, train=40, adapter="head", workers=2), cache=str(tmp_path / "cache"))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
    try:
        home = tmp_path / "model"
        [result] = driver.finetune([spec], storage=str(tmp_path / "storage"), destination=home)
        assert driver.finetune([spec], storage=str(tmp_path / "storage"), destination=home) == [result]
    finally:
        ray.shutdown()
    alone = fitted(replace(spec, cache=None))
    assert result.best_epoch == 1
    assert result.curve[0].stop_metric == pytest.approx(alone.curve[0].stop_metric, rel=1e-6)
    predicted = Predictor.load(home / "fold-0").predict(spec.stop.texts)[0]
    np.testing.assert_allclose(predicted, alone.predict(spec.stop.texts), atol=1e-5)
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1  # both ranks' features, written by one
