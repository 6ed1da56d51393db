"""The estimate of a run: its answers, the predictions of models that never saw them, and both together.

The table, the ledger and the predictions are put together here, once, for the pipeline and for the server.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import Estimate, recycle
from ftrect_ray.ledger import GIVEN, ZERO_SHOT, Ledger, Use
from ftrect_ray.predictions import floats, given_predictions, model_predictions, reason_codes
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import QuantileTarget, Study, Target
from ftrect_ray.study_file import parse_study
from ftrect_ray.targets import Question


@dataclass(frozen=True)
class Evidence:
    """What a run knows about its N rows, with K models.

    Attributes
    ----------
    study : Study
        Its scale and its limit on missing predictions are used.
    design : {"crossfit", "split", "recycle", "rectify-only", "classical"}
        What the ledger says was done.
    table : pa.Table
        ``table.parquet`` without the texts.
    models : tuple of str
        K names; none under ``classical``.
    answers : np.ndarray
        float64 (N,); NaN where the row has no answer in the budget.
    rectifier : np.ndarray
        int (N,); the model (column of ``predictions``) that this row's answer rectifies, -1 where none.
    recycled : np.ndarray
        bool (N,); fine-tuning rows whose answers are averaged beside (design ``recycle``).
    predictions : np.ndarray
        float64 (N, K), in the answer's unit. A missing one is replaced by the model's training mean, a
        function of the text like any other, so that the estimate stays valid.
    failure : np.ndarray
        int16 (N, K); 0 where the model predicted, else 1 + position in ``reasons``.
    reasons : tuple of str
        Why predictions are missing.
    """

    study: Study
    design: str
    table: pa.Table
    models: tuple[str, ...]
    answers: np.ndarray
    rectifier: np.ndarray
    recycled: np.ndarray
    predictions: np.ndarray
    failure: np.ndarray
    reasons: tuple[str, ...]

    @property
    def labelled(self) -> np.ndarray:
        """bool (N,): rows with an answer in the budget."""
        return ~np.isnan(self.answers)

    @property
    def out_of_fold(self) -> np.ndarray:
        """float64 (N,): the prediction of the model that the row rectifies; NaN where there is none."""
        values = np.full(len(self.answers), np.nan)
        rows = np.flatnonzero(self.rectifier >= 0)
        values[rows] = self.predictions[rows, self.rectifier[rows]]
        return values

    def estimate(self, target: Target, alpha: float, rows: np.ndarray | None = None) -> dict[str, Any]:
        """The content of ``estimate.json``, for all rows or a sub-population.

        Parameters
        ----------
        target : Target
        alpha : float
            The intervals have level 1 − alpha.
        rows : np.ndarray, optional
            bool (N,); a property of the rows' texts and features, never of their answers.

        Returns
        -------
        dict
            The estimate's own fields, ``design``, and beside them ``classical`` (all answers of the budget
            among the rows), ``naive`` (the models alone; None where there is none) and ``interval_ratio``
            (rectified length / classical length, one a coefficient).

        Raises
        ------
        StatisticalRefusal
            Where fewer than two answers are left, or too many texts have no prediction.
        InputError
            As the target's features do.
        """
        kept = np.ones(len(self.answers), dtype=bool) if rows is None else rows
        question = Question.of(target, alpha, self.table, self.study.population)
        budget, others = np.flatnonzero(kept & self.labelled), np.flatnonzero(kept & ~self.labelled)
        rectifying = np.flatnonzero(kept & (self.rectifier >= 0))
        counted = rectifying if self.models else budget
        if len(counted) < 2:
            raise StatisticalRefusal(
                f"{len(counted)} answers are left to estimate from",
                where="filter",
                mend="widen the filter: two answers are the least, thirty are better",
            )
        classical = question.classical(self.answers[budget], budget, others)
        if not self.models:
            return _document(classical, classical, None, self.design, {})
        self._refuse_if_unpredicted(others)
        rectified, naive = self._rectified(question, rectifying, others), self._naive(question, rectifying, others)
        if self.design == "recycle":
            rectified = self._recycled(question, rectified, np.flatnonzero(kept & self.recycled))
        return _document(rectified, classical, naive, self.design, self._diagnostics(rectifying, others))

    def _rectified(self, question: Question, rectifying: np.ndarray, others: np.ndarray) -> Estimate:
        """A fold without a row among ``rectifying`` has weight 0: its model is left out."""
        present, folds = np.unique(self.rectifier[rectifying], return_inverse=True)
        return question.rectified(
            self.answers[rectifying],
            self.out_of_fold[rectifying],
            self.predictions[np.ix_(others, present)],
            folds,
            rectifying,
            others,
        )

    def _naive(self, question: Question, rectifying: np.ndarray, others: np.ndarray) -> Estimate:
        """The models' mean prediction of all rows, but out of fold where the row has an answer."""
        everywhere = np.concatenate([rectifying, others])
        predictions = np.concatenate([self.out_of_fold[rectifying], self.predictions[others].mean(axis=1)])
        return question.naive(predictions, everywhere)

    def _recycled(self, question: Question, rectified: Estimate, rows: np.ndarray) -> Estimate:
        """``rectified`` combined with the answers that trained the model, where that can be done."""
        if isinstance(question.target, QuantileTarget):
            return _warned(
                rectified, "a quantile cannot be recycled: the answers that trained the model are not counted"
            )
        try:
            beside = question.classical(self.answers[rows], rows, rows[:0])
        except (InputError, StatisticalRefusal):
            return _warned(
                rectified, f"the {len(rows)} answers that trained the model are too few to be counted beside"
            )
        return recycle(beside, rectified)

    def _refuse_if_unpredicted(self, others: np.ndarray) -> None:
        missing = self._failures(others)
        share = sum(missing.values()) / max(len(others) * len(self.models), 1)
        limit = self.study.inference.max_error_share
        if share > limit:
            reasons = "; ".join(f"{count} × {reason}" for reason, count in missing.items())
            raise StatisticalRefusal(
                f"{share:.1%} of the unlabelled texts have no prediction, the limit is {limit:.1%}: {reasons}",
                where="inference.max_error_share",
                mend="mend the texts or the model, or raise the limit",
            )

    def _failures(self, rows: np.ndarray) -> dict[str, int]:
        """Missing predictions by reason among ``rows`` (positions), the most frequent first."""
        codes = Counter(self.failure[rows].ravel().tolist())
        return {self.reasons[code - 1]: count for code, count in codes.most_common() if code}

    def _diagnostics(self, rectifying: np.ndarray, others: np.ndarray) -> dict[str, Any]:
        """Missing predictions, predictions outside the scale, and each model by itself."""
        everywhere = np.concatenate([rectifying, others])
        found: dict[str, Any] = {
            "prediction_errors": int(self.failure[everywhere].any(axis=1).sum()),
            "prediction_errors_by_reason": self._failures(everywhere),
            "models": [self._model_diagnostics(model, rectifying, others) for model in range(len(self.models))],
        }
        if self.study.data.scale is not None and len(others):
            low, high = self.study.data.scale
            values = self.predictions[others]
            found["outside_scale"] = float(np.mean((values < low) | (values > high)))
        return found

    def _model_diagnostics(self, model: int, rectifying: np.ndarray, others: np.ndarray) -> dict[str, Any]:
        """Out-of-fold R² = 1 − Var(Y − f)/Var Y, calibration slope Cov(Y, f)/Var f, and Var f of one model."""
        rows = rectifying[self.rectifier[rectifying] == model]
        answers, predicted = self.answers[rows], self.predictions[rows, model]
        variances = [float(np.var(x, ddof=1)) if len(x) > 1 else 0.0 for x in (answers, predicted, answers - predicted)]
        answer_variance, predicted_variance, residual_variance = variances
        # Var(Y − f) = Var Y − 2 Cov + Var f
        covariance = (answer_variance + predicted_variance - residual_variance) / 2
        return {
            "name": self.models[model],
            "n": len(rows),
            "r2": 1 - residual_variance / answer_variance if answer_variance > 0 else None,
            "calibration_slope": covariance / predicted_variance if predicted_variance > 0 else None,
            "variance_prediction": float(np.var(self.predictions[others, model])) if len(others) else None,
        }


