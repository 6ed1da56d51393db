"""One column at a time: strict numbers, identifiers, texts and prompts."""

from __future__ import annotations

from string import Formatter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError
from ftrect_ray.tables.wording import count, show_rows

NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"  # RE2: \d is an ASCII digit


def positions(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The rows (counted from 0) in which ``mask`` is true; null is false."""
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def numbers(
    column: pa.ChunkedArray | pa.Array, name: str, where: str, before: int = 0
) -> tuple[pa.ChunkedArray | pa.Array, list[InputError]]:
    """A column as float64: decimal point, ASCII digits, finite; null stays null.

    ``before`` rows of the file come before the column's first one.

    Returns
    -------
    values : pa.ChunkedArray or pa.Array
        float64, null where the cell is missing or wrong.
    problems : list of InputError
        Empty, or one error that names the first wrong rows.
    """
    kind = column.type
    if pa.types.is_string(kind):
        trimmed = pc.ascii_trim_whitespace(column)
        written = pc.if_else(pc.match_substring_regex(trimmed, NUMBER), trimmed, pa.scalar(None, pa.string()))
        values = pc.cast(written, pa.float64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        values = pc.cast(column, pa.float64(), safe=False)
    else:
        mend = "write 1 and 0" if pa.types.is_boolean(kind) else "store numbers"
        problem = InputError(f"column {name!r} has the type {kind}, a number is needed", where=where, mend=mend)
        return pa.chunked_array([pa.nulls(len(column), pa.float64())]), [problem]
    finite = pc.fill_null(pc.is_finite(values), False)
    wrong = positions(pc.and_(pc.is_valid(column), pc.invert(finite)))
    if not len(wrong):
        return values, []
    problem = InputError(
        f"column {name!r} is not a finite number in {count(len(wrong), 'row')}: {show_rows(wrong, column, before)}",
        where=where,
        mend="write numbers like 1.5, and leave the cell empty where there is none",
    )
    return pc.if_else(finite, values, pa.scalar(None, pa.float64())), [problem]


def floats(column: pa.ChunkedArray | pa.Array, name: str, where: str, before: int = 0) -> np.ndarray:
    """:func:`numbers` as float64 (N,), NaN where the cell is missing; a float64 column without gaps is not copied.

    Raises
    ------
    InputError
        A cell is no finite number; its row is counted from the file's beginning, after ``before`` other rows.
    """
    values, problems = numbers(column, name, where, before)
    if problems:
        raise problems[0]
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def complete_numbers(column: pa.ChunkedArray, name: str, where: str) -> tuple[pa.ChunkedArray, list[InputError]]:
    """:func:`numbers` for a column that may not have gaps."""
    values, problems = numbers(column, name, where)
    missing = positions(pc.is_null(column))
    if len(missing):
        problems.append(
            InputError(
                f"column {name!r} is empty in {count(len(missing), 'row')}: {show_rows(missing)}",
                where=where,
                mend="fill these cells or drop the rows",
            )
        )
    return values, problems


def as_text(column: pa.ChunkedArray, name: str, where: str) -> tuple[pa.ChunkedArray, list[InputError]]:
    """A column as ``string``: numbers and dates are written out, null stays null."""
    try:
        return pc.cast(column, pa.string()), []
    except pa.ArrowException:
        problem = InputError(
            f"column {name!r} has the type {column.type}, text is needed", where=where, mend="store text"
        )
        return pa.chunked_array([pa.nulls(len(column), pa.string())]), [problem]


def identifiers(column: pa.ChunkedArray, name: str, where: str) -> tuple[pa.ChunkedArray, list[InputError]]:
    """A column as ids: text, never missing, never twice."""
    ids, problems = as_text(column, name, where)
    if problems:
        return ids, problems
    missing = positions(pc.equal(pc.fill_null(ids, ""), ""))
    if len(missing):
        problems.append(
            InputError(
                f"there is no {name!r} in {count(len(missing), 'row')}: {show_rows(missing)}",
                where=where,
                mend="give every row an id, or set 'data.id: null' to number the rows",
            )
        )
    return ids, problems


# -------------------------------------------------------------------------------------------------- prompts


def prompt_pieces(template: str) -> list[tuple[str, str | None]]:
    """A template as pairs of literal text and the column that follows it (None: nothing follows).

    >>> prompt_pieces("I am {age}.")
    [('I am ', 'age'), ('.', None)]

    Raises
    ------
    InputError
        Unbalanced braces, an empty field, a conversion or a format, or no field at all.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"'data.prompt' is not a template: {error}", mend="write {column}; a literal brace is written twice"
        ) from None
    pieces: list[tuple[str, str | None]] = []
    for literal, field, layout, conversion in parsed:
        if field == "":
            raise InputError("'data.prompt' has an empty field {}", mend="write {column}")
        if layout or conversion:
            raise InputError(f"'data.prompt' formats the field {field!r}", mend="write {column}, without ':' and '!'")
        pieces.append((literal, field))
    if not any(field for _, field in pieces):
        raise InputError("'data.prompt' has no {column} field, so every row has the same text", mend="name a column")
    return pieces


def prompt_fields(template: str) -> list[str]:
    """The columns that a template names, in its order."""
    return [field for _, field in prompt_pieces(template) if field is not None]


def fill_prompt(template: str, columns: dict[str, pa.ChunkedArray]) -> pa.ChunkedArray:
    """One text a row from its cells in ``columns``; null where one of them is missing."""
    parts: list[pa.Scalar | pa.ChunkedArray] = []
    for literal, field in prompt_pieces(template):
        parts.append(pa.scalar(literal, pa.string()))
        if field is not None:
            parts.append(columns[field])
    return pc.binary_join_element_wise(*parts, pa.scalar("", pa.string()), null_handling="emit_null")
