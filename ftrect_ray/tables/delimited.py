"""Reading csv strictly."""

from __future__ import annotations

import csv

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.lines import Chunks, check_names, decoded_lines
from ftrect_ray.tables.opening import TableFile
from ftrect_ray.tables.wording import SHOWN_ROWS, count

MAX_CELL_CHARACTERS = 16 << 20


def read_csv(file: TableFile, max_rows: int, max_bytes: int) -> pa.Table:
    """RFC 4180, strictly: comma, double quote, one header line; blank lines are skipped."""
    before = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        return _csv_records(file, max_rows)
    finally:
        csv.field_size_limit(before)


def _csv_records(file: TableFile, max_rows: int) -> pa.Table:
    reader = csv.reader(decoded_lines(file), strict=True)
    names: list[str] = []
    ragged = 0
    examples: list[str] = []
    chunks = Chunks(max_rows, file.shown)
    while True:
        begin = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise _csv_error(error, begin, reader.line_num, file.shown) from None
        if not record:
            continue
        if not names:
            names = record
            check_names(names, file.shown)
        elif len(record) != len(names):
            ragged += 1
            if ragged <= SHOWN_ROWS:
                examples.append(f"line {begin} has {len(record)}")
        else:
            chunks.add([cell or None for cell in record], names)
    if ragged:
        raise InputError(
            f"the header has {len(names)} cells, but not {count(ragged, 'row')}: {', '.join(examples)}",
            where=file.shown,
            mend="put double quotes around cells that hold commas or line ends",
        )
    if not names:
        raise InputError("the file is empty", where=file.shown, mend="a csv file begins with a line of column names")
    return chunks.table(names)


def _csv_error(error: csv.Error, begin: int, line: int, where: str) -> InputError:
    problem = str(error)
    if "unexpected end of data" in problem:
        return InputError(
            f"a double quote in the row that begins on line {begin} is never closed",
            where=where,
            mend='write a quote inside a cell as ""',
        )
    if "expected after" in problem:
        return InputError(
            f"line {line} has text after a closing double quote",
            where=where,
            mend='write a quote inside a quoted cell as ""',
        )
    if "field limit" in problem:
        return InputError(
            f"a cell in the row that begins on line {begin} is longer than {MAX_CELL_CHARACTERS} characters",
            where=where,
            mend="look for a double quote that is not closed",
        )
    return InputError(
        f"line {line}: {problem.partition(' - ')[0]}", where=where, mend="save the file with ordinary line ends"
    )
