"""Least squares of several responses on the same columns, in parts that merge, without losing digits.

The triangle R of all rows (R'R = X'X) merges by a QR decomposition of two triangles one above the other (Demmel,
Grigori, Hoemmen & Langou 2012). It tells which columns are collinear, and how to whiten the rest; the normal equations
are those of the whitened columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from ftrect_ray.estimators.blocks import Block
from ftrect_ray.estimators.regression import triangle
from ftrect_ray.estimators.whitening import Whitening, columns_of

CLEAR = 0.03
"""Where each column of x keeps this share of its length beyond those before it, and f its square, second moments of
products x·x and x·f are good to ten digits as they are."""

ENOUGH = 1e-3
"""Where they keep this share, Cholesky's decomposition finds a triangle that is good enough to whiten by."""


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Normal equations of K responses f on d columns x; mergeable, in any order.

    Attributes
    ----------
    rows : int
        Rows of weight above 0.
    root : ndarray (d, d+K)
        The triangle R of the rows √w·(x, f), without what is f alone.
    whitening : Whitening
        From (x, f) to z.
    gram : ndarray (d, d+K)
        Σ w·z_x·z'.
    """

    rows: int
    root: np.ndarray
    whitening: Whitening
    gram: np.ndarray

    @classmethod
    def of(cls, block: Block, like: Whitening | None = None) -> LeastSquares:
        """Of ``block.F`` (b, K) on ``block.X`` (b, d); whitened like other rows, by default not, if that is enough."""
        d, width = _shape(block)
        whitening = Whitening.none(width) if like is None else like
        scale = None if block.weights is None else np.sqrt(block.weights)
        square = _square(whitening.columns(block), scale)
        root, least = _cholesky(square, d)
        root = whitening.undone(root) if least >= ENOUGH else triangle(_scaled(columns_of(block), scale).T)[:d]
        if least < CLEAR:
            whitening = Whitening.of(root, _constant(block))
            square = _square(whitening.columns(block), scale)
        rows = len(block) if scale is None else int(np.count_nonzero(scale))
        return cls(rows, root, whitening, square[:d])

    def merge(self, other: LeastSquares) -> LeastSquares:
        """Of the rows of both."""
        if self.rows == 0 or other.rows == 0:
            return self if other.rows == 0 else other
        root = triangle(np.vstack([self.root, other.root]))[: len(self.root)]
        whitening = self.whitening
        if whitening != other.whitening:
            whitening = Whitening.of(root, max(whitening.constant, other.whitening.constant))
        return LeastSquares(
            self.rows + other.rows, root, whitening, self._gram_in(whitening) + other._gram_in(whitening)
        )

    def _gram_in(self, whitening: Whitening) -> np.ndarray:
        if self.whitening == whitening:
            return self.gram
        step, d = self.whitening.change(whitening), len(self.gram)
        return np.asarray(step[:d, :d].T @ self.gram @ step)

    @property
    def inverse(self) -> np.ndarray:
        """(Σ w·z_x·z_x')⁻¹ (d, d)."""
        length = np.sqrt(np.diag(self.gram))
        unit = np.outer(length, length)
        return np.asarray(np.linalg.inv(self.gram[:, : len(unit)] / unit) / unit)

    @property
    def to_coefficients(self) -> np.ndarray:
        """M (d, d): scores s = z_x·residual (N, d) are (Σ w·x·x')⁻¹x·residual = s·M in terms of x."""
        d = len(self.gram)
        return np.asarray(self.inverse @ self.whitening.matrix[:d, :d].T)

    @property
    def slopes(self) -> np.ndarray:
        """Coefficients of z_f on z_x (K, d)."""
        return np.asarray((self.inverse @ self.gram[:, len(self.gram) :]).T)

    @property
    def coefficients(self) -> np.ndarray:
        """Coefficients of f on x (K, d)."""
        d, matrix = len(self.gram), self.whitening.matrix
        return np.asarray(self.slopes @ matrix[:d, :d].T - matrix[:d, d:].T)


def _cholesky(square: np.ndarray, d: int) -> tuple[np.ndarray, float]:
    """R (d, d+K) from Z'Z, and the least share of its length that a column of x, or √ that f, keeps; 0 without R."""
    length = np.sqrt(np.diag(square))
    none = np.zeros((d, len(square))), 0.0
    if not length.all():
        return none
    unit = square / np.outer(length, length)
    try:
        lower = np.linalg.cholesky(unit[:d, :d])
    except np.linalg.LinAlgError:
        return none
    explained = solve_triangular(lower, unit[:d, d:], lower=True)
    beyond = np.maximum(1 - np.sum(explained**2, axis=0), 0.0)
    return np.hstack([lower.T, explained]) * length, float(min(np.diag(lower).min(), beyond.min() ** 0.25))


def _shape(block: Block) -> tuple[int, int]:
    assert block.X is not None
    return block.X.shape[1], block.X.shape[1] + block.F.shape[1]


def _scaled(columns: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    return columns if scale is None else columns * scale


def _square(columns: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    scaled = _scaled(columns, scale)
    return np.asarray(scaled @ scaled.T)


def _constant(block: Block) -> int:
    """The first column of X that is one number other than 0; −1 where there is none."""
    assert block.X is not None
    if len(block) == 0:
        return -1
    alike = (block.X[0] == block.X).all(axis=0) & (block.X[0] != 0)
    return int(np.argmax(alike)) if alike.any() else -1
