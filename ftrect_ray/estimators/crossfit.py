"""λ tuned on the other labels: each part of the labelled rows is weighted by a λ that never saw it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftrect_ray.estimators.conclusion import Weighting, saves_length
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.moments import Totals, moments_of, totals_of
from ftrect_ray.estimators.power_tuning import tuned_lam
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.spread import Spread

PARTS = 5
"""Parts of the labels where one model predicted all of them; with cross-fitted models the folds are the parts."""


@dataclass(frozen=True, eq=False)
class RowLams:
    """λ of every labelled row.

    Attributes
    ----------
    rows : ndarray (n,)
        λ of the row's part.
    ratio : ndarray (n,)
        λ of the row over the mean λ; 1 where that is 0.
    weighting : Weighting
        The mean λ, weighted like the labels. It spends no degree of freedom.
    """

    rows: np.ndarray
    ratio: np.ndarray
    weighting: Weighting


def crossfit_lams(
    labeled: Labeled, settings: Settings, answers: np.ndarray, predicted: np.ndarray, imputed: Totals
) -> RowLams:
    """For each part the λ that minimises the sum of the variances on the other parts.

    Parts are the folds of cross-fitted models, else every fifth sampling unit. Strata are not heeded here: λ is a
    tuning constant, and any value keeps the estimate valid. All are 0 where together they would save nothing.

    Parameters
    ----------
    answers, predicted : ndarray (n, d)
        Influences, see :func:`~ftrect_ray.estimators.spread.spread`.
    imputed : Totals of d columns
    """
    part = _parts(labeled)
    theirs = moments_of(imputed)
    clusters, d = labeled.drawn.clusters, answers.shape[1]
    still = labeled.finite or theirs.units < 2 or bool((theirs.count == 1).any())
    unlabeled = np.zeros((d, d)) if still else theirs.covariance()
    rows = np.zeros(labeled.n)
    for own in np.unique(part):
        rest = part != own
        both = moments_of(
            totals_of(
                np.hstack([answers[rest], predicted[rest]]), clusters=None if clusters is None else clusters[rest]
            )
        )
        if both.units < 2:
            continue
        covariance = both.covariance() * (labeled.n / np.count_nonzero(rest))
        elsewhere = Spread.of(covariance, unlabeled, both.freedom, theirs.freedom)
        rows[part == own] = tuned_lam(elsewhere, settings.lam_range)
    weights = labeled.weights
    mean = float(weights @ rows / weights.sum())
    ratio = rows / mean if mean > 0 else np.ones(labeled.n)
    used = moments_of(totals_of(np.hstack([answers, ratio[:, None] * predicted]), labeled.drawn.strata, clusters))
    keep = 1 - used.count / (used.count + theirs.count_in(used.strata)) if labeled.finite else None
    whole = Spread.of(used.covariance(keep), unlabeled, used.freedom, theirs.freedom)
    if settings.lam_range[0] == 0 and not saves_length(whole, Weighting(mean, 0), settings, 1):
        return RowLams(np.zeros(labeled.n), np.ones(labeled.n), Weighting(0.0, 0))
    return RowLams(rows, ratio, Weighting(mean, 0))


def _parts(labeled: Labeled) -> np.ndarray:
    if labeled.share is not None and labeled.models > 1:
        return np.unique(labeled.share, axis=0, return_inverse=True)[1].ravel()
    if labeled.drawn.clusters is not None:
        return np.unique(labeled.drawn.clusters, return_inverse=True)[1] % PARTS
    return np.arange(labeled.n) % PARTS
