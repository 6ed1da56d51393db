"""Reading csv strictly."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.limits import Limits
from ftrect_ray.tables.lines import Rows, check_names, chosen, decoded_lines
from ftrect_ray.tables.opening import TableFile
from ftrect_ray.tables.wording import SHOWN_ROWS, count

MAX_CELL_CHARACTERS = 16 << 20


def read_csv(file: TableFile, columns: Sequence[str] | None, limits: Limits) -> Iterator[pa.RecordBatch]:
    """RFC 4180, strictly: comma, double quote, one header line; blank lines are skipped.

    The csv module keeps its limit on a cell for the whole process: it is ours only while a batch is read.
    """
    batches = _batches(file, columns, limits)
    while True:
        before = csv.field_size_limit(MAX_CELL_CHARACTERS)
        try:
            batch = next(batches, None)
        finally:
            csv.field_size_limit(before)
        if batch is None:
            return
        yield batch


def _batches(file: TableFile, columns: Sequence[str] | None, limits: Limits) -> Iterator[pa.RecordBatch]:
    records = _records(file, limits)
    _, names = next(records, (0, []))
    if not names:
        raise InputError("the file is empty", where=file.shown, mend="a csv file begins with a line of column names")
    check_names(names, file.shown)
    wanted = chosen(columns, names, file.shown)
    place = {name: at for at, name in enumerate(names)}
    places = [place[name] for name in wanted]
    ragged = 0
    examples: list[str] = []
    rows = Rows(limits, file.shown)
    for begin, record in records:
        if len(record) != len(names):
            ragged += 1
            if ragged <= SHOWN_ROWS:
                examples.append(f"line {begin} has {len(record)}")
        elif not ragged:
            rows.add([record[at] or None for at in places])
            if rows.full:
                yield rows.batch(wanted)
    if ragged:
        raise InputError(
            f"the header has {len(names)} cells, but not {count(ragged, 'row')}: {', '.join(examples)}",
            where=file.shown,
            mend="put double quotes around cells that hold commas or line ends",
        )
    yield rows.batch(wanted)


def _records(file: TableFile, limits: Limits) -> Iterator[tuple[int, list[str]]]:
    """Every record with the line on which it begins."""
    reader = csv.reader(decoded_lines(file, limits), strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _csv_error(error, begin, reader.line_num, file.shown) from None
        if record:
            yield begin, record


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
