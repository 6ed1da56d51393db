"""Bounded weighted least squares for a·s^(−α) + b, many data sets at once.

Given α the model is linear in (a, b), and the best a ≥ a_min, b ≥ 0 have a closed form. So the search is
over α alone: every point of a grid is a start, and golden sections refine the best one. There is no
other local minimum to fall into, and no dependence on starting values.
"""

from __future__ import annotations

import numpy as np

GRID, COARSE_GRID = 80, 30
REFINEMENTS = 45
FEW_REFINEMENTS = 20
"""For draws: α to five digits."""
SECTIONS_OF_A_ZOOM = 7
"""Golden sections that one finer grid is worth: 2/79 of the bracket is left, 1.618^−7.6."""
SMALLEST_A = 1e-9


def fit_given_alpha(
    sizes: np.ndarray, values: np.ndarray, weights: np.ndarray, alpha: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Best a, b and the weighted sum of squares for given exponents.

    Parameters
    ----------
    sizes, weights : array (p,)
    values : array (B, p)
        One row a data set.
    alpha : array (B,)

    Returns
    -------
    a, b, loss : arrays (B,)
        a ≥ SMALLEST_A · (largest value) · s_min^α, so that the law stays a decreasing one.
    """
    base = sizes.min()
    x = (sizes / base) ** -alpha[:, None]
    total = weights.sum()
    x_mean, v_mean = x @ weights / total, values @ weights / total
    x_centered = x - x_mean[:, None]
    spread = (x_centered**2) @ weights
    slope = ((x_centered * (values - v_mean[:, None])) @ weights) / np.where(spread > 0, spread, np.inf)
    a, b = slope, v_mean - slope * x_mean
    through_origin = (x * values) @ weights / ((x**2) @ weights)
    a, b = np.where(b < 0, through_origin, a), np.maximum(b, 0.0)
    floor = SMALLEST_A * np.abs(values).max(axis=1)
    low = a < floor
    a, b = np.where(low, floor, a), np.where(low, np.maximum(v_mean - floor * x_mean, 0.0), b)
    loss = ((values - a[:, None] * x - b[:, None]) ** 2) @ weights
    return a * base**alpha, b, loss


def fit(
    sizes: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    alpha_range: tuple[float, float],
    refinements: int = REFINEMENTS,
) -> np.ndarray:
    """Best (a, α, b) for each row of ``values`` (B, p); returns (B, 3). α stays within ``alpha_range``.

    The bracket of α, at first two steps of a grid, is divided by 1.618 to the power ``refinements``: of one data set
    by ever finer grids, whose points are computed at once, of several by golden sections of all at once.
    """
    lowest, highest = alpha_range
    if len(values) == 1:
        alpha = _zoomed(sizes, values, weights, np.geomspace(lowest, highest, GRID), refinements)
    else:
        alpha = _sections(sizes, values, weights, np.geomspace(lowest, highest, COARSE_GRID), refinements)
    alpha = np.where(alpha < lowest * (1 + 1e-6), lowest, np.where(alpha > highest * (1 - 1e-6), highest, alpha))
    a, b, _ = fit_given_alpha(sizes, values, weights, alpha)
    return np.stack([a, alpha, b], axis=1)


def _zoomed(
    sizes: np.ndarray, values: np.ndarray, weights: np.ndarray, candidates: np.ndarray, refinements: int
) -> np.ndarray:
    grid = candidates
    for _ in range(1 + int(np.ceil(refinements / SECTIONS_OF_A_ZOOM))):
        best = int(np.argmin(fit_given_alpha(sizes, values, weights, grid)[2]))
        alpha = grid[best]
        grid = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], GRID)
    return np.array([alpha])


def _sections(
    sizes: np.ndarray, values: np.ndarray, weights: np.ndarray, candidates: np.ndarray, refinements: int
) -> np.ndarray:
    def loss(alpha: np.ndarray) -> np.ndarray:
        return fit_given_alpha(sizes, values, weights, alpha)[2]

    best = np.argmin(np.stack([loss(np.full(len(values), alpha)) for alpha in candidates]), axis=0)
    low, high = candidates[np.maximum(best - 1, 0)], candidates[np.minimum(best + 1, len(candidates) - 1)]
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    of_left, of_right = loss(left), loss(right)
    for _ in range(refinements):
        lower = of_left <= of_right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        new = np.where(lower, high - ratio * (high - low), low + ratio * (high - low))
        of_new = loss(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        of_left, of_right = np.where(lower, of_new, of_right), np.where(lower, of_left, of_new)
    return np.asarray((low + high) / 2)
