"""Reading batches into samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ftrect_ray.estimators.blocks import Block
from ftrect_ray.streaming.cells import Cells
from ftrect_ray.streaming.columns import Columns
from ftrect_ray.streaming.decoded import Decoded
from ftrect_ray.streaming.rows import Key, Rows


@dataclass(frozen=True)
class Reader:
    """How batches are read.

    Attributes
    ----------
    columns : Columns
    where : str
        The table's name in errors.
    words : bool
        Answers and predictions are words, not numbers.
    missing : tuple of str
        Texts that stand for an empty cell.
    keys : tuple of str
        Columns whose values split the table into samples.
    """

    columns: Columns
    where: str
    words: bool = False
    missing: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def read(self, batch: pa.RecordBatch, before: int) -> Iterator[tuple[Key, Rows]]:
        """The samples of a batch that comes after ``before`` rows."""
        cells = Cells(batch, before, self.where, self.missing)
        rows = Decoded(cells, self.columns, self.words)
        if not self.keys:
            yield (), rows.only(None)
            return
        coded = [cells.coded(name) for name in self.keys]
        place = np.zeros(batch.num_rows, dtype=np.int64)
        for names, codes in coded:
            place = place * max(len(names), 1) + codes
        place = place.astype(np.min_scalar_type(int(place.max(initial=0))))  # few values are sorted by their digits
        order = np.argsort(place, kind="stable")
        for some in np.split(order, np.flatnonzero(place[order][1:] != place[order][:-1]) + 1):
            if len(some):
                yield tuple(names[codes[some[0]]] for names, codes in coded), rows.only(some)

    def read_one(self, batch: pa.RecordBatch, before: int, key: Key) -> Block:
        """The unlabelled rows of one sample; maybe none."""
        cells = Cells(batch, before, self.where, self.missing)
        own = np.ones(batch.num_rows, dtype=bool)
        for name, value in zip(self.keys, key, strict=True):
            names, codes = cells.coded(name)
            own &= codes == (names.index(value) if value in names else -1)
        return Decoded(cells, self.columns, self.words).only(np.flatnonzero(own) if self.keys else None).block
