"""From a question to estimates that are ready to be made, one for each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from ftrect_ray.errors import FtrectError, InputError
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.streaming.contrast import contrast
from ftrect_ray.streaming.labels import refuse_impossible
from ftrect_ray.streaming.passes import FirstPass, Gathered
from ftrect_ray.streaming.questions import Question
from ftrect_ray.streaming.reader import Reader
from ftrect_ray.streaming.rows import Key
from ftrect_ray.streaming.sources import open_source
from ftrect_ray.streaming.targets import FIRST_FOLDS, Table
from ftrect_ray.streaming.words import in_order

T = TypeVar("T")


class Answer(Protocol):
    """What can be made of one group."""

    def rectified(self) -> Estimate:
        """The rectified estimate."""
        ...

    def classical(self) -> Estimate:
        """The estimate of the labels alone."""
        ...


@dataclass(frozen=True)
class Refused:
    """Nothing can, and why."""

    error: FtrectError

    def rectified(self) -> NoReturn:
        """Raise the reason."""
        raise self.error

    def classical(self) -> NoReturn:
        """Raise the reason."""
        raise self.error


def answers_to(question: Question, settings: Settings, source: Any, **limits: int) -> dict[str, Answer]:
    """Read the source once; the answers by the values of ``question.by``, or that of "" where there is no such column.

    Raises
    ------
    InputError
        The source or its cells cannot be read, or labels are outside the scale.
    """
    question.refuse(settings)
    rows = open_source(source, question.names, **limits)
    reader = Reader(question.columns, rows.where, question.in_words, question.missing, question.keys)
    samples = rows.fold(FirstPass(reader, FIRST_FOLDS.get(question.target))).by_key
    refuse_impossible([part for sample in samples.values() for part in sample.answers], question, rows.where)
    table = Table(rows, reader, question, settings)
    if question.by is None:
        return {"": _answer(table, samples)}
    if not samples:
        raise InputError("the table has no rows", where=rows.where, mend="add rows")
    groups: dict[str, dict[Key, Gathered]] = {}
    for key, sample in samples.items():
        groups.setdefault(key[0], {})[key] = sample
    return {value: _answer(table, groups[value]) for value in in_order(groups)}


def _answer(table: Table, samples: dict[Key, Gathered]) -> Answer:
    """Of one group of the table."""
    try:
        if table.question.columns.groups is not None:
            return contrast(table, samples)
        ((key, sample),) = samples.items()
        return table.prepared(key, sample)
    except FtrectError as error:
        return Refused(error)


def each(found: Mapping[str, Answer], make: Callable[[Answer], T]) -> dict[str, T | FtrectError]:
    """What ``make`` makes of every group's answer, or why there is none.

    Raises
    ------
    FtrectError
        There is none for any group: the first reason.
    """
    made: dict[str, T | FtrectError] = {}
    for name, answer in found.items():
        try:
            made[name] = make(answer)
        except FtrectError as error:
            made[name] = error
    refusals = [outcome for outcome in made.values() if isinstance(outcome, FtrectError)]
    if refusals and len(refusals) == len(made):
        raise refusals[0]
    return made
