"""The rectified quantile (PPI) with a power-tuned distribution function and an interval for ties as well."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators import diagnostics
from ftrect_ray.estimators.assemble import worth
from ftrect_ray.estimators.power_tuning import tuned_lam
from ftrect_ray.estimators.result import Estimate, normal_quantile
from ftrect_ray.estimators.validation import Lam, Predictions, open_unit, power_tuning, predictions, usable_lam

ROUNDING = 1e-12


def quantile(
    Y: ArrayLike,
    Yhat: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    q: float = 0.5,
    *,
    alpha: float = 0.05,
    lam: Lam = "tuned",
    folds: Sequence[int] | np.ndarray | None = None,
) -> Estimate:
    """The q-quantile of the answers.

    F̂(t) = mean[1{Y ≤ t} − λ·1{f ≤ t}] + λ·mean 1{f̃ ≤ t}. For λ > 0 it may fall here and there; its values
    at the observed points are therefore sorted (the monotone rearrangement of Chernozhukov, Fernández-Val &
    Galichon, 2009), which brings it nearer to the true distribution function and takes away the bias of a
    first crossing. The point is the smallest observed value with F̂ ≥ q, for λ = 0 numpy's ``inverted_cdf``.

    The interval holds every t that a two-sided score test of P(Y < t) ≤ q ≤ P(Y ≤ t) does not reject, so
    that ties make it wider, never wrong. The variance in the test is that under the hypothesis P(Y ≤ t) = q:
    the share of f ≤ t among rows with Y ≤ t and among the others is taken from the labelled rows, the share
    of Y ≤ t itself is q.

    Parameters
    ----------
    Y, Yhat : array (n,)
    Yhat_unlabeled : array (m,) or (m, K)
        Cross-fitted models are averaged as distribution functions, weighted by n_k/n with ``folds``, by 1/K
        without; the residual variance is pooled over folds.
    q : float
        In (0, 1).
    lam : float in [0, 1] or "tuned"
        Tuned for the score at the sample quantile of ``Y``.

    Returns
    -------
    Estimate
        ``std_error`` is the interval's half length over z: a quantile has no plug-in standard error.
        ``effective_n`` compares the variances of F̂ at the point.

    Raises
    ------
    InputError
        See :mod:`~ftrect_ray.estimators.validation`.
    StatisticalRefusal
        So few labels for this q that the interval has no end.

    Examples
    --------
    >>> est = quantile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 3.0, 4.0, 5.0], lam=1.0)
    >>> est.value
    3.0
    """
    q, alpha, lam = open_unit("q", q), open_unit("alpha", alpha), power_tuning(lam)
    data = predictions(Y, Yhat, Yhat_unlabeled, folds)
    lam, notes = usable_lam(lam, data.m)
    _refuse_unbounded(data.n, q, alpha)
    weight = _tuned(data, q) if lam == "tuned" else lam

    values = [data.Y] if weight == 0 else [data.Y, data.Yhat, data.unlabeled.ravel()]
    grid = np.unique(np.concatenate(values))
    cdf, variance = _rectified_cdf(data, grid, q, weight)
    cdf = np.sort(cdf)
    at = int(np.argmax(cdf >= q - ROUNDING))
    lower, upper = _invert(grid, cdf, np.sqrt(variance), q, alpha, data.n)
    std_error = (upper - lower) / (2 * normal_quantile(alpha))
    return Estimate(
        value=float(grid[at]),
        std_error=std_error,
        interval=(lower, upper),
        alpha=alpha,
        lam=weight,
        n=data.n,
        m=data.m,
        effective_n=worth(data.n, q * (1 - q) / data.n, float(variance[at])),
        target=f"quantile {q:g}",
        diagnostics=diagnostics.compare(data, weight, notes),
    )


def _refuse_unbounded(n: int, q: float, alpha: float) -> None:
    """Below and above all values F̂ is 0 and 1; the test must be able to reject both."""
    rarer = min(q, 1 - q)
    needed = floor(normal_quantile(alpha) ** 2 * (1 - rarer) / rarer) + 1
    if n < needed:
        raise StatisticalRefusal(
            f"{n} labels give the {q:g}-quantile no bounded {100 * (1 - alpha):g} % interval",
            mend=f"use at least {needed} labels, or a quantile nearer the middle",
        )


def _tuned(data: Predictions, q: float) -> float:
    """λ for the score 1{· ≤ t} at the sample quantile of the answers."""
    point = np.quantile(data.Y, q, method="inverted_cdf")
    labeled = np.less_equal(data.Y, point).astype(float)
    predicted = np.less_equal(data.Yhat, point).astype(float)
    imputed = np.less_equal(data.unlabeled, point) @ data.weights
    return tuned_lam(labeled[:, None], predicted[:, None], imputed[:, None])


def _share_below(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Empirical distribution function of ``values`` (N,) at ``grid`` (g,)."""
    return np.searchsorted(np.sort(values), grid, side="right") / len(values)


