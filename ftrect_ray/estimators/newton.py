"""Newton's method with step halving, for equations whose every evaluation may be a pass over a large table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NEAR = 1e4
"""Steps below this many tolerances are taken to be the last but one: the next pass collects what the end needs."""

SMALL = (1e-8, 1e-13)
"""A step is small below this share of a standard error, or of the parameters' own size."""

SINGULAR = 1e-13
"""Columns of a Jacobian with less than this share beyond the columns before them are dependent."""


class Singular(Exception):
    """The Jacobian's ``column`` depends on those before it."""

    def __init__(self, column: int) -> None:
        super().__init__(column)
        self.column = column


class Unsolved(Exception):
    """No root was found.

    Attributes
    ----------
    theta : ndarray (d,)
        Where the search ended.
    column : int or None
        Of the Jacobian where it was singular from the start.
    """

    def __init__(self, theta: np.ndarray, column: int | None = None) -> None:
        super().__init__(theta, column)
        self.theta, self.column = theta, column


@dataclass(frozen=True, eq=False)
class Point:
    """An equation at one θ.

    Attributes
    ----------
    value : ndarray (d,)
        G(θ).
    slope : ndarray (d, d)
        ∂G/∂θ'.
    error : ndarray (d,)
        Standard errors that the steps are measured by.
    complete : bool
        Whether the evaluation collected what the end needs.
    behind : object
        What it was made of.
    """

    value: np.ndarray
    slope: np.ndarray
    error: np.ndarray
    complete: bool
    behind: Any = None

    @property
    def finite(self) -> bool:
        """Whether value and slope are numbers."""
        return bool(np.isfinite(self.value).all() and np.isfinite(self.slope).all())


Equation = Callable[[np.ndarray, bool], Point]
"""(θ, whether to collect what the end needs) → :class:`Point`."""


def solved(equation: Equation, theta: np.ndarray, start: Point, most: int) -> tuple[np.ndarray, Point]:
    """The root of ``equation`` near ``theta`` (d,), and the last point, which is less than ``SMALL`` away from it.

    A step is kept if the Newton step that follows from it, with the old Jacobian, is shorter (Deuflhard's natural
    monotonicity test, which heeds neither the scale of θ nor that of G); else it is halved.

    Parameters
    ----------
    start : Point
        ``equation`` at ``theta``.
    most : int
        Evaluations.

    Raises
    ------
    Unsolved
        A singular Jacobian, a start that is not finite, or no root after ``most`` evaluations.
    """
    point, share = start, 1.0
    if not point.finite:
        raise Unsolved(theta)
    # how much 1 is in θ_j; that of the start, for H may shrink to 0 on the way
    heft = np.sqrt(np.maximum(np.abs(np.diag(point.slope)), 1e-100))
    for _ in range(most):
        try:
            inverse = inverted(point.slope)
        except Singular as singular:
            raise Unsolved(theta, singular.column if point is start else None) from None
        step = -inverse @ point.value
        tolerance = SMALL[0] * point.error + SMALL[1] * (1 + np.linalg.norm(heft * theta)) / heft
        size = np.max(np.abs(step) / tolerance)
        if size <= 1 and point.complete:
            return theta + step, point
        trial = equation(theta + share * step, bool(size <= NEAR))
        if trial.finite and np.max(np.abs(inverse @ trial.value) / tolerance) < max(size, 1.0):
            theta, point, share = theta + share * step, trial, min(1.0, 2 * share)
        else:
            share /= 2
    raise Unsolved(theta)


def inverted(slope: np.ndarray) -> np.ndarray:
    """H⁻¹ (d, d), by way of rows and columns of length 1, so that units do not count as rank.

    Raises
    ------
    Singular
        A column depends on those before it.
    """
    rows = np.linalg.norm(slope, axis=1)
    even = slope / np.where(rows > 0, rows, 1.0)[:, None]
    columns = np.linalg.norm(even, axis=0)
    even = even / np.where(columns > 0, columns, 1.0)
    orthogonal, upper = np.linalg.qr(even)
    dependent = np.abs(np.diag(upper)) <= SINGULAR
    if dependent.any():
        raise Singular(int(np.argmax(dependent)))
    return np.asarray(np.linalg.solve(upper, orthogonal.T) / columns[:, None] / rows)
