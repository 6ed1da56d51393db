"""A sample that a first pass gathered, made ready for an estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.blocks import Blocks, InMemory, Kept
from ftrect_ray.estimators.diagnostics import answers_only
from ftrect_ray.estimators.labeled import Labeled, assembled
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.streaming.passes import Gathered
from ftrect_ray.streaming.questions import Question
from ftrect_ray.streaming.rows import Answers
from ftrect_ray.tables.wording import count

Core = Callable[[Labeled, Blocks, Settings], Estimate]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Both samples and what to make of them.

    Attributes
    ----------
    core : callable
        An estimator's core.
    labeled : Labeled
    unlabeled : Blocks
        Read from the source whenever it is folded.
    nothing : InMemory
        An unlabelled sample without rows.
    settings : Settings
    """

    core: Core
    labeled: Labeled
    unlabeled: Blocks
    nothing: InMemory
    settings: Settings

    def rectified(self) -> Estimate:
        """The rectified estimate; a bootstrap holds the unlabelled rows in memory."""
        if self.settings.bootstrap is None:
            return self.core(self.labeled, self.unlabeled, self.settings)
        return estimated(self.core, self.labeled, InMemory(self.unlabeled.fold(Kept.of).joined()), self.settings)

    def classical(self) -> Estimate:
        """The estimate of the labels alone. A finite population's size is known from its rows, which are read again."""
        rows = self.unlabeled if self.labeled.finite else self.nothing
        estimate = self.core(self.labeled, rows, replace(self.settings, lam=0.0, bootstrap=None))
        return replace(estimate, diagnostics=answers_only(estimate.diagnostics))


def both_samples(
    answers: Answers, labels: np.ndarray, predicted: np.ndarray, shape: tuple[int, ...], settings: Settings
) -> tuple[Labeled, InMemory]:
    """The labelled rows, and an unlabelled sample without rows, checked like arrays in memory.

    Parameters
    ----------
    answers : Answers
    labels, predicted : ndarray (n, d)
        What its answers and predictions are as numbers.
    shape : tuple of int
        (K, …) of the unlabelled rows' F.
    """
    side = Sample(answers.weights, None, answers.probabilities, "estimated", answers.strata, answers.clusters)
    other = Sample(
        weights=None if answers.weights is None else np.zeros(0),
        strata=None if answers.strata is None else answers.strata[:0],
        clusters=None if answers.clusters is None else answers.clusters[:0],
    )
    whole = replace(settings, sample=side, sample_unlabeled=other, folds=answers.fold)
    nowhere = None if answers.X is None else answers.X[:0]
    return assembled(labels, predicted, np.zeros((0, *shape)), whole, answers.X, nowhere)


def complete(gathered: Gathered, question: Question, where: str) -> Answers:
    """The labelled rows of a sample in which every row has a prediction.

    Raises
    ------
    StatisticalRefusal
        Rows without a prediction: they are no random part of the sample.
    InputError
        Fewer than two labels, or unlabelled rows without any weight.
    """
    answers = Answers.joined(gathered.answers)
    if gathered.gaps:
        rows = len(answers) + gathered.others + gathered.gaps
        columns = ", ".join(map(repr, question.columns.predictions))
        raise StatisticalRefusal(
            f"{gathered.gaps} of {rows} rows ({100 * gathered.gaps / rows:.1f} %) have no prediction in {columns}",
            where=where,
            mend="predict them, or give each a fixed value that does not depend on its label",
        )
    if gathered.others and gathered.weight == 0:
        raise InputError("the weights of all unlabelled rows are 0", where=where, mend="drop the column of weights")
    if len(answers) < 2:
        raise InputError(
            f"column {question.columns.label!r} has {count(len(answers), 'answer')}; two are needed",
            where=where,
            mend="label more rows",
        )
    return answers
