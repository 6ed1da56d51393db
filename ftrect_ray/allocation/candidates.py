"""Several candidate models: which one, with which design."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ftrect_ray.allocation.costs import Compute
from ftrect_ray.allocation.curves import Curve
from ftrect_ray.allocation.design import Design
from ftrect_ray.allocation.fitting import LawFit
from ftrect_ray.allocation.planner import plan
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.table import Plan
from ftrect_ray.errors import InputError, StatisticalRefusal


@dataclass(frozen=True)
class Choice:
    """A candidate model and its best design.

    Attributes
    ----------
    candidate : str
        Also where ``design`` does not fine-tune, and any model would do.
    design : Design
        With the reason in ``note``.
    """

    candidate: str
    design: Design


def plan_models(
    laws: Mapping[str, ScalingLaw | LawFit | Curve],
    *,
    compute: Mapping[str, Compute] | None = None,
    rectify_variance: Mapping[str, float] | None = None,
    untrained: Collection[str] = (),
    spent_law: Mapping[str, LawFit] | None = None,
    **arguments: Any,
) -> dict[str, Plan]:
    """A plan for each candidate, in the order of ``laws``.

    Parameters
    ----------
    laws : mapping of name to law, fit or curve
    compute, rectify_variance, spent_law : mapping of name, optional
        Of the candidates that have them.
    untrained : collection of name
        Of whose ``rectify_variance`` the candidate itself, as it is, makes the predictions.
    **arguments
        What the candidates share: see :func:`~ftrect_ray.allocation.planner.plan`.

    Raises
    ------
    InputError
        No candidates, or see ``plan``.
    """
    if not laws:
        raise InputError("'laws' must name at least one candidate; got 0.")
    costs, given, seen = compute or {}, rectify_variance or {}, spent_law or {}
    return {
        name: plan(
            law,
            compute=costs.get(name),
            rectify_variance=given.get(name),
            untrained=name in untrained,
            spent_law=seen.get(name),
            **arguments,
        )
        for name, law in laws.items()
    }


def choose_model(
    plans: Mapping[str, Plan], max_finetunes: int | None = None, available: Collection[str] | None = None
) -> Choice:
    """The candidate whose chosen design has the smallest predicted variance; on a tie, the first one.

    Choosing the smallest of several forecasts favours those that err low: with C candidates whose forecasts err by a
    relative e, the promise is short of the truth by about e·sqrt(2 ln C). The estimate itself stays valid.

    Parameters
    ----------
    plans : mapping of candidate to Plan
        As :func:`plan_models` makes them.
    max_finetunes, available
        See :meth:`~ftrect_ray.allocation.table.Plan.choose`.

    Raises
    ------
    InputError
        No candidates, or an unknown name in ``available``.
    StatisticalRefusal
        No design can be had with any candidate.
    """
    if not plans:
        raise InputError("'plans' must name at least one candidate; got 0.")
    choices, refusals = [], []
    for name, made in plans.items():
        try:
            choices.append(Choice(name, made.choose(max_finetunes, available)))
        except StatisticalRefusal as refusal:
            refusals.append(f"{name}: {refusal.what}")
    if not choices:
        raise StatisticalRefusal("; ".join(refusals), mend="label more rows")
    return min(choices, key=lambda choice: choice.design.variance or 0.0)
