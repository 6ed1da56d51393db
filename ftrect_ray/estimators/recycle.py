"""Recycling: the labels that trained the model still carry a classical estimate (METHOD, "Three more ways")."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.combination import combined, variance, variance_without_model
from ftrect_ray.estimators.diagnostics import numbers_of
from ftrect_ray.estimators.result import Estimate, reported
from ftrect_ray.estimators.settings import Alternative, Settings

AGREED = ("target", "names", "alpha", "alternative", "null")


def recycle(classical: Estimate, rectified: Estimate) -> Estimate:
    """Combine, by inverse variance, two estimates of the same thing from disjoint labels.

    The classical estimate comes from the s fine-tuning labels, the rectified one from the other n − s. They are
    uncorrelated: given the fine-tuning labels, the rectified estimate is unbiased whatever the model. Variance
    1/(1/Var_classical + 1/Var_rectified), degrees of freedom by Satterthwaite. Coefficients are combined one by one,
    and their intervals hold one by one.

    Var_classical is v/s, with the variance v of one label pooled over both parts. Where few labels have skewed or rare
    answers, a part's own variance goes with its own value, and weights made of it are biased: of a rare event (5 % of
    200 labels, 60 of them fine-tuning) a nominal 95 % interval then holds 90 %, with the pooled one 92.5 %.

    Where one of the variances is 0 all the same, inverse variance would give that part all the weight; both parts are
    then weighted by their numbers of labels, with a warning.

    Parameters
    ----------
    classical, rectified : Estimate
        Of any target whose interval is a t or a normal one: quantiles and bootstrap intervals are refused.

    Returns
    -------
    Estimate
        ``lam`` and the four numbers of the diagnostics are the rectified part's. ``effective_n`` counts labels of the
        whole; what one of them carries is taken from the rectifying rows.

    Raises
    ------
    InputError
        The two do not estimate the same thing at the same level, or cannot be combined.

    Examples
    --------
    >>> from ftrect_ray.estimators.classical import classical_mean
    >>> from ftrect_ray.estimators.mean import mean
    >>> rectified = mean([2.0, 3.0, 5.0], [2.0, 3.0, 4.0], [2.0, 4.0, 3.0, 3.0, 4.0], lam=1.0)
    >>> est = recycle(classical_mean([1.0, 3.0, 5.0]), rectified)
    >>> round(est.value, 4), round(est.std_error, 4), round(est.df, 2)
    (3.4308, 0.4504, 7.52)
    """
    for field in AGREED:
        if not np.array_equal(getattr(classical, field), getattr(rectified, field)):
            raise InputError(
                f"'classical' and 'rectified' must have the same {field}; "
                f"got {getattr(classical, field)!r} and {getattr(rectified, field)!r}."
            )
    if rectified.target.startswith("quantile"):
        raise InputError("a quantile cannot be recycled.", mend="use the rectified estimate, or cross-fitting")
    if classical.df is None or rectified.df is None:
        raise InputError("a bootstrap interval cannot be recycled.", mend="drop 'bootstrap' from both parts")
    if classical.effective_n is None or rectified.effective_n is None:
        raise InputError("the model alone cannot be recycled.", mend="give a classical and a rectified estimate")
    n, one_label = classical.n + rectified.n, variance_without_model(rectified) * rectified.n
    pooled = (variance(classical) * classical.n**2 + one_label * rectified.n) / n
    var_classical, var_rectified = pooled / classical.n, variance(rectified)
    known = (var_classical > 0) & (var_rectified > 0)
    share = np.full_like(var_classical, classical.n / n)
    share[known] = var_rectified[known] / (var_classical + var_rectified)[known]
    notes = () if known.all() else ("one part has variance 0: the parts are weighted by their numbers of labels",)
    (deviation,) = reported(classical.names, np.sqrt(var_classical))
    return combined(
        {"classical": replace(classical, std_error=deviation), "rectified": rectified},
        (share, 1 - share),
        Settings(alpha=rectified.alpha, alternative=cast(Alternative, rectified.alternative), null=rectified.null),
        target=rectified.target,
        lam=rectified.lam,
        classical_variance=one_label / n,
        notes=notes,
        numbers=numbers_of(rectified.diagnostics),
    )
