"""From a study's target to the estimators: the three estimates that stand side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray import estimators
from ftrect_ray.errors import InputError, near_match
from ftrect_ray.estimators import Estimate
from ftrect_ray.study import OlsTarget, QuantileTarget, Target

#: Columns of the run's table that are no features: they are no property of the text, or not numeric.
OWN_COLUMNS = ("id", "text", "label", "prediction")


@dataclass(frozen=True)
class Question:
    """A target over N rows with the level 1 − alpha.

    Attributes
    ----------
    target : Target
    alpha : float
    design_matrix : np.ndarray or None
        float64 (N, 1 + features) with the intercept first, under ``ols``.
    """

    target: Target
    alpha: float
    design_matrix: np.ndarray | None = None

    @classmethod
    def of(cls, target: Target, alpha: float, table: pa.Table) -> Question:
        """The question with the table's features, all N rows.

        Raises
        ------
        InputError
            Where a feature is missing or not numeric in some row.
        """
        if not isinstance(target, OlsTarget):
            return cls(target, alpha)
        columns = [_numbers(table, name) for name in target.features]
        return cls(target, alpha, np.column_stack([np.ones(table.num_rows), *columns]))

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the coefficients, under ``ols``."""
        return ("intercept", *self.target.features) if isinstance(self.target, OlsTarget) else None

    def rectified(
        self,
        answers: np.ndarray,
        predictions: np.ndarray,
        unlabelled: np.ndarray,
        folds: np.ndarray | None,
        rows: np.ndarray,
        others: np.ndarray,
        lam: float | Literal["tuned"] = "tuned",
    ) -> Estimate:
        """The rectified estimate (FTR eq. 1; PPI++ power tuning by ``lam``).

        Parameters
        ----------
        answers, predictions : np.ndarray
            float64 (n,), of the rectifying ``rows`` (positions, int (n,)); predictions by models that never saw them.
        unlabelled : np.ndarray
            float64 (m,) or (m, K), predictions of the ``others`` (positions, int (m,)).
        folds : np.ndarray or None
            int (n,), the column of ``unlabelled`` whose model predicted the row.
        """
        if isinstance(self.target, QuantileTarget):
            return estimators.quantile(
                answers, predictions, unlabelled, q=self.target.q, alpha=self.alpha, lam=lam, folds=folds
            )
        if self.design_matrix is None:
            return estimators.mean(answers, predictions, unlabelled, alpha=self.alpha, lam=lam, folds=folds)
        x = self.design_matrix
        return estimators.ols(
            x[rows],
            answers,
            predictions,
            x[others],
            unlabelled,
            alpha=self.alpha,
            lam=lam,
            folds=folds,
            names=self.names,
        )

    def classical(self, answers: np.ndarray, rows: np.ndarray) -> Estimate:
        """The estimate of the answers (n,) of ``rows`` alone."""
        if isinstance(self.target, QuantileTarget):
            return estimators.classical_quantile(answers, q=self.target.q, alpha=self.alpha)
        if self.design_matrix is None:
            return estimators.classical_mean(answers, alpha=self.alpha)
        return estimators.classical_ols(self.design_matrix[rows], answers, alpha=self.alpha, names=self.names)

    def naive(self, predictions: np.ndarray, rows: np.ndarray) -> Estimate:
        """The model alone: its predictions (r,) of ``rows`` taken for answers."""
        if isinstance(self.target, QuantileTarget):
            return estimators.naive_quantile(predictions, q=self.target.q, alpha=self.alpha)
        if self.design_matrix is None:
            return estimators.naive_mean(predictions, alpha=self.alpha)
        return estimators.naive_ols(self.design_matrix[rows], predictions, alpha=self.alpha, names=self.names)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A feature as finite float64 (N,)."""
    known = [column for column in table.column_names if column not in OWN_COLUMNS]
    if name not in known:
        raise InputError(f"unknown feature {name!r}", where="target.features", mend=near_match(name, known))
    column, mend = table[name], "give a column with a finite number in every row"
    try:
        values = pc.cast(column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row = _first_text(column)
        raise InputError(
            f"feature {name!r} is not a number" + _at(table, column, row), where="target.features", mend=mend
        ) from None
    numbers = np.asarray(values.to_numpy(), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise InputError(
            f"feature {name!r} is not a finite number" + _at(table, column, int(bad[0])),
            where="target.features",
            mend=mend,
        )
    return numbers


def _first_text(column: pa.ChunkedArray) -> int | None:
    """The first row whose text is not a number, by bisection; None where the column holds no texts."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    first, end = 0, len(column)  # the first such row is in [first, end)
    while end - first > 1:
        middle = (first + end) // 2
        try:
            pc.cast(column[first:middle], pa.float64())
            first = middle
        except pa.ArrowInvalid:
            end = middle
    return first


def _at(table: pa.Table, column: pa.ChunkedArray, row: int | None) -> str:
    if row is None:
        return f" but of type {column.type}"
    return f" in row {row + 1} (id {table['id'][row].as_py()!r}): {str(column[row].as_py())[:60]!r}"
