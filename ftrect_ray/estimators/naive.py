"""The model alone: predictions taken for answers, with the standard error that this pretends to.

For comparison only. The bias of the model is not in the interval, so it is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.estimators.classical import classical_mean, classical_ols, classical_quantile
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.validation import answers, finite

WARNING = "the model alone: its bias is unknown and not in the interval"


def naive_mean(Yhat: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """The mean of the predictions of all rows; ``Yhat`` (N,) or (N, K), whose rows are averaged.

    >>> naive_mean([1.0, 2.0, 3.0]).value
    2.0
    """
    return _model_alone(classical_mean(_one_column(Yhat), alpha=alpha))


def naive_quantile(Yhat: ArrayLike, q: float = 0.5, *, alpha: float = 0.05) -> Estimate:
    """The q-quantile of the predictions of all rows; ``Yhat`` (N,) or (N, K), whose rows are averaged."""
    return _model_alone(classical_quantile(_one_column(Yhat), q, alpha=alpha))


def naive_ols(X: ArrayLike, Yhat: ArrayLike, *, alpha: float = 0.05, names: Sequence[str] | None = None) -> Estimate:
    """Least squares of the predictions of all rows on ``X`` (N, d) as given."""
    return _model_alone(classical_ols(X, _one_column(Yhat), alpha=alpha, names=names))


def _one_column(Yhat: ArrayLike) -> np.ndarray:
    predicted = finite("Yhat", Yhat, (1, 2))
    return answers(predicted if predicted.ndim == 1 else predicted.mean(axis=1), "Yhat")


def _model_alone(estimate: Estimate) -> Estimate:
    diagnostics = {**estimate.diagnostics, "warnings": [WARNING]}
    return replace(estimate, lam=None, n=0, m=estimate.n, effective_n=None, diagnostics=diagnostics)
