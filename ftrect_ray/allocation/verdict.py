"""What pilots say before and after a law is fitted: flat, rising, or a law that they cannot tell."""

from __future__ import annotations

from typing import Literal

import numpy as np

SMALLEST_CHANGE = 0.02
NOISE = 2.0
Status = Literal["identified", "flat", "rising", "unidentified"]
Interval = tuple[float, float]


def percentiles(values: np.ndarray) -> Interval:
    """The 95 % interval of draws (B,)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def without_decrease(
    s: np.ndarray, v: np.ndarray, w: np.ndarray, replicates: np.ndarray
) -> tuple[Status, str, float] | None:
    """``flat`` or ``rising`` with the level of the constant law; None for a curve that falls.

    Parameters
    ----------
    s, v, w : ndarray (p,)
        Sizes, variances, weights that add to 1.
    replicates : ndarray (B, p)
        Bootstrap versions of ``v`` that tell the noise of the slope, among them errors that all pilots share; no
        rows: the noise is that of the residuals.
    """
    x = np.log(s) - w @ np.log(s)
    level = float(w @ v)
    slope = float(w @ (x * v) / (w @ x**2))
    span = float(np.log(s.max() / s.min()))
    change = slope * span / level
    if len(replicates) > 1:
        error = span / level * float(np.std(replicates @ (w * x), ddof=1) / (w @ x**2))
    else:
        residual = v - level - slope * x
        spare = len(s) - 2
        error = span / level * float(np.sqrt(w @ residual**2 / spare / (w @ x**2))) if spare else 0.0
    if abs(change) <= max(SMALLEST_CHANGE, NOISE * error) and not _falls(s, v, w):
        told = f"{100 * change:+.1f} % from {s.min():g} to {s.max():g} labels"
        return "flat", f"the residual variance changes by {told}, no more than noise", level
    if change > 0:
        largest = float(np.average(v[s == s.max()], weights=w[s == s.max()]))
        return (
            "rising",
            f"the residual variance rises by {100 * change:.1f} % from {s.min():g} to {s.max():g} labels",
            largest,
        )
    return None


def _falls(s: np.ndarray, v: np.ndarray, w: np.ndarray) -> bool:
    """Whether misfit to a line in log s is curvature, not noise: the means of the sizes fall one after the other.

    Asked of four sizes or more (by chance 1 in 24), and of three points in all, where nothing else can be asked.
    """
    means = np.array([np.average(v[s == size], weights=w[s == size]) for size in np.unique(s)])
    in_order = bool(np.all(np.diff(means) < 0)) and 1 - means[-1] / means[0] > SMALLEST_CHANGE
    return in_order and (len(means) >= 4 or len(s) < 4)


def identification(alpha: float, draws: np.ndarray, alpha_range: Interval, s: np.ndarray) -> tuple[Status, str]:
    """Whether the pilots pin α down; ``draws`` (B, 3)."""
    low, high = alpha_range
    beyond = f"the law holds from {s.min():g} to {s.max():g} labels and is a guess beyond"
    if alpha <= low * (1 + 1e-6) or alpha >= high * (1 - 1e-6):
        return "unidentified", f"α ends at the bound {alpha:g} of its range; {beyond}"
    if len(draws) == 0:
        return "unidentified", f"as many parameters as pilots, so the noise is unknown; {beyond}"
    ends = percentiles(draws[:, 1])
    if np.log(ends[1] / ends[0]) >= 0.9 * np.log(high / low):
        return "unidentified", f"α may be anything from {ends[0]:.2g} to {ends[1]:.2g}; {beyond}"
    return "identified", f"α is between {ends[0]:.2g} and {ends[1]:.2g}"
