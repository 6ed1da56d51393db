"""Curves of the residual variance that a plan may rest on: a law with its doubt, or what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np

from ftrect_ray.allocation.scaling_law import ScalingLaw

NO_DRAWS = np.empty((0, 3))


class Curve(Protocol):
    """v(s) = Var(Y − f^(s)), and B equally credible versions of it."""

    @property
    def smallest(self) -> float:
        """Labels below which nothing is known."""

    @property
    def falls(self) -> bool:
        """Whether more labels are known to leave less."""

    @property
    def holds_beyond(self) -> float:
        """Labels beyond which the curve is a bound, not a forecast; infinite for a law."""

    def variance(self, s: Any) -> Any:
        """v(s): a float for a number, an array for an array."""

    def draws_at(self, s: np.ndarray) -> np.ndarray:
        """(B, \\*s.shape) versions of v(s); B = 0 where the doubt is not known."""

    def without_draws(self) -> Curve:
        """The same with B = 0, for searches that need no doubt."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the draws."""


@dataclass(frozen=True, eq=False)
class DrawnLaw:
    """A scaling law with bootstrap draws of its parameters.

    Attributes
    ----------
    law : ScalingLaw
    draws : ndarray (B, 3)
        (a, α, b).
    """

    law: ScalingLaw
    draws: np.ndarray = field(default_factory=lambda: NO_DRAWS, repr=False)

    @property
    def smallest(self) -> float:
        return 0.0

    @property
    def falls(self) -> bool:
        return True

    @property
    def holds_beyond(self) -> float:
        return np.inf

    @overload
    def variance(self, s: float) -> float: ...
    @overload
    def variance(self, s: np.ndarray) -> np.ndarray: ...
    def variance(self, s: Any) -> Any:
        return self.law.variance(s)

    def draws_at(self, s: np.ndarray) -> np.ndarray:
        s = np.asarray(s, dtype=float)
        a, alpha, b = (column.reshape(-1, *(1,) * s.ndim) for column in self.draws.T)
        return np.asarray(a * s**-alpha + b)

    def without_draws(self) -> DrawnLaw:
        return DrawnLaw(self.law)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "law", **self.law.to_dict()}


@dataclass(frozen=True, eq=False)
class MeasuredCurve:
    """The measured levels, joined by straight lines in log s; constant beyond the largest size, NaN below the smallest.

    A curve a·s^(−α) + b is convex in log s, so it lies below the straight lines: between measured sizes, and beyond
    the largest, no plan is promised more than was measured.

    Attributes
    ----------
    sizes : ndarray (k,)
        Different sizes, rising.
    levels : ndarray (k,)
        v at each; never rising.
    draws : ndarray (B, k)
        Bootstrap versions of ``levels``.
    """

    sizes: np.ndarray
    levels: np.ndarray
    draws: np.ndarray = field(repr=False)

    @property
    def smallest(self) -> float:
        return float(self.sizes[0])

    @property
    def falls(self) -> bool:
        return bool(self.levels[-1] < self.levels[0])

    @property
    def holds_beyond(self) -> float:
        return float(self.sizes[-1])

    @overload
    def variance(self, s: float) -> float: ...
    @overload
    def variance(self, s: np.ndarray) -> np.ndarray: ...
    def variance(self, s: Any) -> Any:
        found = self._between(self.levels[None], np.asarray(s, dtype=float))[0]
        return found if np.ndim(s) else float(found)

    def draws_at(self, s: np.ndarray) -> np.ndarray:
        return self._between(self.draws, np.asarray(s, dtype=float))

    def _between(self, levels: np.ndarray, s: np.ndarray) -> np.ndarray:
        """(B, \\*s.shape) from ``levels`` (B, k)."""
        place = np.interp(np.log(s), np.log(self.sizes), np.arange(len(self.sizes)))
        left = np.minimum(place.astype(np.intp), max(len(self.sizes) - 2, 0))
        right = np.minimum(left + 1, len(self.sizes) - 1)
        share = place - left
        found = levels[:, left] * (1 - share) + levels[:, right] * share
        return np.asarray(np.where(s < self.sizes[0], np.nan, found))

    def without_draws(self) -> MeasuredCurve:
        return MeasuredCurve(self.sizes, self.levels, self.draws[:0])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "measured", "sizes": self.sizes.tolist(), "variances": self.levels.tolist()}


def never_rising(levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The antitonic regression of each row of ``levels`` (B, k) with ``weights`` (k,).

    By the max-min formula (Robertson, Wright & Dykstra 1988, theorem 1.4.4): ĝ_j = max_{b ≥ j} min_{a ≤ j} of the
    weighted mean of entries a to b.
    """
    sums = np.concatenate([np.zeros((len(levels), 1)), np.cumsum(levels * weights, axis=1)], axis=1)
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    k = levels.shape[1]
    means = np.full((len(levels), k, k), np.nan)  # [a, b]
    for first in range(k):
        means[:, first, first:] = (sums[:, first + 1 :] - sums[:, [first]]) / (mass[first + 1 :] - mass[first])
    fitted = np.empty_like(levels)
    for j in range(k):
        fitted[:, j] = means[:, : j + 1, j:].min(axis=1).max(axis=1)
    return fitted


def measured_curve(
    sizes: np.ndarray,
    variances: np.ndarray,
    weights: np.ndarray,
    *,
    replicates: np.ndarray,
    rising: bool = False,
) -> MeasuredCurve:
    """The curve of pilots.

    Parameters
    ----------
    sizes, variances, weights : ndarray (p,)
        Repeated sizes are averaged.
    replicates : ndarray (B, p)
        Bootstrap versions of ``variances``; B may be 0.
    rising : bool
        Whether the variance rises. Then every level is that of the largest size: the least promise that the
        measurements allow.
    """
    different, place = np.unique(sizes, return_inverse=True)
    member = (place[:, None] == np.arange(len(different))) * weights[:, None]
    mass = member.sum(axis=0)
    rows = np.concatenate([variances[None], replicates.reshape(-1, len(sizes))])
    levels = rows @ member / mass
    levels = np.repeat(levels[:, -1:], len(different), axis=1) if rising else never_rising(levels, mass)
    return MeasuredCurve(different, levels[0], levels[1:])
