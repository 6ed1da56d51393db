"""The power to see a difference between two groups' means, and the labels that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.optimize import brentq
from scipy.stats import norm

from ftrect_ray.allocation.checks import positive
from ftrect_ray.allocation.curves import Curve
from ftrect_ray.allocation.fitting import LawFit
from ftrect_ray.allocation.planner import BATCHES, FOLDS, Rotation, rules, setting_of
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.allocation.widths import fewest
from ftrect_ray.errors import InputError
from ftrect_ray.estimators.result import normal_quantile
from ftrect_ray.estimators.validation import open_unit


def power(difference: float, std_error: float, alpha: float = 0.05) -> float:
    """The probability that a two-sided test at level ``alpha`` sees a true ``difference``.

    Φ(|δ|/se − z) + Φ(−|δ|/se − z), z the normal quantile of 1 − α/2.

    Parameters
    ----------
    difference : float
        δ ≠ 0, of two means; of one mean from its null value, give that mean's standard error.
    std_error : float
        Of the estimated difference; > 0. See :func:`std_error_of_difference`.

    Raises
    ------
    InputError
        An argument outside its range.

    Examples
    --------
    >>> round(power(0.5, 0.5 / 2.8), 2), round(power(1e-12, 1.0), 3)
    (0.8, 0.05)
    """
    ratio = positive("difference", abs(difference)) / positive("std_error", std_error)
    return _power(ratio, normal_quantile(open_unit("alpha", alpha)))


def std_error_of_difference(std_error: float, share: float = 0.5) -> float:
    """Of two groups' means, from the standard error of all rows' mean: se/sqrt(share·(1 − share)).

    ``share`` of the labels, and of the texts, belong to one group. The law and Var(Y) are taken to be the same in both,
    the two means to be independent: exact for the classical ones.

    >>> std_error_of_difference(0.1)
    0.2
    """
    share = open_unit("share", share)
    return float(positive("std_error", std_error) / (share * (1 - share)) ** 0.5)


def labels_for_power(
    law: ScalingLaw | LawFit | Curve,
    difference: float,
    *,
    power: float = 0.8,
    share: float = 0.5,
    unlabeled: int | None = None,
    variance: float | None = None,
    rectify_variance: float | None = None,
    folds: Sequence[int] = FOLDS,
    rotations: Sequence[Rotation] = (),
    batches: int = BATCHES,
    alpha: float = 0.05,
    spent: int = 0,
    minimum: int = MINIMUM,
) -> dict[str, int | None]:
    """The fewest labels, of both groups together, with which each design sees ``difference`` with ``power``.

    One model is trained on the labels of both groups. See :func:`~ftrect_ray.allocation.planner.plan` for the other
    arguments, and :func:`std_error_of_difference` for what is assumed of the groups.

    Raises
    ------
    InputError
        An argument outside its range, or ``power`` not above ``alpha``.

    Examples
    --------
    >>> labels_for_power(ScalingLaw(16.86, 0.553, 2.754), 1.0, variance=9.57)["classical"]
    301
    """
    wished, alpha = open_unit("power", power), open_unit("alpha", alpha)
    std_error = positive("difference", abs(difference)) / _ratio_for(wished, alpha)
    of_mean = std_error / std_error_of_difference(1.0, share)
    setting = setting_of(law, None, unlabeled, variance, rectify_variance, minimum, "infinite")
    return {name: fewest(rule, setting, of_mean**2) for name, _, rule in rules(folds, rotations, batches, spent)}


def _ratio_for(wished: float, alpha: float) -> float:
    """|δ|/se that has the ``wished`` power."""
    if wished <= alpha:
        raise InputError(f"'power' must be above 'alpha' ({alpha:g}); got {wished:g}.")
    z = normal_quantile(alpha)
    return float(brentq(lambda ratio: _power(ratio, z) - wished, 0.0, z + 40.0))


def _power(ratio: float, z: float) -> float:
    return float(norm.cdf(ratio - z) + norm.cdf(-ratio - z))
