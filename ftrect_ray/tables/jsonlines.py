"""Reading jsonl without turning its numbers into floats."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.limits import Limits
from ftrect_ray.tables.lines import Rows, check_names, chosen, decoded_lines
from ftrect_ray.tables.opening import TableFile

SURROGATE = re.compile("[\ud800-\udfff]")


def read_jsonl(file: TableFile, columns: Sequence[str] | None, limits: Limits) -> Iterator[pa.RecordBatch]:
    """One JSON object a line; numbers keep the digits that were written, so ids and bad answers stay visible.

    A key may appear late: without ``columns``, every batch has the columns known so far.
    """
    if columns is not None:
        _find(file, columns, limits)
    keys = _Keys(file.shown)
    rows = Rows(limits, file.shown)
    names = keys.names if columns is None else columns
    for record in _records(file, limits):
        keys.learn(record)
        rows.add([_cell(record.get(name)) for name in names])
        if rows.full:
            yield rows.batch(names)
    wanted = keys.choose(columns)
    yield rows.batch(names).select(wanted)


class _Keys:
    """The keys of a file's objects in their order, and which of them ever hold a list or an object."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.names: dict[str, None] = {}
        self.nested: set[str] = set()

    def learn(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name not in self.names:
                self.names[name] = None
                check_names(list(self.names), self.where)
            if isinstance(value, list | dict):
                self.nested.add(name)

    def choose(self, columns: Sequence[str] | None) -> list[str]:
        """The flat columns to read."""
        if not self.names:
            raise InputError(
                "the file is empty", where=self.where, mend="a jsonl file has one JSON object on each line"
            )
        return chosen(columns, [name for name in self.names if name not in self.nested], self.where)


def _find(file: TableFile, columns: Sequence[str], limits: Limits) -> None:
    """Read until every column has appeared, so that a misspelt one is refused before any batch."""
    keys = _Keys(file.shown)
    for record in _records(file, limits):
        keys.learn(record)
        if all(name in keys.names and name not in keys.nested for name in columns):
            return
    keys.choose(columns)


def _records(file: TableFile, limits: Limits) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(decoded_lines(file, limits), 1):
        if line.strip():
            yield _json_object(line, number, file.shown)


def _json_object(line: str, number: int, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise InputError(
            f"line {number} is not JSON: {error.msg} at column {error.colno}",
            where=where,
            mend="write one JSON object on each line",
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"line {number}: {reason}", where=where, mend="write one flat JSON object on each line"
        ) from None
    if not isinstance(record, dict):
        raise InputError(f"line {number} is not a JSON object", where=where, mend="write one JSON object on each line")
    return record


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if any(SURROGATE.search(name) for name in record):
        raise ValueError("a key holds half a surrogate pair")
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return record


def _cell(value: Any) -> str | None:
    """A JSON scalar as text; half a surrogate pair, which no encoding can hold, becomes U+FFFD."""
    if value is None or isinstance(value, list | dict):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return SURROGATE.sub("\ufffd", value)
