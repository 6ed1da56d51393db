"""What a worker does: some replications of one model, objective and budget, each by itself.

Nothing of a replication depends on which others are replayed with it: its rows, seeds and fits follow from the
evaluation's seed, its budget and its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.evaluation.designs import DESIGNS, NEEDS_ZERO_SHOT, Replication
from ftrect_ray.evaluation.frozen import FrozenLearner
from ftrect_ray.evaluation.learners import FineTuneLearner, Learner, SharedFits
from ftrect_ray.evaluation.population import draw, replication_seed
from ftrect_ray.evaluation.records import KEY, Key
from ftrect_ray.evaluation.spec import Candidate, EvaluationSpec
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.storage import RunStorage


@dataclass(frozen=True)
class Unit:
    """Work that one worker does at a time.

    Attributes
    ----------
    replications : tuple of (int, tuple of str)
        Numbers of the replications, each with the designs that are to be replayed.
    """

    model: str
    objective: str
    budget: int
    replications: tuple[tuple[int, tuple[str, ...]], ...]

    def key(self, replication: int, design: str) -> Key:
        return self.model, self.objective, self.budget, replication, design


@dataclass(frozen=True)
class World:
    """What is the same for all units of one model.

    Attributes
    ----------
    answers : np.ndarray
        float64 (N,).
    rows : Rows or None
        The population with its texts, where there are fine-tunes.
    features : np.ndarray or None
        float (N, p), of the frozen backbone: the fast lane.
    zero_shot : np.ndarray or None
        float64 (N,), predictions of a model that saw no label: what PPI rectifies.
    existing : tuple of np.ndarray
        Those that ``auto`` may rectify, as a study of the candidate would have them.
    work : str
        Path or URI of the folder where fine-tunes leave what they computed.
    """

    spec: EvaluationSpec
    candidate: Candidate
    answers: np.ndarray
    rows: Rows | None
    features: np.ndarray | None
    zero_shot: np.ndarray | None
    existing: tuple[np.ndarray, ...]
    work: str


def units(spec: EvaluationSpec, models: Sequence[str], known: Callable[[Key], bool], chunk: int) -> Iterator[Unit]:
    """What is still to do, ``chunk`` replications at a time, the first replications of everything first.

    Parameters
    ----------
    known : callable
        Whether there is a record.
    """
    for first in range(0, spec.replications, chunk):
        numbers = range(first, min(first + chunk, spec.replications))
        for budget in spec.budgets:
            for model in models:
                for objective in spec.objectives:
                    empty = Unit(model, objective, budget, ())
                    missing = [
                        (number, tuple(name for name in spec.replayed if not known(empty.key(number, name))))
                        for number in numbers
                    ]
                    if wanted := tuple((number, names) for number, names in missing if names):
                        yield Unit(model, objective, budget, wanted)


def replay(unit: Unit, world: World) -> list[dict[str, Any]]:
    """The records of ``unit``: rows as ``records.SCHEMA`` has them.

    A design that cannot be carried out in a replication is recorded with the reason.

    Raises
    ------
    EnvironmentFault
        The model does not load.
    """
    found = []
    for number, names in unit.replications:
        replication = _draw(unit, world, number)
        for name in names:
            found.append(dict(zip(KEY, unit.key(number, name), strict=True)) | _outcome(name, replication))
    return found


def _draw(unit: Unit, world: World, number: int) -> Replication:
    spec, seed = world.spec, world.spec.study.seed
    kept, labeled = draw(len(world.answers), unit.budget, spec.texts, seed, number)
    return Replication(
        labeled=labeled,
        answers=world.answers[kept],
        learner=SharedFits(_learner(world, kept)),
        objective=unit.objective,
        seed=replication_seed(unit.budget, seed, number),
        alpha=spec.study.alpha,
        zero_shot=None if world.zero_shot is None else world.zero_shot[kept],
        existing=tuple(given[kept] for given in world.existing),
        pilots=spec.pilot_rule(unit.budget),
        max_finetunes=spec.finetunes_allowed,
    )


def _learner(world: World, kept: np.ndarray) -> Learner:
    if world.features is not None:
        whole = len(kept) == len(world.answers)
        return FrozenLearner(world.features if whole else world.features[kept], world.answers[kept])
    assert world.rows is not None
    storage = RunStorage.open(world.work)
    return FineTuneLearner(
        world.rows.take(kept),
        world.candidate.model,
        world.candidate.training,
        kept=RunStorage.open(storage.url("fits")),
        cache=storage.url("texts"),
    )


def _outcome(name: str, replication: Replication) -> dict[str, Any]:
    if name in NEEDS_ZERO_SHOT and replication.zero_shot is None:
        return {"unavailable": "there are no predictions of a model that saw no label"}
    try:
        result = DESIGNS[name](replication)
    except StatisticalRefusal as refusal:
        return {"unavailable": refusal.what}
    low, high = result.interval
    return {
        "value": result.value,
        "std_error": result.std_error,
        "low": low,
        "high": high,
        "n_finetune": result.n_finetune,
        "finetunes": result.finetunes,
        "pilots": result.pilots,
        "lam": result.lam,
        "predicted_length": result.predicted_length,
        "chosen": result.chosen,
    }
