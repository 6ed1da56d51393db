"""One record a replication, design, objective and model: what is done, whole files by rename, never done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ftrect_ray.errors import InputError
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


def has_records(storage: RunStorage) -> bool:
    """Whether the folder has any, of a finished or an unfinished run."""
    return storage.exists(RECORDS) or bool(storage.list(*CHUNKS))


class Records:
    """The records of a folder: those of ``records.parquet``, and those of chunks that an unfinished run left.

    Parameters
    ----------
    storage : RunStorage
    """

    def __init__(self, storage: RunStorage) -> None:
        self.storage = storage
        self._keys: set[Key] = set()
        self._tables = [SCHEMA.empty_table()]
        places = [(RECORDS,)] if storage.exists(RECORDS) else []
        for place in [*places, *((*CHUNKS, name) for name in storage.list(*CHUNKS) if name.endswith(".parquet"))]:
            table = storage.read_table(*place)
            if not table.schema.equals(SCHEMA):
                what = f"{'/'.join(place)!r} holds no records of an evaluation"
                raise InputError(what, where=storage.uri, mend="restore it, or choose another folder with -o")
            self._take(table)

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    @property
    def table(self) -> pa.Table:
        """All of them, in the order of their keys."""
        return pa.concat_tables(self._tables).sort_by([(name, "ascending") for name in KEY]).combine_chunks()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep finished records: one file, which appears whole."""
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
        self.storage.write_table(table, *CHUNKS, f"{digest(_keys(table))}.parquet")
        self._take(table)

    def finish(self) -> None:
        """Write all of them as ``records.parquet``, ordered by their keys, and drop the chunks."""
        if self.storage.exists(RECORDS) and not self.storage.list(*CHUNKS):
            return
        self.storage.write_table(self.table, RECORDS)
        self.storage.delete(*CHUNKS)

    def _take(self, table: pa.Table) -> None:
        """Those of ``table`` that are not there yet: a kill before chunks are dropped leaves records twice."""
        keys = _keys(table)
        self._tables.append(table.filter(pa.array([key not in self._keys for key in keys], pa.bool_())))
        self._keys.update(keys)


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in KEY), strict=True))
