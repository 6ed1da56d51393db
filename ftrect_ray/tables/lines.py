"""Lines of text from a file, and tables of text cells from rows: what the csv and jsonl readers share."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.opening import TableFile

MAX_LINE_BYTES = 64 << 20
MAX_COLUMNS = 10_000
CHUNK_ROWS = 50_000
CHUNK_CHARACTERS = 64 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAGIC_BYTES = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "compressed with gzip",
    b"PAR1": "parquet",
    b"PK\x03\x04": "a zip file",
}


def decoded_lines(file: TableFile) -> Iterator[str]:
    """Decoded lines with their line ends; a byte-order mark is dropped.

    Decoding goes line by line so that a bad byte has a line number and one endless line fills no memory.
    """
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


class Chunks:
    """Gathers rows of text cells into one Arrow table, piece by piece, so that Python objects stay few."""

    def __init__(self, max_rows: int, where: str) -> None:
        self.max_rows, self.where = max_rows, where
        self.tables: list[pa.Table] = []
        self.rows: list[Sequence[str | None]] = []
        self.characters = self.total = 0

    def add(self, row: Sequence[str | None], names: Sequence[str]) -> None:
        self.total += 1
        if self.total > self.max_rows:
            raise InputError(
                f"the table has more rows than 'data.max_rows' ({self.max_rows})",
                where=self.where,
                mend="raise the limit if you trust the file",
            )
        self.rows.append(row)
        self.characters += sum(len(cell) for cell in row if cell is not None)
        if len(self.rows) >= CHUNK_ROWS or self.characters >= CHUNK_CHARACTERS:
            self.close(names)

    def close(self, names: Sequence[str]) -> None:
        """Turn the gathered rows into Arrow; rows shorter than ``names`` end in nulls."""
        cells = [[row[at] if at < len(row) else None for row in self.rows] for at in range(len(names))]
        arrays = [pa.array(column, pa.string()) for column in cells]
        self.tables.append(pa.table(arrays, names=list(names)))
        self.rows, self.characters = [], 0

    def table(self, names: Sequence[str]) -> pa.Table:
        self.close(names)
        return pa.concat_tables(self.tables, promote_options="default").select(list(names))


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
