"""Rectified least squares (FTR section 5; PPI algorithm for OLS; PPI++ tuning)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import diagnostics
from ftrect_ray.estimators.assemble import with_normal_interval, worth
from ftrect_ray.estimators.power_tuning import covariance_of_mean, rectified_covariance, tuned_lam, without_rounding
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.validation import Lam, Predictions, finite, open_unit, power_tuning, predictions, usable_lam

SINGULAR = 1e-10


def ols(
    X: ArrayLike,
    Y: ArrayLike,
    Yhat: ArrayLike,
    X_unlabeled: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    alpha: float = 0.05,
    lam: Lam = "tuned",
    folds: Sequence[int] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Estimate:
    """Coefficients of the linear regression of the answer on ``X``.

    ``X`` is used as given, as in ppi_py: no intercept is added; put a column of ones where one is wanted.

    Point: θ̂ = OLS(X, Y − λf) + λ·OLS(X̃, f̃), the estimate of ``ppi_py.ppi_ols_pointestimate``.
    Sandwich: H⁻¹ ( Var(x·residual of Y − λf)/n + λ² Var(x̃·residual of f̃)/m ) H⁻¹, each residual that of
    its own regression, H = mean x xᵀ over all n + m rows (over the n labelled ones when λ = 0, which is then
    HC0 · n/(n − 1)). ppi_py takes both residuals at the common θ̂ instead; that is the variance of another
    estimator, and differs from this one where predictions are biased linearly in x.

    Cross-fitted as in :func:`~ftrect_ray.estimators.mean`: with ``folds`` any bias of one model that is
    linear in x costs nothing. The mean is this function at X = 1, but for H.

    Parameters
    ----------
    X : array (n, d)
        Numeric columns of the labelled rows, n > d; one column may come as (n,).
    Y, Yhat : array (n,)
    X_unlabeled : array (m, d)
        With m < 2, λ is 0 (``"tuned"``) or must be 0; with 2 ≤ m ≤ d the fit is refused.
    Yhat_unlabeled : array (m,) or (m, K)
    lam : float in [0, 1] or "tuned"
        Tuned: the scalar that minimises the trace of the sandwich; it therefore heeds the columns with the
        largest coefficients' variance most, and depends on the columns' units.
    folds : array (n,) of int, optional
    names : sequence of str, optional
        One a column; default x0, x1, …

    Returns
    -------
    Estimate
        ``value`` (d,), ``interval`` two arrays (d,).

    Raises
    ------
    InputError
        Shapes or values, see :mod:`~ftrect_ray.estimators.validation`.
    StatisticalRefusal
        Too few rows for d coefficients, or X'X is singular (names the column to drop).
    """
    alpha, lam = open_unit("alpha", alpha), power_tuning(lam)
    data = predictions(Y, Yhat, Yhat_unlabeled, folds)
    lam, notes = usable_lam(lam, data.m)
    design, design_unlabeled, labels = _designs(X, X_unlabeled, data, names)
    _refuse_singular(design, labels, "labelled rows")
    if lam != 0.0:
        _refuse_singular(design_unlabeled, labels, "unlabelled rows")

    predicted, imputed_residual = _predictions_beyond_x(data, design, design_unlabeled, lam)
    theta_answer, theta_predicted = _coefficients(design, data.Y), _coefficients(design, predicted)
    residual = without_rounding(data.Y - design @ theta_answer, data.Y)
    residual_predicted = without_rounding(predicted - design @ theta_predicted, data.Yhat)

    def scores(rows: np.ndarray, residuals: np.ndarray, gram: np.ndarray) -> np.ndarray:
        return np.linalg.solve(gram, (rows * residuals[:, None]).T).T

    gram_labeled = design.T @ design / data.n
    classical = covariance_of_mean(scores(design, residual, gram_labeled))
    gram_all = (design.T @ design + design_unlabeled.T @ design_unlabeled) / (data.n + data.m)
    parts = (
        scores(design, residual, gram_all),
        scores(design, residual_predicted, gram_all),
        scores(design_unlabeled, imputed_residual, gram_all),
    )
    weight = tuned_lam(*parts) if lam == "tuned" else lam
    covariance = classical if weight == 0 else rectified_covariance(*parts, weight)
    variance = np.diag(covariance).copy()
    return with_normal_interval(
        theta_answer - weight * theta_predicted,
        variance,
        alpha=alpha,
        lam=weight,
        n=data.n,
        m=data.m,
        effective_n=worth(data.n, np.diag(classical), variance),
        target="ols",
        names=labels,
        diagnostics=diagnostics.compare(data, weight, notes),
    )


def _predictions_beyond_x(
    data: Predictions, design: np.ndarray, design_unlabeled: np.ndarray, lam: Lam
) -> tuple[np.ndarray, np.ndarray]:
    """f(X_i) − x_i'γ of the row's own model (n,), and f̄ − x̃'γ̄ on the unlabelled rows (m,).

    γ are the coefficients of a model's predictions on the unlabelled rows, the imputed estimate; taking
    them off each prediction puts rectifier and imputed estimate into one regression:
    OLS(X, Y − λ(f − x'γ)) = OLS(X, Y − λf) + λγ.
    """
    if lam == 0.0:
        return np.zeros(data.n), np.zeros(data.m)
    gamma = _coefficients(design_unlabeled, data.unlabeled).T
    predicted = data.Yhat - np.einsum("ij,ij->i", design, data.own(gamma))
    imputed_residual = data.imputed - design_unlabeled @ (data.weights @ gamma)
    return without_rounding(predicted, data.Yhat), without_rounding(imputed_residual, data.imputed)


def _coefficients(design: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Least squares on columns of length 1, so that units do not count as rank; (d,) or (d, K)."""
    length = np.linalg.norm(design, axis=0)
    return (np.linalg.lstsq(design / length, response, rcond=None)[0].T / length).T


def _designs(
    X: ArrayLike, X_unlabeled: ArrayLike, data: Predictions, names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    design, design_unlabeled = finite("X", X, (1, 2)), finite("X_unlabeled", X_unlabeled, (1, 2))
    design = design[:, None] if design.ndim == 1 else design
    design_unlabeled = design_unlabeled[:, None] if design_unlabeled.ndim == 1 else design_unlabeled
    width = design.shape[1]
    for name, array, rows in (("X", design, data.n), ("X_unlabeled", design_unlabeled, data.m)):
        if array.shape != (rows, width):
            raise InputError(f"'{name}' must have shape ({rows}, {width}); got {array.shape}.")
    labels = tuple(f"x{j}" for j in range(width)) if names is None else tuple(map(str, names))
    if len(labels) != width:
        raise InputError(f"'names' must have one name a column ({width}); got {len(labels)}.")
    return design, design_unlabeled, labels


def _refuse_singular(design: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """A column that the columns before it explain (but for rounding) has no coefficient."""
    rows, width = design.shape
    if rows <= width:
        raise StatisticalRefusal(
            f"{rows} rows cannot carry {width} coefficients with a standard error",
            where=where,
            mend="drop columns or label more rows",
        )
    length = np.linalg.norm(design, axis=0)
    unit = design / np.where(length > 0, length, 1.0)
    beyond = np.abs(np.diag(np.linalg.qr(unit, mode="r")))
    for name, fresh in zip(names, beyond, strict=True):
        if fresh <= SINGULAR:
            raise StatisticalRefusal(f"X'X is singular: drop column '{name}'", where=where)
