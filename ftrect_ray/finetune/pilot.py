"""A pilot: a small fine-tune inside the label budget that measures the scaling law (FTR section 4.2 and EC.2).

A fixed set V of labels measures every pilot out of sample. A second set has as many labels as the largest pilot;
each seed draws one order of it, and the pilot of size s consumes the first s: N_1 ⊂ N_2 ⊂ … . All other labels
stay untouched, so that a split may still rectify with them. A pilot is the final recipe in a single process.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.opening import open_fit
from ftrect_ray.finetune.spec import Coefficients, FitSpec, Rows
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model, Pilots, Training, digest

#: Fewest validation rows: the relative error of a variance from v rows is about √(2/v), a third here.
MIN_VALIDATION = 20


@dataclass(frozen=True)
class PilotSpec:
    """One pilot: fine-tune ``fit``, then measure it on ``measure``, rows that ``fit`` never sees.

    Attributes
    ----------
    size : int
        Labels that the fine-tune consumes, its early-stopping rows included.
    seed : int
        Which of the nested orders, 0, 1, …
    """

    name: str
    size: int
    seed: int
    fit: FitSpec
    measure: Rows

    @property
    def key(self) -> str:
        """Names the measurement by its content: equal inputs, equal key."""
        return digest([self.fit.key, self.measure.content])

    def influence(self) -> Influence:
        """The weights that ν is measured by: those of ``measure``, so that all pilots are measured alike.

        With H and θ of its own training rows each pilot would measure another quantity, the smallest the noisiest, and
        the law would be fitted to the difference.

        Raises
        ------
        StatisticalRefusal, InputError
            See ``Influence.of``.
        """
        return Influence.of(
            self.fit.objective, self.fit.coefficients, self.measure, where="validation labels of the pilots"
        )


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

    @classmethod
    def failed(cls, spec: PilotSpec, reason: str) -> PilotResult:
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
        )


def validation_rows(pilots: Pilots, n: int) -> int:
    """Labels that measure the pilots: as asked, or a quarter of the budget of ``n`` labels, 20 at least.

    Raises
    ------
    InputError
        Where they and the largest pilot do not both fit into the budget.
    """
    validation, largest = pilots.validation or max(MIN_VALIDATION, n // 4), pilots.sizes[-1]
    if validation + largest > n:
        left = max(0, n - validation)
        raise InputError(
            f"'pilots.sizes' asks for {largest} labels; of {n}, {validation} are held for validation and {left} left",
            where="pilots",
            mend="lower pilots.sizes or pilots.validation, raise labels, or set 'pilots: null' with a named design",
        )
    return validation


def plan_pilots(
    rows: Rows,
    pilots: Pilots,
    model: Model,
    training: Training,
    objective: str,
    seed: int,
    coefficients: Coefficients | None = None,
) -> list[PilotSpec]:
    """The pilots of a study, sizes within seeds.

    Parameters
    ----------
    rows : Rows
        The label budget, n rows.
    seed : int
        The study's; the draw of V, the orders and the fits follow from it.
    coefficients : Coefficients, optional
        What the objective is about.

    Raises
    ------
    InputError
        Where the largest pilot and V do not both fit into the budget.
    StatisticalRefusal, InputError
        Where a pilot's rows cannot carry the coefficients; see ``finetune.influence``.
    """
    n, largest = len(rows), pilots.sizes[-1]
    validation = validation_rows(pilots, n)
    drawn = rows.shuffled(np.random.default_rng([seed, 21]))
    measure, pool = rows.take(drawn[:validation]), drawn[validation : validation + largest]
    alone = training.model_copy(update={"workers": 1, "cpus_per_worker": 1})  # more workers: the same pilots
    specs = []
    for repetition in range(pilots.seeds):
        order = np.random.default_rng([seed, 22, repetition]).permutation(pool)
        for size in pilots.sizes:
            name = f"pilot-s{size}-r{repetition}"
            trained = size - max(2, round(training.stopping_fraction * size))
            train, stop = rows.take(order[:trained]), rows.take(order[trained:size])
            fit = FitSpec(name, train, stop, model, alone, objective, seed + 1 + repetition, coefficients)
            specs.append(PilotSpec(name, size, repetition, fit, measure))
    for spec in specs:  # what cannot be weighted is refused before any work
        Influence.of_fit(spec.fit)
        spec.influence()
    return specs


def measure(spec: PilotSpec) -> PilotResult:
    """Run one pilot in this process.

    Raises
    ------
    Diverged
    InputError
        Where the model does not load.
    """
    began = time.perf_counter()
    with open_fit(spec.fit) as fit:
        fit.run()
        fit.finish()
        fitted = time.perf_counter()
        f = fit.predict(spec.measure.texts)
    f = np.where(np.isnan(f), fit.scale.train_mean, f)
    y = np.asarray(spec.measure.answers, dtype=np.float64)
    ended = time.perf_counter()
    variance_f, covariance = float(np.var(f, ddof=1)), float(np.cov(y, f, ddof=1)[0, 1])
    varies = variance_f > 0 and np.ptp(y) > 0
    return PilotResult(
        name=spec.name,
        size=spec.size,
        seed=spec.seed,
        residual_variance=spec.influence().variance(spec.measure, y - f),
        variance_prediction=variance_f,
        correlation=covariance / float(np.sqrt(variance_f * np.var(y, ddof=1))) if varies else None,
        slope=covariance / variance_f if variance_f > 0 else None,
        n_measure=len(y),
        best_epoch=fit.best_epoch,
        seconds=ended - began,
        model_seconds=fit.result.model_seconds + ended - fitted,
        status="done",
        error=None,
    )


class PilotRecords:
    """One JSON file a finished pilot, named by the pilot's key: what is measured is not measured again.

    The files are the truth about pilots, across plans with other sizes and seeds; Ray Tune's own state only
    says what a killed sweep had still to do.
    """

    def __init__(self, storage: RunStorage) -> None:
        self.storage = storage

    def load(self, spec: PilotSpec) -> PilotResult | None:
        name = f"{spec.key}.json"
        return PilotResult(**self.storage.read_json(name)) if self.storage.exists(name) else None

    def save(self, spec: PilotSpec, result: PilotResult) -> None:
        self.storage.write_json(asdict(result), f"{spec.key}.json")


def result_of(metrics: dict[str, Any]) -> PilotResult:
    """The result among the metrics that a trial reported."""
    return PilotResult(**{name: metrics[name] for name in PilotResult.__dataclass_fields__})
