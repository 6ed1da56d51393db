"""How many labels a wished width costs, and which design buys it for the least money."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from ftrect_ray.allocation.checks import positive
from ftrect_ray.allocation.costs import Compute, Prices
from ftrect_ray.allocation.curves import Curve
from ftrect_ray.allocation.designs import Rule, Setting
from ftrect_ray.allocation.fitting import LawFit
from ftrect_ray.allocation.planner import BATCHES, FOLDS, Rotation, hours_of, price_of, rules, setting_of
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.allocation.table import Population
from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.result import normal_quantile
from ftrect_ray.estimators.validation import open_unit

MAXIMUM_LABELS = 10_000_000


@dataclass(frozen=True)
class Offer:
    """A design that reaches a wished width.

    Attributes
    ----------
    design : str
    labels : int
        The fewest with which it does.
    finetunes : int
    gpu_hours : float or None
        None without ``compute``.
    price : float
        Of labels and device-hours.
    """

    design: str
    labels: int
    finetunes: int
    gpu_hours: float | None
    price: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


def labels_for_half_width(
    law: ScalingLaw | LawFit | Curve,
    half_width: float,
    *,
    labels: int | None = None,
    unlabeled: int | None = None,
    variance: float | None = None,
    rectify_variance: float | None = None,
    folds: Sequence[int] = FOLDS,
    rotations: Sequence[Rotation] = (),
    batches: int = BATCHES,
    population: Population = "infinite",
    alpha: float = 0.05,
    spent: int = 0,
    minimum: int = MINIMUM,
) -> dict[str, int | None]:
    """The fewest labels with which each design reaches ± ``half_width``; None where no number does.

    ``split`` holds nothing back for pilots, which spend ``spent`` labels. Found by bisection: every design's variance
    falls with n. The texts stay as many while the labels grow; of a finite population it is the rows, ``labels`` +
    ``unlabeled``, and ``labels`` matter for nothing else. See :func:`~ftrect_ray.allocation.planner.plan` for the
    other arguments.

    Raises
    ------
    InputError
        An argument outside its range.

    Examples
    --------
    >>> labels_for_half_width(ScalingLaw(16.86, 0.553, 2.754), 0.2, variance=9.57)["classical"]
    920
    """
    wished = wished_variance(half_width, alpha)
    setting = setting_of(law, labels, unlabeled, variance, rectify_variance, minimum, population)
    return {name: fewest(rule, setting, wished) for name, _, rule in rules(folds, rotations, batches, spent)}


def cheapest(
    law: ScalingLaw | LawFit | Curve,
    half_width: float,
    *,
    prices: Prices,
    compute: Compute | None = None,
    max_finetunes: int | None = None,
    labels: int | None = None,
    unlabeled: int | None = None,
    variance: float | None = None,
    rectify_variance: float | None = None,
    folds: Sequence[int] = FOLDS,
    rotations: Sequence[Rotation] = (),
    batches: int = BATCHES,
    population: Population = "infinite",
    alpha: float = 0.05,
    spent: int = 0,
    minimum: int = MINIMUM,
) -> tuple[Offer, ...]:
    """The designs that reach ± ``half_width``, the least total price first; on a tie, fewer labels.

    A design with its fewest labels costs least, since labels, training and predictions all cost more with more
    labels. See :func:`labels_for_half_width` for the arguments; with ``compute``, ``unlabeled`` is needed. Designs with
    more fine-tunes than ``max_finetunes`` are left out, and with ``spent`` labels the ``split`` that knows no pilots.

    Raises
    ------
    InputError
        An argument outside its range, or a price of device-hours without ``compute``.
    StatisticalRefusal
        No design reaches the width.

    Examples
    --------
    >>> law = ScalingLaw(16.86, 0.553, 2.754)
    >>> best = cheapest(law, 0.2, prices=Prices(label=1.0), unlabeled=15000, variance=9.57)[0]
    >>> best.design, best.labels
    ('crossfit-10', 346)
    """
    if compute is None and prices.gpu_hour:
        raise InputError("a price of device-hours needs 'compute'.", mend="give what a label and a text take")
    if compute is not None and unlabeled is None:
        raise InputError("'unlabeled' is needed with 'compute'.", mend="say how many texts are to be predicted")
    wished, limit = wished_variance(half_width, alpha), inf if max_finetunes is None else max_finetunes
    setting = setting_of(law, labels, unlabeled, variance, rectify_variance, minimum, population)
    offers = []
    for name, finetunes, rule in rules(folds, rotations, batches, spent):
        if finetunes > limit or (name == "split" and spent):
            continue
        n = fewest(rule, setting, wished)
        if n is None:
            continue
        predicted = rule(setting, n)
        hours = hours_of(predicted, setting, n, compute)
        price = price_of(hours, predicted, n, prices)
        assert price is not None
        offers.append(Offer(name, n, finetunes, hours, price))
    if not offers:
        raise StatisticalRefusal(
            f"no design reaches ± {half_width:g} with {MAXIMUM_LABELS:,} labels or fewer",
            mend="wish a wider interval, or give 'variance'",
        )
    return tuple(sorted(offers, key=lambda offer: (offer.price, offer.labels, offer.finetunes)))


def wished_variance(half_width: float, alpha: float) -> float:
    """Var θ̂ of an interval of ± ``half_width`` at level 1 − ``alpha``."""
    return (positive("half_width", half_width) / normal_quantile(open_unit("alpha", alpha))) ** 2


def fewest(rule: Rule, setting: Setting, wished: float) -> int | None:
    """The fewest labels with which a design's variance is ``wished`` or less; None where none is."""
    setting = replace(setting, curve=setting.curve.without_draws())

    def enough(n: int) -> bool:
        variance = rule(setting, n).variance
        return variance is not None and variance <= wished

    return first_enough(enough, min(setting.rows or MAXIMUM_LABELS, MAXIMUM_LABELS))


def first_enough(enough: Callable[[int], bool], most: int) -> int | None:
    """The first whole number from 2 that is ``enough``, as are all after it; None above ``most``."""
    low, high = 1, 2
    while not enough(high):
        if high == most:
            return None
        low, high = high, min(4 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
