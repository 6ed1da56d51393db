"""How far an estimate spreads: second moments of its influence, over the sampling units of both samples.

Every rectified estimate is a classical one less λ times a control variate of mean zero,

    θ̂ = θ̂_classical − λ·(γ̂_labelled − γ̂_unlabelled),

γ̂ being what the predictions alone would say (PPI++ §2; FTR §5). A row has three influences: of its answer on
θ̂_classical, of its prediction on γ̂_labelled, and of its prediction on γ̂_unlabelled. Their covariances give the
variance for every λ at once, and so the best λ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.moments import ClusterTotals, Moments, Totals, merged, moments_of, totals_of


@dataclass(frozen=True, eq=False)
class Spread:
    """Covariances (d, d) of the sums of influences.

    Attributes
    ----------
    answers : ndarray (d, d)
        Var θ̂_classical.
    cross : ndarray (d, d)
        Cov(θ̂_classical, control variate).
    labeled : ndarray (d, d)
        Variance of the control variate, as far as it comes from labelled units; all of it where both samples share
        units.
    unlabeled : ndarray (d, d)
        The rest of it.
    freedom, freedom_unlabeled : int
        Units less strata of the two.
    """

    answers: np.ndarray
    cross: np.ndarray
    labeled: np.ndarray
    unlabeled: np.ndarray
    freedom: int
    freedom_unlabeled: int

    @classmethod
    def of(cls, covariance: np.ndarray, unlabeled: np.ndarray, freedom: int, freedom_unlabeled: int) -> Spread:
        """From the ``covariance`` (2d, 2d) of the sums of answers' and of predictions' influences."""
        d, c = len(unlabeled), covariance
        return cls(c[:d, :d], c[:d, d:], c[d:, d:], unlabeled, freedom, freedom_unlabeled)

    def at(self, lam: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Covariance of the estimate from labelled and from unlabelled units, each (d, d), at λ or at λ (d,).

        Var(ψ(Y) − λψ(f))/n and λ²·Var ψ(f)/m (FTR §5).
        """
        lams = np.broadcast_to(np.asarray(lam, dtype=float), (len(self.answers),))
        cross = self.cross * lams
        labeled = self.answers - cross - cross.T + lams[:, None] * self.labeled * lams
        return labeled, lams[:, None] * self.unlabeled * lams


def spread(
    labeled: Labeled,
    answers: np.ndarray,
    predicted: np.ndarray,
    imputed: Totals,
    own_imputed: np.ndarray | None = None,
) -> Spread:
    """Covariances of the influences.

    Parameters
    ----------
    answers, predicted : ndarray (n, d)
        Influence of each label on θ̂_classical, of its prediction on γ̂_labelled.
    imputed : Totals of d columns
        Influence of each unlabelled row on γ̂_unlabelled.
    own_imputed : ndarray (n, d), optional
        That of each labelled row on γ̂_unlabelled, where the labelled rows are part of it.
    """
    d, side = answers.shape[1], labeled.drawn
    none = np.zeros((d, d))
    mine = totals_of(np.hstack([answers, predicted]), side.strata, side.clusters)
    if labeled.finite:
        own = moments_of(mine)
        rate = own.count / (own.count + moments_of(imputed).count_in(own.strata))
        _check_rates(labeled, rate)
        return Spread.of(own.covariance(keep=1 - rate), none, own.freedom, 0)
    if own_imputed is not None or _common(mine, imputed):
        return _together(labeled, answers, predicted, imputed, own_imputed)
    own, theirs = moments_of(mine), moments_of(imputed)
    enough = theirs.units >= 2
    covariance, apart = own.covariance(), theirs.covariance() if enough else none
    return Spread.of(covariance, apart, own.freedom, theirs.freedom if enough else 0)


def _check_rates(labeled: Labeled, rate: np.ndarray) -> None:
    """Labels of a stratified finite population count N_h/n_h: a defect of the caller where they do not."""
    if labeled.drawn.strata is not None:
        heft = labeled.weights[np.unique(labeled.drawn.strata, return_index=True)[1]] * rate
        if not np.allclose(heft, heft[0]):
            raise ValueError("labels do not count N_h/n_h: at_their_rates must see all unlabelled rows")


def _together(
    labeled: Labeled, answers: np.ndarray, predicted: np.ndarray, imputed: Totals, own_imputed: np.ndarray | None
) -> Spread:
    """Both samples consist of the same units: rows of a table that was labelled in part, or shared clusters.

    The variance runs over all N_h units of a stratum. What labels say comes from the n_h units that have some: it is
    measured from the mean of these and counts √(n_h/(n_h − 1)) instead of √(N_h/(N_h − 1)), so that λ = 0 is the
    classical estimate; the degrees of freedom are theirs. Horvitz–Thompson sums are left as they are.
    """
    (n, d), side = answers.shape, labeled.drawn
    names = np.arange(n) if side.clusters is None else side.clusters
    said = ClusterTotals.of(np.hstack([answers, predicted]), names, side.strata)
    own, said_of = said.moments(), said.totals
    rest = imputed.times(np.hstack([np.zeros((d, d)), -np.eye(d)]))
    if not side.known_total:
        own.covariance()  # refuses a stratum with one labelled unit
        count = _units(labeled, said, rest).count_in(own.strata)
        lift = np.sqrt(own.count * (count - 1) / ((own.count - 1) * count))
        stratum = np.searchsorted(own.strata, said.strata)
        said_of = (said_of - own.mean[stratum]) * lift[stratum, None]
    if own_imputed is not None:
        said_of = said_of - np.hstack(
            [np.zeros((len(said_of), d)), ClusterTotals.of(own_imputed, names, side.strata).totals]
        )
    together = _units(labeled, ClusterTotals(said.strata, said.clusters, said_of), rest)
    return Spread.of(together.covariance(), np.zeros((d, d)), own.freedom, 0)


def _units(labeled: Labeled, mine: ClusterTotals, theirs: Totals) -> Moments:
    """Moments of the units of both samples; ``mine`` are rows where the labelled rows have no clusters."""
    return moments_of(_merged(mine.moments() if labeled.drawn.clusters is None else mine, theirs))


def _common(mine: Totals, theirs: Totals) -> bool:
    """Whether a cluster holds labelled and unlabelled rows."""
    if not (isinstance(mine, ClusterTotals) and isinstance(theirs, ClusterTotals)):
        return False
    return bool(np.isin(mine.clusters, theirs.clusters).any())


def _merged(mine: Totals, theirs: Totals) -> Totals:
    unlike = "clusters" if isinstance(mine, Moments) != isinstance(theirs, Moments) else "strata"
    if unlike == "clusters" or (moments_of(theirs).units and mine.stratified != theirs.stratified):
        raise InputError(f"'{unlike}' must be given for the labelled and the unlabelled rows, or for neither.")
    return merged(mine, theirs)
