"""Estimates that are linear in answers and predictions: from the influences of the rows to an :class:`Estimate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ftrect_ray.estimators.conclusion import conclude, settle_lam
from ftrect_ray.estimators.crossfit import crossfit_lams
from ftrect_ray.estimators.diagnostics import Facts, mixture_variance
from ftrect_ray.estimators.labeled import Labeled, selected
from ftrect_ray.estimators.moments import Moments, Totals
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.spread import Spread, spread


@dataclass(frozen=True, eq=False)
class Influences:
    """Influences of the n labelled rows on an estimate θ̂_classical − λ·(γ̂_labelled − γ̂_unlabelled) of d coordinates.

    Attributes
    ----------
    share : ndarray (n,)
        What a row counts in a mean of the labelled rows.
    classical : ndarray (d,)
        θ̂_classical.
    answers, predicted : ndarray (n, d)
        Influence of the answer on θ̂_classical, of the prediction on γ̂_labelled.
    contributions : ndarray (n, d)
        Their sum is the control variate, each row measured from its own model's γ̂_unlabelled.
    own_imputed : ndarray (n, d) or None
        Influence on γ̂_unlabelled, where the labelled rows are part of it.
    """

    share: np.ndarray
    classical: np.ndarray
    answers: np.ndarray
    predicted: np.ndarray
    contributions: np.ndarray
    own_imputed: np.ndarray | None

    @classmethod
    def of(cls, labeled: Labeled, level: np.ndarray, weight: float) -> Influences:
        """On d means, from each model's ``level`` mean_u f_k (K, d) over rows of total ``weight``."""
        known, weights = labeled.drawn.known_total, labeled.weights
        hajek = (weights / weights.sum())[:, None]
        share = (weights / weight)[:, None] if known else hajek
        answered = share * labeled.Y
        classical = answered.sum(axis=0)
        if known:  # Horvitz–Thompson: nothing is centred
            answers, predicted = answered, share * labeled.Yhat
            contributions = predicted - hajek * labeled.own(level)
        else:
            answers = share * without_rounding(labeled.Y - classical, labeled.Y)
            contributions = share * without_rounding(labeled.Yhat - labeled.own(level), labeled.Yhat)
            predicted = contributions - share * contributions.sum(axis=0)
        own = None
        if labeled.carries_imputed:
            heft = np.ones(labeled.n) if labeled.drawn.weights is None else labeled.drawn.weights
            middle = 0.0 if known else labeled.model_weights @ level
            own = heft[:, None] / weight * (labeled.Yhat - middle)
        return cls(share[:, 0], classical, answers, predicted, contributions, own)

    def times(self, matrix: np.ndarray) -> Influences:
        """Of the columns ``Y @ matrix``, with ``matrix`` (d, c)."""
        own = None if self.own_imputed is None else self.own_imputed @ matrix
        answers, predicted, contributions = (z @ matrix for z in (self.answers, self.predicted, self.contributions))
        return Influences(self.share, self.classical @ matrix, answers, predicted, contributions, own)

    def rescaled(self, ratio: np.ndarray) -> Influences:
        """With the prediction of row i counting ``ratio`` (n,) times as much."""
        times = ratio[:, None]
        return replace(self, predicted=times * self.predicted, contributions=times * self.contributions)

    def spread(self, labeled: Labeled, imputed: Totals) -> Spread:
        """See :func:`~ftrect_ray.estimators.spread.spread`."""
        return spread(labeled, self.answers, self.predicted, imputed, self.own_imputed)


@dataclass(frozen=True, eq=False)
class Base:
    """What the imputed estimate rests on.

    Attributes
    ----------
    unlabeled : int
        Unlabelled rows.
    rows : int
        With the labelled ones, where they are part of it.
    values : Moments
        Of the predictions of the unlabelled rows, K·d columns.
    """

    unlabeled: int
    rows: int
    values: Moments


def linear_estimate(
    labeled: Labeled,
    rows: Influences,
    imputed: Callable[[np.ndarray], Totals],
    base: Base,
    settings: Settings,
    *,
    fitted: int,
    target: str,
    names: tuple[str, ...] | None,
) -> Estimate:
    """θ̂ = θ̂_classical − λ·Σ contributions, for the λ and the coordinates that ``settings`` wish.

    Parameters
    ----------
    imputed : callable
        From model weights (K,) to the Totals of the unlabelled rows' influence on the imputed estimate.
    fitted : int
        Parameters that the labelled rows fit.
    """
    d = len(rows.classical)
    chosen = np.arange(d) if names is None else selected(names, settings)
    pick = np.eye(d)[:, chosen]
    rows, theirs = rows.times(pick), imputed(labeled.model_weights).times(pick)
    whole = rows.spread(labeled, theirs)
    if settings.crossfits and base.rows >= 2:
        lams = crossfit_lams(labeled, settings, rows.answers, rows.predicted, theirs)
        weighting, rows = lams.weighting, rows.rescaled(lams.ratio)
        whole = rows.spread(labeled, imputed(labeled.mixed(lams.ratio)).times(pick))
    else:
        weighting = settle_lam(settings, whole, base.rows, fitted)
    control = rows.contributions.sum(axis=0)
    return conclude(
        rows.classical - weighting.lam * control,
        whole,
        weighting,
        settings,
        fitted=fitted,
        target=target,
        names=None if names is None else tuple(names[j] for j in chosen),
        facts=Facts(
            labeled,
            base.unlabeled,
            mixture_variance(base.values, labeled.model_weights),
            rows.answers - weighting.lam * rows.predicted,
            control,
        ),
    )


def without_rounding(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``difference`` (n, d), with zeros for a column that is all rounding error of numbers as large as ``scale``."""
    noise = 1e-14 * np.abs(scale).max(axis=0, initial=0.0)
    return np.where(np.abs(difference).max(axis=0, initial=0.0) <= noise, 0.0, difference)
