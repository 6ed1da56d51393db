"""The rectified mean (FTR eq. 1 and 2; PPI; PPI++), for one model and cross-fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.estimators import diagnostics
from ftrect_ray.estimators.assemble import with_normal_interval, worth
from ftrect_ray.estimators.power_tuning import covariance_of_mean, rectified_covariance, tuned_lam, without_rounding
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.validation import Lam, Predictions, open_unit, power_tuning, predictions, usable_lam


def mean(
    Y: ArrayLike,
    Yhat: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    alpha: float = 0.05,
    lam: Lam = "tuned",
    folds: Sequence[int] | np.ndarray | None = None,
) -> Estimate:
    """The population mean of the answers.

    θ̂ = mean(Y − λf(X)) + λ·mean f(X̃), with Var θ̂ = Var(Y − λf)/n + λ² Var(f)/m.

    Cross-fitted: ``Yhat`` is out of fold and ``Yhat_unlabeled`` has one column a model. With ``folds``,
    each labelled prediction is measured from its own model's mean over the unlabelled rows, which weights
    the models by n_k/n and makes a constant bias of one of them cost nothing. K equal models give the
    single-model estimate exactly. Without ``folds`` the models weigh 1/K.

    Parameters
    ----------
    Y : array (n,)
        Answers, n ≥ 2. None of these rows may have trained or selected the model that predicted it.
    Yhat : array (n,)
        Predictions on the rows of ``Y``.
    Yhat_unlabeled : array (m,) or (m, K)
        Predictions on the unlabelled rows. With m < 2, λ is 0 (``"tuned"``) or must be 0.
    alpha : float
        The interval has level 1 − alpha.
    lam : float in [0, 1] or "tuned"
        See :func:`~ftrect_ray.estimators.power_tuning.tuned_lam`; 0 is the classical estimate, 1 is PPI.
    folds : array (n,) of int, optional
        Column of ``Yhat_unlabeled`` whose model did not see the row.

    Returns
    -------
    Estimate
        Constant answers give width 0 and constant predictions the classical estimate, each with a warning.

    Raises
    ------
    InputError
        See :mod:`~ftrect_ray.estimators.validation`.

    Examples
    --------
    >>> est = mean([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 3.0], lam=1.0)
    >>> round(est.value, 4)
    3.3333
    """
    alpha, lam = open_unit("alpha", alpha), power_tuning(lam)
    data = predictions(Y, Yhat, Yhat_unlabeled, folds)
    lam, notes = usable_lam(lam, data.m)
    labeled, predicted, imputed = _scores(data)
    weight = tuned_lam(labeled, predicted, imputed) if lam == "tuned" else lam
    variance = float(rectified_covariance(labeled, predicted, imputed, weight)[0, 0])
    classical_variance = float(covariance_of_mean(labeled)[0, 0])
    return with_normal_interval(
        float(np.mean(labeled - weight * predicted)),
        variance,
        alpha=alpha,
        lam=weight,
        n=data.n,
        m=data.m,
        effective_n=worth(data.n, classical_variance, variance),
        target="mean",
        diagnostics=diagnostics.compare(data, weight, notes),
    )


def _scores(data: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of the mean: (n, 1), (n, 1), (m, 1).

    The predicted score is f(X_i) minus the mean of the same model over the unlabelled rows, so that
    mean(labeled − λ·predicted) is the estimate: the rectifier and the imputed mean in one.
    """
    imputed_mean = data.unlabeled.mean(axis=0) if data.m else np.zeros(data.unlabeled.shape[1])
    predicted = without_rounding(data.Yhat - data.own(imputed_mean), data.Yhat)
    return data.Y[:, None], predicted[:, None], data.imputed[:, None]
