"""The rectified distribution function of the answers, and its variance where it is supposed to equal q.

Labelled knots cut the line into cells [knot, next knot), with one more cell before the first knot. Within a cell no
label and no labelled prediction lies, so F̂ can only rise there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftrect_ray.estimators.cdf_counts import square
from ftrect_ray.estimators.labeled import Labeled

ROUNDING = 1e-12
"""Shares that differ by less are equal."""

NO_VARIANCE = 1e-15
"""A variance of indicators below this is 0."""


@dataclass(frozen=True, eq=False)
class LabeledShares:
    """Shares of the labelled rows at or below each knot, in groups of rows that the same models predicted.

    Attributes
    ----------
    answers, predicted, both : ndarray (g + 1, G)
        Share of all rows that lie in the group and have Y ≤ t, f ≤ t, both; t is the left edge of the cell.
    models : ndarray (G, K)
        Share of each model in the group's predictions.
    ratio : ndarray (G,)
        λ of the group over the mean λ.
    """

    answers: np.ndarray
    predicted: np.ndarray
    both: np.ndarray
    models: np.ndarray
    ratio: np.ndarray

    @classmethod
    def of(cls, labeled: Labeled, knots: np.ndarray, ratio: np.ndarray) -> LabeledShares:
        """At ``knots`` (g,), which hold all answers and predictions; ``ratio`` (n,)."""
        share = np.full((labeled.n, labeled.models), 1 / labeled.models) if labeled.share is None else labeled.share
        kinds, group = np.unique(np.column_stack([share, ratio]), axis=0, return_inverse=True)
        group = group.ravel()
        shape = (len(knots) + 1, len(kinds))

        def shares(values: np.ndarray) -> np.ndarray:
            flat = (np.searchsorted(knots, values) + 1) * shape[1] + group
            steps = np.bincount(flat, weights=labeled.weights, minlength=shape[0] * shape[1]).reshape(shape)
            return np.asarray(np.cumsum(steps, axis=0) / labeled.weights.sum())

        Y, f = labeled.Y[:, 0], labeled.Yhat[:, 0]
        return cls(shares(Y), shares(f), shares(np.maximum(Y, f)), kinds[:, :-1], kinds[:, -1])

    def residual_variance(self, cell: np.ndarray, imputed: np.ndarray, lam: float, q: np.ndarray | float) -> np.ndarray:
        """Var(1{Y ≤ t} − λ·d) where P(Y ≤ t) = q, with d = 1{f ≤ t} − F_f(t) of the row's own models.

        The moments of d among rows with Y ≤ t and among the others are those of the labelled rows; where there is no
        row on one side, f is taken to lie on the other one, which is least favourable.

        Parameters
        ----------
        cell : ndarray (c,) of int
        imputed : ndarray (c, K)
            F_f(t) of each model.
        """
        size, own = self.answers[-1], imputed @ self.models.T
        below, both = self.answers[cell], self.both[cell]
        above, other = size - below, self.predicted[cell] - both
        none_below, none_above = (~rows.any(axis=1, keepdims=True) for rows in (below, above))
        below, both = np.where(none_below, size, below), np.where(none_below, 0.0, both)
        above, other = np.where(none_above, size, above), np.where(none_above, size, other)
        first_below, second_below = self._moments(below, both, own)
        first_above, second_above = self._moments(above, other, own)
        first, second = q * first_below + (1 - q) * first_above, q * second_below + (1 - q) * second_above
        covariance = q * (first_below - first)
        return _positive(q * (1 - q) - 2 * lam * covariance + lam**2 * (second - first**2))

    def _moments(self, rows: np.ndarray, hits: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and mean square (c,) of d over groups of ``rows`` (c, G), in ``hits`` of which f ≤ t."""
        total = rows.sum(axis=1)
        first = (hits - rows * own) @ self.ratio / total
        second = (hits * (1 - 2 * own) + rows * own**2) @ self.ratio**2 / total
        return first, second


@dataclass(frozen=True, eq=False)
class RectifiedCdf:
    """F̂(t) = mean_r[1{Y ≤ t} − λ1{f ≤ t}] + λ·mean_u 1{f̃ ≤ t}, with the variance of F̂(t) − q where P(Y ≤ t) = q.

    Attributes
    ----------
    shares : LabeledShares
    lam : float
    mixed : ndarray (K,)
        What each model counts in the unlabelled part.
    n, m : int
        Rows that the two parts rest on.
    inflation : float
        Factor of the variance over that of simple random samples.
    """

    shares: LabeledShares
    lam: float
    mixed: np.ndarray
    n: int
    m: int
    inflation: float = 1.0

    def at(self, cell: np.ndarray, imputed: np.ndarray) -> np.ndarray:
        """F̂ (c,) at points of the cells (c,), from the columns' distribution functions there (c, C)."""
        labeled = self.shares.answers.sum(axis=1) - self.lam * (self.shares.predicted @ self.shares.ratio)
        return np.asarray(labeled[cell] + self.lam * (imputed[:, : len(self.mixed)] @ self.mixed))

    def error(self, cell: np.ndarray, imputed: np.ndarray, q: float) -> np.ndarray:
        """Standard error (c,) of F̂ − q there, where it estimates q."""
        if len(self.shares.ratio) == 1:  # a common level has no influence on the residual's variance
            every = np.arange(len(self.shares.answers))
            level = np.zeros((len(every), len(self.mixed)))
            residual = self.shares.residual_variance(every, level, self.lam, q)[cell]
        else:
            residual = self.shares.residual_variance(cell, imputed[:, : len(self.mixed)], self.lam, q)
        return np.asarray(np.sqrt(self.inflation * (residual / self.n + self._imputed(imputed, imputed))))

    def plug_in(self, cell: int, imputed: np.ndarray) -> float:
        """Variance of F̂ at a point of ``cell`` under simple random sampling, estimated there; ``imputed`` (C,)."""
        where, there = np.array([cell]), imputed[None]
        share = self.shares.answers[where].sum(axis=1)
        residual = self.shares.residual_variance(where, there[:, : len(self.mixed)], self.lam, share) / (self.n - 1)
        return float((residual + self._imputed(there, there))[0])

    def error_bounds(self, start: np.ndarray, end: np.ndarray, q: float) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest standard error in each cell, from the distribution functions at its ends, each (g + 1, C).

        The unlabelled part is a difference of two rising functions. The residual varies within a cell only because
        groups are measured from levels of their own: its standard deviation moves by no more than these do.
        """
        models, cell = len(self.mixed), np.arange(len(start))
        middle = np.sqrt(self.shares.residual_variance(cell, start[:, :models], self.lam, q))
        groups = self.shares.ratio * ((end - start)[:, :models] @ self.shares.models.T)
        slack = self.lam * groups.max(axis=1) if len(self.shares.ratio) > 1 else 0.0
        low, high = np.maximum(middle - slack, 0.0) ** 2 / self.n, (middle + slack) ** 2 / self.n
        least, largest = low + self._imputed(start, end), high + self._imputed(end, start)
        return np.sqrt(self.inflation * least), np.sqrt(self.inflation * largest)

    def _imputed(self, squares: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """λ²·Var(Σ_k ω_k·1{f_k ≤ t})/m with ddof = 1: mean square from one array (c, C), mean from the other."""
        if self.lam == 0:
            return np.zeros(len(squares))
        mean = levels[:, : len(self.mixed)] @ self.mixed
        return self.lam**2 * _positive(squares @ square(self.mixed) - mean**2) / (self.m - 1)


def _positive(variance: np.ndarray) -> np.ndarray:
    return np.where(variance > NO_VARIANCE, variance, 0.0)
