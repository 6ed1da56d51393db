"""When to say no: what the answers, the predictions and the interval look like, as an estimate carries it.

A check that fails never hides the number: its state stands beside it, with what can be done about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftrect_ray.estimators.checks import (
    Check,
    balance,
    enough_rows,
    expected_coverage,
    few_labels,
    in_range,
    largest_influence,
    of_model,
    rare_answers,
    representation,
    units_of,
    variation,
    weighing,
)
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.moments import Moments

NUMBERS = ("calibration_slope", "r2", "variance_prediction", "residual_variance")
"""What diagnostics say of the model."""

ABOUT_ANSWERS = ("labels", "variation", "answered", "represented", "weights", "rare", "influence", "coverage")
"""Checks that mean something without a model."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What the checks look at.

    Attributes
    ----------
    labeled : Labeled
    m : int
        Unlabelled rows.
    variance_prediction : float or None
        Variance of f̄ over the unlabelled rows, summed over columns; None where there are fewer than two.
    influence : ndarray (n, d)
        Of each labelled row on the estimate.
    control : ndarray (d,)
        The control variate γ̂_labelled − γ̂_unlabelled, whose expectation is 0.
    """

    labeled: Labeled
    m: int
    variance_prediction: float | None
    influence: np.ndarray
    control: np.ndarray


@dataclass(frozen=True, eq=False)
class Accuracy:
    """How sure the estimate claims to be.

    Attributes
    ----------
    error, control_error : ndarray (d,)
        Standard errors of the estimate and of the control variate.
    alpha : float
    used : bool
        Whether predictions are used at all (some λ > 0).
    """

    error: np.ndarray
    control_error: np.ndarray
    alpha: float
    used: bool


def sample_variance(values: np.ndarray) -> float:
    """Variance with ddof = 1, summed over columns; exactly 0 for constants; values (N,) or (N, d), N ≥ 2."""
    columns = values if values.ndim == 2 else values[:, None]
    return float(np.trace(Moments.of(columns).covariance()) / len(values))


def mixture_variance(values: Moments, model_weights: np.ndarray) -> float | None:
    """Variance of f̄ = Σ_k ω_k f_k, summed over its d columns, from moments of the K·d columns of F."""
    if values.units < 2:
        return None
    mix = np.kron(model_weights[:, None], np.eye(values.mean.shape[1] // len(model_weights)))
    return float(np.trace(values.times(mix).covariance())) / values.units


def compare(facts: Facts, accuracy: Accuracy, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Diagnostics of a rectified estimate.

    The four numbers are those of λ = 1, whatever λ is, so that they describe the model; over several columns they are
    ratios of sums. Var f is taken over the unlabelled rows where there are two, else over the labelled ones; the
    slope and R² over the labelled rows, whose predictions are out of fold.
    """
    Y, Yhat = facts.labeled.Y, facts.labeled.Yhat
    n, d = Y.shape
    moments = Moments.of(np.hstack([Y, Yhat]))
    cov = moments.covariance() / n
    label, labeled = float(np.trace(cov[:d, :d])), float(np.trace(cov[d:, d:]))
    residual = sample_variance(Y - Yhat)
    prediction = labeled if facts.variance_prediction is None else facts.variance_prediction
    slope = float(np.trace(cov[:d, d:])) / labeled if labeled > 0 else None
    r2 = 1 - residual / label if label > 0 else None
    checks = [*few_labels(n), *variation(Y), *of_model(label, labeled, prediction, slope, r2), *in_range(Y, Yhat)]
    if accuracy.used:
        checks += [*enough_rows(n, facts.m), *balance(n, facts.m, facts.control, accuracy.control_error)]
    drawn = facts.labeled.drawn
    if drawn.probabilities is not None and facts.m:
        checks += representation(drawn.probabilities, n + facts.m)
    units = units_of(facts.influence, drawn)
    checks += [*weighing(facts.labeled.weights), *rare_answers(Y), *largest_influence(units)]
    checks += expected_coverage(units.values, accuracy.error, accuracy.alpha)
    return document(checks, notes, (slope, r2, prediction, residual))


def answers_only(diagnostics: Mapping[str, Any]) -> dict[str, Any]:
    """Diagnostics of an estimate that uses no predictions: what the checks of the answers found, and nothing else."""
    checks = [check for check in checks_of(diagnostics) if check.name in ABOUT_ANSWERS]
    return document(checks, notes_of(diagnostics))


def document(
    checks: Sequence[Check], notes: Sequence[str] = (), numbers: Sequence[float | None] = (None,) * len(NUMBERS)
) -> dict[str, Any]:
    """Diagnostics as an estimate carries them: the four ``NUMBERS``, the checks, and what a reader should know."""
    found = [check for check in checks if check.state != "PASS"]
    states = {check.state for check in found} | ({"WARN"} if notes else set())
    return {
        **dict(zip(NUMBERS, numbers, strict=True)),
        "state": "REFUSE" if "REFUSE" in states else "WARN" if states else "PASS",
        "checks": [dict(vars(check)) for check in checks],
        "warnings": [*notes, *(check.text for check in found)],
    }


def noted(diagnostics: Mapping[str, Any], *, notes: Sequence[str] = (), checks: Sequence[Check] = ()) -> dict[str, Any]:
    """``diagnostics`` with further notes and checks."""
    return document([*checks_of(diagnostics), *checks], [*notes_of(diagnostics), *notes], numbers_of(diagnostics))


def numbers_of(diagnostics: Mapping[str, Any]) -> tuple[float | None, ...]:
    """The numbers that :func:`document` was given."""
    return tuple(diagnostics[name] for name in NUMBERS)


def checks_of(diagnostics: Mapping[str, Any]) -> list[Check]:
    """The checks that :func:`document` was given."""
    return [Check(**fields) for fields in diagnostics["checks"]]


def notes_of(diagnostics: Mapping[str, Any]) -> list[str]:
    """The notes that :func:`document` was given: warnings that no check speaks of."""
    texts = {check.text for check in checks_of(diagnostics)}
    return [text for text in diagnostics["warnings"] if text not in texts]
