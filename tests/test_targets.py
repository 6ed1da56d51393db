"""A study's target, its sampling columns and its population reach the estimators unchanged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray import estimators
from ftrect_ray.estimators import Sample
from ftrect_ray.rectify import load_evidence
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import LogisticTarget, MeanTarget, OlsTarget, PoissonTarget, QuantileTarget, Target
from ftrect_ray.targets import Question

MakeRun = Callable[..., RunStorage]
N, M = 60, 200
ROWS, OTHERS = np.arange(N), np.arange(N, N + M)


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    x, noise = rng.normal(size=(2, N + M))
    return {
        "x": x,
        "weight": rng.uniform(0.5, 2, N + M),
        "strata": np.array(["a", "b"])[np.arange(N + M) % 2],
        "cluster": np.array([f"c{i // 4}" for i in range(N + M)]),
        "score": x + noise,
    }


def question(columns: dict[str, np.ndarray], target: Target, *roles: str, population: str = "infinite") -> Question:
    table = pa.table({name: columns[name] for name in ("x", *roles)})
    return Question.of(target, 0.1, table, population)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ols", "logistic", "poisson"])
def test_regressions_get_an_intercept_and_their_names(columns: dict[str, np.ndarray], kind: str) -> None:
    answers = {"ols": columns["score"], "logistic": columns["score"] > 0, "poisson": np.floor(np.exp(columns["x"]))}
    y = answers[kind].astype(float)
    f = 0.5 * y + 0.2
    target = {"ols": OlsTarget, "logistic": LogisticTarget, "poisson": PoissonTarget}[kind](kind=kind, features=["x"])
    found = question(columns, target).rectified(y[:N], f[:N], f[N:], None, ROWS, OTHERS)
    X = np.column_stack([np.ones(N + M), columns["x"]])
    expected = getattr(estimators, kind)(X[:N], y[:N], f[:N], X[N:], f[N:], alpha=0.1, names=("intercept", "x"))
    assert found.to_dict() == expected.to_dict()
    classical = question(columns, target).classical(y[:N], ROWS, OTHERS)
    lone = getattr(estimators, f"classical_{kind}")(X[:N], y[:N], alpha=0.1, names=("intercept", "x"))
    assert classical.to_dict() == lone.to_dict()


@pytest.mark.parametrize("target", [MeanTarget(), QuantileTarget(kind="quantile", q=0.4)])
def test_weights_strata_and_clusters_are_heeded(columns: dict[str, np.ndarray], target: Target) -> None:
    y, f = columns["score"], columns["x"]
    found = question(columns, target, "weight", "cluster").rectified(y[:N], f[:N], f[N:], None, ROWS, OTHERS)
    sample, other = (
        Sample(weights=columns["weight"][rows], clusters=columns["cluster"][rows]) for rows in (ROWS, OTHERS)
    )
    options = {"alpha": 0.1, "sample": sample, "sample_unlabeled": other}
    if isinstance(target, QuantileTarget):
        expected = estimators.quantile(y[:N], f[:N], f[N:], 0.4, **options)
    else:
        expected = estimators.mean(y[:N], f[:N], f[N:], **options)
    assert found.to_dict() == expected.to_dict()
    plain = question(columns, target).rectified(y[:N], f[:N], f[N:], None, ROWS, OTHERS)
    assert found.interval != plain.interval
    stratified = question(columns, target, "strata").rectified(y[:N], f[:N], f[N:], None, ROWS, OTHERS)
    assert stratified.std_error != plain.std_error


def test_a_finite_population_shortens_both_intervals(columns: dict[str, np.ndarray]) -> None:
    y, f = columns["score"], columns["x"]
    table, here = question(columns, MeanTarget()), question(columns, MeanTarget(), population="finite")
    assert (
        here.rectified(y[:N], f[:N], f[N:], None, ROWS, OTHERS).length
        < table.rectified(y[:N], f[:N], f[N:], None, ROWS, OTHERS).length
    )
    shrunk = here.classical(y[:N], ROWS, OTHERS).std_error / table.classical(y[:N], ROWS, OTHERS).std_error
    assert shrunk == pytest.approx(np.sqrt(M / (N + M)), rel=1e-12)


def test_a_run_with_weights_is_estimated_with_them(make_run: MakeRun) -> None:
    weights = np.linspace(0.5, 2, 520)
    storage = make_run("rectify-only", sampling={"weight": pa.array(weights)})
    table = storage.read_table("table.parquet")
    y = np.asarray(table["label"].to_numpy(), dtype=float)[:120]
    f = np.asarray(table["prediction"].to_numpy(), dtype=float)
    expected = estimators.mean(
        y, f[:120], f[120:], sample=Sample(weights=weights[:120]), sample_unlabeled=Sample(weights=weights[120:])
    )
    found = load_evidence(storage).estimate(MeanTarget(), 0.05)
    assert found["value"] == pytest.approx(expected.value, abs=1e-12)
    assert found["classical"]["value"] == pytest.approx(np.average(y, weights=weights[:120]), abs=1e-12)
