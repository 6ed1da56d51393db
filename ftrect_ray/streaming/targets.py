"""Which estimator answers which question, and what it folds during the first pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import Block, Blocks
from ftrect_ray.estimators.choices import Choices
from ftrect_ray.estimators.glm_score import LOGISTIC, POISSON
from ftrect_ray.estimators.labeled import Labeled, at_their_rates
from ftrect_ray.estimators.means import MeanSums, rectified_means
from ftrect_ray.estimators.multinomial_score import MultinomialLogit
from ftrect_ray.estimators.ols_sums import OlsSums, ols_from_sums
from ftrect_ray.estimators.proportions import with_unanswered
from ftrect_ray.estimators.quantile import rectified_quantile
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.roots import rectified_root
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.streaming.passes import Gathered, Streamed
from ftrect_ray.streaming.prepared import Core, Prepared, both_samples, complete
from ftrect_ray.streaming.questions import Question
from ftrect_ray.streaming.reader import Reader
from ftrect_ray.streaming.rows import Answers, Key
from ftrect_ray.streaming.sources import Source
from ftrect_ray.streaming.words import ShareSums, encoded, in_order

FIRST_FOLDS: dict[str, Callable[[Block], Any]] = {
    "mean": MeanSums.of,
    "difference": MeanSums.of,
    "proportions": ShareSums.of,
    "ols": OlsSums.of,
}
"""What the targets that read once make of the unlabelled rows."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows that can be read again, and how.

    Attributes
    ----------
    source : Source
    reader : Reader
    question : Question
    settings : Settings
    """

    source: Source
    reader: Reader
    question: Question
    settings: Settings

    def prepared(self, key: Key, gathered: Gathered) -> Prepared:
        """One sample, ready for the estimator of the question.

        Raises
        ------
        InputError
        StatisticalRefusal
            See :func:`~ftrect_ray.streaming.prepared.complete`.
        """
        answers = complete(gathered, self.question, self.reader.where)
        fold = FIRST_FOLDS.get(self.question.target)
        rows = Streamed(self.source, self.reader, key, fold, gathered.sums)
        if self.question.target == "proportions":
            return self._shares(answers, rows)
        if self.question.target == "multinomial":
            return self._choices(answers, rows)
        labels = answers.Y[:, :1]
        if self.question.columns.label_other is not None:
            labels = labels - answers.Y[:, 1:]
        return self._with(self._core(), answers, labels, answers.Yhat, rows)

    def _core(self) -> Core:
        q, names = self.question.q, self._names
        cores: dict[str, Core] = {
            "mean": rectified_means,
            "difference": partial(rectified_means, target="difference"),
            "quantile": partial(rectified_quantile, q=0.5 if q is None else q),
            "ols": partial(_ols, names=names),
            "logistic": partial(rectified_root, score=LOGISTIC, names=names, target="logistic"),
            "poisson": partial(rectified_root, score=POISSON, names=names, target="poisson"),
        }
        return cores[self.question.target]

    @property
    def _names(self) -> tuple[str, ...]:
        return ("intercept", *self.question.columns.regressors)

    def _shares(self, answers: Answers, rows: Streamed) -> Prepared:
        """The categories are those of all rows."""
        names = in_order({*answers.Y.ravel(), *answers.Yhat, *rows.sums.categories})
        encode = partial(encoded, categories=names)
        counted = replace(rows, known=MeanSums.of, sums=rows.sums.over(names), encode=encode)
        core = partial(_proportions, names=names)
        return self._with(core, answers, encode(answers.Y[:, 0]), encode(answers.Yhat), counted)

    def _choices(self, answers: Answers, rows: Streamed) -> Prepared:
        """The options are 0, the outside one, to the largest that was chosen."""
        choices = Choices.of(answers.Y[:, 0], answers.Yhat, np.zeros((0, 1)), None)
        options = choices.Y.shape[1]
        names = tuple(f"{j}:{name}" for j in range(1, options + 1) for name in self._names)
        score = MultinomialLogit(options)
        core = partial(rectified_root, score=score, names=names, target="multinomial")
        read = replace(rows, encode=partial(_options, most=options, columns=self.question.columns.predictions))
        return self._with(core, answers, choices.Y, choices.Yhat, read)

    def _with(
        self, core: Core, answers: Answers, labels: np.ndarray, predicted: np.ndarray, rows: Streamed
    ) -> Prepared:
        shape = (len(self.question.columns.predictions), *labels.shape[1:][: rows.encode is not None])
        labeled, nothing = both_samples(answers, labels, predicted, shape, self.settings)
        return Prepared(core, at_their_rates(labeled, rows), rows, nothing, self.settings)


def _proportions(labeled: Labeled, unlabeled: Blocks, settings: Settings, names: tuple[str, ...]) -> Estimate:
    estimate = rectified_means(labeled, unlabeled, settings, "proportions", names)
    return with_unanswered(estimate, labeled.Y.sum(axis=0), names)


def _ols(labeled: Labeled, unlabeled: Blocks, settings: Settings, names: tuple[str, ...]) -> Estimate:
    return ols_from_sums(labeled, unlabeled.fold(OlsSums.of), settings, names)


def _options(values: np.ndarray, most: int, columns: tuple[str, ...]) -> np.ndarray:
    """Indicators (…, J) of the options 1 to ``most``."""
    wrong = (values < 0) | (values > most) | (values != np.floor(values))
    if wrong.any():
        raise InputError(
            f"predictions in {', '.join(map(repr, columns))} must be options 0 to {most}, the largest label; "
            f"got {values[wrong][0]:g}.",
            mend="label a row of each option, or merge rare options",
        )
    return np.asarray(values[..., None] == np.arange(1, most + 1), dtype=float)
