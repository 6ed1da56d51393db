"""Ray Data: every block is summarised by a task where it lies; the summaries are merged here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np
import pyarrow as pa
from ray.data import Dataset

from ftrect_ray.errors import FtrectError
from ftrect_ray.estimators.blocks import merged_with
from ftrect_ray.streaming.sources import Batches, S, Summarise

WHERE = "a block of the Ray dataset"


@dataclass(frozen=True)
class _Task(Generic[S]):
    """What a task makes of a block: one row that holds a summary, or the error that a user can mend."""

    summarise: Summarise[S]

    def __call__(self, block: pa.Table) -> dict[str, np.ndarray]:
        made = np.empty(1, dtype=object)
        try:
            made[0] = Batches([block], WHERE).fold(self.summarise)
        except FtrectError as error:
            made[0] = error
        return {"summary": made}


@dataclass(frozen=True)
class RayBlocks:
    """A Ray dataset as a :class:`~ftrect_ray.streaming.sources.Source`; each fold executes it once.

    Blocks come in any order, so rows are counted from the beginning of their block.
    """

    dataset: Dataset
    where: str = WHERE

    def fold(self, summarise: Summarise[S]) -> S:
        """See :class:`~ftrect_ray.streaming.sources.Source`."""
        schema = self.dataset.schema()
        merged = summarise(pa.RecordBatch.from_pylist([], schema=schema.base_schema), 0)
        made = self.dataset.map_batches(_Task(summarise), batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
        for row in made.iter_rows():
            if isinstance(row["summary"], FtrectError):
                raise row["summary"]
            merged = merged_with(merged, row["summary"])
        return merged
