"""Conditions against plain Python comparisons."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.serving.filters import filterable, matching_rows
from ftrect_ray.serving.schemas import Condition

TABLE = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "label": [1.0, None, None, None],
        "age": pa.array([18, 40, None, 65], pa.int64()),
        "zip": ["007", "07", None, "1e1"],
        "region": ["north", "", None, "north"],
        "share": [0.5, float("nan"), None, 0.0],
        "urban": [True, False, None, True],
        "tags": [["x"], [], None, ["y"]],
    }
)
OPERATORS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def rows(column: str, op: str, value: Any) -> list[bool]:
    condition = Condition.model_validate({"column": column, "op": op, "value": value})
    return matching_rows(TABLE, filterable(TABLE), [condition]).tolist()


def test_what_may_be_asked() -> None:
    assert filterable(TABLE) == {
        "age": "number",
        "zip": "number",
        "region": "text",
        "share": "number",
        "urban": "boolean",
    }


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(("column", "value", "read"), [("age", 40, int), ("age", 39.5, int), ("zip", 7, float)])
def test_numbers(op: str, column: str, value: float, read: Callable[[Any], float]) -> None:
    """A row without a value fulfils no condition, not even 'ne'."""
    expected = [x is not None and OPERATORS[op](read(x), value) for x in TABLE[column].to_pylist()]
    assert rows(column, op, value) == expected


def test_texts_are_compared_as_texts() -> None:
    assert rows("zip", "eq", "007") == [True, False, False, False]
    assert rows("zip", "eq", 7) == [True, True, False, False]
    assert rows("region", "ne", "north") == [False, True, False, False]
    assert rows("region", "in", ["", "south"]) == [False, True, False, False]
    assert rows("age", "in", [18, 65.0]) == [True, False, False, True]
    assert rows("urban", "eq", False) == [False, True, False, False]


def test_nan_is_no_value() -> None:
    assert rows("share", "ne", 0) == [True, False, False, False]


def test_conditions_all_hold() -> None:
    conditions = [Condition(column="age", op="ge", value=18), Condition(column="region", op="eq", value="north")]
    assert matching_rows(TABLE, filterable(TABLE), conditions).tolist() == [True, False, False, True]
    assert np.all(matching_rows(TABLE, filterable(TABLE), []))


@pytest.mark.parametrize(
    ("column", "op", "value", "message"),
    [
        ("tags", "eq", "x", "unknown column 'tags'"),
        ("id", "eq", "a", "unknown column 'id'"),
        ("age", "in", 3, "'in' does not take a single value"),
        ("age", "eq", [3], "'eq' does not take a list"),
        ("age", "eq", "40", "column 'age' is of kind number.*compare it with a number$"),
        ("age", "eq", True, "column 'age' is of kind number"),
        ("zip", "lt", "007", "column 'zip' is of kind number.*or by 'eq', 'ne', 'in' with a text"),
        ("region", "lt", "north", "column 'region' is of kind text"),
        ("region", "eq", 3, "column 'region' is of kind text"),
        ("region", "in", ["north", 3], "column 'region' is of kind text"),
        ("urban", "gt", False, "column 'urban' is of kind boolean"),
        ("urban", "eq", 1, "column 'urban' is of kind boolean"),
    ],
)
def test_what_has_no_meaning_is_refused(column: str, op: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows(column, op, value)
