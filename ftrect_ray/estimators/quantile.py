"""The rectified quantile (PPI) with a power-tuned distribution function and an interval for ties as well."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.estimators.blocks import Block, Blocks
from ftrect_ray.estimators.cdf_cells import Cells, points_within
from ftrect_ray.estimators.cdf_counts import ImputedCounts
from ftrect_ray.estimators.cdf_curve import ROUNDING, LabeledShares, RectifiedCdf
from ftrect_ray.estimators.cdf_inversion import ScoreTest
from ftrect_ray.estimators.crossfit import crossfit_lams
from ftrect_ray.estimators.labeled import Labeled, checked
from ftrect_ray.estimators.linear import Base, Influences, linear_estimate
from ftrect_ray.estimators.means import MeanSums
from ftrect_ray.estimators.moments import Moments, Totals
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import open_unit

if TYPE_CHECKING:
    from typing_extensions import Unpack


def quantile(
    Y: ArrayLike, Yhat: ArrayLike, Yhat_unlabeled: ArrayLike, q: float = 0.5, **options: Unpack[Options]
) -> Estimate:
    """The q-quantile of the answers.

    F̂(t) = mean[1{Y ≤ t} − λ·1{f ≤ t}] + λ·mean 1{f̃ ≤ t} (FTR §5; PPI). For λ > 0 it may fall here and there; its values
    at the observed points are therefore sorted (the monotone rearrangement of Chernozhukov, Fernández-Val &
    Galichon, 2009), which brings it nearer to the true distribution function and takes away the bias of a
    first crossing. The point is the smallest observed value with F̂ ≥ q, for λ = 0 numpy's ``inverted_cdf``.

    The interval holds every t that a score test of P(Y < t) ≤ q ≤ P(Y ≤ t) does not reject, so that ties make it
    wider, never wrong. The variance in the test is that under the hypothesis P(Y ≤ t) = q: what f ≤ t does among
    rows with Y ≤ t and among the others is taken from the labelled rows, the share of Y ≤ t itself is q. With
    weights, strata, clusters, probabilities or a finite population it is multiplied by a design effect (Rao & Scott
    1984, Annals of Statistics 12): the variance of F̂ that the design gives at the classical quantile, over that of
    simple random samples of as many rows. Woodruff (1952, JASA 47) inverts with the variance at one point in the same
    way; here it follows t, which matters with ties. Under equal weights, one stratum, or clusters of one row, the
    interval is that of simple random samples. A tuned λ widens it in the same way as that of a mean.

    Parameters
    ----------
    Y : array (n,)
        Answers. None of these rows may have trained or selected the model that predicted it.
    Yhat : array (n,) or (n, K)
    Yhat_unlabeled : array (m,) or (m, K)
        Cross-fitted models are averaged as distribution functions, weighted by n_k/n with ``folds``, by 1/K without;
        1{f ≤ t} is measured from its own model's share of f̃ ≤ t.
    q : float
        In (0, 1).
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`. λ is tuned for the score 1{· ≤ t} at the classical
        quantile, the answer where the share of Y ≤ t is nearest to q (but not 0 or 1); ``lam="per-coordinate"`` is
        ``"tuned"``. Sums of weights are estimated (Hájek) under every ``Sample.total``, so that F̂ reaches 1.

    Returns
    -------
    Estimate
        ``std_error`` is the interval's half length (one-sided: the end's distance from the value) over the t
        quantile: a quantile has no plug-in standard error. ``effective_n`` compares variances of F̂ at the classical
        quantile. ``p_value`` is the least level whose interval leaves ``null`` out.

    Raises
    ------
    InputError
        See :mod:`~ftrect_ray.estimators.validation`.
    StatisticalRefusal
        So few labels for this q that the interval has no end; a stratum with a single sampling unit.

    Notes
    -----
    Two passes over the unlabelled rows, which are never sorted as a whole: F̂ falls at labelled predictions only, so
    counts at the labelled values tell where it can cross q and the limits of the test; the second pass fetches
    the predictions there. With λ = 0 there is one pass.

    Examples
    --------
    >>> values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    >>> est = quantile(values, values, [2.0, 3.0, 4.0, 5.0, 6.0], lam=1.0)
    >>> est.value
    4.0
    """
    q, settings = open_unit("q", q), Settings.of(options)
    labeled, unlabeled = checked(Y, Yhat, Yhat_unlabeled, settings)
    return estimated(partial(rectified_quantile, q=q), labeled, unlabeled, settings)


def rectified_quantile(labeled: Labeled, unlabeled: Blocks, settings: Settings, q: float) -> Estimate:
    """The q-quantile, from two folds of the unlabelled rows; from one where λ = 0."""
    labeled = replace(labeled, drawn=replace(labeled.drawn, known_total=False))
    if isinstance(settings.lam, str) and settings.lam == "per-coordinate":
        settings = replace(settings, lam="tuned")
    Y, f = labeled.Y[:, 0], labeled.Yhat[:, 0]
    point = classical_point(Y, labeled.weights, q)
    knots = np.unique(np.concatenate([Y, f, np.ravel(settings.null)]))
    values, sums, counts = unlabeled.fold(partial(first_pass, point=point, knots=knots))
    own, over = labeled.as_block() if labeled.carries_imputed else None, sums
    if own is not None:
        _, own_sums, own_counts = first_pass(own, point, knots)
        over, counts = sums.merge(own_sums), counts.merge(own_counts)

    # F̂ at the classical quantile is a rectified mean: it gives λ, the degrees of freedom, and the design's variance
    at_point = replace(labeled, Y=_at_most(labeled.Y, point), Yhat=_at_most(labeled.Yhat, point))
    rows = Influences.of(at_point, over.level[:, None], over.weight)

    def imputed(mix: np.ndarray) -> Totals:
        return sums.influence(mix, over.level, over.weight)

    base = Base(sums.rows, over.rows, values)
    share = linear_estimate(labeled, rows, imputed, base, settings, fitted=1, target=f"quantile {q:g}", names=None)
    lam, error, df = (float(part) for part in (share.lam, share.std_error, share.df))  # type: ignore[arg-type]
    ratio = np.ones(labeled.n)
    if lam > 0 and settings.crossfits:
        theirs = imputed(labeled.model_weights)
        ratio = crossfit_lams(labeled, settings, rows.answers, rows.predicted, theirs).ratio

    cdf = RectifiedCdf(LabeledShares.of(labeled, knots, ratio), lam, labeled.mixed(ratio), labeled.n, over.rows)
    cell = int(np.searchsorted(knots, point)) + 1
    simple = cdf.plug_in(cell, counts.start[cell])
    cdf = replace(cdf, inflation=error**2 / simple if simple > 0 else 1.0)
    test = ScoreTest.of(cdf, settings, q, df)
    return test.concluded(share, *_points(cdf, test, labeled, unlabeled, counts, own))


def _points(
    cdf: RectifiedCdf, test: ScoreTest, labeled: Labeled, unlabeled: Blocks, counts: ImputedCounts, own: Block | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed points that settle the estimate, with sorted F̂ and its standard error there, each (c,)."""
    Y, knots = np.unique(labeled.Y), counts.knots
    if cdf.lam == 0:
        cells, nothing = np.searchsorted(knots, Y) + 1, np.zeros((len(Y), counts.counts.shape[1]))
        return Y, cdf.at(cells, nothing), cdf.error(cells, nothing, test.q)
    observed = np.union1d(Y, labeled.Yhat)
    undecided = Cells.of(cdf, counts, observed, test.q).undecided(test, int(np.searchsorted(knots, test.null)) + 1)
    pieces = []
    for points, imputed in points_within(undecided, counts, observed, unlabeled, own):
        cells = np.searchsorted(knots, points, "right")
        pieces.append(test.telling(points, np.sort(cdf.at(cells, imputed)), cdf.error(cells, imputed, test.q)))
    grid, level, error = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return grid, level, error


def classical_point(Y: np.ndarray, weights: np.ndarray, q: float) -> float:
    """The answer where the weighted share of Y ≤ t is nearest to q, but not 0 or 1: there it has no variance."""
    values, code = np.unique(Y, return_inverse=True)
    shares = np.cumsum(np.bincount(code, weights=weights)) / weights.sum()
    inner = (shares > ROUNDING) & (shares < 1 - ROUNDING)
    return float(values[np.argmin(np.where(inner, np.abs(shares - q), np.inf))])


def first_pass(block: Block, point: float, knots: np.ndarray) -> tuple[Moments, MeanSums, ImputedCounts]:
    """Moments of the predictions, sums of 1{f ≤ point}, and counts at the knots."""
    return (
        Moments.of(block.F),
        MeanSums.of(replace(block, F=_at_most(block.F, point))),
        ImputedCounts.of(block, knots),
    )


def _at_most(values: np.ndarray, point: float) -> np.ndarray:
    return (values <= point).astype(float)
