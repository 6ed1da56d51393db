"""Logistic and Poisson regression, rectified (FTR §5; PPI++ §3): canonical links, ψ = x(y − μ(x'θ))."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.estimators.glm_score import LOGISTIC, POISSON, Glm
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.regression import design_pair
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.roots import rectified_root
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import answers

if TYPE_CHECKING:
    from typing_extensions import Unpack


def logistic(
    X: ArrayLike,
    Y: ArrayLike,
    Yhat: ArrayLike,
    X_unlabeled: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Coefficients of the logistic regression of a yes-or-no answer on ``X``: log odds of the answer 1.

    θ̂ solves mean_r x(Y − μ − λ(f − μ)) + λ·mean_u x̃(f̃ − μ̃) = 0, μ = 1/(1 + exp(−x'θ)); sandwich H⁻¹(…)H⁻¹ with H that
    equation's Jacobian. ``ppi_py.ppi_logistic_pointestimate`` solves the same equation. No intercept is added: give a
    column of ones.

    Parameters
    ----------
    X : array (n, d)
        Numeric columns of the labelled rows, n > d; one column may come as (n,).
    Y : array (n,)
        Answers, 0 or 1.
    Yhat, Yhat_unlabeled : array (n,) and (m,) or (m, K)
        Predictions as in :func:`~ftrect_ray.estimators.mean.mean`: probabilities, 0 and 1, or any finite number.
    X_unlabeled : array (m, d)
    names : sequence of str, optional
        One a column; default x0, x1, …
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`.

    Returns
    -------
    Estimate
        ``value`` (d,). With ``lam=0`` it is the maximum likelihood estimate with HC0 · n/(n − 1).

    Raises
    ------
    InputError
        Shapes, values, answers other than 0 and 1.
    StatisticalRefusal
        Collinear columns (named), separated answers, all answers equal, or no root with this λ.

    Notes
    -----
    Unlabelled rows are passed over four to six times, at most 25 times for each λ.

    Examples
    --------
    >>> X = [[1.0, -1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0], [1.0, 0.5]]
    >>> f = [0.1, 0.6, 0.5, 0.8, 0.9, 0.4]
    >>> est = logistic(X, [0, 1, 0, 1, 1, 0], f, X, f, lam=1.0)
    >>> est.value.round(4).tolist()
    [-1.0488, 1.1947]
    """
    return _regression("logistic", LOGISTIC, X, Y, Yhat, X_unlabeled, Yhat_unlabeled, names, options)


def poisson(
    X: ArrayLike,
    Y: ArrayLike,
    Yhat: ArrayLike,
    X_unlabeled: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Coefficients of the log-linear regression of a count, or of any answer ≥ 0, on ``X``.

    As :func:`logistic`, with μ = exp(x'θ). The answers need not be Poisson: the sandwich holds for every distribution
    with that mean.

    Parameters
    ----------
    X, X_unlabeled : array (n, d) and (m, d)
    Y : array (n,)
        Answers, ≥ 0.
    Yhat, Yhat_unlabeled : array (n,) and (m,) or (m, K)
        Predicted answers, any finite numbers.
    names : sequence of str, optional
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`.

    Returns
    -------
    Estimate
        ``value`` (d,): log ratios of means.

    Raises
    ------
    InputError
        Shapes, values, negative answers.
    StatisticalRefusal
        See :func:`logistic`; also where exp(x'θ) is too large on the unlabelled rows.

    Examples
    --------
    >>> X = [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    >>> est = poisson(X, [1, 3, 4, 8], [2, 2, 5, 6], X, [2, 2, 5, 6], lam=0.0)
    >>> est.value.round(4).tolist()
    [0.6931, 1.0986]
    """
    return _regression("poisson", POISSON, X, Y, Yhat, X_unlabeled, Yhat_unlabeled, names, options)


def _regression(
    target: str,
    score: Glm,
    X: ArrayLike,
    Y: ArrayLike,
    Yhat: ArrayLike,
    X_unlabeled: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    names: Sequence[str] | None,
    options: Options,
) -> Estimate:
    settings = Settings.of(options)
    n, m = len(answers(Y)), len(np.atleast_1d(Yhat_unlabeled))
    design, other, labels = design_pair(X, X_unlabeled, n, m, names)
    labeled, unlabeled = checked(Y, Yhat, Yhat_unlabeled, settings, design, other)
    core = partial(rectified_root, score=score, names=labels, target=target)
    return estimated(core, labeled, unlabeled, settings)
