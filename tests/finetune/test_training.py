"""The fine-tune in one process and in two, against itself and against plain autograd."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ftrect_ray.errors import InputError
from ftrect_ray.finetune import objectives
from ftrect_ray.finetune.engine import join_alone
from ftrect_ray.finetune.training import Diverged, fit_local, learning_rate_factor, train
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.precision import resolve_precision
from ftrect_ray.predictor.tokens import collate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def _residual_variance(predictor: Predictor, rows) -> float:
    return float(np.var(rows.answers - predictor.predict(rows.texts)[0]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": "mse"},
        {"adapter": "lora"},
        {"adapter": "head", "head_learning_rate": 0.1},
        {"zero_stage": 1},
        {"zero_stage": 3},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_fit_local_learns_and_is_centred(settings, tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=160, stop=40, epochs=12, **settings)
    predictor, result = fit_local(spec)
    before = np.var(spec.stop.answers)
    share = 0.9 if settings.get("adapter") else 0.6
    assert _residual_variance(predictor, spec.stop) < share * before
    assert result.name == "fold-0"
    assert len(result.curve) <= 12
    assert result.model_seconds > 0
    own = np.concatenate([spec.train.answers, spec.stop.answers])
    predicted, _ = predictor.predict(spec.train.texts + spec.stop.texts)
    assert abs(np.mean(own - predicted)) < 1e-6
    assert predictor.scale.center == pytest.approx(spec.train.answers.mean())  # the stop rows are not in the scale
    assert predictor.scale.spread == pytest.approx(spec.train.answers.std())


@pytest.mark.parametrize("objective", ["variance", "mse"])
def test_the_best_epoch_is_kept(objective: str, tiny_bert: Path, make_spec) -> None:
    """Answers that are noise: the stop rows' metric rises, and training ends ``patience`` epochs after the best."""
    spec = make_spec(
        tiny_bert, train=16, stop=16, epochs=40, patience=4, min_epochs=1, learning_rate=3e-3, objective=objective
    )
    noise = np.random.default_rng(5).normal(0, 1, 32)
    spec = replace(spec, train=replace(spec.train, answers=noise[:16]), stop=replace(spec.stop, answers=noise[16:]))
    predictor, result = fit_local(spec)
    metrics = [epoch.stop_metric for epoch in result.curve]
    assert result.best_epoch == 1 + int(np.argmin(metrics))
    assert [epoch.epoch for epoch in result.curve] == list(range(1, len(metrics) + 1))
    assert len(metrics) == result.best_epoch + 4 < 40
    residual = spec.stop.answers - (predictor.predict(spec.stop.texts)[0] - predictor.scale.offset)
    expected = np.var(residual) if objective == "variance" else np.mean(residual**2)
    assert min(metrics) == pytest.approx(expected, rel=1e-5)


def test_no_epoch_before_min_epochs_is_kept(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=16, stop=16, epochs=9, patience=1, min_epochs=7, learning_rate=0.05)
    noise = np.random.default_rng(5).normal(0, 1, 32)
    spec = replace(spec, train=replace(spec.train, answers=noise[:16]), stop=replace(spec.stop, answers=noise[16:]))
    _, result = fit_local(spec)
    metrics = [epoch.stop_metric for epoch in result.curve]
    assert min(metrics[:6]) < min(metrics[6:])  # an earlier epoch looked better
    assert result.best_epoch == 7 + int(np.argmin(metrics[6:]))


@pytest.mark.parametrize("stop", [0, 1])
def test_without_stop_rows_the_last_epoch_is_kept(stop: int, tiny_bert: Path, make_spec) -> None:
    _, result = fit_local(make_spec(tiny_bert, stop=stop, epochs=3, patience=1))
    assert result.best_epoch == 3
    assert all(math.isnan(epoch.stop_metric) for epoch in result.curve)