def _rectified_cdf(data: Predictions, grid: np.ndarray, q: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """F̂ and the variance of F̂ − q under P(Y ≤ t) = q, both (g,)."""
    answers = _share_below(data.Y, grid)
    if lam == 0:
        return answers, np.full(len(grid), q * (1 - q) / data.n)
    predicted = _share_below(data.Yhat, grid)
    both = _share_below(np.maximum(data.Y, data.Yhat), grid)
    imputed, imputed_variance = _imputed_cdf(data, grid)

    with np.errstate(divide="ignore", invalid="ignore"):
        # no row on one side: the least favourable share
        f_given_below = np.where(answers > 0, both / answers, 0.0)
        f_given_above = np.where(answers < 1, (predicted - both) / (1 - answers), 1.0)
    f_under_null = q * f_given_below + (1 - q) * f_given_above
    covariance = q * (f_given_below - f_under_null)
    residual_variance = q * (1 - q) - 2 * lam * covariance + lam**2 * f_under_null * (1 - f_under_null)
    variance = np.maximum(residual_variance, 0.0) / data.n + lam**2 * imputed_variance / data.m
    return answers - lam * predicted + lam * imputed, variance


def _imputed_cdf(data: Predictions, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (ddof = 1) over the unlabelled rows of Σ_k w_k·1{f_k ≤ t}, both (g,).

    1{f_k ≤ t}·1{f_l ≤ t} = 1{max(f_k, f_l) ≤ t}, so the second moment needs sorted columns only.
    """
    models, weights = data.unlabeled.T, data.weights
    mean = np.zeros(len(grid))
    second = np.zeros(len(grid))
    for k, (model, weight) in enumerate(zip(models, weights, strict=True)):
        below = _share_below(model, grid)
        mean += weight * below
        second += weight**2 * below
        for other, other_weight in zip(models[:k], weights[:k], strict=True):
            second += 2 * weight * other_weight * _share_below(np.maximum(model, other), grid)
    return mean, np.maximum(second - mean**2, 0.0) * data.m / (data.m - 1)


def _invert(
    grid: np.ndarray, cdf: np.ndarray, std_error: np.ndarray, q: float, alpha: float, n: int
) -> tuple[float, float]:
    """First t whose F̂(t) is not significantly below q, last t whose F̂(t−) is not significantly above q.

    F̂ is constant between grid points; F̂(t−) at a grid point is its value at the point before, 0 before
    the first.
    """
    z = normal_quantile(alpha)
    cdf_before = np.concatenate([[0.0], cdf[:-1]])
    std_error_before = np.concatenate([[np.sqrt(q * (1 - q) / n)], std_error[:-1]])
    reaches = cdf >= q - z * std_error - ROUNDING
    exceeds_not = cdf_before <= q + z * std_error_before + ROUNDING
    return float(grid[np.argmax(reaches)]), float(grid[len(grid) - 1 - np.argmax(exceeds_not[::-1])])
