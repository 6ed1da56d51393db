"""The multinomial logit with an outside option, rectified (FTR §5 and example 7)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.choices import Choices
from ftrect_ray.estimators.labeled import assembled
from ftrect_ray.estimators.multinomial_score import MultinomialLogit
from ftrect_ray.estimators.regression import design_pair
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.roots import rectified_root
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import column_names, finite

if TYPE_CHECKING:
    from typing_extensions import Unpack


def multinomial(
    X: ArrayLike,
    Y: ArrayLike,
    Yhat: ArrayLike,
    X_unlabeled: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Coefficients of the choice among J options and an outside option 0, whose utility is 0.

    Option j is chosen with probability p_j = exp(u_j)/(1 + Σ_l exp(u_l)). θ̂ solves
    mean_r[ψ(Y) − λψ(f)] + λ·mean_u ψ(f̃) = 0 with ψ = Σ_j ∂u_j/∂θ·(y_j − p_j), y the chosen option as 0 and 1, or its
    predicted probabilities; sandwich as in :func:`~ftrect_ray.estimators.glm.logistic`, which is J = 1.

    Parameters
    ----------
    X : array (n, J, d) or (n, p)
        Three dimensions: attributes of the J options; u_j = x_j'θ with one θ (d,) for all. Two dimensions: features of
        the row; u_j = x'θ_j with a θ_j (p,) for each option, as in statsmodels' MNLogit with base 0. No intercept is
        added.
    Y : array (n,)
        The chosen option, 0 to J. With features, J is the largest one chosen, or the last one with a probability.
    Yhat : array (n,) or (n, J + 1)
        One dimension: the predicted option. Two dimensions: predicted probabilities of 0 to J, which sum to 1.
    X_unlabeled : array (m, J, d) or (m, p)
    Yhat_unlabeled : array
        Where ``Yhat`` has one dimension: predicted options, (m,) or (m, K). Where it has two: predicted probabilities,
        (m, J + 1) or (m, J + 1, K).
    names : sequence of str, optional
        One a column of ``X``; default x0, x1, … With features the coefficients are called "1:x0", "1:x1", …, "2:x0", …
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`.

    Returns
    -------
    Estimate
        ``value`` (d,), or (J·p,) with all coefficients of option 1 first. With ``lam=0`` it is the maximum likelihood
        estimate with HC0 · n/(n − 1).

    Raises
    ------
    InputError
        Shapes, options that are no whole numbers from 0 to J, probabilities that do not sum to 1.
    StatisticalRefusal
        Collinear columns (named), with features an option that nobody chose, separated answers, or no root.

    Examples
    --------
    >>> X = [[1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [1, 1], [1, 1], [1, 1], [1, 1]]
    >>> Y = [0, 1, 1, 2, 2, 2, 0, 1, 2, 2]
    >>> est = multinomial(X, Y, Y, X, Y, lam=0.0)
    >>> dict(zip(est.names, est.value.round(4).tolist()))
    {'1:x0': 0.6931, '1:x1': -0.6931, '2:x0': 1.0986, '2:x1': -0.4055}
    """
    settings = Settings.of(options)
    n, m = len(np.atleast_1d(Y)), len(np.atleast_1d(Yhat_unlabeled))
    if np.ndim(X) == 3:
        design, other, labels = _attributes(X, X_unlabeled, n, m, names)
        choices = Choices.of(Y, Yhat, Yhat_unlabeled, design.shape[1])
        score: MultinomialLogit = MultinomialLogit(None)
    else:
        design, other, labels = design_pair(X, X_unlabeled, n, m, names)
        choices = Choices.of(Y, Yhat, Yhat_unlabeled, None)
        score = MultinomialLogit(choices.Y.shape[1])
        labels = tuple(f"{j}:{name}" for j in range(1, choices.Y.shape[1] + 1) for name in labels)
    labeled, unlabeled = assembled(choices.Y, choices.Yhat, choices.Yhat_unlabeled, settings, design, other)
    core = partial(rectified_root, score=score, names=labels, target="multinomial")
    return estimated(core, labeled, unlabeled, settings)


def _attributes(
    X: ArrayLike, X_unlabeled: ArrayLike, n: int, m: int, names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    design, other = finite("X", X, (3,)), finite("X_unlabeled", X_unlabeled, (3,))
    _, options, width = design.shape
    if options == 0 or width == 0:
        raise InputError(f"'X' must have at least one option and one attribute; got shape {design.shape}.")
    for name, array, rows in (("X", design, n), ("X_unlabeled", other, m)):
        if array.shape != (rows, options, width):
            raise InputError(f"'{name}' must have shape ({rows}, {options}, {width}); got {array.shape}.")
    return design, other, column_names(names, width)
