"""What a report is made of: plain data, as the run's storage holds it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ftrect_ray.errors import InputError

Json = Mapping[str, Any]

REQUIRED = ("target", "value", "std_error", "interval", "alpha", "n", "design")


@dataclass(frozen=True)
class Interval:
    """A value of the answer's own unit with its standard error and its confidence interval."""

    value: float
    std_error: float
    low: float
    high: float


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report shows; what is absent makes its section disappear.

    Attributes
    ----------
    study : mapping
        The study, all defaults filled in (``Study.model_dump(mode="json")``).
    study_yaml : str
        The same as YAML text, shown as it stands.
    estimate : mapping
        ``estimate.json``. Its ``diagnostics`` may hold, beside what the estimators write,
        ``prediction_errors`` (texts without a prediction), ``outside_scale`` (share of predictions outside
        the answer's scale) and ``texts_cut`` (texts longer than the model's ``max_tokens``).
    labels, texts : int
        Human answers in the budget; texts in the table, answered ones included.
    run : mapping
        ``run.json``: ``stages`` {name: {seconds, cpu_seconds, model_seconds, status}}, ``versions``,
        ``started``, ``seed``, ``git``.
    pilots : sequence of mapping
        Rows of ``pilots.parquet``: name, size, seed, residual_variance, n_measure, best_epoch, seconds, status, error;
        with several candidate models, ``candidate``.
    law : mapping, optional
        ``scaling_law.json``: a, alpha, b, r2, intervals, status, message, sizes, variances; ``curve`` is what the plan
        rests on, {kind: law} or {kind: measured, sizes, variances}; ``band`` {sizes, low, high}, optional, is the
        bootstrap's band of it; ``candidates``, optional, has the same of each.
    allocation : mapping, optional
        ``allocation.json``: chosen, reason, variance (Var Y), ``designs`` [{name, finetunes, n_finetune, variance,
        std_error, interval_length, interval_length_range, saved_labels, gpu_hours, note}], predicted for the mean
        answer; null where impossible. ``candidate`` is the model that they are for, ``candidates`` has those of each.
    curves : mapping
        Model name to its learning curve, [{epoch, stop_metric, train_loss}].
    best_epochs : mapping
        Model name to the epoch that was kept.
    ledger_counts : sequence of mapping
        [{use, model, count}]: how many labels a model used for what.
    answers, predictions : (n,) arrays, optional
        Answers and the predictions of the models that never saw them.
    truth : float or sequence of float, optional
        The target on all answers, known only for a benchmark table.

    Raises
    ------
    InputError
        If ``estimate`` lacks a key that no report can do without.
    """

    study: Json
    study_yaml: str
    estimate: Json
    labels: int
    texts: int
    run: Json = field(default_factory=dict)
    pilots: Sequence[Json] = ()
    law: Json | None = None
    allocation: Json | None = None
    curves: Mapping[str, Sequence[Json]] = field(default_factory=dict)
    best_epochs: Mapping[str, int] = field(default_factory=dict)
    ledger_counts: Sequence[Json] = ()
    answers: np.ndarray | None = None
    predictions: np.ndarray | None = None
    truth: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        absent = [key for key in REQUIRED if self.estimate.get(key) is None]
        if absent:
            raise InputError(
                f"the estimate lacks {', '.join(map(repr, absent))}",
                where="estimate.json",
                mend="run 'ftrect rectify' again",
            )

    @property
    def design(self) -> str:
        """The design that was carried out: crossfit, split, recycle, rectify-only or classical."""
        return "crossfit" if str(self.estimate["design"]).startswith("crossfit") else str(self.estimate["design"])

    @property
    def folds(self) -> int:
        """Folds of a cross-fitted run: as the allocation chose them, else as the study wished."""
        for name in (str(self.estimate["design"]), str((self.allocation or {}).get("chosen"))):
            if (found := re.fullmatch(r"crossfit-(\d+)", name)) is not None:
                return int(found[1])
        return int(self.study["folds"])

    @property
    def candidate(self) -> str:
        """The candidate model that the plan is for; empty where there is one model."""
        return str((self.allocation or {}).get("candidate") or "")

    @property
    def laws(self) -> dict[str, Json]:
        """``scaling_law.json`` of every candidate, the chosen one first; of the only model, by an empty name."""
        if not self.law:
            return {}
        listed = self.law.get("candidates") or {"": self.law}
        return dict(sorted(listed.items(), key=lambda item: item[0] != self.candidate))

    @property
    def is_mean(self) -> bool:
        """Whether the target is the mean answer, for which the plan's numbers are predictions."""
        return bool(self.study["target"]["kind"] == "mean")

    @property
    def is_targeted(self) -> bool:
        """Whether the fine-tunes, and so the pilots and the plan, are about coefficients."""
        return self.study["objective"] in ("coefficient", "trace", "determinant")

    @property
    def planned(self) -> int | None:
        """The component of the target whose interval the plan predicts; None where it predicts no single one."""
        if self.study["objective"] == "coefficient":
            return 1 + list(self.study["target"]["features"]).index(self.study["target"]["coefficient"])
        return 0 if self.is_mean else None

    @property
    def is_zero_shot(self) -> bool:
        """Whether an untrained model was rectified."""
        return any(entry["model"] == "zero-shot" for entry in self.ledger_counts)

    @property
    def stopping_rows(self) -> list[int]:
        """How many labels chose the epoch of each final fine-tune."""
        return [int(entry["count"]) for entry in self.ledger_counts if entry["use"] == "early_stop"]

    @property
    def label(self) -> str:
        """The answer's column."""
        return str(self.study["data"]["label"])

    @property
    def names(self) -> list[str]:
        """The components of the target; one empty name for a scalar."""
        if np.ndim(self.estimate["value"]) == 0:
            return [""]
        given = self.estimate.get("names") or []
        return [str(name) for name in given] or [f"component {j + 1}" for j in range(len(self.estimate["value"]))]

    @property
    def is_vector(self) -> bool:
        """Whether the target has several components (regression coefficients)."""
        return bool(np.ndim(self.estimate["value"]))

    @property
    def truths(self) -> list[float | None]:
        """The truth of every component, None where it is unknown."""
        if self.truth is None:
            return [None] * len(self.names)
        return [float(value) for value in np.atleast_1d(np.asarray(self.truth, dtype=float))]

    def intervals(self, part: str = "") -> list[Interval] | None:
        """One interval per component of the estimate itself, or of its ``part`` ``classical`` or ``naive``.

        None where the estimate has no such part.
        """
        source = self.estimate.get(part) if part else self.estimate
        if not source or source.get("interval") is None:
            return None
        value, error = (np.atleast_1d(np.asarray(source[key], dtype=float)) for key in ("value", "std_error"))
        low, high = (np.atleast_1d(np.asarray(bound, dtype=float)) for bound in source["interval"])
        return [Interval(*map(float, row)) for row in zip(value, error, low, high, strict=True)]
