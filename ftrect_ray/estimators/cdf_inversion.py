"""The score test of a quantile on the sorted F̂, and its inversion: value, interval and p-value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators.cdf_curve import ROUNDING, RectifiedCdf
from ftrect_ray.estimators.conclusion import upper_quantile, upper_tail
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Settings


@dataclass(frozen=True)
class ScoreTest:
    """The test that F̂(t) estimates q, and its inversion.

    Attributes
    ----------
    critical : float
        The t quantile.
    tail_error : float
        Standard error of F̂ below and above all observed points, where it is 0 and 1.
    """

    settings: Settings
    q: float
    df: float
    critical: float
    tail_error: float

    @classmethod
    def of(cls, cdf: RectifiedCdf, settings: Settings, q: float, df: float) -> ScoreTest:
        """Of F̂ − q, where the test can reject what lies outside of all observed points.

        Raises
        ------
        StatisticalRefusal
            It cannot.
        """
        sides = 2 if settings.alternative == "two-sided" else 1
        tail = settings.alpha / sides
        critical = float(upper_quantile(tail, np.array(df)))
        room = {"two-sided": min(q, 1 - q), "larger": q, "smaller": 1 - q}[settings.alternative]
        if critical < 0:  # one-sided at a level below one half: the end lies beyond the value
            room = 1 - room
        odds = cdf.inflation * (1 - room) / max(room, 1e-300)
        if cdf.n <= critical**2 * odds:  # room ≤ |critical|·√(inflation·q(1 − q)/n)
            needed = _least_labels(cdf.n, df, tail, odds)
            raise StatisticalRefusal(
                f"{cdf.n} labels give the {q:g}-quantile no bounded {100 * (1 - settings.alpha):g} % interval",
                mend=f"use at least {needed} labels, or a quantile nearer the middle",
            )
        return cls(settings, q, df, critical, float(np.sqrt(cdf.inflation * q * (1 - q) / cdf.n)))

    @property
    def null(self) -> float:
        """The hypothesis of the p-value."""
        return float(np.ravel(self.settings.null)[0])

    def telling(
        self, grid: np.ndarray, cdf: np.ndarray, error: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a run of points (c,), sorted F̂ and standard errors the few that :meth:`concluded` looks at.

        These are the ends, both sides of every change of a criterion, the point before the null hypothesis, and those
        nearest to q on either side of it.
        """
        above, below = _score(cdf - self.q, error), _score(self.q - cdf, error)
        chosen = np.zeros(len(grid), dtype=bool)
        chosen[:1] = chosen[-1:] = True
        for met in (cdf >= self.q - ROUNDING, below <= self.critical, above <= self.critical):
            change = np.flatnonzero(met[1:] != met[:-1])
            chosen[change] = chosen[change + 1] = True
        first, last = np.searchsorted(grid, self.null, "left"), np.searchsorted(grid, self.null, "right")
        if first > 0:
            chosen[first - 1] = True
        if first < len(grid):
            chosen[first + np.argmin(above[first:])] = True
        if last > 0:
            chosen[np.argmin(below[:last])] = True
        return grid[chosen], cdf[chosen], error[chosen]

    def concluded(self, share: Estimate, grid: np.ndarray, cdf: np.ndarray, error: np.ndarray) -> Estimate:
        """``share``, the estimate of F̂ at the classical quantile, turned into that of the quantile.

        F̂ is constant between points: F̂(t−) at a point is its value at the point before, 0 before the first.
        """
        above, below = _score(cdf - self.q, error), _score(self.q - cdf, error)
        value = float(grid[np.argmax(cdf >= self.q - ROUNDING)])
        low = float(grid[np.argmax(below <= self.critical)])
        kept = np.flatnonzero(above[:-1] <= self.critical)
        high = float(grid[kept[-1] + 1]) if len(kept) else float(grid[0])
        ends = {"two-sided": (low, high), "larger": (low, np.inf), "smaller": (-np.inf, high)}
        interval = ends[self.settings.alternative]
        reach = {"two-sided": (high - low) / 2, "larger": value - low, "smaller": high - value}
        distance = reach[self.settings.alternative]
        return replace(
            share,
            value=value,
            interval=interval,
            std_error=distance / self.critical if self.critical else np.nan,
            p_value=self._p_value(grid, above, below),
        )

    def _p_value(self, grid: np.ndarray, above: np.ndarray, below: np.ndarray) -> float:
        """Least level at which the interval leaves the null hypothesis out.

        It lies below the interval when no point up to it has F̂ near enough to q, and above it when no F̂(t−) from
        it on has.
        """
        outside = self.q / self.tail_error if self.tail_error > 0 else np.inf
        first, last = np.searchsorted(grid, self.null, "left"), np.searchsorted(grid, self.null, "right")
        lower = np.min(below[:last], initial=outside)
        upper = np.min(above[max(first - 1, 0) :], initial=np.inf if first > 0 else -outside)
        sides = 2 if self.settings.alternative == "two-sided" else 1
        scores = {"two-sided": max(lower, upper), "larger": lower, "smaller": upper}
        score = np.array(scores[self.settings.alternative])
        return min(1.0, sides * float(upper_tail(score, np.array(self.df))))


def _score(distance: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(distance − rounding) / error, infinite where the error is 0."""
    beyond = distance - ROUNDING
    return np.divide(beyond, error, out=np.copysign(np.inf, beyond), where=error > 0)


def _least_labels(n: int, df: float, tail: float, odds: float) -> int:
    """Least N > t²·odds, for the t quantile with N − n more degrees of freedom than ``df``."""

    def enough(labels: int) -> bool:
        return labels > float(upper_quantile(tail, np.array(df + labels - n))) ** 2 * odds

    short, high = n, n + 1
    while not enough(high):
        short, high = high, 2 * high
    while high - short > 1:
        middle = (short + high) // 2
        short, high = (short, middle) if enough(middle) else (middle, high)
    return high
