"""A pilot: a small fine-tune inside the label budget that measures the scaling law (FTR section 4.2 and EC.2).

It is the final recipe in a single process, measured on labels that it never saw: see ``pilot_plan`` for which. A pilot
of size 0 is the model as it is, asked by its prompt.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.opening import fitted
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.finetune.untrained import opened
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import digest


@dataclass(frozen=True)
class PilotSpec:
    """One pilot: fine-tune ``fit``, then measure it on ``measure``, rows that ``fit`` never sees.

    Attributes
    ----------
    size : int
        Labels of the nested set that the pilot belongs to; 0 for the untrained model.
    seed : int
        Which of the nested orders, 0, 1, …
    candidate : str
        Which of the study's models; empty where there is one.
    weigh : Rows, optional
        Rows that ν is weighed by where ``measure``, a fold, is too small for it.
    """

    name: str
    size: int
    seed: int
    fit: FitSpec
    measure: Rows
    candidate: str = ""
    weigh: Rows | None = None

    @property
    def key(self) -> str:
        """Names the measurement by its content: equal inputs, equal key, whatever the candidate is called."""
        weigh = [] if self.weigh is None else [self.weigh.content]
        return digest([self.fit.key, self.measure.content, *weigh])

    @property
    def consumed(self) -> int:
        """Labels that the fine-tune consumes, its early-stopping rows included."""
        return len(self.fit.train) + len(self.fit.stop)

    def influence(self) -> Influence:
        """The weights that ν is measured by: those of ``measure``, so that all pilots are measured alike.

        With H and θ of its own training rows each pilot would measure another quantity, the smallest the noisiest, and
        the law would be fitted to the difference.

        Raises
        ------
        StatisticalRefusal, InputError
            See ``Influence.of``.
        """
        rows = self.measure if self.weigh is None else self.weigh
        return Influence.of(self.fit.objective, self.fit.coefficients, rows, where="validation labels of the pilots")


@dataclass(frozen=True)
class PilotResult:
    """What a pilot measured; the numbers are None where it failed, and ``error`` says why.

    Attributes
    ----------
    residual_variance : float
        ν on the validation rows, ddof 1: Var(Y − f) in the answer's unit squared, or what ``finetune.influence`` says
        where the objective is about coefficients, in their unit squared.
    variance_prediction : float
        Var(f) on the same rows, ddof 1, in the answer's unit squared.
    correlation, slope : float
        Of Y on f over the same rows; None where f is constant.
    n_measure : int
    best_epoch : int
    seconds, model_seconds : float
        Wall seconds in all, and of computing with the model alone (training and predicting, no loading).
    status : {"done", "failed"}
    kind : {"", "input", "diverged", "died"}
        Of the failure.
    candidate : str
    consumed : int
        Labels that the fine-tune consumed: ``size``, less the fold that measures it.
    train_seconds, predict_seconds : float
        The parts of ``model_seconds``.
    """

    name: str
    size: int
    seed: int
    residual_variance: float | None
    variance_prediction: float | None
    correlation: float | None
    slope: float | None
    n_measure: int
    best_epoch: int | None
    seconds: float | None
    model_seconds: float | None
    status: str
    error: str | None
    kind: str = ""
    candidate: str = ""
    consumed: int | None = None
    train_seconds: float | None = None
    predict_seconds: float | None = None

    @classmethod
    def failed(cls, spec: PilotSpec, reason: str, kind: str = "died") -> PilotResult:
        return cls(
            name=spec.name,
            size=spec.size,
            seed=spec.seed,
            residual_variance=None,
            variance_prediction=None,
            correlation=None,
            slope=None,
            n_measure=len(spec.measure),
            best_epoch=None,
            seconds=None,
            model_seconds=None,
            status="failed",
            error=reason,
            kind=kind,
            candidate=spec.candidate,
            consumed=spec.consumed,
        )


def measure(spec: PilotSpec, records: PilotRecords | None = None) -> PilotResult:
    """Run one pilot in this process; with ``records``, its residuals are kept there.

    Raises
    ------
    Diverged
    InputError
        Where the model does not load.
    """
    began = time.perf_counter()
    if spec.size:
        f, best_epoch, trained, predicted = _fine_tuned(spec)
    else:
        f, best_epoch, trained, predicted = _untrained(spec)
    y = np.asarray(spec.measure.answers, dtype=np.float64)
    variance_f, covariance = float(np.var(f, ddof=1)), float(np.cov(y, f, ddof=1)[0, 1])
    varies = variance_f > 0 and np.ptp(y) > 0
    if records is not None:
        records.save_residuals(spec, y - f)
    return PilotResult(
        name=spec.name,
        size=spec.size,
        seed=spec.seed,
        residual_variance=spec.influence().variance(spec.measure, y - f),
        variance_prediction=variance_f,
        correlation=covariance / float(np.sqrt(variance_f * np.var(y, ddof=1))) if varies else None,
        slope=covariance / variance_f if variance_f > 0 else None,
        n_measure=len(y),
        best_epoch=best_epoch,
        seconds=time.perf_counter() - began,
        model_seconds=trained + predicted,
        status="done",
        error=None,
        candidate=spec.candidate,
        consumed=spec.consumed,
        train_seconds=trained,
        predict_seconds=predicted,
    )


def _fine_tuned(spec: PilotSpec) -> tuple[np.ndarray, int, float, float]:
    """Predictions of ``spec.measure``, the epoch that was kept, seconds of training and of predicting."""
    with fitted(spec.fit) as fit:
        began = time.perf_counter()
        f = fit.scale.filled(fit.predict(spec.measure.texts))
    return f, fit.best_epoch, fit.result.model_seconds, time.perf_counter() - began


def _untrained(spec: PilotSpec) -> tuple[np.ndarray, int, float, float]:
    """The same of the model as it is: one pass over the texts."""
    predictor = opened(spec.fit.model, spec.fit.training.precision)
    began = time.perf_counter()
    f = predictor.scale.filled(predictor.predict(spec.measure.texts)[0])
    return f, 0, 0.0, time.perf_counter() - began


class PilotRecords:
    """One JSON file a finished pilot, named by the pilot's key: what is measured is not measured again.

    The files are the truth about pilots, across plans with other sizes, seeds and candidates; Ray Tune's own state
    only says what a killed sweep had still to do. Beside each lies a table of the residuals, written before it.
    """

    def __init__(self, storage: RunStorage) -> None:
        self.storage = storage

    def load(self, spec: PilotSpec) -> PilotResult | None:
        name = f"{spec.key}.json"
        if not self.storage.exists(name):
            return None
        known = PilotResult(**self.storage.read_json(name))
        return replace(known, name=spec.name, candidate=spec.candidate)  # as this study calls it

    def save(self, spec: PilotSpec, result: PilotResult) -> None:
        self.storage.write_json(asdict(result), f"{spec.key}.json")

    def save_residuals(self, spec: PilotSpec, residual: np.ndarray) -> None:
        """Y − f (n,) of the measured rows, in the answer's unit."""
        table = pa.table({"id": pa.array(spec.measure.ids), "residual": pa.array(residual)})
        self.storage.write_table(table, f"{spec.key}.parquet")

    def residuals(self, spec: PilotSpec) -> pa.Table | None:
        """Columns ``id`` and ``residual``; None where an earlier version of ftrect measured the pilot."""
        name = f"{spec.key}.parquet"
        return self.storage.read_table(name) if self.storage.exists(name) else None


def result_of(metrics: dict[str, Any]) -> PilotResult:
    """The result among the metrics that a trial reported."""
    return PilotResult(**{name: metrics[name] for name in PilotResult.__dataclass_fields__})
