"""One record a replication, design, objective and model: what is done, whole files by rename, never done again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ftrect_ray.storage import RunStorage
from ftrect_ray.study import digest

RECORDS = "records.parquet"
#: Folder of the chunks that are not in ``records.parquet`` yet.
CHUNKS = ("work", "records")

#: What names a record, in the order in which records stand.
KEY = ("model", "objective", "budget", "replication", "design")
SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("objective", pa.string()),
        ("budget", pa.int32()),
        ("replication", pa.int32()),
        ("design", pa.string()),
        ("value", pa.float64()),
        ("std_error", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n_finetune", pa.int32()),  # labels that one fine-tune consumed
        ("finetunes", pa.int32()),  # final ones
        ("pilots", pa.int32()),  # models that pilots trained
        ("lam", pa.float64()),
        ("predicted_length", pa.float64()),  # what the planner said the interval's length would be
        ("chosen", pa.string()),  # the design that the planner chose
        ("unavailable", pa.string()),  # why there is no estimate; the numbers are then null
    ]
)

Key = tuple[str, str, int, int, str]


class Records:
    """The records of a folder: those of ``records.parquet``, and those of chunks that an unfinished run left.

    Parameters
    ----------
    storage : RunStorage
    """

    def __init__(self, storage: RunStorage) -> None:
        self.storage = storage
        self.by_key: dict[Key, dict[str, Any]] = {}
        places = [(RECORDS,)] if storage.exists(RECORDS) else []
        for place in [*places, *((*CHUNKS, name) for name in storage.list(*CHUNKS) if name.endswith(".parquet"))]:
            self._take(storage.read_table(*place).to_pylist())

    def __contains__(self, key: Key) -> bool:
        return key in self.by_key

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep finished records: one file, which appears whole."""
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
        self.storage.write_table(table, *CHUNKS, f"{digest([key_of(row) for row in rows])}.parquet")
        self._take(table.to_pylist())

    def finish(self) -> None:
        """Write all of them as ``records.parquet``, ordered by their keys, and drop the chunks."""
        if self.storage.exists(RECORDS) and not self.storage.list(*CHUNKS):
            return
        rows = [self.by_key[key] for key in sorted(self.by_key)]
        self.storage.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), RECORDS)
        self.storage.delete(*CHUNKS)

    def _take(self, rows: Iterable[dict[str, Any]]) -> None:
        self.by_key |= {key_of(row): row for row in rows}


def key_of(row: Mapping[str, Any]) -> Key:
    """What names ``row``."""
    model, objective, budget, replication, design = (row[name] for name in KEY)
    return model, objective, budget, replication, design
