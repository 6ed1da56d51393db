"""The columns of a batch as arrays, and labelled and unlabelled rows from them."""

from __future__ import annotations

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import Block
from ftrect_ray.estimators.validation import LEAST_PROBABILITY, PROBABILITY_RULE
from ftrect_ray.streaming.cells import Cells
from ftrect_ray.streaming.columns import Columns
from ftrect_ray.streaming.rows import Answers, Rows
from ftrect_ray.tables.wording import count, show_rows


class Decoded:
    """The columns of a batch as arrays."""

    def __init__(self, cells: Cells, columns: Columns, words: bool) -> None:
        self.cells, self.columns = cells, columns
        values = cells.texts if words else cells.numbers
        self.rows = cells.batch.num_rows
        predictions = [*columns.predictions, *_given(columns.prediction_other)]
        self.gaps = any(cells.column(name).null_count for name in predictions)
        self.predicted = _stacked([values(name) for name in columns.predictions])
        if columns.prediction_other is not None:
            self.predicted = self.predicted - cells.numbers(columns.prediction_other)[:, None]
        given = _given(columns.label, columns.label_other)
        self.labels = np.empty((0, len(given)))
        self.labelled = np.empty(0, dtype=np.intp)
        if not all(cells.empty(name) for name in given):
            self.labels = _stacked([values(name) for name in given])
            self.labelled = self._labelled()
        features = [cells.complete(name) for name in columns.regressors]
        self.X = np.column_stack([np.ones(self.rows), *features]) if features else None
        self.weights = self._weights()
        self.strata = None if columns.strata is None else cells.labels(columns.strata)
        self.clusters = None if columns.cluster is None else cells.labels(columns.cluster)
        self.fold = None if columns.fold is None else cells.numbers(columns.fold)
        self.probabilities = None if columns.probability is None else cells.numbers(columns.probability)

    def _labelled(self) -> np.ndarray:
        """Places of the rows with a label."""
        given = ~_absent(self.labels)
        half = np.flatnonzero(given[:, 0] != given[:, -1])
        if len(half):
            raise InputError(
                f"{count(len(half), 'row')} with only one of {self.columns.label!r} and {self.columns.label_other!r}: "
                f"{show_rows(half, None, self.cells.before)}",
                where=self.cells.where,
                mend="a paired difference needs both answers to a row, or neither",
            )
        return np.flatnonzero(given[:, 0])

    def _weights(self) -> np.ndarray | None:
        """Weight × density ratio (b,)."""
        weights = None
        for name in _given(self.columns.weight, self.columns.density_ratio):
            values = self.cells.at_least_0(name)
            weights = values if weights is None else weights * values
        return weights

    def only(self, some: np.ndarray | None) -> Rows:
        """Of the rows at the places ``some``; None: of all, and what needs no selection is not copied."""
        labelled = self.labelled
        others: np.ndarray | slice = slice(None)
        if some is not None or len(self.labelled):
            rows = np.arange(self.rows) if some is None else some
            answered = np.zeros(self.rows, dtype=bool)
            answered[self.labelled] = True
            labelled, others = rows[answered[rows]], rows[~answered[rows]]
        answers, answer_gaps = self._answers(labelled)
        parts = (self.predicted, self.X, self.weights, self.strata, self.clusters)
        block = Block(*parts).rows(others)
        if not self.gaps:
            return Rows(answers, block, answer_gaps)
        gaps = _absent(block.F).any(axis=1)
        return Rows(answers, block.rows(np.flatnonzero(~gaps)), answer_gaps + int(np.count_nonzero(gaps)))

    def _answers(self, labelled: np.ndarray) -> tuple[Answers, int]:
        """The labelled rows with a prediction by their own model, and how many have none."""
        own, fold = np.zeros(len(labelled), dtype=np.intp), None
        if self.fold is not None:
            own = fold = self._folds(labelled)
        predicted = self.predicted[labelled, own]
        present = ~_absent(predicted)
        rows = labelled[present]
        parts = (self.weights, self._probabilities(rows), self.strata, self.clusters)
        answers = Answers(
            rows + self.cells.before,
            self.labels[rows],
            predicted[present],
            None if self.X is None else self.X[rows],
            None if fold is None else fold[present],
            *(None if part is None else part[rows] for part in parts),
        )
        return answers, len(labelled) - len(rows)

    def _folds(self, labelled: np.ndarray) -> np.ndarray:
        models, name = self.predicted.shape[1], str(self.columns.fold)
        assert self.fold is not None
        wrong = np.zeros(len(self.fold), dtype=bool)
        wrong[labelled] = ~np.isin(self.fold[labelled], np.arange(models))
        if wrong.any():
            raise self.cells.wrong(
                name,
                wrong,
                f"must be one of 0..{models - 1} where there is a label",
                "number the folds in the order of the prediction columns",
            )
        return self.fold[labelled].astype(np.intp)

    def _probabilities(self, labelled: np.ndarray) -> np.ndarray | None:
        """Of all rows (b,); those of ``labelled`` are in (0, 1]."""
        if self.probabilities is None:
            return None
        wrong = np.zeros(len(self.probabilities), dtype=bool)
        chosen = self.probabilities[labelled]
        wrong[labelled] = ~((chosen >= LEAST_PROBABILITY) & (chosen <= 1))
        if wrong.any():
            rule = f"{PROBABILITY_RULE}, where there is a label"
            raise self.cells.wrong(
                str(self.columns.probability), wrong, rule, "a row that could not be chosen has no label"
            )
        return self.probabilities


def _given(*names: str | None) -> list[str]:
    return [name for name in names if name is not None]


def _stacked(columns: list[np.ndarray]) -> np.ndarray:
    """(b, c); a single column is not copied."""
    return columns[0][:, None] if len(columns) == 1 else np.column_stack(columns)


def _absent(values: np.ndarray) -> np.ndarray:
    """Which cells are empty."""
    if values.dtype == object:
        return np.asarray(values == None)  # noqa: E711
    return np.isnan(values)
