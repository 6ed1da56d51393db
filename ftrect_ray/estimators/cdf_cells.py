"""Which cells must be looked into: those where a criterion on the sorted F̂ may change from false to true.

Sorting F̂ over the observed points leaves it between the running maximum from the left and the running minimum from
the right. Where the maximum of all cells up to one place does not exceed the minimum of those after it, both sides are
sorted by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ftrect_ray.estimators.blocks import Block, Blocks
from ftrect_ray.estimators.cdf_counts import ImputedCounts, Ordered, columns, rows_within
from ftrect_ray.estimators.cdf_curve import ROUNDING, RectifiedCdf
from ftrect_ray.estimators.cdf_inversion import ScoreTest


@dataclass(frozen=True, eq=False)
class Cells:
    """Bounds in each cell, from left to right.

    Attributes
    ----------
    low, high : ndarray (g,)
        Least and largest F̂ before sorting.
    error_low, error_high : ndarray (g,)
        Least and largest standard error.
    anchored : ndarray (g,) of bool
        Whether the cell is known to begin with an observed point.
    """

    low: np.ndarray
    high: np.ndarray
    error_low: np.ndarray
    error_high: np.ndarray
    anchored: np.ndarray

    @classmethod
    def of(cls, cdf: RectifiedCdf, imputed: ImputedCounts, observed: np.ndarray, q: float) -> Cells:
        """Between the knots of ``imputed``, which hold all of ``observed``, the labelled values."""
        cells, start, end = np.arange(len(imputed.knots) + 1), imputed.start, imputed.end
        anchored = np.concatenate([[False], np.isin(imputed.knots, observed)])
        return cls(cdf.at(cells, start), cdf.at(cells, end), *cdf.error_bounds(start, end, q), anchored)

    def undecided(self, test: ScoreTest, null_cell: int) -> np.ndarray:
        """Cells (g,) of bool whose points settle the quantile, its interval and its p-value.

        ``null_cell`` begins at the null hypothesis. Scores below 0 give a two-sided p-value of 1, whatever they are.
        """
        q, z, alternative = test.q, test.critical, test.settings.alternative
        floor = np.minimum.accumulate(self.low[::-1])[::-1] - q - 2 * ROUNDING
        ceiling = np.maximum.accumulate(self.high) - q + 2 * ROUNDING
        least = _over(floor, np.where(floor > 0, self.error_high, self.error_low))
        largest = _over(ceiling, np.where(ceiling > 0, self.error_low, self.error_high))

        chosen = np.zeros(len(self.low), dtype=bool)
        chosen |= self._first(ceiling >= 0, floor >= 0)
        before = np.arange(len(chosen)) < null_cell
        if alternative != "smaller":
            chosen |= self._first(largest >= -z, least >= -z)
            nearest = np.max(least[before & self.anchored], initial=-np.inf)
            if alternative == "larger" or nearest < 0:
                chosen |= before & (largest >= nearest)
        if alternative != "larger":
            chosen |= self._last(least <= z, largest <= z)
            nearest = np.min(largest[~before & self.anchored], initial=np.inf)
            if alternative == "smaller" or nearest > 0:
                chosen |= ~before & (least <= nearest)
        chosen |= self._from_anchor_to(null_cell)
        return self._with_what_sorting_mixes(chosen)

    def _first(self, possible: np.ndarray, sure: np.ndarray) -> np.ndarray:
        """From the first cell that may hold a point where a criterion is met, to the first that certainly does."""
        start, end = _first_true(possible), _first_true(sure & self.anchored)
        return self._between(min(start, end), end)

    def _last(self, possible: np.ndarray, sure: np.ndarray) -> np.ndarray:
        """From the last cell that certainly holds such a point, over the last that may, to the next point."""
        last = len(possible) - 1
        end = last - _first_true(possible[::-1]) if possible.any() else 0
        start = last - _first_true((sure & self.anchored)[::-1]) if (sure & self.anchored).any() else 0
        return self._between(min(start, end), end + 1 + _first_true(self.anchored[end + 1 :]))

    def _from_anchor_to(self, cell: int) -> np.ndarray:
        earlier = np.flatnonzero(self.anchored[:cell])
        return self._between(earlier[-1] if len(earlier) else 0, cell)

    def _between(self, start: int, end: int) -> np.ndarray:
        cells = np.arange(len(self.low))
        return (cells >= start) & (cells <= end)

    def _with_what_sorting_mixes(self, chosen: np.ndarray) -> np.ndarray:
        ahead, behind = np.minimum.accumulate(self.low[::-1])[::-1], np.maximum.accumulate(self.high)
        part = np.concatenate([[0], np.cumsum(behind[:-1] <= ahead[1:])])
        return np.asarray(np.isin(part, part[chosen]))


def points_within(
    open_: np.ndarray, imputed: ImputedCounts, observed: np.ndarray, unlabeled: Blocks, own: Block | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Observed points and the imputed distribution functions there, run by run of the open cells, from one fold.

    Parameters
    ----------
    open_ : ndarray (g + 1,) of bool
    observed : ndarray
        The labelled values, sorted.
    own : Block or None
        The labelled rows, where they are part of the imputed ones.

    Yields
    ------
    ndarray (c,), ndarray (c, C)
    """
    steps = np.diff(np.concatenate([[0], open_.astype(int), [0]]))
    firsts, edges = np.flatnonzero(steps == 1), np.concatenate([[-np.inf], imputed.knots, [np.inf]])
    runs = np.column_stack([edges[firsts], edges[np.flatnonzero(steps == -1)]])
    within = partial(rows_within, runs=runs)
    block = (unlabeled.fold(within) if own is None else unlabeled.fold(within).merge(within(own))).joined()
    for first, (low, high) in zip(firsts.tolist(), runs.tolist(), strict=True):
        parts = [Ordered.of(values, block.weights, low, high) for values in columns(block.F)]
        known = observed[(observed >= low) & (observed < high)]
        points = np.unique(np.concatenate([known, *(part.values for part in parts[: block.F.shape[1]])]))
        inside = np.column_stack([part.up_to(points) for part in parts])
        yield points, (imputed.before(first) + inside) / imputed.weight


def _first_true(where: np.ndarray) -> int:
    """Position of the first True; the last position if there is none."""
    return int(np.argmax(where)) if where.any() else max(len(where) - 1, 0)


def _over(distance: np.ndarray, error: np.ndarray) -> np.ndarray:
    """distance / error; infinite where the error is 0."""
    return np.divide(distance, error, out=np.copysign(np.inf, distance), where=error > 0)
