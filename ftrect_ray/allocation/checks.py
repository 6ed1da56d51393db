"""Checks of single numbers, with the shared grammar of errors."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import LARGEST, shown

Number = TypeVar("Number", int, float)

#: Beyond it, sums and powers of counts overflow, and nobody has so many labels or devices.
LARGEST_COUNT = 10**15


def is_number(value: Any) -> bool:
    """A finite real number; booleans are not numbers here."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return real and math.isfinite(value)


def positive(name: str, value: Any) -> float:
    """A finite number above 0.

    Raises
    ------
    InputError
        ``'variance' must be a number > 0; got -1.``
    """
    if not is_number(value) or value <= 0:
        raise InputError(f"'{name}' must be a number > 0; got {shown(value)}.")
    return at_most(name, float(value), LARGEST)


def non_negative(name: str, value: Any) -> float:
    """A finite number, 0 or above.

    Raises
    ------
    InputError
        For anything else.
    """
    if not is_number(value) or value < 0:
        raise InputError(f"'{name}' must be a number ≥ 0; got {shown(value)}.")
    return at_most(name, float(value), LARGEST)


def count(name: str, value: Any, least: int) -> int:
    """A whole number, ``least`` or above.

    Raises
    ------
    InputError
        For anything else.
    """
    if not is_number(value) or value != int(value) or value < least:
        raise InputError(f"'{name}' must be a whole number ≥ {least}; got {shown(value)}.")
    return at_most(name, int(value), LARGEST_COUNT)


def at_most(name: str, value: Number, most: float) -> Number:
    """``value``, where it is not above ``most``.

    Raises
    ------
    InputError
        It is.
    """
    if value > most:
        raise InputError(f"'{name}' must be at most {most:g}; got {shown(value)}.")
    return value
