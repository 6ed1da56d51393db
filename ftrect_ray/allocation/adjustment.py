"""A residual variance measured on few rows, made steadier by the answers of many."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import shown


def adjusted_variances(variances: ArrayLike, answer_variances: ArrayLike, answer_variance: ArrayLike) -> np.ndarray:
    """v̂·(σ̂²/σ̂²_V)^(v̂/σ̂²_V): the regression estimator of log v on log σ².

    Pilots are measured on few rows V, and Var(Y) is known from all labels. Where the rows of V have answers that are
    spread more than those of all labels, residuals are larger there too: a model that explains nothing has v̂ = σ̂²_V.
    For normal residuals that are uncorrelated with the prediction, Corr(log v̂, log σ̂²_V) = v/σ², so this is the best
    power, and the variance of log v̂ falls from 2/(n_V − 1) to (1 − (v/σ²)²)·2/(n_V − 1): to a tenth where the model
    leaves 95 %, the case in which "do not fine-tune" must be told from a small gain; by a third at 57 %.

    Parameters
    ----------
    variances : array (…)
        v̂ ≥ 0; also bootstrap versions.
    answer_variances : array that broadcasts with it
        σ̂²_V > 0 of the rows that each was measured on, resampled alike.
    answer_variance : float, or array that broadcasts with them
        σ̂² > 0 of all labels.

    Raises
    ------
    InputError
        A variance outside its range.

    Examples
    --------
    >>> adjusted_variances([1.5, 0.0], 1.5, 1.2).round(6).tolist()  # no model, and a perfect one
    [1.2, 0.0]
    """
    left, there, whole = (np.asarray(given, dtype=float) for given in (variances, answer_variances, answer_variance))
    for name, array, good, rule in (
        ("variances", left, np.isfinite(left) & (left >= 0), "≥ 0"),
        ("answer_variances", there, np.isfinite(there) & (there > 0), "> 0"),
        ("answer_variance", whole, np.isfinite(whole) & (whole > 0), "> 0"),
    ):
        if not good.all():
            raise InputError(f"'{name}' must be finite numbers {rule}; got {shown(array[~good].flat[0])}.")
    return np.asarray(left * (whole / there) ** np.minimum(left / there, 1.0))
