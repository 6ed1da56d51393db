"""The fine-tune in one process and in two, against itself and against plain autograd."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ftrect_ray.errors import InputError
from ftrect_ray.finetune import objectives, training
from ftrect_ray.finetune.batching import epoch_batches, passes
from ftrect_ray.finetune.training import Diverged, Fit, fit_local, learning_rate_factor
from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.precision import resolve_precision
from ftrect_ray.study import Options

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
    # In half precision the centre is that of the numbers as they were computed, and these are computed in full.
    assert abs(np.mean(own - predicted)) < (0.03 if settings.get("precision") == "bf16" else 1e-6)
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
    one, same, other = (_run(replace(make_spec(tiny_bert, adapter="lora"), seed=seed)).weights for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_training_leaves_the_global_generator_alone(tiny_bert: Path, make_spec) -> None:
    before = torch.random.get_rng_state()
    fit_local(make_spec(tiny_bert, epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_resumed_is_as_if_never_stopped(stage: int, tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    """After any step, LoRA with dropout: frozen weights, optimiser, seeds and the best weights so far all come back."""
    spec = make_spec(tiny_bert, adapter="lora", epochs=4, zero_stage=stage, patience=4, micro_batch_size=3)
    saved = []

    def save(fit: Fit, epoch_ended: bool) -> None:
        saved.append(tmp_path / str(len(saved)))
        saved[-1].mkdir()
        fit.save(saved[-1])

    whole = _run(spec, save)
    assert len(saved) == 4 * (3 + 1)  # three steps an epoch, and its end
    for folder in saved[4:12:3] + saved[-2:]:
        resumed = _run(spec, resume=folder)
        assert [epoch.stop_metric for epoch in resumed.curve] == [epoch.stop_metric for epoch in whole.curve]
        assert [epoch.train_loss for epoch in resumed.curve] == [epoch.train_loss for epoch in whole.curve]
        assert resumed.curve[0] == whole.curve[0]  # seconds too: this epoch was not run again
        assert resumed.best_epoch == whole.best_epoch
        assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)


def _run(spec, after_step=lambda fit, epoch_ended: None, resume: Path | None = None) -> Fit:
    with Fit.alone(spec) as fit:
        if resume:
            fit.resume(resume)
        fit.run(after_step)
    return fit


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


def test_where_a_pass_costs_little_a_step_makes_several(
    tiny_bert: Path, make_spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tiny_bert, epochs=2)

    def fitted(overhead: float) -> tuple[list[int], np.ndarray]:
        """Rows of each pass, and predictions."""
        monkeypatch.setattr(training, "PASS_TOKENS", overhead)
        with Fit.alone(spec) as fit:
            sizes, one_pass = [], fit._one_pass
            monkeypatch.setattr(fit, "_one_pass", lambda own: sizes.append(len(own)) or one_pass(own))
            fit.run()
            fit.finish()
            return sizes, fit.predict(spec.stop.texts)

    (whole, plain), (parts, predicted) = fitted(math.inf), fitted(0)
    assert whole == [8] * 6
    assert len(parts) > 2 * len(whole)
    assert sum(parts) == sum(whole)
    np.testing.assert_allclose(predicted, plain, rtol=0, atol=1e-4 * spec.train.answers.std())


@pytest.mark.parametrize("overhead", [0.0, 3.0, 32.0])
@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_into_passes_costs_less(seed: int, overhead: float) -> None:
    random = np.random.default_rng(seed)
    widths = np.sort(random.integers(1, 40, random.integers(1, 9)))[::-1]

    def cost(ends: tuple[int, ...]) -> float:
        return sum((end - start) * widths[start] + overhead for start, end in pairwise((0, *ends)))

    found = passes(widths, overhead)
    assert [part.start for part in found] == [0, *(part.stop for part in found[:-1])]
    inner = range(1, len(widths))
    every = [(*ends, len(widths)) for size in range(len(widths)) for ends in combinations(inner, size)]
    assert cost(tuple(part.stop for part in found)) == pytest.approx(min(map(cost, every)))
    assert found[-1].stop == len(widths)
    assert passes(widths, math.inf) == [slice(0, len(widths))]


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
    """By torch's autograd alone, in fp64, on the concatenated first batch, with the moments inside the graph."""
    predictor = Predictor.create(spec.model, seed=spec.seed, scale=Scale.of(spec.train.answers)).double()
    rows = spec.train.take(epoch_batches(len(spec.train), spec.training.batch_size, spec.seed, 1)[0])
    target = (rows.answers - spec.train.answers.mean()) / spec.train.answers.std()
    read = predictor.read(predictor(*predictor.collate(predictor.encode(rows.texts).tokens)))
    u = (torch.tensor(target) - read)[:, None]
    mine = predictor.trainable()
    return dict(
        zip(mine, torch.autograd.grad(objectives.OBJECTIVES[spec.objective](u), list(mine.values())), strict=True)
    )


