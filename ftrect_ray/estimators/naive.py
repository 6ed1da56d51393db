"""The model alone: predictions taken for answers, with the standard error that this pretends to.

For comparison only. The bias of the model is not in the interval, so it is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.estimators.categories import as_given, categorical
from ftrect_ray.estimators.classical import (
    NO_ROWS,
    classical_mean,
    classical_ols,
    classical_proportions,
    classical_quantile,
    no_designs,
    without_model,
)
from ftrect_ray.estimators.diagnostics import document
from ftrect_ray.estimators.glm_score import LOGISTIC, POISSON, Glm
from ftrect_ray.estimators.labeled import assembled, checked
from ftrect_ray.estimators.proportions import columns_of, probabilities, rectified_shares, texts
from ftrect_ray.estimators.regression import design_pair
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.roots import rectified_root
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import answers, finite, two_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

WARNING = "the model alone: its bias is unknown and not in the interval"


def naive_mean(Yhat: ArrayLike, **options: Unpack[Options]) -> Estimate:
    """The mean of the predictions of all rows; ``Yhat`` (N,) or (N, K), whose rows are averaged.

    >>> naive_mean([1.0, 2.0, 3.0]).value
    2.0
    """
    return _model_alone(classical_mean(_one_column(Yhat), **options))


def naive_proportions(Yhat: ArrayLike, *, categories: ArrayLike | None = None, **options: Unpack[Options]) -> Estimate:
    """The share of each predicted category; ``Yhat`` (N,) categories, or (N, C) their probabilities.

    >>> naive_proportions([[0.5, 0.5], [1.0, 0.0]], categories=["no", "yes"]).value.tolist()
    [0.75, 0.25]
    """
    if as_given(Yhat).ndim != 2:
        predicted = two_rows("Yhat", categorical("Yhat", Yhat))
        return _model_alone(classical_proportions(predicted, categories=categories, **options))
    settings, known = Settings.of(without_model(options)), columns_of(categories)
    columns = two_rows("Yhat", probabilities("Yhat", Yhat, (2,), len(known)))
    labeled, unlabeled = assembled(columns, columns, np.empty((0, 1, len(known))), settings)
    return _model_alone(estimated(partial(rectified_shares, names=texts(known)), labeled, unlabeled, settings))


def naive_quantile(Yhat: ArrayLike, q: float = 0.5, **options: Unpack[Options]) -> Estimate:
    """The q-quantile of the predictions of all rows; ``Yhat`` (N,) or (N, K), whose rows are averaged.

    >>> naive_quantile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).value
    4.0
    """
    return _model_alone(classical_quantile(_one_column(Yhat), q, **options))


def naive_ols(
    X: ArrayLike, Yhat: ArrayLike, *, names: Sequence[str] | None = None, **options: Unpack[Options]
) -> Estimate:
    """Least squares of the predictions of all rows on ``X`` (N, d) as given.

    >>> naive_ols([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 3.0, 5.0]).value.round(6).tolist()
    [1.0, 2.0]
    """
    return _model_alone(classical_ols(X, _one_column(Yhat), names=names, **options))


def naive_logistic(
    X: ArrayLike, Yhat: ArrayLike, *, names: Sequence[str] | None = None, **options: Unpack[Options]
) -> Estimate:
    """Logistic regression of the predictions of all rows, which may be probabilities, on ``X`` (N, d).

    >>> naive_logistic([1.0, 1.0, 1.0], [0.5, 0.8, 0.95]).value.round(4).tolist()
    [1.0986]
    """
    return _any_numbers("logistic", LOGISTIC, X, Yhat, names, options)


def naive_poisson(
    X: ArrayLike, Yhat: ArrayLike, *, names: Sequence[str] | None = None, **options: Unpack[Options]
) -> Estimate:
    """Log-linear regression of the predictions of all rows on ``X`` (N, d); a few may be below 0.

    >>> naive_poisson([1.0, 1.0, 1.0], [2.5, 4.5, -1.0]).value.round(4).tolist()
    [0.6931]
    """
    return _any_numbers("poisson", POISSON, X, Yhat, names, options)


def _any_numbers(
    target: str, score: Glm, X: ArrayLike, Yhat: ArrayLike, names: Sequence[str] | None, options: Options
) -> Estimate:
    """The root of mean x(f − μ), where f need not be an answer that anybody could give."""
    settings, predicted = Settings.of(without_model(options)), _one_column(Yhat)
    design, none, labels = design_pair(X, no_designs(X), len(predicted), 0, names)
    labeled, unlabeled = checked(predicted, predicted, NO_ROWS, settings, design, none)
    lenient = Glm(score.mean, partial(_begin_above_zero, score), _refuse_nothing)
    core = partial(rectified_root, score=lenient, names=labels, target=target)
    return _model_alone(estimated(core, labeled, unlabeled, settings))


def _begin_above_zero(score: Glm, X: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return score.begin(X, np.maximum(Y, 0.0), weights)


def _refuse_nothing(Y: np.ndarray) -> None:
    pass


def _one_column(Yhat: ArrayLike) -> np.ndarray:
    predicted = finite("Yhat", Yhat, (1, 2))
    return answers(predicted if predicted.ndim == 1 else predicted.mean(axis=1), "Yhat")


def _model_alone(estimate: Estimate) -> Estimate:
    return replace(estimate, lam=None, n=0, m=estimate.n, effective_n=None, diagnostics=document([], (WARNING,)))
