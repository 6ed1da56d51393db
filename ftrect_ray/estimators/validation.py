"""What an estimator may be given; every refusal names the argument, the rule and the value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError

LARGEST = 1e100
"""Beyond this, variances of variances would overflow float64."""

LEAST_PROBABILITY = 1 / LARGEST
PROBABILITY_RULE = f"must be in (0, 1], {LEAST_PROBABILITY:g} or above"


def is_number(value: Any) -> bool:
    """A real number that is no bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def open_unit(name: str, value: Any) -> float:
    """A number strictly between 0 and 1.

    Raises
    ------
    InputError
        ``'alpha' must be in (0, 1); got 1.5.``
    """
    if not is_number(value) or not 0 < value < 1:
        raise InputError(f"'{name}' must be in (0, 1); got {shown(value)}.")
    return float(value)


def finite(name: str, values: ArrayLike, ndim: tuple[int, ...]) -> np.ndarray:
    """``values`` as a finite float64 array with one of the numbers of dimensions in ``ndim``; not copied if it is one.

    Raises
    ------
    InputError
        Not numbers, another number of dimensions, NaN/inf (how many, and the first position), or too large.
    """
    if np.ma.is_masked(values):
        raise InputError(f"'{name}' must not be masked.", mend="drop the masked rows, or treat them as unlabelled")
    try:
        given = np.asarray(values)
        if given.dtype.kind == "c":
            raise InputError(f"'{name}' must hold real numbers; got {given.dtype}.", mend="take the real part")
        if given.dtype.kind in "mM":
            raise InputError(f"'{name}' must hold numbers; got {given.dtype}.", mend="convert times to numbers")
        array = given.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise InputError(
            f"'{name}' must hold numbers only.", mend="drop or convert the rows that are not numbers"
        ) from None
    if array.ndim not in ndim:
        raise InputError(f"'{name}' must have {' or '.join(map(str, ndim))} dimension(s); got shape {array.shape}.")
    if array.size == 0:
        return array
    largest = max(-float(array.min()), float(array.max()))  # NaN and inf come through
    if largest <= LARGEST:
        return array
    bad = ~np.isfinite(array)
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), array.shape)
        position = str(int(place[0])) if array.ndim == 1 else str(tuple(int(i) for i in place))
        count = int(np.count_nonzero(bad))
        raise InputError(
            f"'{name}' must be finite; got {array[place]} at position {position}"
            + (f" ({count} such values)." if count > 1 else "."),
            mend="drop that row, or treat it as unlabelled",
        )
    raise InputError(
        f"'{name}' must not exceed {LARGEST:g} in size; got {largest:g}.", mend="divide the numbers by a constant"
    )


def answers(values: ArrayLike, name: str = "Y") -> np.ndarray:
    """At least two finite numbers, shape (n,).

    Raises
    ------
    InputError
        Fewer than two rows, or see :func:`finite`.
    """
    return two_rows(name, finite(name, values, (1,)))


def two_rows(name: str, array: np.ndarray) -> np.ndarray:
    """``array`` if it has at least two rows."""
    if len(array) < 2:
        raise InputError(f"'{name}' must have at least 2 rows; got {len(array)}.", mend="a variance needs two answers")
    return array


def column_names(names: Sequence[str] | None, width: int) -> tuple[str, ...]:
    """One name a column; default x0, x1, …

    Raises
    ------
    InputError
        Another number of names, or one name twice.
    """
    labels = tuple(f"x{j}" for j in range(width)) if names is None else tuple(map(str, names))
    if len(labels) != width:
        raise InputError(f"'names' must have one name a column ({width}); got {len(labels)}.")
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"'names' must differ; got {twice!r} twice.")
    return labels


def shown(value: Any) -> str:
    """A number without its type, anything else as Python writes it."""
    if isinstance(value, (float, np.floating)):
        return f"{value:g}" if math.isfinite(value) else str(float(value))
    return repr(value)


def first_wrong(wrong: np.ndarray, values: np.ndarray) -> str:
    """The first of the ``values`` (n,) where ``wrong`` (n,) is true, and how many there are.

    >>> first_wrong(np.array([False, True, True]), np.array([1.0, -2.0, -3.0]))
    'got -2 at position 1 (2 such rows)'
    """
    rows = np.flatnonzero(wrong)
    return f"got {shown(values[rows[0]])} at position {rows[0]} ({len(rows)} such rows)"
