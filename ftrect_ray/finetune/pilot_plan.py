"""The pilots of a study: which labels each trains on and is measured with (FTR EC.2; see ``allocation.pilot_rows``)."""

from __future__ import annotations

import numpy as np

from ftrect_ray.allocation.pilot_rows import largest_size, pilot_draws
from ftrect_ray.errors import InputError
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.pilot import PilotSpec
from ftrect_ray.finetune.spec import Coefficients, FitSpec, Rows
from ftrect_ray.finetune.untrained import asked
from ftrect_ray.study import Model, Pilots, Study, Training

#: Fewest validation rows: the relative error of a variance from v rows is about √(2/v), a third here.
MIN_VALIDATION = 20

#: The name of a pilot of an untrained model ends so.
UNTRAINED = "s0"


def validation_rows(pilots: Pilots, n: int) -> int:
    """Labels that measure the pilots: as asked, or a quarter of the budget of ``n`` labels, 20 at least; 0 for folds.

    Raises
    ------
    InputError
        Where they and the largest pilot do not both fit into the budget.
    """
    largest = pilots.sizes[-1]
    if pilots.in_folds:
        room = largest_size(n, pilots.scheme, 0, pilots.folds)
        if largest > room:
            outside = "" if room == n else f"; {room} are outside one of {pilots.folds} folds"
            raise InputError(
                f"'pilots.sizes' asks for {largest} labels of {n}{outside}",
                where="pilots",
                mend="lower pilots.sizes, raise labels, or set 'pilots: null' with a named design",
            )
        return 0
    validation = pilots.validation or max(MIN_VALIDATION, n // 4)
    if validation + largest > n:
        left = max(0, n - validation)
        raise InputError(
            f"'pilots.sizes' asks for {largest} labels; of {n}, {validation} are held for validation and {left} left",
            where="pilots",
            mend="lower pilots.sizes or pilots.validation, raise labels, or set 'pilots: null' with a named design",
        )
    return validation


def plan_pilots(
    rows: Rows,
    pilots: Pilots,
    model: Model,
    training: Training,
    objective: str,
    seed: int,
    coefficients: Coefficients | None = None,
    candidate: str = "",
) -> list[PilotSpec]:
    """The pilots of one model, sizes within seeds.

    Parameters
    ----------
    rows : Rows
        The label budget, n rows.
    seed : int
        The study's; the draw of the rows, the orders and the fits follow from it.
    coefficients : Coefficients, optional
        What the objective is about.
    candidate : str
        The model's name in the study; its pilots bear it. All candidates get the same rows.

    Raises
    ------
    InputError
        Where the budget does not hold the largest pilot and what measures it.
    StatisticalRefusal, InputError
        Where a pilot's rows cannot carry the coefficients; see ``finetune.influence``.
    """
    n = len(rows)
    draws = pilot_draws(
        n, pilots.sizes, pilots.seeds, pilots.scheme, validation_rows(pilots, n), pilots.folds, seed, rows.clusters
    )
    alone = training.model_copy(update={"workers": 1, "cpus_per_worker": 1})  # more workers: the same pilots
    weigh = rows if pilots.in_folds and coefficients is not None else None
    specs = []
    for draw in draws:
        trained = len(draw.own) - max(2, round(training.stopping_fraction * len(draw.own)))
        train, stop = rows.take(draw.own[:trained]), rows.take(draw.own[trained:])
        fit_seed = seed + 1 + draw.repetition
        fit = FitSpec(draw.name, train, stop, model, alone, objective, fit_seed, coefficients)
        name, measure = pilot_name(draw.name, candidate), rows.take(draw.measure)
        specs.append(PilotSpec(name, draw.size, draw.repetition, fit, measure, candidate, weigh))
    for spec in specs:  # what cannot be weighted is refused before any work
        Influence.of_fit(spec.fit)
        spec.influence()
    return specs


def plan_untrained(
    rows: Rows,
    model: Model,
    training: Training,
    objective: str,
    coefficients: Coefficients | None = None,
    candidate: str = "",
) -> PilotSpec | None:
    """The pilot of size 0: the model as it is, measured on the whole budget; None where it cannot be asked.

    No label shapes it, so every label may measure it and rectify it afterwards. What is chosen with the measurement is
    whether this model or another one is rectified, never anything inside a model.
    """
    if not model.has_answers:
        return None
    name, none = f"pilot-{UNTRAINED}", rows.take(np.arange(0))
    precision = Training(precision=training.precision)  # nothing else of it matters
    fit = FitSpec(name, none, none, asked(model), precision, objective, 0, coefficients)
    return PilotSpec(pilot_name(name, candidate), 0, 0, fit, rows, candidate)


def plan_all(rows: Rows, study: Study) -> list[PilotSpec]:
    """The pilots of every candidate of ``study``, untrained models first."""
    assert study.pilots is not None
    coefficients = Coefficients.of(study.target, study.objective)
    untrained, trained = [], []
    for name, own in study.contenders.items():
        settings = (own.model, own.training, own.objective)
        untrained.append(plan_untrained(rows, *settings, coefficients, name))
        trained += plan_pilots(rows, study.pilots, *settings, own.seed, coefficients, name)
    return [spec for spec in untrained if spec is not None] + trained


def pilot_name(drawn: str, candidate: str) -> str:
    """``pilot-mini-s50-r0`` of the candidate ``mini``, whose fit is called ``pilot-s50-r0``."""
    return drawn.replace("pilot-", f"pilot-{candidate}-", 1) if candidate else drawn


def is_untrained(pilot: str) -> bool:
    """Whether a pilot of this name measured a model as it is."""
    return pilot.endswith(f"-{UNTRAINED}")
