"""Where rows come from: a file, Arrow tables, batches and datasets, or Ray Data; all are folded alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import merged_with
from ftrect_ray.tables import scan
from ftrect_ray.tables.limits import BATCH_ROWS
from ftrect_ray.tables.wording import missing_column

if TYPE_CHECKING:
    import pyarrow.dataset as ds

S = TypeVar("S")
Summarise = Callable[[pa.RecordBatch, int], S]
"""What is made of a batch, and of the number of rows before it."""

MAX_ROWS = 10**9
MAX_BYTES = 100 * 2**30
AHEAD = 4


class Source(Protocol):
    """Rows that can be read again and again."""

    @property
    def where(self) -> str:
        """Its name in errors."""
        ...

    def fold(self, summarise: Summarise[S]) -> S:
        """Read all rows once; ``summarise`` of every batch (an empty one where there are no rows), merged."""
        ...


class Batches:
    """Batches that an iterable gives in order; one that can be iterated only once is read once."""

    def __init__(self, batches: Iterable[pa.RecordBatch | pa.Table], where: str) -> None:
        self.batches, self.where = batches, where
        self._spent = False

    def fold(self, summarise: Summarise[S]) -> S:
        """See :class:`Source`."""
        before, merged = 0, None
        for batch in self._parts():
            summary = summarise(batch, before)
            merged = summary if merged is None else merged_with(merged, summary)
            before += batch.num_rows
        if merged is None:
            raise InputError("there are no batches", where=self.where, mend="give at least one, which may be empty")
        return merged

    def _parts(self) -> Iterator[pa.RecordBatch]:
        """Batches of at most ``BATCH_ROWS`` rows; slicing copies nothing."""
        if self._spent:
            raise InputError(
                "this target reads its rows more than once, and an iterator gives them only once",
                where=self.where,
                mend="give a path, a table, a dataset or a list of batches",
            )
        rows = iter(self.batches)
        self._spent = rows is self.batches
        for item in rows:
            if not isinstance(item, pa.RecordBatch | pa.Table):
                raise InputError(f"a source must give Arrow record batches; got {type(item).__name__}.")
            batches = item.to_batches() if isinstance(item, pa.Table) else [item]
            if not batches:
                batches = [pa.RecordBatch.from_pylist([], schema=item.schema)]
            for batch in batches:
                for start in range(0, max(batch.num_rows, 1), BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS)


class _Ahead:
    """Batches of which the next few are read while one is worked on."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        rows = iter(self.batches)
        with ThreadPoolExecutor(1) as reading:
            coming = deque(reading.submit(next, rows, None) for _ in range(AHEAD))
            while (batch := coming.popleft().result()) is not None:
                coming.append(reading.submit(next, rows, None))
                yield batch


class _Scanned:
    """A dataset's columns, read anew by every iteration."""

    def __init__(self, dataset: ds.Dataset, columns: Sequence[str]) -> None:
        self.dataset, self.columns = dataset, list(columns)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([], schema=pa.schema([self.dataset.schema.field(c) for c in self.columns]))
        yield from self.dataset.to_batches(columns=self.columns, batch_size=BATCH_ROWS)


def open_source(source: Any, columns: Sequence[str], *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> Source:
    """The ``columns`` of a path, an Arrow table, record batches, a pyarrow or a Ray dataset.

    Raises
    ------
    InputError
        No such file, format, column or kind of source.
    """
    if isinstance(source, str | PathLike):
        path = fspath(source)
        return Batches(_Ahead(scan(path, columns=columns, max_rows=max_rows, max_bytes=max_bytes)), path)
    if isinstance(source, pa.Table):
        _require(columns, source.schema.names, "the table")
        return Batches([source.select(list(columns))], "the table")
    kind = type(source).__module__  # the packages of datasets are loaded by those who have one
    if kind == "pyarrow._dataset":
        _require(columns, source.schema.names, "the dataset")
        return Batches(_Ahead(_Scanned(source, columns)), "the dataset")
    if kind.startswith("ray.data"):
        from ftrect_ray.streaming.raydata import RayBlocks

        _require(columns, source.columns() or [], "the Ray dataset")
        return RayBlocks(source.select_columns(list(columns)))
    if isinstance(source, Iterable):
        return Batches(source, "the batches")
    raise InputError(
        f"cannot read rows from {type(source).__name__}.",
        mend="give a path, an Arrow table, record batches, a pyarrow or a Ray dataset",
    )


def _require(columns: Sequence[str], names: Sequence[str], where: str) -> None:
    for name in columns:
        if name not in names:
            raise missing_column(name, "", names, where)
