"""From a study's target to the estimators: the three estimates that stand side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray import estimators
from ftrect_ray.errors import InputError, near_match
from ftrect_ray.estimators import Estimate, Sample
from ftrect_ray.study import LogisticTarget, OlsTarget, PoissonTarget, QuantileTarget, Target

#: Columns of the run's table that are no features: they are no property of the text, or not numeric.
OWN_COLUMNS = ("id", "text", "label", "prediction", "weight", "strata", "cluster")

Population = Literal["infinite", "finite"]

#: kind → (rectified, classical, naive)
REGRESSIONS = {
    "ols": (estimators.ols, estimators.classical_ols, estimators.naive_ols),
    "logistic": (estimators.logistic, estimators.classical_logistic, estimators.naive_logistic),
    "poisson": (estimators.poisson, estimators.classical_poisson, estimators.naive_poisson),
}


@dataclass(frozen=True, eq=False)
class Question:
    """A target over N rows with the level 1 − alpha.

    Attributes
    ----------
    target : Target
    alpha : float
    population : {"infinite", "finite"}
    design_matrix : np.ndarray or None
        float64 (N, 1 + features) with the intercept first, under a regression.
    weights, strata, clusters : np.ndarray or None
        (N,) how the rows were sampled.
    """

    target: Target
    alpha: float
    population: Population = "infinite"
    design_matrix: np.ndarray | None = None
    weights: np.ndarray | None = None
    strata: np.ndarray | None = None
    clusters: np.ndarray | None = None

    @classmethod
    def of(cls, target: Target, alpha: float, table: pa.Table, population: Population = "infinite") -> Question:
        """The question with the table's features and its sampling columns, all N rows.

        Raises
        ------
        InputError
            Where a feature is missing or not numeric in some row.
        """
        design_matrix = None
        if isinstance(target, (OlsTarget, LogisticTarget, PoissonTarget)):
            columns = [_numbers(table, name) for name in target.features]
            design_matrix = np.column_stack([np.ones(table.num_rows), *columns])
        weights, strata, clusters = (
            np.asarray(table[name]) if name in table.column_names else None for name in ("weight", "strata", "cluster")
        )
        return cls(target, alpha, population, design_matrix, weights, strata, clusters)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the coefficients, under a regression."""
        if isinstance(self.target, (OlsTarget, LogisticTarget, PoissonTarget)):
            return ("intercept", *self.target.features)
        return None

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
        options = self._options(rows) | {
            "lam": lam,
            "folds": folds,
            "sample_unlabeled": self._sample(others),
            "population": self.population,
        }
        if self.design_matrix is not None:
            x = self.design_matrix
            fit = REGRESSIONS[self.target.kind][0]
            return fit(x[rows], answers, predictions, x[others], unlabelled, names=self.names, **options)
        if isinstance(self.target, QuantileTarget):
            return estimators.quantile(answers, predictions, unlabelled, self.target.q, **options)
        return estimators.mean(answers, predictions, unlabelled, **options)

    def classical(self, answers: np.ndarray, rows: np.ndarray, others: np.ndarray) -> Estimate:
        """The estimate of the answers (n,) of ``rows`` alone; ``others`` count in a finite population only."""
        if self.population == "finite":
            return self.rectified(answers, answers, np.zeros(len(others)), None, rows, others, lam=0.0)
        if self.design_matrix is not None:
            fit = REGRESSIONS[self.target.kind][1]
            return fit(self.design_matrix[rows], answers, names=self.names, **self._options(rows))
        if isinstance(self.target, QuantileTarget):
            return estimators.classical_quantile(answers, self.target.q, **self._options(rows))
        return estimators.classical_mean(answers, **self._options(rows))

    def naive(self, predictions: np.ndarray, rows: np.ndarray) -> Estimate:
        """The model alone: its predictions (r,) of ``rows`` taken for answers."""
        if self.design_matrix is not None:
            fit = REGRESSIONS[self.target.kind][2]
            return fit(self.design_matrix[rows], predictions, names=self.names, **self._options(rows))
        if isinstance(self.target, QuantileTarget):
            return estimators.naive_quantile(predictions, self.target.q, **self._options(rows))
        return estimators.naive_mean(predictions, **self._options(rows))

    def _options(self, rows: np.ndarray) -> dict[str, Any]:
        return {"alpha": self.alpha, "sample": self._sample(rows)}

    def _sample(self, rows: np.ndarray) -> Sample:
        """How ``rows`` (positions) were sampled."""
        parts = (self.weights, self.strata, self.clusters)
        weights, strata, clusters = (None if part is None else part[rows] for part in parts)
        return Sample(weights=weights, strata=strata, clusters=clusters)


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
