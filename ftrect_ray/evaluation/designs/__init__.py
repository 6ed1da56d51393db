"""Designs as functions of one draw of labels: what the pipeline does with a budget, without files and without Ray.

Every number comes from the product's own estimators, pilots' law and planner. A design charges each use of a label, so
that the ledger can be asked whether one of them both shaped a model and rectified it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.errors import InputError, StatisticalRefusal, near_match
from ftrect_ray.evaluation.designs import given, piloted
from ftrect_ray.evaluation.designs.crossed import crossfit, in_batches, rotate
from ftrect_ray.evaluation.designs.replication import Charge, DesignResult, PilotRule, Replication

__all__ = [
    "DESIGNS",
    "NEEDS_ZERO_SHOT",
    "Charge",
    "DesignResult",
    "PilotRule",
    "Recipe",
    "Replication",
    "fewest_labels",
    "sizes_of_pilots",
]

#: Shares of the labels that a single split's model may train on; the best of them is known afterwards only.
PERCENT = (5, *range(10, 70, 10))
#: Batches of ``sequential``, and the share of the labels that is the first.
BATCHES, FIRST = 5, 0.1
FOLDS = (2, 3, 4, 5, 10)
ROTATIONS = ((1, 3), (1, 4), (2, 4), (1, 5), (2, 5), (3, 5))


@dataclass(frozen=True)
class Recipe:
    """A design and what it needs.

    Attributes
    ----------
    run : callable
        From a :class:`~.replication.Replication` to its :class:`~.replication.DesignResult`.
    fewest : int
        Labels.
    """

    run: Callable[[Replication], DesignResult]
    fewest: int

    def __call__(self, replication: Replication) -> DesignResult:
        """Replay it.

        Raises
        ------
        StatisticalRefusal
            Too few labels, for the design or for its pilots.
        InputError
            It needs predictions that are not there.
        """
        if replication.n < self.fewest:
            raise StatisticalRefusal(f"{replication.n} labels are too few; the design needs {self.fewest}")
        return self.run(replication)


def _share(percent: int) -> Recipe:
    return Recipe(partial(piloted.split, share=percent / 100), -(-100 * MINIMUM // percent))


#: By name. Savings are measured against ``mean``.
DESIGNS: dict[str, Recipe] = {
    "mean": Recipe(given.sample_mean, 2),
    "finetune-only": Recipe(given.finetune_only, MINIMUM),
    "ppi": Recipe(given.ppi, 2),
    "ppi++": Recipe(given.ppi_tuned, 4),
    "recalibrated": Recipe(given.recalibrated, given.RECALIBRATION_FOLDS * 2),
    "split-ramp-up": Recipe(piloted.split_ramp_up, 100),
    **{f"split-{percent}": _share(percent) for percent in PERCENT},
    "recycle": Recipe(piloted.recycle, 100),
    "sequential": Recipe(partial(in_batches, batches=BATCHES, first=FIRST), round(MINIMUM / FIRST)),
    **{f"crossfit-{k}": Recipe(crossfit(k), k * MINIMUM) for k in FOLDS},
    **{f"rotation-{p}-{q}": Recipe(partial(rotate, train=p, folds=q), q * MINIMUM) for p, q in ROTATIONS},
    "auto": Recipe(piloted.auto, 4 * MINIMUM),
}

#: Designs that rectify predictions of a model that saw no label.
NEEDS_ZERO_SHOT = frozenset({"ppi", "ppi++", "recalibrated"})


#: Designs that pilots precede, with the sizes that a budget has room for.
PILOTED = {"split-ramp-up": piloted.ramp_sizes, "recycle": piloted.ramp_sizes, "auto": piloted.pilot_sizes}


def sizes_of_pilots(name: str, rule: PilotRule, n: int) -> tuple[int, ...] | None:
    """Sizes of the pilots that precede a design in a budget of ``n`` labels, perhaps none; None where none would.

    Examples
    --------
    >>> sizes_of_pilots("auto", PilotRule(sizes=(50, 100, 200)), 120), sizes_of_pilots("mean", PilotRule(), 120)
    ((50,), None)
    """
    return PILOTED[name](rule, n) if name in PILOTED else None


def fewest_labels(name: str) -> int:
    """Labels below which the design is not even tried.

    Raises
    ------
    InputError
        There is no such design.

    Examples
    --------
    >>> fewest_labels("crossfit-5")
    50
    """
    if name not in DESIGNS:
        raise InputError(f"there is no design {name!r}", mend=near_match(name, DESIGNS))
    return DESIGNS[name].fewest
