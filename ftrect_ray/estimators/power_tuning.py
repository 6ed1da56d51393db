"""Power tuning (PPI++, arXiv 2311.01453) and the variance that it minimises.

Everything here works on scores, the influence of one row on the estimate:
``labeled`` (n, d) those of the answers, ``predicted`` (n, d) those of the predictions on the same rows,
``imputed`` (m, d) those of the predictions on the unlabelled rows.
"""

from __future__ import annotations

import numpy as np


def centered(scores: np.ndarray) -> np.ndarray:
    """Deviations from the mean; a column that is constant but for rounding becomes exactly 0.

    >>> centered(np.full((3, 1), 0.1)).ravel().tolist()
    [0.0, 0.0, 0.0]
    """
    deviation = scores - scores.mean(axis=0)
    largest = np.abs(scores).max(axis=0)
    return np.where(np.abs(deviation).max(axis=0) <= 1e-14 * largest, 0.0, deviation)


def covariance_of_mean(scores: np.ndarray) -> np.ndarray:
    """Covariance (d, d) of the mean of independent rows (N, d): the sample covariance (ddof = 1) over N."""
    deviation = centered(scores)
    return deviation.T @ deviation / (len(scores) - 1) / len(scores)


def rectified_covariance(labeled: np.ndarray, predicted: np.ndarray, imputed: np.ndarray, lam: float) -> np.ndarray:
    """Var(ψ(Y) − λψ(f))/n + λ² Var ψ(f)/m (FTR section 5), shape (d, d).

    ``imputed`` is not looked at when ``lam`` is 0, and may then be empty.
    """
    if lam == 0:
        return covariance_of_mean(labeled)
    return covariance_of_mean(labeled - lam * predicted) + lam**2 * covariance_of_mean(imputed)


def tuned_lam(labeled: np.ndarray, predicted: np.ndarray, imputed: np.ndarray) -> float:
    """The λ in [0, 1] that minimises the trace of :func:`rectified_covariance`.

    λ̂ = tr Cov(ψ(Y), ψ(f)) / ( tr Var_labelled ψ(f) + (n/m)·tr Var_unlabelled ψ(f) ), clipped. With one
    common Var f this is Cov(Y, f)/((1 + n/m) Var f). Since λ = 0 is a candidate, the plug-in variance never
    exceeds the classical one. λ̂ is chosen on the rectifying rows themselves: its effect on the estimate is
    of smaller order than the standard error (PPI++ theorem 1).
    """
    n = len(labeled)
    answer, prediction = centered(labeled), centered(predicted)
    cross = float(np.sum(answer * prediction)) / (n - 1) / n
    curvature = float(np.sum(prediction**2)) / (n - 1) / n + float(np.trace(covariance_of_mean(imputed)))
    if cross <= 0 or curvature <= 0:
        return 0.0
    return min(cross / curvature, 1.0)


def without_rounding(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``difference``, or zeros where all of it is rounding error of numbers as large as ``scale``."""
    noise = 1e-12 * float(np.abs(scale).max(initial=0.0))
    return np.zeros_like(difference) if float(np.abs(difference).max(initial=0.0)) <= noise else difference
