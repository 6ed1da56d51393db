"""Answers that are names: text, whole numbers, or yes and no."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.estimators.validation import shown


def categorical(name: str, values: ArrayLike, ndim: tuple[int, ...] = (1,)) -> np.ndarray:
    """``values`` as an array of str, of int64 or of bool. "None" and "NA" are text like any other.

    Whole numbers that are written as floats become integers, so that 1.0 and 1 are one category.

    Raises
    ------
    InputError
        Several kinds of values, other kinds, another number of dimensions, None or NaN (how many, and the first
        position), or fractions, which are no categories.
    """
    given = as_given(values)
    if given.ndim not in ndim:
        raise InputError(f"'{name}' must have {' or '.join(map(str, ndim))} dimension(s); got shape {given.shape}.")
    if given.size == 0:
        return given
    types = set(map(type, given.ravel().tolist())) if given.dtype == object else {given.dtype.type}
    kinds = {_kind(one) for one in types}
    if kinds == {"text"}:
        return given.astype(str)
    if kinds == {"yes/no"}:
        return given.astype(bool)
    if kinds != {"numbers"}:
        _refuse(name, given)
    if all(issubclass(one, (int, np.integer)) for one in types):
        return given.astype(np.int64)
    numbers = given.astype(np.float64)
    if not (np.isfinite(numbers) & (numbers == np.round(numbers))).all():
        _refuse(name, numbers)
    return numbers.astype(np.int64)


def as_given(values: ArrayLike) -> np.ndarray:
    """An array of the values as they are: NumPy would make text of [1, "a"] and of ["a", NaN]."""
    return np.asarray(values, dtype=None if hasattr(values, "dtype") else object)


def _kind(one: type) -> str | None:
    if issubclass(one, str):
        return "text"
    if issubclass(one, (bool, np.bool_)):
        return "yes/no"
    return "numbers" if issubclass(one, (int, float, np.integer, np.floating)) else None


def _refuse(name: str, given: np.ndarray) -> NoReturn:
    """Name the first missing value; else the first that is no category; else the mixture."""
    flat = given.ravel().tolist()
    missing = np.array([value is None or (isinstance(value, float) and value != value) for value in flat])
    if missing.any():
        raise InputError(
            f"'{name}' must name a category in every row; {_first(missing, given)}.",
            mend="drop these rows, or treat them as unlabelled",
        )
    strange = np.array([_kind(type(value)) is None or (isinstance(value, float) and value % 1 != 0) for value in flat])
    if strange.any():
        raise InputError(
            f"'{name}' must hold text, whole numbers or yes/no; {_first(strange, given)}.",
            mend="for numbers take mean; for probabilities give one column a category",
        )
    kinds = sorted({str(_kind(type(value))) for value in flat})
    raise InputError(f"'{name}' must hold one kind of value; got {' and '.join(kinds)}.", mend="convert all to text")


def _first(wrong: np.ndarray, given: np.ndarray) -> str:
    index, count = int(np.argmax(wrong)), int(wrong.sum())
    row = np.unravel_index(index, given.shape)[0]
    others = f" ({count} such values)" if count > 1 else ""
    return f"got {shown(given.ravel().tolist()[index])} at position {row}{others}"


def categories_of(given: ArrayLike | None, parts: dict[str, np.ndarray]) -> np.ndarray:
    """The categories (C,): as given, in that order, or the sorted values of ``parts``, by their names.

    Raises
    ------
    InputError
        Categories given twice, or parts of different kinds.
    """
    listed = {} if given is None else {"categories": categorical("categories", given)}
    arrays = {name: array for name, array in {**listed, **parts}.items() if array.size}
    kinds = {name: str(_kind(array.dtype.type)) for name, array in arrays.items()}
    first = next(iter(kinds))
    for name, kind in kinds.items():
        if kind != kinds[first]:
            raise InputError(f"'{name}' must hold {kinds[first]} as '{first}' does; got {kind}.")
    if given is None:
        return np.unique(np.concatenate([np.unique(array) for array in arrays.values()]))
    names, counts = np.unique(listed["categories"], return_counts=True)
    if len(names) == 0 or (counts > 1).any():
        twice = "no category" if len(names) == 0 else f"{names[np.argmax(counts)].item()!r} twice"
        raise InputError(f"'categories' must be different names, at least one; got {twice}.")
    return listed["categories"]


def positions(name: str, values: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Which category each value is, int of the shape of ``values``.

    Raises
    ------
    InputError
        A value that is no category.
    """
    if values.size == 0:
        return np.zeros(values.shape, dtype=np.intp)
    order = np.argsort(categories)
    found = order[np.minimum(np.searchsorted(categories, values, sorter=order), len(categories) - 1)]
    wrong = categories[found] != values
    if wrong.any():
        stranger: Any = values[wrong][0].item()
        raise InputError(
            f"'{name}' holds {stranger!r}, which is not among 'categories'.",
            mend=near_match(stranger, [str(category) for category in categories.tolist()]),
        )
    return np.asarray(found)


def indicators(codes: np.ndarray, width: int) -> np.ndarray:
    """1 in the column of the category, else 0: (…, C) from positions (…)."""
    return (codes[..., None] == np.arange(width)).astype(np.float64)
