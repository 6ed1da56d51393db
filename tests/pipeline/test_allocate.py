"""From pilots to a decision, in the unit of the objective."""

from __future__ import annotations

import numpy as np
import pytest

from ftrect_ray.estimators import classical_logistic, classical_ols
from ftrect_ray.estimators.result import normal_quantile
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.allocate import decide, fit_law
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}"
N = 400


def budget(binary: bool = False) -> Rows:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(N), rng.normal(40, 12, N), rng.normal(size=N)])
    answers = X @ [1.0, 0.02, 0.5] + rng.normal(size=N)
    answers = (answers > 2).astype(float) if binary else answers
    return Rows(tuple(map(str, range(N))), ("",) * N, answers, None, X)


def designs(rows: Rows, kind: str, objective: str, law: float, predictions: np.ndarray | None = None) -> dict:
    """allocation.json with pilots that measured ``law`` at every size."""
    target = f"target={{kind: {kind}, features: [age, z], coefficient: age}}"
    study = parse_study(TEXT, [target, f"objective={objective}"])
    fit, _ = fit_law([50, 100, 200], [law * 1.02, law * 1.01, law], N, 1)
    return decide(study, fit, rows=rows, unlabeled=100_000, spent=200, predictions=predictions)[1]


def row(document: dict, name: str) -> dict:
    return next(entry for entry in document["designs"] if entry["name"] == name)


@pytest.mark.parametrize(("kind", "fit"), [("ols", classical_ols), ("logistic", classical_logistic)])
def test_without_a_model_the_plan_is_the_classical_interval_of_the_coefficient(kind: str, fit) -> None:
    rows = budget(binary=kind == "logistic")
    estimate = fit(rows.features, rows.answers)
    nu = N * estimate.std_error[1] ** 2
    document = designs(rows, kind, "coefficient", nu / 2)
    classical = row(document, "classical")
    assert document["variance"] == pytest.approx(nu, rel=1e-6)
    assert classical["std_error"] == pytest.approx(estimate.std_error[1], rel=1e-6)
    assert classical["interval_length"] == pytest.approx(2 * normal_quantile(0.05) * estimate.std_error[1], rel=1e-6)
    assert row(document, "crossfit-2")["std_error"] == pytest.approx(np.sqrt(nu / 2 / N), rel=0.05)
    assert document["chosen"] == "crossfit-2"
    assert designs(rows, kind, "coefficient", 1.1 * nu)["chosen"] == "classical"


def test_given_predictions_are_weighed_in_the_same_unit() -> None:
    rows = budget()
    predictions = rows.answers + np.random.default_rng(4).normal(size=N) * 0.3
    document = designs(rows, "ols", "coefficient", 1e9, predictions)
    left = classical_ols(rows.features, rows.answers - predictions).std_error[1] ** 2  # w (Y − f), less x'Δ
    expected = left + (document["variance"] - N * left) / 100_000
    assert row(document, "rectify-only")["variance"] == pytest.approx(expected, rel=1e-6)
    assert document["chosen"] == "rectify-only"


def test_all_coefficients_together() -> None:
    rows = budget()
    error = classical_ols(rows.features, rows.answers).std_error
    trace = designs(rows, "ols", "trace", 1.0)
    assert row(trace, "classical")["std_error"] == pytest.approx(np.sqrt((error**2).sum()), rel=1e-6)
    determinant = row(designs(rows, "ols", "determinant", 1.0), "classical")["std_error"]
    assert error.min() < determinant < error.max()


@pytest.mark.parametrize("objective", ["variance", "mse"])
def test_other_objectives_plan_the_mean_answer(objective: str) -> None:
    rows = budget()
    document = designs(rows, "ols", objective, 0.1)
    assert document["variance"] == pytest.approx(np.var(rows.answers, ddof=1))
