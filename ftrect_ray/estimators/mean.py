"""The rectified mean (FTR eq. 1 and 2; PPI; PPI++), for one model and cross-fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.means import rectified_means
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Options, Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack


def mean(Y: ArrayLike, Yhat: ArrayLike, Yhat_unlabeled: ArrayLike, **options: Unpack[Options]) -> Estimate:
    """The population mean of the answers.

    θ̂ = mean(Y − λf(X)) + λ·mean f(X̃), with Var θ̂ = Var(Y − λf)/n + λ² Var(f)/m.

    Cross-fitted: ``Yhat`` is out of fold and ``Yhat_unlabeled`` has one column a model. With ``folds``, each labelled
    prediction is measured from its own model's mean over the unlabelled rows, which weights the models by n_k/n and
    makes a constant bias of one of them cost nothing. K equal models give the single-model estimate exactly. Without
    ``folds`` the models weigh 1/K.

    Parameters
    ----------
    Y : array (n,)
        Answers, n ≥ 2. None of these rows may have trained or selected the model that predicted it.
    Yhat : array (n,) or (n, K)
        Predictions on the rows of ``Y``; with K columns and ``folds``, those of the models that saw a row are not used.
    Yhat_unlabeled : array (m,) or (m, K)
        Predictions on the unlabelled rows. With m < 2, λ is 0 (tuned) or must be 0.
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`.

    Returns
    -------
    Estimate
        Constant answers give width 0 and constant predictions the classical estimate, each with a warning.

    Raises
    ------
    InputError
        See :mod:`~ftrect_ray.estimators.validation`.
    StatisticalRefusal
        A stratum with a single sampling unit.

    Examples
    --------
    >>> est = mean([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 3.0], lam=1.0)
    >>> round(est.value, 4)
    3.3333
    """
    settings = Settings.of(options)
    labeled, unlabeled = checked(Y, Yhat, Yhat_unlabeled, settings)
    return estimated(rectified_means, labeled, unlabeled, settings)
