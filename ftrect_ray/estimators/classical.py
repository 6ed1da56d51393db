"""The answers alone, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.estimators import diagnostics
from ftrect_ray.estimators.assemble import with_normal_interval
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.power_tuning import covariance_of_mean
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.validation import answers, open_unit


def classical_mean(Y: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """The sample mean of ``Y`` (n,) with its normal interval (variance with ddof = 1).

    >>> classical_mean([1.0, 2.0, 3.0]).value
    2.0
    """
    alpha, labels = open_unit("alpha", alpha), answers(Y)
    return with_normal_interval(
        float(np.mean(labels)),
        float(covariance_of_mean(labels[:, None])[0, 0]),
        alpha=alpha,
        lam=0.0,
        n=len(labels),
        m=0,
        effective_n=float(len(labels)),
        target="mean",
        diagnostics=diagnostics.answers_only(labels),
    )


def classical_quantile(Y: ArrayLike, q: float = 0.5, *, alpha: float = 0.05) -> Estimate:
    """The sample q-quantile of ``Y`` (n,), smallest value with F̂ ≥ q; interval by inversion of the score test.

    >>> classical_quantile([1.0, 2.0, 3.0, 4.0, 5.0]).value
    3.0
    """
    labels = answers(Y)
    return _without_model(quantile(labels, labels, np.empty(0), q, alpha=alpha, lam=0.0), labels)


def classical_ols(X: ArrayLike, Y: ArrayLike, *, alpha: float = 0.05, names: Sequence[str] | None = None) -> Estimate:
    """Least squares of ``Y`` (n,) on ``X`` (n, d) as given; sandwich HC0 · n/(n − 1).

    >>> classical_ols([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 3.0, 5.0]).value.round(6).tolist()
    [1.0, 2.0]
    """
    labels = answers(Y)
    width = np.shape(X)[1] if np.ndim(X) == 2 else 1
    estimate = ols(X, labels, labels, np.empty((0, width)), np.empty(0), alpha=alpha, lam=0.0, names=names)
    return _without_model(estimate, labels)


def _without_model(estimate: Estimate, labels: np.ndarray) -> Estimate:
    return replace(estimate, diagnostics=diagnostics.answers_only(labels))
