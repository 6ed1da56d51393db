"""The unlabelled sample, block by block: arrays in memory and tables larger than memory look the same.

An estimator asks one thing of the unlabelled rows: fold a summary over their blocks. A summary is an array (merged by
``+``), an object with ``merge``, or a tuple of these. Order does not matter, so blocks may be folded anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np

S = TypeVar("S")

CELLS = 1 << 16
"""Numbers of one block: it and its temporaries stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some unlabelled rows.

    Attributes
    ----------
    F : ndarray (b, K, …)
        Predictions of K models; each is a number, or an array for a vector answer.
    X : ndarray (b, d) or None
    weights : ndarray (b,) or None
        None: all 1.
    strata, clusters : ndarray (b,) or None
    """

    F: np.ndarray
    X: np.ndarray | None = None
    weights: np.ndarray | None = None
    strata: np.ndarray | None = None
    clusters: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.F)

    def rows(self, which: slice | np.ndarray) -> Block:
        """Some of the rows, in the given order; a slice copies nothing."""
        parts = (self.X, self.weights, self.strata, self.clusters)
        return Block(self.F[which], *(None if part is None else part[which] for part in parts))


@dataclass(frozen=True, eq=False)
class Kept:
    """Blocks of rows that are held in memory; merged without copying."""

    parts: tuple[Block, ...]

    @classmethod
    def of(cls, block: Block) -> Kept:
        """One block."""
        return cls((block,))

    def merge(self, other: Kept) -> Kept:
        """The blocks of both."""
        return Kept(self.parts + other.parts)

    def joined(self) -> Block:
        """All rows."""
        columns = [[getattr(part, field.name) for part in self.parts] for field in fields(Block)[1:]]
        return Block(
            np.concatenate([part.F for part in self.parts]),
            *(None if column[0] is None else np.concatenate(column) for column in columns),
        )


class Blocks(Protocol):
    """The unlabelled sample. Whether weights, strata or clusters come with the rows is the same for all blocks."""

    def fold(self, summarise: Callable[[Block], S]) -> S:
        """``summarise`` of every block, merged; of one empty block where there are no rows."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Arrays, cut into blocks that fit the cache."""

    whole: Block

    def __iter__(self) -> Iterator[Block]:
        width = max(1, sum(math.prod(part.shape[1:]) for part in (self.whole.F, self.whole.X) if part is not None))
        step = max(1, CELLS // width)
        if len(self.whole) <= step:
            yield self.whole
            return
        for start in range(0, len(self.whole), step):
            yield self.whole.rows(slice(start, start + step))

    def take(self, rows: np.ndarray) -> InMemory:
        """A selection of the rows, in the given order."""
        return InMemory(self.whole.rows(rows))

    def fold(self, summarise: Callable[[Block], S]) -> S:
        """See :class:`Blocks`."""
        return fold(iter(self), summarise)


def fold(blocks: Iterator[Block], summarise: Callable[[Block], S]) -> S:
    """``summarise`` of every block, merged in turn; at least one block."""
    merged = summarise(next(blocks))
    for block in blocks:
        merged = merged_with(merged, summarise(block))
    return merged


def merged_with(one: Any, two: Any) -> Any:
    """Two summaries as one."""
    if isinstance(one, tuple):
        return tuple(merged_with(a, b) for a, b in zip(one, two, strict=True))
    return one.merge(two) if hasattr(one, "merge") else one + two
