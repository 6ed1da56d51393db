"""Recycling: the labels that trained the model still carry a classical estimate."""

from __future__ import annotations

from typing import cast

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.assemble import with_normal_interval, worth
from ftrect_ray.estimators.result import Estimate, Number


def recycle(classical: Estimate, rectified: Estimate) -> Estimate:
    """Combine, by inverse variance, two estimates of the same thing from disjoint labels.

    The classical estimate comes from the s fine-tuning labels, the rectified one from the other n − s.
    They are uncorrelated: given the fine-tuning labels, the rectified estimate is unbiased whatever the
    model. Variance 1/(1/Var_classical + 1/Var_rectified). Coefficients are combined one by one.

    Where one of the variances is 0 (constant answers), inverse variance would give that part all the
    weight; both parts are then weighted by their numbers of labels, with a warning.

    Parameters
    ----------
    classical, rectified : Estimate
        Mean or OLS; quantiles have no normal standard error and are refused.

    Raises
    ------
    InputError
        The two do not estimate the same thing at the same level, or are quantiles.
    """
    if classical.target != rectified.target or classical.names != rectified.names or classical.alpha != rectified.alpha:
        raise InputError("'classical' and 'rectified' must have the same target, names and alpha.")
    if rectified.target.startswith("quantile"):
        raise InputError("a quantile cannot be recycled.", mend="use the rectified estimate, or cross-fitting")
    var_classical, var_rectified = np.square(classical.std_error), np.square(rectified.std_error)
    notes = list(dict.fromkeys(classical.warnings + rectified.warnings))
    if np.any(var_classical == 0) or np.any(var_rectified == 0):
        share = np.full_like(var_classical, classical.n / (classical.n + rectified.n))
        notes.append("one part has variance 0: the parts are weighted by their numbers of labels")
    else:
        share = var_rectified / (var_classical + var_rectified)
    value = share * classical.value + (1 - share) * rectified.value
    variance = share**2 * var_classical + (1 - share) ** 2 * var_rectified
    scalar = rectified.names is None
    return with_normal_interval(
        float(value) if scalar else value,
        float(variance) if scalar else variance,
        alpha=rectified.alpha,
        lam=rectified.lam,
        n=classical.n + rectified.n,
        m=rectified.m,
        effective_n=_worth(classical, rectified, variance),
        target=rectified.target,
        names=rectified.names,
        diagnostics={**rectified.diagnostics, "warnings": notes},
    )


def _worth(classical: Estimate, rectified: Estimate, variance: np.ndarray) -> Number:
    """In labels of the whole: the classical variance of one label is taken from the rectifying rows."""
    one_label = cast(Number, rectified.effective_n) * np.square(rectified.std_error)
    n = classical.n + rectified.n
    return worth(n, one_label / n, variance)
