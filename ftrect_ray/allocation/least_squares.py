"""Bounded weighted least squares for a·s^(−α) + b, many data sets at once.

Given α the model is linear in (a, b), and the best a ≥ a_min, b ≥ 0 have a closed form. So the search is
over α alone: every point of a grid is a start, and golden sections refine the best one. There is no
other local minimum to fall into, and no dependence on starting values.
"""

from __future__ import annotations

import numpy as np

GRID = 80
REFINEMENTS = 45
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


def fit(sizes: np.ndarray, values: np.ndarray, weights: np.ndarray, alpha_range: tuple[float, float]) -> np.ndarray:
    """Best (a, α, b) for each row of ``values`` (B, p); returns (B, 3). α stays within ``alpha_range``."""
    candidates = np.geomspace(*alpha_range, GRID)
    losses = np.stack([fit_given_alpha(sizes, values, weights, np.full(len(values), alpha))[2] for alpha in candidates])
    best = np.argmin(losses, axis=0)
    low, high = candidates[np.maximum(best - 1, 0)], candidates[np.minimum(best + 1, GRID - 1)]
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(REFINEMENTS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better_left = (
            fit_given_alpha(sizes, values, weights, left)[2] <= fit_given_alpha(sizes, values, weights, right)[2]
        )
        low, high = np.where(better_left, low, left), np.where(better_left, right, high)
    alpha = (low + high) / 2
    alpha = np.where(best == 0, np.where(alpha < candidates[0] * (1 + 1e-6), candidates[0], alpha), alpha)
    alpha = np.where(best == GRID - 1, np.where(alpha > candidates[-1] * (1 - 1e-6), candidates[-1], alpha), alpha)
    a, b, _ = fit_given_alpha(sizes, values, weights, alpha)
    return np.stack([a, alpha, b], axis=1)
