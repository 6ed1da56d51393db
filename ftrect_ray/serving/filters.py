"""Rows of a table that fulfil the conditions of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.serving.schemas import Condition
from ftrect_ray.targets import OWN_COLUMNS

ORDERINGS = ("lt", "le", "gt", "ge")


def filterable(table: pa.Table) -> dict[str, str]:
    """The columns that a condition may name, each "number", "text" or "boolean".

    A column of texts that are all numbers, as a csv file gives it, is "number".
    """
    kinds = {name: _kind(table[name]) for name in table.column_names if name not in OWN_COLUMNS}
    return {name: kind for name, kind in kinds.items() if kind}


def _kind(column: pa.ChunkedArray) -> str:
    if pa.types.is_boolean(column.type):
        return "boolean"
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return "number"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            return "text"
        return "number"
    return ""


def matching_rows(table: pa.Table, kinds: Mapping[str, str], conditions: Iterable[Condition]) -> np.ndarray:
    """Boolean (rows,): which rows fulfil every condition. A row without a value fulfils none about it.

    ``kinds`` is what :func:`filterable` said of the table.

    Raises
    ------
    InputError
        On an unknown column, or a value or operator that does not fit the column.
    """
    kept = np.ones(table.num_rows, dtype=bool)
    for position, condition in enumerate(conditions):
        where = f"filter.{position}"
        if condition.column not in kinds:
            raise InputError(
                f"unknown column {condition.column!r}",
                where=f"{where}.column",
                mend=near_match(condition.column, kinds),
            )
        kept &= _fulfils(table[condition.column], kinds[condition.column], condition, where)
    return kept


def _fulfils(column: pa.ChunkedArray, kind: str, condition: Condition, where: str) -> np.ndarray:
    values = condition.value if isinstance(condition.value, list) else [condition.value]
    if (condition.op == "in") != isinstance(condition.value, list):
        raise InputError(
            f"'{condition.op}' does not take {'a list' if condition.op != 'in' else 'a single value'}",
            where=f"{where}.value",
            mend="give a list with 'in', one value otherwise",
        )
    column, typed = _same_type(column, kind, values, condition, where)
    if condition.op == "in":
        hits = pc.and_(pc.is_valid(column), pc.is_in(column, value_set=typed))
    else:
        names = {
            "eq": "equal",
            "ne": "not_equal",
            "lt": "less",
            "le": "less_equal",
            "gt": "greater",
            "ge": "greater_equal",
        }
        hits = pc.call_function(names[condition.op], [column, typed[0]])
    return np.asarray(pc.fill_null(hits, False).to_numpy(zero_copy_only=False), dtype=bool)


def _same_type(
    column: pa.ChunkedArray, kind: str, values: Sequence[object], condition: Condition, where: str
) -> tuple[pa.ChunkedArray, pa.Array]:
    """Column and values in one Arrow type; texts are compared as texts, also in a column of numbers ("007")."""
    is_text = not (
        pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
    )
    given = {_kind_of(value) for value in values}
    if given == {"boolean"} and kind == "boolean" and condition.op in ("eq", "ne", "in"):
        return column, pa.array(values, pa.bool_())
    if given == {"number"} and kind == "number":
        numbers = pc.cast(column, pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers), pa.array(values, pa.float64())
    if given == {"text"} and is_text and condition.op not in ORDERINGS:
        return pc.cast(column, pa.large_string()), pa.array(values, pa.large_string())
    mend = {
        "number": "compare it with a number" + (", or by 'eq', 'ne', 'in' with a text" if is_text else ""),
        "text": "compare it by 'eq', 'ne' or 'in' with a text",
        "boolean": "compare it by 'eq' or 'ne' with true or false",
    }[kind]
    raise InputError(
        f"column {condition.column!r} is of kind {kind}: '{condition.op}' with this value has no meaning",
        where=f"{where}.value",
        mend=mend,
    )


def _kind_of(value: object) -> str:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
