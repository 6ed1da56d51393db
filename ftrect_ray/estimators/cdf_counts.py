"""Distribution functions of the unlabelled predictions without sorting them all: counts at knots, then a few values.

With K models the second moment of Σ_k ω_k·1{f_k ≤ t} is wanted too. 1{f_k ≤ t}·1{f_l ≤ t} = 1{max(f_k, f_l) ≤ t}, so
it takes counts only: of K columns f_k and of K(K − 1)/2 columns max(f_k, f_l).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ftrect_ray.estimators.blocks import Block, Kept


def columns(F: np.ndarray) -> Iterator[np.ndarray]:
    """The C = K(K + 1)/2 columns (b,): each f_k, then each max(f_k, f_l), from predictions (b, K)."""
    models = F.shape[1]
    for k in range(models):
        yield F[:, k]
    for k in range(models):
        for other in range(k):
            yield np.maximum(F[:, k], F[:, other])


def square(weights: np.ndarray) -> np.ndarray:
    """Coefficients (C,) of the columns' indicators in (Σ_k ω_k·1{f_k ≤ t})², from ω (K,)."""
    products = np.outer(weights, weights)
    return np.concatenate([np.diag(products), 2 * products[np.tril_indices(len(weights), -1)]])


@dataclass(frozen=True, eq=False)
class Ordered:
    """Sorted values (b,) and the running sum of their weights (b + 1,); None: all weights are 1."""

    values: np.ndarray
    running: np.ndarray | None

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray | None, low: float = -np.inf, high: float = np.inf) -> Ordered:
        """Of those among values in any order that lie in [low, high)."""
        if low > -np.inf or high < np.inf:
            inside = np.flatnonzero((values >= low) & (values < high))
            values, weights = values[inside], None if weights is None else weights[inside]
        if weights is None:
            return cls(np.sort(values), None)
        order = np.argsort(values)
        return cls(values[order], np.concatenate([[0.0], np.cumsum(weights[order])]))

    def up_to(self, points: np.ndarray) -> np.ndarray:
        """Weight at or below each point (g,)."""
        return self._weight(np.searchsorted(self.values, points, "right"))

    def around(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight below each point, and at or below it, each (g,); the two differ where a value equals the point."""
        after = np.searchsorted(self.values, points, "right")
        before, hit = after.copy(), after > 0
        hit[hit] = self.values[after[hit] - 1] == points[hit]
        before[hit] = np.searchsorted(self.values, points[hit], "left")
        return self._weight(before), self._weight(after)

    def _weight(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.running is None else self.running[rows]

    @property
    def total(self) -> float:
        """Weight of all values."""
        return float(len(self.values) if self.running is None else self.running[-1])


@dataclass(frozen=True, eq=False)
class ImputedCounts:
    """Weight of the rows below, and at or below, each knot; cells lie between knots, the first before them all.

    Attributes
    ----------
    knots : ndarray (g,)
        Sorted.
    counts : ndarray (2g + 1, C)
        In the order < knot 0, ≤ knot 0, < knot 1, …, all.
    """

    knots: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, block: Block, knots: np.ndarray) -> ImputedCounts:
        """Of the rows of a block."""
        models = block.F.shape[1]
        counts = np.empty((2 * len(knots) + 1, models * (models + 1) // 2))
        for column, values in enumerate(columns(block.F)):
            ordered = Ordered.of(values, block.weights)
            counts[:-1:2, column], counts[1::2, column] = ordered.around(knots)
            counts[-1, column] = ordered.total
        return cls(knots, counts)

    def merge(self, other: ImputedCounts) -> ImputedCounts:
        """Of the rows of both."""
        return ImputedCounts(self.knots, self.counts + other.counts)

    @property
    def weight(self) -> float:
        """Of all rows; 1 where there are none."""
        return float(self.counts[-1, 0]) or 1.0

    @property
    def start(self) -> np.ndarray:
        """Distribution functions (g + 1, C) at the left end of each cell."""
        return np.vstack([np.zeros_like(self.counts[:1]), self.counts[1::2]]) / self.weight

    @property
    def end(self) -> np.ndarray:
        """The same (g + 1, C) before its right end."""
        return self.counts[::2] / self.weight

    def before(self, cell: int) -> np.ndarray:
        """Weight (C,) of the rows that lie left of a cell."""
        return self.counts[2 * cell - 2] if cell > 0 else np.zeros(self.counts.shape[1])


def rows_within(block: Block, runs: np.ndarray) -> Kept:
    """Rows with a prediction in [low, high) for one of ``runs`` (r, 2)."""
    F, inside = block.F, np.zeros(block.F.shape, dtype=bool)
    for low, high in runs:
        inside |= (low <= F) & (high > F)
    which = np.flatnonzero(inside.any(axis=1))
    return Kept.of(Block(F, weights=block.weights).rows(which))