def test_same_seed_same_weights_bit_for_bit(tiny_bert: Path, make_spec) -> None:
    outcomes = []
    for seed in (1, 1, 2):
        join_alone(CPU)
        outcomes.append(train(replace(make_spec(tiny_bert, adapter="lora"), seed=seed), device=CPU))
    one, same, other = (outcome.weights for outcome in outcomes)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_training_leaves_the_global_generator_alone(tiny_bert: Path, make_spec) -> None:
    before = torch.random.get_rng_state()
    fit_local(make_spec(tiny_bert, epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_resumed_is_as_if_never_stopped(stage: int, tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    """LoRA with dropout: frozen weights, optimiser state, seeds and the best weights so far all come back."""
    spec = make_spec(tiny_bert, adapter="lora", epochs=4, zero_stage=stage, patience=4)
    join_alone(CPU)
    whole = train(spec, device=CPU, on_epoch=lambda epoch, save: save(_made(tmp_path / str(epoch.epoch))))
    resumed = train(spec, device=CPU, resume=tmp_path / "2")
    assert resumed.curve[:2] == whole.curve[:2]  # seconds too: these epochs were not run again
    assert [epoch.stop_metric for epoch in resumed.curve] == [epoch.stop_metric for epoch in whole.curve]
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)
    complete = train(spec, device=CPU, resume=tmp_path / "4")
    assert complete.curve == whole.curve
    assert complete.best_epoch == whole.best_epoch
    assert all(torch.equal(complete.weights[name], whole.weights[name]) for name in whole.weights)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_divergence_names_step_and_rows(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(
        tiny_bert, train=12, batch_size=4, warmup=0.0, learning_rate=1e30, head_learning_rate=1e30, clip=1e30
    )
    with pytest.raises(
        Diverged, match=r"'fold-0' diverged: the loss is not finite in epoch \d, (step \d|early stopping), rows r\d"
    ) as caught:
        fit_local(spec)
    assert "lower training.learning_rate" in str(caught.value)
    assert caught.value.exit_code == 4


def test_unusable_texts_are_left_out_and_two_rows_are_needed(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=6, stop=4, epochs=1)
    holes = replace(spec.train, texts=("good", "", "bad", " ", "\ud800", "great"))
    fit_local(replace(spec, train=holes))
    empty = replace(spec.train, texts=("good", "", "", "", "", ""))
    with pytest.raises(InputError, match="has 1 rows with a usable text; it needs 2"):
        fit_local(replace(spec, train=empty))


def test_equal_answers_train(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=8, stop=4, epochs=1)
    spec = replace(
        spec, train=replace(spec.train, answers=np.full(8, 3.0)), stop=replace(spec.stop, answers=np.full(4, 3.0))
    )
    predictor, _ = fit_local(spec)
    assert np.isfinite(predictor.predict(["good"])[0]).all()


def test_learning_rate_rises_and_falls() -> None:
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    np.testing.assert_allclose(factors, [0.5, 1, *np.linspace(1, 0, 9)[:-1]])
    assert learning_rate_factor(0, 10, 0.0) == 1.0


def test_precision() -> None:
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("auto", CPU) in (torch.float32, torch.bfloat16)


# ------------------------------------------------------------------------------------------------- two processes


def _plain_gradient(spec) -> dict[str, torch.Tensor]:
    """By torch's autograd alone, on the concatenated batch, with the mean residual inside the graph."""
    predictor = Predictor.create(spec.model, seed=spec.seed)
    tokens = predictor.encode(spec.train.texts).tokens
    standard = (spec.train.answers - spec.train.answers.mean()) / spec.train.answers.std()
    residual = torch.tensor(standard, dtype=torch.float32) - predictor(
        *collate(tokens, predictor.tokenizer.pad_token_id)
    )
    loss = residual.var(correction=0) if spec.objective == "variance" else residual.square().mean()
    mine = predictor.trainable()
    return dict(zip(mine, torch.autograd.grad(loss, list(mine.values())), strict=True))


@pytest.mark.ray
def test_zero_gradients_over_two_ranks_are_those_of_the_global_batch(
    tiny_bert: Path, tiny_llama: Path, make_spec, two_ranks
) -> None:
    """Every ZeRO stage; 5 rows as 3 + 2, 4 + 1 (a rank with one row) and 5 + 0 (an empty rank)."""
    cases = [(make_spec(tiny_bert, train=5, zero_stage=stage), first) for stage in (1, 2, 3) for first in (3, 4, 5)]
    cases.append((make_spec(tiny_bert, train=5, zero_stage=2, objective="mse"), 4))
    cases.append((make_spec(tiny_llama, train=5, zero_stage=3, adapter="lora"), 4))
    answers = two_ranks("engine_gradients", cases)
    for (spec, first), answer in zip(cases, answers, strict=True):
        plain = _plain_gradient(spec)
        assert plain.keys() == answer.keys()
        for name, gradient in plain.items():
            worst = (torch.tensor(answer[name]) - gradient.flatten()).abs().max().item()
            assert worst <= 1e-6, f"stage {spec.training.zero_stage}, {first} rows on rank 0, {name}: {worst}"


@pytest.mark.ray
def test_two_ranks_train_the_same_model_as_one(tiny_bert: Path, make_spec, two_ranks) -> None:
    """Whole fine-tunes; steps of one row leave the second rank empty throughout."""
    specs = [make_spec(tiny_bert, zero_stage=stage) for stage in (1, 2, 3)]
    specs.append(make_spec(tiny_bert, train=6, stop=3, batch_size=1, objective="mse", learning_rate=1e-3))
    join_alone(CPU)
    for spec, (metrics, weights) in zip(specs, two_ranks("whole_fit", specs), strict=True):
        alone = train(spec, device=CPU)
        np.testing.assert_allclose(metrics, [epoch.stop_metric for epoch in alone.curve], rtol=1e-4)
        for name, weight in alone.weights.items():
            if weight.ndim > 1:  # a level has no gradient but rounding noise, which Adam enlarges: biases may differ
                np.testing.assert_allclose(weights[name], weight.flatten(), atol=1e-3, err_msg=name)


def test_a_step_of_one_row_moves_the_mse_model(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=4, stop=0, batch_size=1, objective="mse", epochs=2)
    predictor, result = fit_local(spec)
    assert result.curve[1].train_loss < result.curve[0].train_loss
    assert np.isfinite(predictor.predict(spec.train.texts)[0]).all()


def test_objectives_are_the_studys() -> None:
    from ftrect_ray.study import Study

    assert set(objectives.LOSSES) == set(Study.model_fields["objective"].annotation.__args__)
