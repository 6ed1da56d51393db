"""Intervals that hold together: the largest of several correlated t statistics (Hothorn, Bretz & Westfall 2008).

A multivariate t vector is a direction times a radius, R² ~ rank·F(rank, df). The radius is integrated exactly, the
direction over a fixed scrambled Sobol sequence: the same every time, and smooth. The result is held between the law
of a single statistic and Bonferroni's, which it can never leave.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtrc, fdtrc, ndtr, ndtri, stdtr, stdtrit

DIRECTIONS = 12
"""log₂ of the quasi-random points: quantiles are within 0.3 % up to twenty coordinates."""


def joint_quantile(covariance: np.ndarray, df: float, alpha: float, sides: int) -> float:
    """The 1 − alpha quantile of max_j |t_j| (``sides`` 2) or max_j t_j (1); t has ``covariance`` (d, d) up to scale."""
    largest, rank, width = _largest(covariance, sides)
    if width == 0:
        return 0.0
    tails = np.array([alpha / sides, alpha / sides / width])
    low, high = -(ndtri(tails) if np.isinf(df) else stdtrit(df, tails))
    if _beyond(low, largest, rank, df) <= alpha:
        return float(low)
    if _beyond(high, largest, rank, df) >= alpha:
        return float(high)
    return float(brentq(lambda q: _beyond(q, largest, rank, df) - alpha, low, high, xtol=1e-13))


def joint_p_values(score: np.ndarray, covariance: np.ndarray, df: float, sides: int) -> np.ndarray:
    """P(the largest statistic > ``score``), each (d,): below alpha exactly where the score exceeds the quantile.

    ``score`` is |t| (``sides`` 2) or the t whose large values speak against the null (1).
    """
    largest, rank, width = _largest(covariance, sides)
    alone = np.minimum(sides * (ndtr(-score) if np.isinf(df) else stdtr(df, -score)), 1.0)
    if width == 0:
        return alone
    together = [_beyond(q, largest, rank, df) for q in score]
    return np.clip(together, alone, np.minimum(width * alone, 1.0))


def _largest(covariance: np.ndarray, sides: int) -> tuple[np.ndarray, int, int]:
    """The largest coordinate in each of the directions, their dimension, and how many coordinates vary."""
    deviation = np.sqrt(np.diag(covariance))
    varies = deviation > 0
    width = int(np.count_nonzero(varies))
    if width == 0:
        return np.zeros(1), 0, 0
    correlation = covariance[np.ix_(varies, varies)] / np.outer(deviation[varies], deviation[varies])
    values, vectors = np.linalg.eigh(correlation)
    carries = values > 1e-12 * width
    root = vectors[:, carries] * np.sqrt(values[carries])
    rank = root.shape[1]
    from scipy.stats import qmc  # a third of a second to load, and seldom needed

    points = qmc.Sobol(rank, seed=np.random.default_rng(0)).random_base2(DIRECTIONS)
    normal = ndtri(np.clip(points, 1e-12, 1 - 1e-12))
    statistics = (normal / np.linalg.norm(normal, axis=1, keepdims=True)) @ root.T
    return (np.abs(statistics) if sides == 2 else statistics).max(axis=1), rank, width


def _beyond(q: float, largest: np.ndarray, rank: int, df: float) -> float:
    """P(radius · largest > q)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        square = np.nan_to_num((q / largest) ** 2, nan=np.inf, posinf=np.inf)
    farther = chdtrc(rank, square) if np.isinf(df) else fdtrc(rank, df, square / rank)
    if q >= 0:
        return float(np.mean(np.where(largest > 0, farther, 0.0)))
    return float(np.mean(np.where(largest >= 0, 1.0, 1.0 - farther)))