def _warned(estimate: Estimate, warning: str) -> Estimate:
    return replace(estimate, diagnostics={**estimate.diagnostics, "warnings": [*estimate.warnings, warning]})


def _document(
    rectified: Estimate, classical: Estimate, naive: Estimate | None, design: str, diagnostics: dict[str, Any]
) -> dict[str, Any]:
    content = rectified.to_dict()
    content["diagnostics"] |= diagnostics
    length, classical_length = np.atleast_1d(rectified.length), np.atleast_1d(classical.length)
    ratio = [float(a / b) if b > 0 else None for a, b in zip(length, classical_length, strict=True)]
    return content | {
        "design": design,
        "classical": classical.to_dict(),
        "naive": None if naive is None else naive.to_dict(),
        "interval_ratio": ratio if rectified.names else ratio[0],
        "warnings": rectified.warnings,
    }


# ----------------------------------------------------------------------------------------------- reading


def load_evidence(storage: RunStorage) -> Evidence:
    """Put a run's study, table, ledger and predictions together.

    Raises
    ------
    InputError
        Where a part is missing or the parts do not belong to one run.
    """
    study = parse_study(storage.read_bytes("study.yaml").decode("utf-8"), where=storage.url("study.yaml"))
    table = storage.read_table("table.parquet")
    table = table.select([name for name in table.column_names if name != "text"])
    ledger = Ledger.load(storage)
    models = tuple(ledger.models(Use.RECTIFY))
    rectifier = np.full(table.num_rows, -1, dtype=np.int64)
    for column, model in enumerate(models):
        rectifier[_positions(table, ledger.ids(Use.RECTIFY, model), storage)] = column
    design = _design(models, ledger)
    recycled = np.zeros(table.num_rows, dtype=bool)
    if design == "recycle":
        recycled[_positions(table, ledger.ids(Use.CLASSICAL), storage)] = True
    columns = [
        given_predictions(table, storage) if model == GIVEN else model_predictions(model, table, storage)
        for model in models
    ]
    failure, reasons = reason_codes([reason for _, reason in columns], table.num_rows)
    return Evidence(
        study=study,
        design=design,
        table=table,
        models=models,
        answers=floats(table["label"]),
        rectifier=rectifier,
        recycled=recycled,
        predictions=np.column_stack([values for values, _ in columns]) if models else np.empty((table.num_rows, 0)),
        failure=failure,
        reasons=reasons,
    )


def _design(models: tuple[str, ...], ledger: Ledger) -> str:
    """What was done with the labels, from the uses that they were charged with."""
    if not models:
        return "classical"
    if models in ((GIVEN,), (ZERO_SHOT,)):
        return "rectify-only"
    if len(models) > 1:
        return "crossfit"
    return "recycle" if ledger.ids(Use.CLASSICAL) else "split"


def _positions(table: pa.Table, ids: list[str], storage: RunStorage) -> np.ndarray:
    """Rows of ``ids`` in the table, int (len(ids),); each must have an answer."""
    found = pc.index_in(pa.array(ids, table["id"].type), value_set=table["id"].combine_chunks())
    positions = np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64)
    answered = np.append(~np.isnan(floats(table["label"])), False)  # position -1, the stranger, has none
    if not answered[positions].all():
        stranger = ids[int(np.argmin(answered[positions]))]
        raise InputError(
            f"id {stranger!r} of the ledger has no answer in the table",
            where=storage.uri,
            mend="table and ledger are of different runs: run again in a new folder",
        )
    return positions
