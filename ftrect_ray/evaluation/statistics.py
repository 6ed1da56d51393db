"""What replications say of a design, each number with its Monte-Carlo standard error.

A table of N rows drawn from a population stands for it. The designs' intervals are for the population's mean μ, which
nobody knows; the table's own mean Ȳ_N is known, and labels drawn from the table without replacement lie nearer to it
than to μ: counted against Ȳ_N, an honest interval covers too often, by a factor √(1 − n/N) in the standard error.
Given the table every unbiased design has its mean at Ȳ_N, so that its error against μ is the error against Ȳ_N plus an
uncorrelated Ȳ_N − μ, about N(0, S²/N). Both are reported: against the table, and against the population with
that second part added in closed form (``spread`` below: its standard deviation S/√N). The second is what an interval
promises, and is exact for the sample mean, for given predictions and for every unbiased rectified mean:
(1 − n/N)·S²/n + S²/N = S²/n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

#: Points of a normal distribution that stand for all of it.
QUANTILES = 20_001


@dataclass(frozen=True)
class Measured:
    """A number from R replications and its Monte-Carlo standard error; both NaN where R < 2."""

    value: float
    error: float


def mean(values: np.ndarray) -> Measured:
    """Mean of ``values`` (R,), for example of errors: the bias."""
    if len(values) < 2:
        return Measured(math.nan, math.nan)
    return Measured(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values)))


def root_mean_square(errors: np.ndarray, spread: float = 0.0) -> Measured:
    """√(mean e² + spread²), by the delta method.

    Parameters
    ----------
    errors : ndarray (R,)
        Estimate minus the mean of the table.
    spread : float
        Standard deviation of the table's mean around the population's; 0 counts against the table itself.
    """
    square = mean(errors**2)
    root = math.sqrt(square.value + spread**2)
    return Measured(root, square.error / (2 * root) if root > 0 else 0.0)


def mean_absolute(errors: np.ndarray, spread: float = 0.0) -> Measured:
    """Mean of E|e + spread·Z| over the errors, Z standard normal (the mean of a folded normal)."""
    if spread == 0:
        return mean(np.abs(errors))
    at = errors / spread
    return mean(spread * math.sqrt(2 / math.pi) * np.exp(-(at**2) / 2) + errors * (1 - 2 * ndtr(-at)))


def coverage(low: np.ndarray, high: np.ndarray, truth: float, spread: float = 0.0) -> Measured:
    """Share of the intervals that hold the truth: with ``spread``, each by the probability that it does.

    Parameters
    ----------
    low, high : ndarray (R,)
    truth : float
        Mean of the table.
    spread : float
        As in :func:`root_mean_square`.
    """
    if spread == 0:
        return mean(((low <= truth) & (truth <= high)).astype(float))
    return mean(ndtr((high - truth) / spread) - ndtr((low - truth) / spread))


def wilson(hits: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's interval for a share of ``hits`` among ``trials``; it does not collapse at 0 or 1.

    >>> tuple(round(end, 4) for end in wilson(95, 100))
    (0.8882, 0.9785)
    """
    z = float(ndtri(1 - alpha / 2))
    share, weight = hits / trials, z**2 / trials
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return middle - half, middle + half


def ratio(ours: np.ndarray, theirs: np.ndarray) -> Measured:
    """mean(ours) / mean(theirs) over the same replications, by the delta method: what both share cancels.

    Parameters
    ----------
    ours, theirs : ndarray (R,)
        Estimated variances, squared errors or lengths of two designs in the same replications.
    """
    if len(ours) < 2 or np.mean(theirs) == 0:
        return Measured(math.nan, math.nan)
    value = float(np.mean(ours) / np.mean(theirs))
    left = np.std(ours - value * theirs, ddof=1) / math.sqrt(len(ours))
    return Measured(value, float(left / abs(np.mean(theirs))))


def saved(ours: np.ndarray, theirs: np.ndarray) -> Measured:
    """1 − mean(ours) / mean(theirs): the share of labels that could be left out at the precision of ``theirs``.

    With variances s²/n in both, a design whose variance is 0.6 of the sample mean's needs 0.6 of its labels.
    """
    found = ratio(ours, theirs)
    return Measured(1 - found.value, found.error)


def effective_labels(labels: int, ours: np.ndarray, classical: np.ndarray) -> Measured:
    """Labels of a sample mean that is as precise: labels × mean(classical) / mean(ours), of variances."""
    found = ratio(classical, ours)
    return Measured(labels * found.value, labels * found.error)


def regret(ours: np.ndarray, best: np.ndarray) -> Measured:
    """Variance above that of the best choice, as a share of it: mean(ours) / mean(best) − 1."""
    found = ratio(ours, best)
    return Measured(found.value - 1, found.error)


def honest_coverage_error(alpha: float, share: float, trials: int) -> float:
    """Monte-Carlo standard error that :func:`coverage` has for honest normal intervals.

    Parameters
    ----------
    alpha : float
        They hold with probability 1 − alpha.
    share : float
        spread² over the variance of an estimate around the population's mean; 0 counts hits alone.
    trials : int
        R.

    Examples
    --------
    >>> round(honest_coverage_error(0.05, 0.0, 475), 4), round(honest_coverage_error(0.05, 0.2, 475), 4)
    (0.01, 0.0064)
    """
    if share == 0:
        return math.sqrt(alpha * (1 - alpha) / trials)
    z = float(ndtri(1 - alpha / 2))
    error = ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES) * math.sqrt(1 - share)
    held = ndtr((z - error) / math.sqrt(share)) - ndtr((-z - error) / math.sqrt(share))
    return float(np.std(held)) / math.sqrt(trials)