def _exact_cases(tiny_bert: Path, tiny_llama: Path, make_spec) -> list:
    """ZeRO 1, 2, 3 × full, LoRA × accumulation over 1 and 4 micro-batches (and rows one by one); 7 rows a step."""
    cases = []
    for stage in (1, 2, 3):
        for folder, adapter in ((tiny_bert, "full"), (tiny_llama, "lora")):
            for micro in (None, 1, 2):
                settings = {
                    "zero_stage": stage,
                    "adapter": adapter,
                    "micro_batch_size": micro,
                    "lora": {"dropout": 0.0},
                }
                cases.append(make_spec(folder, train=7, batch_size=7, **settings))
    cases.append(make_spec(tiny_bert, train=7, batch_size=7, micro_batch_size=2, objective="mse"))
    cases.append(make_spec(tiny_bert, train=3, batch_size=1, objective="mse"))  # the second rank is empty
    return cases


def _assert_gradients(cases, answers) -> None:
    """To the rounding of fp32: a quarter of the bound is the worst of three sets of a CPU's instructions."""
    for spec, answer in zip(cases, answers, strict=True):
        plain = _plain_gradient(spec)
        assert plain.keys() == answer.keys()
        largest = max(gradient.abs().max().item() for gradient in plain.values())
        assert largest > 0.01
        for name, gradient in plain.items():
            worst = (torch.tensor(answer[name]) - gradient.flatten()).abs().max().item()
            assert worst <= 4e-6 * max(1.0, largest), f"{spec.training}, {name}: {worst}"


@pytest.mark.ray
@pytest.mark.parametrize("world", [1, 2])
def test_gradients_are_those_of_the_global_batch(
    world: int, tiny_bert: Path, tiny_llama: Path, make_spec, ranks
) -> None:
    cases = _exact_cases(tiny_bert, tiny_llama, make_spec)
    _assert_gradients(cases, ranks("first_gradients", cases, world))


@pytest.mark.ray
@pytest.mark.parametrize("world", [1, 2])
def test_passes_of_rows_alike_in_length_leave_the_gradient(
    world: int, tiny_bert: Path, tiny_llama: Path, make_spec, ranks
) -> None:
    """Also behind a beginning that all passes share: its gradient is the sum of theirs."""
    shared = {
        "options": Options(prompt=f"{'the film was good ' * 4}{{text}} it was", answers={"bad": 0, "great great": 20}),
        "freeze_embeddings": False,
        "max_tokens": 32,
    }
    cases = []
    for stage in (1, 2, 3):
        for micro in (None, 3):
            settings = {"train": 9, "batch_size": 9, "zero_stage": stage, "micro_batch_size": micro}
            cases.append(make_spec(tiny_bert, **settings))
            cases.append(make_spec(tiny_llama, adapter="lora", lora={"dropout": 0.0}, **settings))
            cases.append(make_spec(tiny_llama, **settings, **shared))
    cases.append(make_spec(tiny_llama, train=3, batch_size=1, objective="mse", **shared))  # the second rank is empty
    _assert_gradients(cases, ranks("first_gradients_in_passes", cases, world))


@pytest.mark.ray
@pytest.mark.parametrize("world", [1, 2])
def test_offload_and_checkpointing_leave_the_gradient(
    world: int, tiny_bert: Path, tiny_llama: Path, make_spec, ranks
) -> None:
    settings = [{"zero_stage": stage, "offload": "optimizer"} for stage in (1, 2, 3)]
    settings += [{"zero_stage": 3, "offload": "parameters"}]
    settings += [{"zero_stage": stage, "gradient_checkpointing": True} for stage in (1, 2, 3)]
    settings = [some | {"train": 7, "batch_size": 7, "micro_batch_size": 2} for some in settings]
    cases = [make_spec(tiny_bert, **some) for some in settings]
    cases += [make_spec(tiny_llama, adapter="lora", lora={"dropout": 0.0}, **some) for some in settings]
    _assert_gradients(cases, ranks("first_gradients", cases, world))


@pytest.mark.ray
def test_two_ranks_train_the_same_model_as_one(tiny_bert: Path, make_spec, ranks) -> None:
    """Whole fine-tunes; steps of one row leave the second rank empty throughout."""
    specs = [make_spec(tiny_bert, zero_stage=stage) for stage in (1, 2, 3)]
    specs.append(make_spec(tiny_bert, train=6, stop=3, batch_size=1, objective="mse", learning_rate=1e-3))
    for spec, (metrics, weights) in zip(specs, ranks("whole_fit", specs), strict=True):
        alone = _run(spec)
        np.testing.assert_allclose(metrics, [epoch.stop_metric for epoch in alone.curve], rtol=1e-4)
        for name, weight in alone.weights.items():
            if weight.ndim > 1:  # a level has no gradient but rounding noise, which Adam enlarges: biases may differ
                np.testing.assert_allclose(weights[name], weight.flatten(), atol=1e-3, err_msg=name)


def test_a_step_of_one_row_moves_the_mse_model(tiny_bert: Path, make_spec) -> None:
    spec = make_spec(tiny_bert, train=4, stop=0, batch_size=1, objective="mse", epochs=2)
    predictor, result = fit_local(spec)
    assert result.curve[1].train_loss < result.curve[0].train_loss
    assert np.isfinite(predictor.predict(spec.train.texts)[0]).all()
