"""Means of one or several columns: the sums that one pass over the unlabelled rows gives, and what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ftrect_ray.estimators.blocks import Block, Blocks
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.linear import Base, Influences, linear_estimate
from ftrect_ray.estimators.moments import Moments, Totals, merged, totals_of
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Settings


@dataclass(frozen=True, eq=False)
class MeanSums:
    """Sums over unlabelled rows for K models and d columns; mergeable, in any order.

    Attributes
    ----------
    rows : int
    weight : float
        Σ w.
    origin : ndarray (K·d,)
        Subtracted before weighting, so that large means cost no digits.
    totals : Totals
        Of the K·d columns w(f − origin), and of w where rows have weights or clusters.
    values : Moments
        Of the K·d columns as they are.
    """

    rows: int
    weight: float
    origin: np.ndarray
    totals: Totals
    values: Moments

    @classmethod
    def of(cls, block: Block) -> MeanSums:
        """Sums of one block."""
        values = block.F.reshape(len(block), math.prod(block.F.shape[1:]))
        if block.weights is None and block.clusters is None:
            origin = np.zeros(values.shape[1])
            totals = Moments.of(values, block.strata)
            plain = totals if block.strata is None else Moments.of(values)
            return cls(len(block), float(len(block)), origin, totals, plain)
        origin = values[0].copy() if len(block) else np.zeros(values.shape[1])
        weights = np.ones(len(block)) if block.weights is None else block.weights
        columns = np.column_stack([(values - origin) * weights[:, None], weights])
        totals_ = totals_of(columns, block.strata, block.clusters)
        return cls(len(block), float(weights.sum()), origin, totals_, Moments.of(values))

    def merge(self, other: MeanSums) -> MeanSums:
        """Sums over the rows of both."""
        if other.rows == 0 or self.rows == 0:
            return self if other.rows == 0 else other
        totals: Totals = other.totals
        if self._sized:  # w(f − o₁) = w(f − o₂) + (o₂ − o₁)w
            rebase = np.eye(len(self.origin) + 1)
            rebase[-1, :-1] = other.origin - self.origin
            totals = totals.times(rebase)
        both = merged(self.totals, totals)
        same = self.values is self.totals
        values = both if same and isinstance(both, Moments) else self.values.merge(other.values)
        return MeanSums(self.rows + other.rows, self.weight + other.weight, self.origin, both, values)

    @property
    def _sized(self) -> bool:
        return len(self.totals.total) > len(self.origin)

    @property
    def level(self) -> np.ndarray:
        """Weighted mean of each column (K·d,); 0 without rows."""
        if self.weight == 0:
            return np.zeros_like(self.origin)
        return self.origin + self.totals.total[: len(self.origin)] / self.weight

    def influence(self, model_weights: np.ndarray, level: np.ndarray, weight: float) -> Totals:
        """Totals of Σ_k ω_k·w(f_k − level_k)/weight, d columns."""
        width = len(self.origin) // len(model_weights)
        mix = np.kron(model_weights[:, None], np.eye(width)) / max(weight, 1e-300)
        if self._sized:
            return self.totals.times(np.vstack([mix, (self.origin - level) @ mix]))
        assert isinstance(self.totals, Moments)
        return self.totals.plus(-level).times(mix)


def rectified_means(
    labeled: Labeled, unlabeled: Blocks, settings: Settings, target: str = "mean", names: tuple[str, ...] | None = None
) -> Estimate:
    """Means of the d answer columns, from one fold of the unlabelled rows."""
    return means_from_sums(labeled, unlabeled.fold(MeanSums.of), settings, target, names)


def means_from_sums(
    labeled: Labeled, sums: MeanSums, settings: Settings, target: str = "mean", names: tuple[str, ...] | None = None
) -> Estimate:
    """θ̂ = mean_r(Y − λf) + λ·mean_u f (FTR eq. 1), Var θ̂ = Var(Y − λf)/n + λ²·Var(f)/m (eq. 2).

    With folds each labelled prediction is measured from its own model's mean over the unlabelled rows: the models
    weigh n_k/n, and a constant bias of one of them costs nothing.
    """
    d = labeled.Y.shape[1]
    over = sums.merge(MeanSums.of(labeled.as_block())) if labeled.carries_imputed else sums
    origin = np.zeros_like(over.level) if labeled.drawn.known_total else over.level

    def imputed(mix: np.ndarray) -> Totals:
        return sums.influence(mix, origin, over.weight)

    rows = Influences.of(labeled, over.level.reshape(-1, d), over.weight)
    base = Base(sums.rows, over.rows, sums.values)
    return linear_estimate(labeled, rows, imputed, base, settings, fitted=1, target=target, names=names)
