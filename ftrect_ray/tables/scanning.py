"""Reading a few columns of a table batch by batch, however many rows it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.delimited import read_csv
from ftrect_ray.tables.folding import unfold
from ftrect_ray.tables.jsonlines import read_jsonl
from ftrect_ray.tables.limits import BATCH_ROWS, Limits
from ftrect_ray.tables.opening import TableFile, locate
from ftrect_ray.tables.parquet import read_parquet

Reader = Callable[[TableFile, Sequence[str] | None, Limits], Iterator[pa.RecordBatch]]
READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}


@dataclass(frozen=True)
class Scan:
    """The rows of a file in order, in batches; every iteration begins at the file's beginning.

    There is at least one batch, and only the last may be empty. Only the end of an iteration says that the
    whole file is sound: an error that comes after some batches makes them void.
    """

    file: TableFile
    reader: Reader
    columns: tuple[str, ...]
    limits: Limits

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return map(unfold, self.reader(self.file, self.columns, self.limits))


def scan(path: str, *, columns: Sequence[str], max_rows: int, max_bytes: int, batch_rows: int = BATCH_ROWS) -> Scan:
    """A few columns of a csv, jsonl or parquet file; memory holds one batch at a time.

    Parameters
    ----------
    path : str
        Local path or URI; its ending names the format.
    columns : sequence of str
        Every batch has these, in this order. The other columns of a parquet file are not read.
    max_rows, max_bytes : int
        A table with more rows, or with more bytes once decoded (parquet: of these columns), is refused.
    batch_rows : int
        A batch has at most this many rows, and fewer where cells are long.

    Returns
    -------
    Scan
        Iterable any number of times. Types and texts are those of :func:`read_any`.

    Raises
    ------
    InputError
        There is no such file, or no such format; the content is checked while iterating, with the errors of
        :func:`read_any`.
    """
    file, reader = find_reader(path)
    return Scan(file, reader, tuple(columns), Limits(max_rows, max_bytes, batch_rows))


def find_reader(path: str) -> tuple[TableFile, Reader]:
    """The file at ``path`` and the reader of the format that its ending names.

    Raises
    ------
    InputError
        There is no such file, or no such format.
    """
    file = locate(path)
    for ending, reader in READERS.items():
        if file.path.lower().endswith(ending):
            return file, reader
    raise InputError(
        "the file's ending names no format that can be read",
        where=path,
        mend="use .csv, .jsonl or .parquet, uncompressed",
    )
