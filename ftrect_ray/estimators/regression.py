"""Design matrices of regressions: their shapes, and columns that have no coefficient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.validation import column_names, finite

SINGULAR = 1e-10
"""A column of which less than this share is left beyond the columns before it has no coefficient."""


def design_pair(
    X: ArrayLike, X_unlabeled: ArrayLike, n: int, m: int, names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Designs (n, d) and (m, d), and one name a column; one column may come as (n,) and (m,).

    Raises
    ------
    InputError
        Not numbers, NaN/inf, shapes that do not match, or another number of names.
    """
    design, other = _columns("X", X), _columns("X_unlabeled", X_unlabeled)
    width = design.shape[1]
    if width == 0:
        raise InputError("'X' must have at least one column.")
    for name, array, rows in (("X", design, n), ("X_unlabeled", other, m)):
        if array.shape != (rows, width):
            raise InputError(f"'{name}' must have shape ({rows}, {width}); got {array.shape}.")
    return design, other, column_names(names, width)


def _columns(name: str, values: ArrayLike) -> np.ndarray:
    array = finite(name, values, (1, 2))
    return array[:, None] if array.ndim == 1 else array


def refuse_singular(X: np.ndarray, names: tuple[str, ...], where: str, weights: np.ndarray | None = None) -> None:
    """Refuse ``X`` (n, d), with rows of ``weights`` (n,), where a coefficient would have no meaning.

    Raises
    ------
    StatisticalRefusal
        No more rows (of weight above 0) than columns, or a column that those before it explain: it is named.
    """
    rows = X if weights is None else X[weights > 0] * np.sqrt(weights[weights > 0])[:, None]
    refuse_dependent(len(rows), triangle(rows), names, where)


def triangle(rows: np.ndarray) -> np.ndarray:
    """R (p, p), upper triangular, with R'R = Z'Z of ``rows`` Z (n, p)."""
    width = rows.shape[1]
    root = np.zeros((width, width))
    root[: len(rows)] = np.linalg.qr(rows, mode="r")
    return root


def refuse_dependent(rows: int, root: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """:func:`refuse_singular` from the number of rows and their :func:`triangle` (d, d)."""
    width = len(names)
    if rows <= width:
        raise StatisticalRefusal(
            f"{rows} rows cannot carry {width} coefficients with a standard error",
            where=where,
            mend="drop columns or add rows",
        )
    length = np.linalg.norm(root, axis=0)
    for name, beyond, whole in zip(names, np.abs(np.diag(root)), length, strict=True):
        if beyond <= SINGULAR * whole:
            raise StatisticalRefusal(f"X'X is singular: drop column '{name}'", where=where)


def refuse_known_total(labeled: Labeled) -> None:
    """A regression has no Horvitz–Thompson form: in its equations Σ w·x·residual = 0 no total is divided by.

    Raises
    ------
    InputError
    """
    if labeled.drawn.known_total:
        raise InputError("'sample.total' may be 'known' for means only.", mend="leave 'total' out for a regression")
