"""How errors about tables are worded: counts, rows, and columns that are not there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ftrect_ray.errors import InputError, near_match

SHOWN_ROWS = 5
SHOWN_COLUMNS = 30


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "row"), count(3, "row")
    ('1 row', '3 rows')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def show_rows(rows: Sequence[int] | np.ndarray, values: pa.ChunkedArray | None = None, before: int = 0) -> str:
    """``row 3 'x', row 9 'y', …``: the first few, counted from 1 without the header, after ``before`` other rows."""
    shown = [
        f"row {before + row + 1}" + ("" if values is None else f" {_shorten(values[int(row)].as_py())}")
        for row in rows[:SHOWN_ROWS]
    ]
    return ", ".join(shown) + (", …" if len(rows) > SHOWN_ROWS else "")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def missing_column(name: str, role: str, names: Sequence[str], where: str) -> InputError:
    """The error for a column that is not there: what there is, and what may have been meant."""
    listed = ", ".join(names[:SHOWN_COLUMNS]) + (", …" if len(names) > SHOWN_COLUMNS else "")
    asked = f" ({role})" if role else ""
    guess = near_match(name, names)
    separator = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
    if separator is not None:
        return InputError(
            f"there is no column {name!r}{asked}; the first line is {listed!r}",
            where=where,
            mend=f"its cells are divided by {separator!r}: save the table with commas",
        )
    return InputError(
        f"there is no column {name!r}{asked}; the columns are: {listed}",
        where=where,
        mend=guess if guess.startswith("did you mean") else "name one of these columns",
    )
