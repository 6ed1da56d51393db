"""Reading jsonl without turning its numbers into floats."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.lines import Chunks, check_names, decoded_lines
from ftrect_ray.tables.opening import TableFile

SURROGATE = re.compile("[\ud800-\udfff]")


def read_jsonl(file: TableFile, max_rows: int, max_bytes: int) -> pa.Table:
    """One JSON object a line; numbers keep the digits that were written, so ids and bad answers stay visible."""
    names: list[str] = []
    known: set[str] = set()
    nested: set[str] = set()
    chunks = Chunks(max_rows, file.shown)
    for number, line in enumerate(decoded_lines(file), 1):
        if not line.strip():
            continue
        record = _json_object(line, number, file.shown)
        for name, value in record.items():
            if name not in known:
                known.add(name)
                names.append(name)
                check_names(names, file.shown)
            if isinstance(value, list | dict):
                nested.add(name)
        chunks.add([_cell(record.get(name)) for name in names], names)
    if not names:
        raise InputError("the file is empty", where=file.shown, mend="a jsonl file has one JSON object on each line")
    return chunks.table(names).drop_columns(sorted(nested))


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
