"""From kept residuals to variances and to how they err together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.allocation import fit_scaling_law
from ftrect_ray.allocation.pilot_rows import pilot_draws
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.spec import Coefficients, Rows
from ftrect_ray.pipeline.measured import Measurement, adjusted, existing_variance, measurements, replicates
from ftrect_ray.study import Study
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}\n"
N = 120


def rows(n: int = N) -> Rows:
    rng = np.random.default_rng(1)
    return Rows(tuple(f"r{i}" for i in range(n)), ("",) * n, rng.normal(size=n))


def kept(**pilots: tuple[np.ndarray, np.ndarray]) -> pa.Table:
    """Pilot names to (positions, residuals)."""
    parts = [
        {"pilot": name.replace("_", "-"), "id": f"r{i}", "residual": float(residual)}
        for name, (positions, residuals) in pilots.items()
        for i, residual in zip(positions, residuals, strict=True)
    ]
    return pa.Table.from_pylist(parts)


def row(name: str, size: int, seed: int = 0, consumed: int | None = None, **more: Any) -> dict[str, Any]:
    known = {"residual_variance": 1.5, "n_measure": 30, "status": "done"}
    return {"name": name, "size": size, "seed": seed, "consumed": consumed or size} | known | more


def test_a_variance_is_that_of_the_kept_residuals() -> None:
    rng, positions = np.random.default_rng(2), np.arange(30, 60)
    residual = rng.normal(size=30)
    found = measurements([row("pilot-s20-r0", 20)], kept(pilot_s20_r0=(positions, residual)), rows(), parse_study(TEXT))
    (one,) = found[""]
    assert (one.size, one.nested, one.count) == (20, 20, 30)
    assert one.variance == pytest.approx(np.var(residual, ddof=1))
    assert one.positions.tolist() == positions.tolist()


def test_folds_are_measured_together_at_the_size_of_one_of_their_models() -> None:
    rng = np.random.default_rng(2)
    folds = {f"pilot_s30_r0_f{k}": (np.arange(10 * k, 10 * k + 10), rng.normal(k, 1, 10)) for k in range(3)}
    pilots = [row(name.replace("_", "-"), 30, consumed=20, n_measure=10) for name in folds]
    (one,) = measurements(pilots, kept(**folds), rows(), parse_study(TEXT))[""]
    within = sum(9 * np.var(residual, ddof=1) for _, residual in folds.values()) / (30 - 3)
    assert (one.size, one.nested, one.count) == (20, 30, 30)
    assert one.variance == pytest.approx(within)  # the models' levels, 0, 1 and 2, are no part of it
    assert one.variance == pytest.approx(np.var(one.influence, ddof=1))
    pilots[1] |= {"status": "failed"}
    assert measurements(pilots, kept(**folds), rows(), parse_study(TEXT)) == {}


def test_untrained_models_and_what_failed_are_no_part_of_a_law() -> None:
    study = parse_study(TEXT + "candidates: {a: {model: {name: minilm}}, b: {model: {name: minilm}}}")
    pilots = [
        row("pilot-b-s20-r0", 20, candidate="b"),
        row("pilot-a-s0", 0, candidate="a"),
        row("pilot-a-s20-r0", 20, candidate="a", status="failed", residual_variance=None),
        row("pilot-gone-s20-r0", 20, candidate="gone"),
    ]
    residuals = kept(pilot_b_s20_r0=(np.arange(30, 60), np.random.default_rng(2).normal(size=30)))
    assert list(measurements(pilots, residuals, rows(), study)) == ["b"]


def mean(budget: Rows) -> Influence:
    return Influence.of("variance", None, budget)


def shared(seeds: int, noise: float, n: int = 1000) -> tuple[Rows, dict[str, list[Measurement]], np.ndarray]:
    """Pilots of four sizes on the same rows, with residuals of equal kind and differences between repetitions."""
    rng, budget = np.random.default_rng(3), rows(n)
    base, positions, found = rng.normal(size=n), np.arange(n), []
    for size in (20, 40, 80, 160):
        for _ in range(seeds):
            u = (base * (1 + noise * rng.normal()))[:, None]
            found.append(Measurement(size, size, float(np.var(u, ddof=1)), n, positions, u))
    return budget, {"": found}, base


def test_pilots_on_the_same_rows_err_together_and_as_much_as_a_variance_does() -> None:
    budget, measured, base = shared(seeds=1, noise=0.0)
    found = replicates(measured, budget, mean(budget), 7)[""]
    assert found.shape == (400, 4)
    assert np.corrcoef(found.T).min() > 0.999
    fourth = np.mean((base - base.mean()) ** 4)
    expected = np.sqrt((fourth - np.var(base) ** 2) / len(base))
    assert np.std(found[:, 0]) == pytest.approx(expected, rel=0.12)


def test_three_pilots_alone_cannot_tell_what_training_does() -> None:
    budget, measured, _ = shared(seeds=1, noise=0.0)
    assert replicates({"": measured[""][:3]}, budget, mean(budget), 7) == {}


def test_candidates_measured_on_the_same_rows_err_together() -> None:
    budget, measured, _ = shared(seeds=1, noise=0.0)
    found = replicates({"a": measured[""], "b": measured[""]}, budget, mean(budget), 7)
    assert np.corrcoef(found["a"][:, 0], found["b"][:, 0])[0, 1] > 0.999


def test_repetitions_add_what_training_does() -> None:
    budget, measured, _ = shared(seeds=6, noise=0.05)
    found = replicates(measured, budget, mean(budget), 7)[""]
    spread = np.std(found / found.mean(axis=1, keepdims=True), axis=0).mean()
    assert spread == pytest.approx(0.10, rel=0.3)  # of (1 + e)², e of 0.05


def test_clusters_are_drawn_whole() -> None:
    budget, measured, _ = shared(seeds=1, noise=0.0)
    u = np.repeat(np.random.default_rng(4).normal(size=100), 10)[:, None]
    own = {"": [replace(one, influence=u, variance=float(np.var(u, ddof=1))) for one in measured[""]]}
    alone = replicates(own, budget, mean(budget), 7)[""]
    clustered = replicates(own, replace(budget, clusters=np.repeat(np.arange(100), 10)), mean(budget), 7)[""]
    assert np.std(clustered[:, 0]) > 2.2 * np.std(alone[:, 0])  # √10 fewer units


@pytest.mark.parametrize("objective", ["trace", "determinant", "coefficient"])
def test_replicates_of_coefficients_are_of_their_own_criterion(objective: str) -> None:
    rng, budget = np.random.default_rng(5), rows(400)
    budget = replace(budget, features=np.column_stack([np.ones(400), rng.normal(size=400)]))
    study: Study = parse_study(TEXT, ["target={kind: ols, features: [z], coefficient: z}", f"objective={objective}"])
    residual = rng.normal(size=400)
    scales = {20: 1.0, 40: 0.9, 80: 0.85, 160: 0.83}
    pilots = [row(f"pilot-s{size}-r0", size) for size in scales]
    table = kept(**{f"pilot_s{size}_r0": (np.arange(400), scale * residual) for size, scale in scales.items()})
    found = measurements(pilots, table, budget, study)
    influence = Influence.of(objective, Coefficients.of(study.target, objective), budget)
    assert found[""][0].variance == pytest.approx(influence.variance(budget, residual), rel=1e-9)
    drawn = replicates(found, budget, influence, 7)[""]
    assert drawn.mean(axis=0) == pytest.approx([one.variance for one in found[""]], rel=0.03)
    assert np.corrcoef(drawn.T).min() > 0.9


def test_a_worthless_models_answers_are_seldom_worth_a_hundredth() -> None:
    """The best λ of the same rows flatters every second of them; a model of known worth is told without bias."""
    worth: dict[float, list[float]] = {0.0: [], 0.6: []}
    for seed in range(400):
        rng, budget = np.random.default_rng([seed, 1]), rows(100)
        for r, found in worth.items():
            y = rng.normal(size=100)
            f = r * y + np.sqrt(1 - r * r) * rng.normal(size=100)
            own = replace(budget, answers=y)
            nu = existing_variance(mean(own), own, y - f)
            found.append(nu / np.var(y, ddof=1))
    assert np.mean(np.array(worth[0.0]) < 0.99) < 0.12
    left, error = np.mean(worth[0.6]), np.std(worth[0.6]) / 20
    assert left == pytest.approx(1 - 0.36, abs=3 * error)


FEATURES, LABELS, REPLICATIONS = 40, 600, 80


def ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    design, penalty = np.column_stack([np.ones(len(x)), x]), 5.0 * np.eye(FEATURES + 1)
    penalty[0, 0] = 0
    return np.linalg.solve(design.T @ design + penalty, design.T @ y)


def residual(beta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return y - beta[0] - x @ beta[1:]


@pytest.mark.parametrize(
    ("scheme", "sizes"),
    [("shared", (50, 100, 200)), ("cross-validated", (60, 150, 400)), ("cross-fitted", (60, 150, 400))],
)
def test_a_law_is_as_doubtful_as_it_says(scheme: str, sizes: tuple[int, ...]) -> None:
    """The curve's 95 % range at the size of two folds, against what models of that size leave on average."""
    slopes = 0.15 * np.random.default_rng(0).normal(size=FEATURES)

    def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(n, FEATURES))
        return x, x @ slopes + 0.8 * np.sin(2 * x[:, 0]) + 0.8 * rng.normal(size=n)

    rng = np.random.default_rng(1)
    population = draw(20_000, rng)
    truth = np.mean([np.var(residual(ridge(*draw(LABELS // 2, rng)), *population)) for _ in range(40)])
    hits, forecasts = 0, []
    for replication in range(REPLICATIONS):
        x, y = draw(LABELS, np.random.default_rng([2, replication]))
        budget = Rows(tuple(map(str, range(LABELS))), ("",) * LABELS, y)
        parts: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray, int]]] = {}
        for pilot in pilot_draws(LABELS, sizes, 2, scheme, 150, 5, replication):
            left = residual(ridge(x[pilot.own], y[pilot.own]), x[pilot.measure], y[pilot.measure])
            parts.setdefault((pilot.size, pilot.repetition), []).append((pilot.measure, left, len(pilot.own)))
        own = []
        for (size, _), folds in parts.items():
            positions, u = (np.concatenate([fold[i] for fold in folds]) for i in (0, 1))
            consumed = float(np.mean([fold[2] for fold in folds]))
            own.append(Measurement(consumed, size, float(np.var(u, ddof=1)), len(u), positions, u[:, None]))
        own = adjusted({"": own}, budget, mean(budget))[""]
        fit = fit_scaling_law(
            [one.size for one in own],
            [one.variance for one in own],
            counts=[one.count for one in own],
            replicates=replicates({"": own}, budget, mean(budget), replication)[""],
        )
        drawn = fit.curve.draws_at(np.array([LABELS / 2.0]))
        low, high = np.percentile(drawn, [2.5, 97.5])
        hits += bool(low <= truth <= high)
        forecasts.append((fit.curve.variance(LABELS / 2.0), np.std(drawn)))
    assert hits > REPLICATIONS * (0.95 - 3 * np.sqrt(0.95 * 0.05 / REPLICATIONS))
    forecast, told = np.array(forecasts).T
    assert 0.8 < np.median(told) / np.std(forecast) < 1.5  # with overlapping folds the doubt is on the safe side
