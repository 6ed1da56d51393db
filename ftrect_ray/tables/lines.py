"""Lines of text from a file, batches of text cells from rows, and column names: what the readers share."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.limits import BATCH_BYTES, Limits
from ftrect_ray.tables.opening import TableFile
from ftrect_ray.tables.wording import missing_column

MAX_LINE_BYTES = 64 << 20
MAX_COLUMNS = 10_000
CELL_BYTES = 8  # the least that a cell weighs, so that empty cells count
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAGIC_BYTES = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "compressed with gzip",
    b"PAR1": "parquet",
    b"PK\x03\x04": "a zip file",
}


def decoded_lines(file: TableFile, limits: Limits) -> Iterator[str]:
    """Decoded lines with their line ends; a byte-order mark is dropped.

    Decoding goes line by line so that a bad byte has a line number and one endless line fills no memory.
    """
    if file.size > limits.max_bytes:
        raise limits.too_many_bytes(f"the file has {file.size}", file.shown)
    with file.open() as native:
        stream = io.BufferedReader(native, 1 << 20)
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES):
            number += 1
            if number == 1:
                _refuse_binary(raw, file.shown)
                raw = raw.removeprefix(BYTE_ORDER_MARK)
            if len(raw) >= MAX_LINE_BYTES:
                raise InputError(
                    f"line {number} is longer than {MAX_LINE_BYTES} bytes",
                    where=file.shown,
                    mend="check the file's format",
                )
            if b"\0" in raw:
                raise InputError(
                    f"line {number} holds a NUL byte", where=file.shown, mend="save the file as UTF-8 text"
                )
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"line {number} is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}",
                    where=file.shown,
                    mend="save the file as UTF-8 (for a Latin-1 file: iconv -f latin1 -t utf-8)",
                ) from None


def _refuse_binary(start: bytes, where: str) -> None:
    for magic, kind in MAGIC_BYTES.items():
        if start.startswith(magic):
            raise InputError(
                f"the file is {kind}, not UTF-8 text", where=where, mend="save it as UTF-8 text, or mend its ending"
            )


class Rows:
    """Gathers rows of text cells into Arrow batches, so that Python objects stay few."""

    def __init__(self, limits: Limits, where: str) -> None:
        self.limits, self.where = limits, where
        self.cells: list[list[str | None]] = []
        self.rows = self.weight = self.total = 0

    def add(self, row: Sequence[str | None]) -> None:
        """One more row; it may be longer than those before it, which then end in nulls."""
        self.total += 1
        if self.total > self.limits.max_rows:
            raise self.limits.too_many_rows("more rows than", self.where)
        if len(row) > len(self.cells):
            self._widen(len(row))
        self.rows += 1
        self.weight += CELL_BYTES * len(row)
        for column, cell in zip(self.cells, row, strict=True):
            column.append(cell)
            if cell:
                self.weight += len(cell)

    def _widen(self, width: int) -> None:
        self.cells += [[None] * self.rows for _ in range(width - len(self.cells))]

    @property
    def full(self) -> bool:
        return self.rows >= self.limits.batch_rows or self.weight >= BATCH_BYTES

    def batch(self, names: Iterable[str]) -> pa.RecordBatch:
        """The rows gathered since the last batch."""
        columns = list(names)
        self._widen(len(columns))
        arrays = [pa.array(column, pa.string()) for column in self.cells]
        self.cells, self.rows, self.weight = [], 0, 0
        return pa.RecordBatch.from_arrays(arrays, names=columns)


def check_names(names: Sequence[str], where: str) -> None:
    """Column names must differ and be countable.

    Raises
    ------
    InputError
        A name is given twice, or there are more than ``MAX_COLUMNS``.
    """
    if len(names) > MAX_COLUMNS:
        raise InputError(f"the table has more than {MAX_COLUMNS} columns", where=where, mend="check the file's format")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two columns are called {twice!r}", where=where, mend="rename one of them")


def chosen(columns: Sequence[str] | None, names: Sequence[str], where: str) -> list[str]:
    """The columns to read: those asked for, or all.

    Raises
    ------
    InputError
        One that is asked for is not among ``names``.
    """
    if columns is None:
        return list(names)
    for name in columns:
        if name not in names:
            raise missing_column(name, "", names, where)
    return list(columns)
