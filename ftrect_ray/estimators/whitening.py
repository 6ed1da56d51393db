"""Linear maps that make nearly collinear columns fit for normal equations.

Beside an intercept a column of mean 1e9 and standard deviation 1 is nearly collinear, and X'X keeps none of its digits.
So columns are first centred by a constant one, x − c·1, where that costs no rounding, and then each is rid of what the
columns before it explain: z = x·E·T, T upper triangular with 1 on its diagonal. What T is need not be known to many
digits, as long as it is the same for all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from ftrect_ray.estimators.blocks import Block
from ftrect_ray.estimators.regression import SINGULAR, triangle


@dataclass(frozen=True, eq=False)
class Whitening:
    """z = (x, f)·E·T for d columns x and K columns f.

    Attributes
    ----------
    constant : int
        The column that the others are centred by; −1: none.
    centre : ndarray (d+K,)
        What each is centred at; 0 for the constant column. E takes ``centre`` times that column off.
    triangular : ndarray (d+K, d+K)
        T.
    """

    constant: int
    centre: np.ndarray
    triangular: np.ndarray

    @classmethod
    def none(cls, width: int) -> Whitening:
        """z = (x, f)."""
        return cls(-1, np.zeros(width), np.eye(width))

    @classmethod
    def of(cls, root: np.ndarray, constant: int) -> Whitening:
        """For rows whose triangle R (R'R = Z'Z) begins with ``root`` (d, d+K)."""
        d, width = root.shape
        centre = np.zeros(width)
        by = root[:, constant]
        if constant >= 0 and by.any():
            centre = by @ root / (by @ by)
            centre[constant] = 0.0
        beyond = triangle(root - np.outer(by, centre))[:d]
        unit, diagonal = np.eye(width), np.diag(beyond)
        fresh = np.abs(diagonal) > SINGULAR * np.linalg.norm(root[:, :d], axis=0)
        unit[:d][fresh] = beyond[fresh] / diagonal[fresh, None]
        return cls(constant, centre, np.asarray(solve_triangular(unit, np.eye(width), unit_diagonal=True)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Whitening)
            and self.constant == other.constant
            and np.array_equal(self.centre, other.centre)
            and np.array_equal(self.triangular, other.triangular)
        )

    def columns(self, block: Block) -> np.ndarray:
        """The columns z of the rows of a block (d+K, b), an array of its own."""
        columns = columns_of(block)
        if self.constant >= 0:
            columns -= np.outer(self.centre, columns[self.constant])
        identity = np.array_equal(self.triangular, np.eye(len(columns)))
        return columns if identity else self.triangular.T @ columns

    def undone(self, root: np.ndarray) -> np.ndarray:
        """The triangle (d, d+K) of (x, f) from that of z."""
        if self == Whitening.none(len(self.centre)):
            return root
        return triangle(root @ self.change(Whitening.none(len(self.centre))))[: len(root)]

    def change(self, to: Whitening) -> np.ndarray:
        """S with z_to = z·S."""
        if self.constant == to.constant:  # exact, where both centres are near 1e9
            between = _taking_off(to.centre - self.centre, self.constant)
        else:
            between = _taking_off(-self.centre, self.constant) @ _taking_off(to.centre, to.constant)
        return np.asarray(solve_triangular(self.triangular, between @ to.triangular, unit_diagonal=True))

    @property
    def matrix(self) -> np.ndarray:
        """E·T."""
        return _taking_off(self.centre, self.constant) @ self.triangular


def _taking_off(centre: np.ndarray, constant: int) -> np.ndarray:
    """The matrix that takes ``centre`` times one column off the others."""
    matrix = np.eye(len(centre))
    matrix[constant] -= centre
    return matrix


def columns_of(block: Block) -> np.ndarray:
    """The columns of X and of F, one after the other (d+K, b)."""
    assert block.X is not None
    d = block.X.shape[1]
    columns = np.empty((d + block.F.shape[1], len(block)))
    columns[:d], columns[d:] = block.X.T, block.F.T
    return columns
