"""Rectified least squares (FTR §5; PPI algorithm for OLS; PPI++ tuning)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.estimators.blocks import Block, Blocks
from ftrect_ray.estimators.labeled import Labeled, checked
from ftrect_ray.estimators.least_squares import LeastSquares
from ftrect_ray.estimators.linear import Base, Influences, linear_estimate, without_rounding
from ftrect_ray.estimators.moments import Moments, Totals, totals_of
from ftrect_ray.estimators.regression import design_pair, refuse_dependent, refuse_known_total, refuse_singular
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import answers
from ftrect_ray.estimators.whitening import Whitening

if TYPE_CHECKING:
    from typing_extensions import Unpack

Scores = Callable[[Whitening, np.ndarray], Totals]
"""From z and coefficients c (d+K,) to the Totals of w·z_x·(z'c) of the unlabelled rows."""


def ols(
    X: ArrayLike,
    Y: ArrayLike,
    Yhat: ArrayLike,
    X_unlabeled: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Coefficients of the linear regression of the answer on ``X``.

    ``X`` is used as given, as in ppi_py: no intercept is added; put a column of ones where one is wanted.

    θ̂ = OLS(X, Y − λf) + λ·OLS(X̃, f̃), the estimate of ``ppi_py.ppi_ols_pointestimate``; with weights, weighted least
    squares. Its variance is the sandwich of each regression's own residuals and own mean of x·x'; λ = 0 is
    HC0·n/(n − 1) of the answers alone, and a tuned estimate has no longer intervals on the whole. ppi_py takes all
    residuals at the common θ̂ instead: where predictions are biased linearly in x, that is the variance of another
    estimator.

    Cross-fitted as in :func:`~ftrect_ray.estimators.mean.mean`: with ``folds`` any bias of one model that is linear in
    x costs nothing. The mean is this function at X = 1. Two folds over the unlabelled rows; ``lam="crossfit"`` three.

    Parameters
    ----------
    X : array (n, d)
        Numeric columns of the labelled rows, n > d; one column may come as (n,).
    Y, Yhat : array (n,)
        As in :func:`~ftrect_ray.estimators.mean.mean`.
    X_unlabeled : array (m, d)
        With m < 2, λ is 0 (tuned) or must be 0; with 2 ≤ m ≤ d the fit is refused, unless λ is 0.
    Yhat_unlabeled : array (m,) or (m, K)
    names : sequence of str, optional
        One a column; default x0, x1, …
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`. A tuned λ heeds those coefficients most whose variance is
        largest, and so depends on the columns' units: ``coefficients`` names those that matter.

    Returns
    -------
    Estimate
        ``value`` (d,), ``interval`` two arrays (d,); t intervals on n − d degrees of freedom, less one for a tuned λ.

    Raises
    ------
    InputError
        Shapes or values, see :mod:`~ftrect_ray.estimators.validation`; Horvitz–Thompson totals.
    StatisticalRefusal
        Too few rows for d coefficients, or X'X is singular (names the column to drop).

    Examples
    --------
    >>> X, Y = [[1, 0], [1, 1], [1, 2], [1, 3]], [1.0, 3.0, 4.0, 6.0]
    >>> est = ols(X, Y, [1.0, 2.0, 4.0, 5.0], [[1, 0], [1, 2], [1, 4]], [1.0, 3.0, 6.0], lam=1.0, names=["one", "age"])
    >>> est.value.round(4).tolist()
    [1.0333, 1.45]
    """
    settings = Settings.of(options)
    n, m = len(answers(Y)), len(np.atleast_1d(Yhat_unlabeled))
    design, design_unlabeled, labels = design_pair(X, X_unlabeled, n, m, names)
    labeled, unlabeled = checked(Y, Yhat, Yhat_unlabeled, settings, design, design_unlabeled)
    return estimated(partial(rectified_ols, names=labels), labeled, unlabeled, settings)


def rectified_ols(labeled: Labeled, unlabeled: Blocks, settings: Settings, names: tuple[str, ...]) -> Estimate:
    """From one fold for the imputed coefficients, and one for the scores (a second one for cross-fitted λ)."""
    like = LeastSquares.of(labeled.as_block()).whitening
    fit, values = unlabeled.fold(partial(_fit_and_values, like=like))

    def scores(whitening: Whitening, coefficients: np.ndarray) -> Totals:
        return unlabeled.fold(partial(_scores, whitening=whitening, coefficients=coefficients))

    return ols_from_fit(labeled, fit, values, scores, settings, names)


def _fit_and_values(block: Block, like: Whitening) -> tuple[LeastSquares, Moments]:
    return LeastSquares.of(block, like), Moments.of(block.F)


def _scores(block: Block, whitening: Whitening, coefficients: np.ndarray) -> Totals:
    z = whitening.columns(block)
    residual = coefficients @ z
    scores = z[: len(z) - block.F.shape[1]]
    scores *= residual if block.weights is None else residual * block.weights
    return totals_of(scores.T, block.strata, block.clusters)


def ols_from_fit(
    labeled: Labeled, fit: LeastSquares, values: Moments, scores: Scores, settings: Settings, names: tuple[str, ...]
) -> Estimate:
    """θ̂ = OLS(X, Y − λf) + λ·OLS(X̃, f̃), from the regression ``fit`` of the predictions of the unlabelled rows.

    Influences, with H_r and H_u the means of x·x', W and V the total weights, γ_k = OLS(X̃, f̃_k), γ̄ = Σ ω_k γ_k, and
    g_i = f_i − x_i'γ_k of the row's own model, so that rectifier and imputed estimate are one regression:

        A_i = H_r⁻¹ w_i x_i (Y_i − x_i'OLS(X, Y))/W,    B_i = H_r⁻¹ w_i x_i (g_i − x_i'Δ)/W,    Δ = OLS(X, g),
        U_j = H_u⁻¹ w_j x̃_j (f̄_j − x̃_j'γ̄)/V.
    """
    refuse_known_total(labeled)
    assert labeled.X is not None
    d, everyone = len(names), labeled.as_block()
    over = fit.merge(LeastSquares.of(everyone)) if labeled.carries_imputed else fit
    base = Base(values.units, values.units + labeled.n * labeled.carries_imputed, values)
    refuse_singular(labeled.X, names, "labelled rows", labeled.weights)
    slopes, to_imputed = np.zeros((labeled.models, d)), np.zeros((d, d))
    if base.rows >= 2 and (settings.tunes or np.any(settings.lam != 0)):  # else predictions can be anything
        refuse_dependent(over.rows, over.root[:, :d], names, "unlabelled rows")
        slopes, to_imputed = over.slopes, over.to_coefficients

    def imputed(mix: np.ndarray) -> Totals:
        return scores(over.whitening, np.append(-mix @ slopes, mix)).times(to_imputed)

    z = over.whitening.columns(everyone).T
    beyond = z[:, d:] - z[:, :d] @ slopes.T  # f_i − x_i'γ_k (n, K)
    own_imputed = None
    if labeled.carries_imputed:
        residual = (beyond @ labeled.model_weights)[:, None]
        own_imputed = (residual if everyone.weights is None else everyone.weights[:, None] * residual) * z[:, :d]
        own_imputed = own_imputed @ to_imputed
    share = np.full_like(beyond, 1 / labeled.models) if labeled.share is None else labeled.share
    g = without_rounding(np.sum(share * beyond, axis=1, keepdims=True), labeled.Yhat)
    rows = _influences(labeled, g, own_imputed)
    return linear_estimate(labeled, rows, imputed, base, settings, fitted=d, target="ols", names=names)


def _influences(labeled: Labeled, g: np.ndarray, own_imputed: np.ndarray | None) -> Influences:
    """A and B of the labelled rows, from ``g`` (n, 1)."""
    weights = labeled.weights
    block = Block(labeled.Y, labeled.X, weights)
    fit = LeastSquares.of(block)
    z = fit.whitening.columns(block).T
    x, y = z[:, :-1], z[:, -1:]
    weighted = weights[:, None] * x
    score = weighted @ fit.to_coefficients  # H_r⁻¹ w_i x_i/W
    return Influences(
        share=weights / weights.sum(),
        classical=fit.coefficients[0],
        answers=score * without_rounding(y - x @ fit.slopes.T, labeled.Y),
        predicted=score * without_rounding(g - x @ fit.inverse @ (weighted.T @ g), labeled.Yhat),
        contributions=score * g,
        own_imputed=own_imputed,
    )
