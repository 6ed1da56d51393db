"""When to say no: what the predictions look like beside the answers, in short sentences.

The margins are fixed in advance and stand here, not in the callers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ftrect_ray.estimators.power_tuning import centered
from ftrect_ray.estimators.validation import Predictions

FEW_LABELS = 30
COLLAPSED = 1e-4
SLOPE_MARGIN = 0.5
OUTSIDE_SHARE = 0.1


def sample_variance(values: np.ndarray) -> float:
    """Variance with ddof = 1; exactly 0 for constants; values (N,), N ≥ 2."""
    return float(np.sum(centered(values) ** 2) / (len(values) - 1))


def label_warnings(Y: np.ndarray) -> list[str]:
    """What the answers (n,) alone say."""
    found = []
    if len(Y) < FEW_LABELS:
        found.append(f"only {len(Y)} labels: the normal interval is rough below {FEW_LABELS}")
    if sample_variance(Y) == 0:
        found.append(f"all labels equal {Y[0]:g}: the width of the interval says nothing about rarer answers")
    return found


def answers_only(Y: np.ndarray) -> dict[str, Any]:
    """Diagnostics of an estimate without predictions."""
    return {
        "calibration_slope": None,
        "r2": None,
        "variance_prediction": None,
        "residual_variance": None,
        "warnings": label_warnings(Y),
    }


def compare(data: Predictions, lam: float, notes: list[str]) -> dict[str, Any]:
    """Diagnostics of a rectified estimate.

    The four numbers are those of λ = 1, whatever ``lam`` is, so that they describe the model. Var f is
    taken over the unlabelled rows where there are two, else over the labelled ones; the slope and R² over
    the labelled rows, whose predictions are out of fold.

    Parameters
    ----------
    notes : list of str
        Sentences that the estimator itself has to say; they come first.
    """
    Y, Yhat = data.Y, data.Yhat
    var_label, var_labeled = sample_variance(Y), sample_variance(Yhat)
    var_prediction = sample_variance(data.imputed) if data.m >= 2 else var_labeled
    residual_variance = sample_variance(Y - Yhat)
    slope = float(np.sum(centered(Y) * centered(Yhat)) / (data.n - 1) / var_labeled) if var_labeled > 0 else None
    r2 = 1 - residual_variance / var_label if var_label > 0 else None

    found = notes + label_warnings(Y)
    if var_prediction == 0 and var_labeled == 0:
        found.append("the predictions are constant: the model adds nothing to the labels")
    elif var_label > 0 and var_prediction < COLLAPSED * var_label:
        compared = f"variance {var_prediction:.2g}, labels {var_label:.2g}"
        found.append(f"the predictions hardly vary ({compared}): the model has collapsed")
    elif slope is not None and var_label > 0 and abs(slope - 1) > SLOPE_MARGIN:
        found.append(f"the calibration slope Cov(Y, f)/Var f is {slope:.2f}, far from 1")
    if r2 is not None and r2 < 0:
        found.append(f"the model predicts worse than the mean label (R² = {r2:.2f})")
    found += _outside(data)
    if lam > 0 and 2 <= data.m <= data.n:
        found.append(f"{data.m} unlabelled rows for {data.n} labels: predictions can save little")
    return {
        "calibration_slope": slope,
        "r2": r2,
        "variance_prediction": var_prediction,
        "residual_variance": residual_variance,
        "warnings": found,
    }


def _outside(data: Predictions) -> list[str]:
    if data.n < FEW_LABELS or data.m == 0:
        return []
    low, high = float(data.Y.min()), float(data.Y.max())
    share = float(np.mean((data.imputed < low) | (data.imputed > high)))
    if share <= OUTSIDE_SHARE:
        return []
    return [f"{100 * share:.0f} % of the predictions lie outside the range of the labels, {low:g} to {high:g}"]
