"""Rectified least squares from one pass: sums over the unlabelled rows from which everything follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftrect_ray.estimators.blocks import Block, InMemory
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.least_squares import LeastSquares
from ftrect_ray.estimators.moments import Moments, Totals, merged, totals_of
from ftrect_ray.estimators.ols import ols_from_fit
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.whitening import Whitening


@dataclass(frozen=True, eq=False)
class OlsSums:
    """Sums over unlabelled rows for the regression of K models' predictions; mergeable, in any order.

    The scores w·x·(f̄ − x'γ̄) are linear in the products z_a·z_b of two whitened columns,
    whatever γ̄ will be.

    Attributes
    ----------
    fit : LeastSquares
        With the whitening.
    products : Totals
        Of w·z_a·z_b, for every column a of x and each b from a on.
    values : Moments
        Of F.
    """

    fit: LeastSquares
    products: Totals
    values: Moments

    @classmethod
    def of(cls, block: Block) -> OlsSums:
        """Sums of the rows of one block."""
        return InMemory(block).fold(cls._of)

    @classmethod
    def _of(cls, block: Block) -> OlsSums:
        fit = LeastSquares.of(block)
        z = fit.whitening.columns(block)
        first, second = _pairs(fit.gram)
        weighted = z if block.weights is None else z * block.weights
        products = weighted[first] * z[second]
        return cls(fit, totals_of(products.T, block.strata, block.clusters), Moments.of(block.F))

    def merge(self, other: OlsSums) -> OlsSums:
        """Sums over the rows of both."""
        fit = self.fit.merge(other.fit)
        products = merged(self._products_in(fit.whitening), other._products_in(fit.whitening))
        return OlsSums(fit, products, self.values.merge(other.values))

    def _products_in(self, whitening: Whitening) -> Totals:
        if self.fit.whitening == whitening:
            return self.products
        step = self.fit.whitening.change(whitening)
        first, second = _pairs(self.fit.gram)
        return self.products.times(self._contraction(step[:, first], step[:, second]))

    def scores(self, whitening: Whitening, coefficients: np.ndarray) -> Totals:
        """Of w·z_x·(z'c) for the columns z of ``whitening`` and ``coefficients`` c (d+K,), d columns."""
        step = self.fit.whitening.change(whitening)
        return self.products.times(self._contraction(step[:, : len(self.fit.gram)], (step @ coefficients)[:, None]))

    def _contraction(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """From the products z_a·z_b to (z'left)·(z'right), for s pairs of columns: (p, s)."""
        first, second = _pairs(self.fit.gram)
        crossed = np.where((first == second)[:, None], 0.0, left[second] * right[first])
        return np.asarray(left[first] * right[second] + crossed)


def _pairs(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions a < d and b ≥ a of the products."""
    return np.triu_indices(len(gram), m=gram.shape[1])


def ols_from_sums(labeled: Labeled, sums: OlsSums, settings: Settings, names: tuple[str, ...]) -> Estimate:
    """The estimate of :func:`~ftrect_ray.estimators.ols.rectified_ols`, from one pass over the unlabelled rows."""
    return ols_from_fit(labeled, sums.fit, sums.values, sums.scores, settings, names)
