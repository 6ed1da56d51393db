"""The estimating equation of a rectified M-estimate, at one θ: mean_r(ψ(Y) − λψ(f)) + λ·mean_u ψ(f) (FTR §5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ftrect_ray.estimators.blocks import Blocks
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.linear import Influences
from ftrect_ray.estimators.moments import Totals
from ftrect_ray.estimators.newton import Point, Singular, inverted, solved
from ftrect_ray.estimators.score import QUIET, Predicting, Score, ScoreSums
from ftrect_ray.estimators.spread import Spread

ONE = np.ones(1)


@dataclass(frozen=True, eq=False)
class Scored:
    """The means of the scores at one θ: an M-estimate sets mean_r ψ(Y) − λ·(mean_r ψ(f) − mean_u ψ(f)) to 0.

    Attributes
    ----------
    rows : Influences
        Of the labelled rows on the means of ψ(Y) and ψ(f).
    slope, control_slope : ndarray (d, d)
        Jacobians of mean_r ψ(Y) and of mean_r ψ(f) − mean_u ψ(f).
    sums : ScoreSums
        Of the unlabelled rows.
    weight : float
    level : ndarray (d,)
        Total weight, and mean score, of the rows that the imputed part rests on.
    """

    rows: Influences
    slope: np.ndarray
    control_slope: np.ndarray
    sums: ScoreSums
    weight: float
    level: np.ndarray

    def jacobian(self, lam: float) -> np.ndarray:
        """H (d, d) of the estimating equation."""
        return self.slope - lam * self.control_slope

    def point(self, lam: float, error: np.ndarray) -> Point:
        """The estimating equation itself, for steps measured by ``error`` (d,)."""
        value = self.rows.classical - lam * self.rows.contributions.sum(axis=0)
        return Point(value, self.jacobian(lam), error, self.sums.scores is not None, self)

    @QUIET
    def spread(self, labeled: Labeled, bread: np.ndarray) -> tuple[Influences, Totals, Spread]:
        """Influences of labelled and of unlabelled rows on the parameters, with ``bread`` −(H⁻¹)' (d, c)."""
        assert self.sums.scores is not None
        rows, imputed = self.rows.times(bread), self.sums.scores.influence(ONE, self.level, self.weight).times(bread)
        return rows, imputed, rows.spread(labeled, imputed)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be solved.

    Attributes
    ----------
    labeled : Labeled
    unlabeled : Blocks
    score : Score
    predicting : Score or Silent
        The score of the predictions.
    ratio : ndarray (n,)
        How much more than the others a row's prediction counts (cross-fitted λ).
    """

    labeled: Labeled
    unlabeled: Blocks
    score: Score
    predicting: Predicting
    ratio: np.ndarray

    @QUIET
    def classical(self, theta: np.ndarray, complete: bool = True) -> Point:
        """The labelled rows' own equation mean_r ψ(Y) = 0."""
        share = self.labeled.weights / self.labeled.weights.sum()
        at, answers = self.score.at(theta, self.labeled.X), _as_models(self.labeled.Y)
        scores, slope = share[:, None] * at.rows(answers, ONE), at.slope(answers, ONE, share)
        return Point(scores.sum(axis=0), slope, _standard_errors(scores, slope), complete)

    @QUIET
    def at(self, theta: np.ndarray, complete: bool) -> Scored:
        """The means of the scores at θ: one pass over the unlabelled rows; ``complete``: with their moments."""
        labeled, mix = self.labeled, self.labeled.mixed(self.ratio)
        summarise = partial(ScoreSums.of, score=self.predicting, theta=theta, mix=mix)
        sums = self.unlabeled.fold(partial(summarise, complete=complete))
        over = sums.merge(summarise(labeled.as_block(), complete=False)) if labeled.carries_imputed else sums
        answers, predictions = _as_models(labeled.Y), _as_models(labeled.Yhat)
        real, predicted = (score.at(theta, labeled.X) for score in (self.score, self.predicting))
        scores = replace(labeled, Y=real.rows(answers, ONE), Yhat=predicted.rows(predictions, ONE))
        rows = Influences.of(scores, over.level, over.weight).rescaled(self.ratio)
        control_slope = predicted.slope(predictions, ONE, rows.share * self.ratio) - over.mean_slope
        level = np.zeros_like(theta) if labeled.drawn.known_total else mix @ over.level
        return Scored(rows, real.slope(answers, ONE, rows.share), control_slope, sums, over.weight, level)

    def root(self, lam: float, theta: np.ndarray, start: Scored, most: int) -> tuple[np.ndarray, Scored]:
        """The root for λ, and the scores there, from the classical ``theta`` where the scores are ``start``."""
        if lam == 0:
            return theta, start
        error = _standard_errors(start.rows.answers, start.slope)
        found, point = solved(
            lambda theta, complete: self.at(theta, complete).point(lam, error),
            theta,
            start.point(lam, error),
            most,
        )
        return found, point.behind


def _as_models(values: np.ndarray) -> np.ndarray:
    """(n, J) as the answers of one model: (n, 1) or (n, 1, J)."""
    return values if values.shape[1] == 1 else values[:, None, :]


def _standard_errors(influences: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Of H⁻¹ Σ_i ``influences`` (d,); only steps are measured by them."""
    try:
        return np.linalg.norm(influences @ inverted(slope).T, axis=0)
    except Singular:
        return np.zeros(len(slope))
