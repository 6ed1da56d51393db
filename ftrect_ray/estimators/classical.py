"""The answers alone, without any model: each target at λ = 0, with no unlabelled rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.categories import categorical
from ftrect_ray.estimators.diagnostics import answers_only
from ftrect_ray.estimators.difference import difference
from ftrect_ray.estimators.glm import logistic, poisson
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.multinomial import multinomial
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.proportions import proportions
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Options
from ftrect_ray.estimators.validation import finite

if TYPE_CHECKING:
    from typing_extensions import Unpack

OF_A_MODEL = ("lam", "lam_range", "folds", "sample_unlabeled", "population")
"""Options that speak of predictions or of unlabelled rows."""

NO_ROWS = np.empty(0)


def classical_mean(Y: ArrayLike, **options: Unpack[Options]) -> Estimate:
    """The mean of ``Y`` (n,), with its t interval (variance with ddof = 1).

    >>> classical_mean([1.0, 2.0, 3.0]).value
    2.0
    """
    return _alone(mean(Y, Y, NO_ROWS, **without_model(options)))


def classical_proportions(Y: ArrayLike, *, categories: ArrayLike | None = None, **options: Unpack[Options]) -> Estimate:
    """The share of each category among ``Y`` (n,); see :func:`~ftrect_ray.estimators.proportions.proportions`.

    >>> est = classical_proportions(["yes", "no", "yes", "yes"])
    >>> est.names, est.value.tolist()
    (('no', 'yes'), [0.25, 0.75])
    """
    return _alone(proportions(Y, categorical("Y", Y), [], categories=categories, **without_model(options)))


def classical_difference(
    Y: ArrayLike,
    Y_other: ArrayLike,
    *,
    paired: bool = False,
    sample_other: Sample | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """The mean of ``Y`` (n,) less that of ``Y_other``: Welch's interval and test, or the paired ones.

    >>> est = classical_difference([3.0, 5.0, 4.0], [1.0, 3.0])
    >>> round(est.value, 4), round(est.df, 4)
    (2.0, 1.6842)
    """
    whole = difference(
        Y, Y, NO_ROWS, Y_other, Y_other, NO_ROWS, paired=paired, sample_other=sample_other, **without_model(options)
    )
    return _alone(whole)


def classical_quantile(Y: ArrayLike, q: float = 0.5, **options: Unpack[Options]) -> Estimate:
    """The q-quantile of ``Y`` (n,), the smallest value with F̂ ≥ q; interval by inversion of the score test.

    >>> classical_quantile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).value
    4.0
    """
    return _alone(quantile(Y, Y, NO_ROWS, q, **without_model(options)))


def classical_ols(
    X: ArrayLike, Y: ArrayLike, *, names: Sequence[str] | None = None, **options: Unpack[Options]
) -> Estimate:
    """Least squares of ``Y`` (n,) on ``X`` (n, d) as given; sandwich HC0 · n/(n − 1).

    >>> classical_ols([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 3.0, 5.0]).value.round(6).tolist()
    [1.0, 2.0]
    """
    return _alone(ols(X, Y, Y, no_designs(X), NO_ROWS, names=names, **without_model(options)))


def classical_logistic(
    X: ArrayLike, Y: ArrayLike, *, names: Sequence[str] | None = None, **options: Unpack[Options]
) -> Estimate:
    """Maximum likelihood of a logistic regression of ``Y`` (n,), 0 or 1, on ``X`` (n, d); sandwich HC0 · n/(n − 1).

    >>> classical_logistic([1.0, 1.0, 1.0, 1.0], [0, 1, 1, 1]).value.round(4).tolist()
    [1.0986]
    """
    return _alone(logistic(X, Y, Y, no_designs(X), NO_ROWS, names=names, **without_model(options)))


def classical_poisson(
    X: ArrayLike, Y: ArrayLike, *, names: Sequence[str] | None = None, **options: Unpack[Options]
) -> Estimate:
    """Maximum likelihood of a log-linear regression of ``Y`` (n,) ≥ 0 on ``X`` (n, d); sandwich HC0 · n/(n − 1).

    >>> classical_poisson([1.0, 1.0, 1.0], [1, 2, 6]).value.round(4).tolist()
    [1.0986]
    """
    return _alone(poisson(X, Y, Y, no_designs(X), NO_ROWS, names=names, **without_model(options)))


def classical_multinomial(
    X: ArrayLike, Y: ArrayLike, *, names: Sequence[str] | None = None, **options: Unpack[Options]
) -> Estimate:
    """Maximum likelihood of a multinomial logit of the chosen option ``Y`` (n,) on ``X`` (n, J, d) or (n, p).

    >>> est = classical_multinomial([1.0] * 7, [0, 1, 1, 2, 2, 2, 2])
    >>> dict(zip(est.names, est.value.round(4).tolist()))
    {'1:x0': 0.6931, '2:x0': 1.3863}
    """
    return _alone(multinomial(X, Y, Y, no_designs(X), NO_ROWS, names=names, **without_model(options)))


def no_designs(X: ArrayLike) -> np.ndarray:
    """No rows of the columns of ``X``."""
    return np.empty((0, *finite("X", X, (1, 2, 3)).shape[1:]))


def without_model(options: Mapping[str, Any]) -> Any:
    """``options`` at λ = 0.

    Raises
    ------
    InputError
        An option that has no meaning here.
    """
    for name in OF_A_MODEL:
        if options.get(name) is not None:
            raise InputError(f"'{name}' has no meaning without a model.", mend=f"drop '{name}'")
    sample = options.get("sample")
    if isinstance(sample, Sample) and sample.total == "known":
        raise InputError(
            "'sample.total' cannot be 'known' here: the table's other rows are missing.", mend="take 'estimated'"
        )
    return {**options, "lam": 0.0}


def _alone(estimate: Estimate) -> Estimate:
    return replace(estimate, diagnostics=answers_only(estimate.diagnostics))
