"""Scores ψ, whose mean an M-estimate sets to 0 (FTR §5), and their sums over blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators.blocks import Block
from ftrect_ray.estimators.diagnostics import mixture_variance
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.means import MeanSums
from ftrect_ray.estimators.moments import Moments
from ftrect_ray.estimators.newton import Unsolved

QUIET = np.errstate(all="ignore")
"""A step too far may overflow; it is not kept."""


class Fitted(Protocol):
    """A score at one θ (d,) and on b rows of X, for answers F of K models, (b, K) or (b, K, J)."""

    def totals(self, F: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Σ_i w_i ψ(x_i, f_ik), shape (K, d)."""
        ...

    def rows(self, F: np.ndarray, mix: np.ndarray) -> np.ndarray:
        """Σ_k ω_k ψ(x_i, f_ik), shape (b, d), with ``mix`` ω (K,), whose sum is 1."""
        ...

    def slope(self, F: np.ndarray, mix: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Σ_i w_i Σ_k ω_k ∂ψ(x_i, f_ik)/∂θ', shape (d, d)."""
        ...


class Predicting(Protocol):
    """ψ(θ, x, y) and its Jacobian; picklable."""

    def at(self, theta: np.ndarray, X: np.ndarray | None) -> Fitted:
        """At θ, on the rows of X."""
        ...


class Score(Predicting, Protocol):
    """A score that also knows how to begin, and why it has no root."""

    def start(self, labeled: Labeled, names: tuple[str, ...]) -> np.ndarray:
        """θ (d,) to begin at; refuses answers and designs that have no estimate."""
        ...

    def fault(self, failure: Unsolved, labeled: Labeled, names: tuple[str, ...]) -> StatisticalRefusal:
        """Why the labelled rows alone have no root."""
        ...


@dataclass(frozen=True)
class Silent:
    """ψ = 0 in place of the predictions' score where λ is 0: predictions can then be anything."""

    width: int

    def at(self, theta: np.ndarray, X: np.ndarray | None) -> Silent:
        """See :class:`Predicting`."""
        return self

    def totals(self, F: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`Fitted`."""
        return np.zeros((F.shape[1], self.width))

    def rows(self, F: np.ndarray, mix: np.ndarray) -> np.ndarray:
        """See :class:`Fitted`."""
        return np.zeros((len(F), self.width))

    def slope(self, F: np.ndarray, mix: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`Fitted`."""
        return np.zeros((self.width, self.width))


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """Sums over unlabelled rows at one θ, for K models; mergeable, in any order.

    Attributes
    ----------
    rows : int
    weight : float
        Σ w.
    totals : ndarray (K, d)
        Σ w ψ(f_k).
    slope : ndarray (d, d)
        Σ_k ω_k Σ w ∂ψ(f_k).
    scores : MeanSums or None
        Of Σ_k ω_k ψ(f_k), where wished.
    predictions : Moments or None
        Of f̄ = Σ_k ω_k f_k, with them.
    """

    rows: int
    weight: float
    totals: np.ndarray
    slope: np.ndarray
    scores: MeanSums | None
    predictions: Moments | None

    @classmethod
    def of(cls, block: Block, score: Predicting, theta: np.ndarray, mix: np.ndarray, complete: bool) -> ScoreSums:
        """Sums of one block, with ``mix`` ω (K,); ``complete``: with moments."""
        with np.errstate(all="ignore"):  # a decorator would keep the method from being pickled
            weights = np.ones(len(block)) if block.weights is None else block.weights
            scores = predictions = None
            at = score.at(theta, block.X)
            totals, slope = at.totals(block.F, weights), at.slope(block.F, mix, weights)
            if complete:
                rows = at.rows(block.F, mix)[:, None, :]
                scores = MeanSums.of(Block(rows, None, block.weights, block.strata, block.clusters))
                mean = np.moveaxis(block.F, 1, -1) @ mix
                predictions = Moments.of(mean if mean.ndim == 2 else mean[:, None])
            return cls(len(block), float(weights.sum()), totals, slope, scores, predictions)

    @QUIET
    def merge(self, other: ScoreSums) -> ScoreSums:
        """Sums over the rows of both; with moments where both have them."""
        scores = None if self.scores is None or other.scores is None else self.scores.merge(other.scores)
        predictions = (
            None if self.predictions is None or other.predictions is None else self.predictions.merge(other.predictions)
        )
        return ScoreSums(
            self.rows + other.rows,
            self.weight + other.weight,
            self.totals + other.totals,
            self.slope + other.slope,
            scores,
            predictions,
        )

    @property
    def level(self) -> np.ndarray:
        """Weighted mean of each model's scores (K, d); 0 without rows."""
        return self.totals / self.weight if self.weight else np.zeros_like(self.totals)

    @property
    def mean_slope(self) -> np.ndarray:
        """Weighted mean of the Jacobians (d, d); 0 without rows."""
        return self.slope / self.weight if self.weight else np.zeros_like(self.slope)

    @property
    def predicted_variance(self) -> float | None:
        """Variance of f̄, summed over its columns; None with fewer than two rows."""
        return None if self.predictions is None else mixture_variance(self.predictions, np.ones(1))
