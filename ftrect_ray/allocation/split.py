"""How many labels train and how many rectify (FTR section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy.optimize import brentq

from ftrect_ray.allocation.checks import count, positive
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.errors import StatisticalRefusal

MINIMUM = 10
"""Fewest labels on either side of a cut, unless told otherwise: with fewer no epoch is chosen and no variance told."""

GRID = 128


@dataclass(frozen=True)
class Split:
    """Labels for fine-tuning and for rectifying.

    Attributes
    ----------
    s_star : float
        The continuous optimum for endlessly many texts, before bounds and rounding; see :func:`s_star`.
    n_finetune, n_rectify : int
        Whole labels within [minimum, n − 2]; they add to n.
    fraction : float
        n_finetune/n.
    variance : float
        Predicted Var θ̂ at ``n_finetune``: v(s)/(n − s), or :func:`tuned_variance` where Var(Y) is given.
    """

    s_star: float
    n_finetune: int
    n_rectify: int
    fraction: float
    variance: float


@dataclass(frozen=True)
class Feasibility:
    """Whether any split beats the sample mean (m → ∞), and the two sides of the condition.

    ``left`` = b/σ², ``right`` = 1 − (1 + 1/α)(aαn^(−α)/σ²)^(1/(α+1)); feasible iff left < right.
    """

    feasible: bool
    left: float
    right: float

    def __bool__(self) -> bool:
        return self.feasible


def s_star(law: ScalingLaw, n: float) -> float:
    """The unique root in (0, n) of αans^(−α−1) − (α+1)as^(−α) − b = 0, with an endless number of texts.

    The left side, times s^(α+1), falls from aαn > 0 at s = 0 to −an − bn^(α+1) < 0 at s = n.

    >>> round(s_star(ScalingLaw(10.21, 0.21, 1.98), 10000), 2)
    1028.34
    """
    a, alpha, b = law.a, law.alpha, law.b

    def derivative(s: float) -> float:
        return alpha * a * n - (alpha + 1) * a * s - b * s ** (alpha + 1)

    return float(brentq(derivative, 0.0, n, xtol=1e-12 * n, rtol=1e-14))


def s_stars(laws: np.ndarray, n: float) -> np.ndarray:
    """:func:`s_star` of many laws (B, 3) at once, by bisection to 1e-12·n: (B,)."""
    a, alpha, b = laws.T
    low, high = np.zeros(len(laws)), np.full(len(laws), float(n))
    for _ in range(40):
        s = (low + high) / 2
        rising = alpha * a * n - (alpha + 1) * a * s - b * s ** (alpha + 1) > 0
        low, high = np.where(rising, s, low), np.where(rising, high, s)
    return np.asarray((low + high) / 2)


def best_whole(criterion: Callable[[np.ndarray], np.ndarray], low: int, high: int) -> int:
    """Minimiser over the whole numbers of [low, high] of a vectorised criterion: ever finer grids, at last all."""
    while high - low > 2 * GRID:
        grid = np.unique(np.round(np.concatenate([np.geomspace(low, high, GRID), np.linspace(low, high, GRID)])))
        best = int(np.argmin(criterion(grid)))
        low, high = int(grid[max(best - 1, 0)]), int(grid[min(best + 1, len(grid) - 1)])
    sizes = np.arange(low, high + 1, dtype=float)
    return int(sizes[np.argmin(criterion(sizes))])


def tuned_variance(residual: np.ndarray, rectifying: np.ndarray, texts: float, sigma2: float) -> np.ndarray:
    """Var θ̂ = v/r + (σ² − v)/(m + r): r labels rectify a calibrated model with the best λ.

    Calibrated: its residual, of variance v, is uncorrelated with its prediction, so Var f = σ² − v and
    Var θ̂(λ) = (σ² − (2λ − λ²)Var f)/r + λ²Var f/m, which is least at λ = m/(m + r) (PPI++, Angelopoulos, Duchi &
    Zrnic 2023). A model that leaves more than σ² gets λ = 0.

    Parameters
    ----------
    residual, rectifying : ndarrays that broadcast
        v and r.
    texts : float
        m, 0 to infinity.
    sigma2 : float
    """
    kept = np.minimum(residual, sigma2)
    return np.asarray(kept / rectifying + (sigma2 - kept) / (texts + rectifying))


def optimal_split(
    law: ScalingLaw, n: int, m: int | None = None, *, variance: float | None = None, minimum: int = MINIMUM
) -> Split:
    """The split with the smallest predicted variance.

    Criterion: v(s)/(n − s), and with finite ``m`` and ``variance`` that of :func:`tuned_variance`. With finite ``m``
    alone it is what FTR section 4.2 has for λ = 1, less a constant: v(s)·(1/(n − s) − 1/m), where models that cannot
    help (m ≤ n − s) count as equal.

    Parameters
    ----------
    law : ScalingLaw
    n : int
        Labels, at least ``minimum`` + 2: two rows must be left to rectify.
    m : int, optional
        Unlabelled rows; default endless.
    variance : float, optional
        Var Y.
    minimum : int
        Least number of fine-tuning labels.

    Raises
    ------
    InputError
        An argument outside its range.
    StatisticalRefusal
        Fewer than ``minimum`` + 2 labels.
    """
    n, minimum = count("n", n, 3), count("minimum", minimum, 1)
    texts = inf if m is None else count("m", m, 1)
    if n < minimum + 2:
        raise StatisticalRefusal(
            f"{n} labels cannot be split: {minimum} must train and 2 rectify",
            mend="label more rows",
        )
    spread = None if variance is None else positive("variance", variance)

    def criterion(s: np.ndarray) -> np.ndarray:
        if spread is None:
            return np.asarray(law.variance(s) * np.maximum(1 / (n - s) - 1 / texts, 0.0))
        return tuned_variance(law.variance(s), n - s, texts, spread)

    size = best_whole(criterion, minimum, n - 2)
    predicted = law.variance(size) / (n - size) if spread is None else float(criterion(np.array(size)))
    return Split(s_star(law, n), size, n - size, size / n, predicted)


def feasibility(law: ScalingLaw, n: int, variance: float) -> Feasibility:
    """Whether fine-tuning by some split beats the sample mean (FTR section 4.2), with m → ∞.

    Equivalent to R²(s) = 1 − v(s)/σ² > s/n for some s > 0.

    >>> bool(feasibility(ScalingLaw(1, 1, 0.79), 100, 1.0)), bool(feasibility(ScalingLaw(1, 1, 0.81), 100, 1.0))
    (True, False)
    """
    n, sigma2 = count("n", n, 1), positive("variance", variance)
    left = law.b / sigma2
    right = 1 - (1 + 1 / law.alpha) * (law.a * law.alpha * n**-law.alpha / sigma2) ** (1 / (law.alpha + 1))
    return Feasibility(left < right, left, right)
