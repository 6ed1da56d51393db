"""What another label budget would buy: the planner's prediction for the design that was carried out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from ftrect_ray.allocation import Curve, DrawnLaw, MeasuredCurve, ScalingLaw, plan
from ftrect_ray.report import words
from ftrect_ray.report.inputs import Json, ReportInputs

FINETUNED = ("crossfit", "split", "recycle")


def fitted_law(given: Json) -> ScalingLaw | None:
    """The scaling law of a part of ``scaling_law.json``, where one was fitted."""
    if not all(words.is_number(given.get(key)) for key in ("a", "alpha", "b")):
        return None
    return ScalingLaw(float(given["a"]), float(given["alpha"]), float(given["b"]))


def planned_curve(given: Json) -> Curve | None:
    """What the plan rests on: the law, or the measured levels where the pilots do not identify one."""
    curve = given.get("curve") or {}
    if curve.get("kind") == "measured":
        sizes, levels = (np.array(curve[key], dtype=float) for key in ("sizes", "variances"))
        return MeasuredCurve(sizes, levels, np.empty((0, len(sizes))))
    law = fitted_law(given)
    return None if law is None else DrawnLaw(law)


def answer_variance(inputs: ReportInputs) -> float | None:
    """Labels times the variance of the classical estimate that was planned (Var Y for the mean), as the plan knew it.

    Else from the classical estimate itself; None where nothing tells it.
    """
    known = (inputs.allocation or {}).get("variance")
    if words.is_number(known):
        return float(known)
    classical = inputs.intervals("classical")
    planned = inputs.planned
    return classical[planned].std_error ** 2 * inputs.labels if classical and planned is not None else None


@dataclass(frozen=True)
class Budget:
    """Half-widths of the interval at level 1 − ``alpha`` as a function of the number of labels n.

    ``variance`` is σ² of one answer; the ``unlabeled`` texts stay as many while the labels grow.
    """

    design: str
    curve: Curve
    variance: float
    unlabeled: int
    alpha: float

    @classmethod
    def of(cls, inputs: ReportInputs) -> Budget | None:
        """The budget of a run for one number with pilots and a fine-tuned design; None for any other."""
        curve, variance = planned_curve(inputs.law or {}), answer_variance(inputs)
        if inputs.planned is None or curve is None or not variance or inputs.design not in FINETUNED:
            return None
        design = f"crossfit-{inputs.folds}" if inputs.design == "crossfit" else inputs.design
        unlabeled = int(inputs.estimate.get("m") or max(inputs.texts - inputs.labels, 1))
        budget = cls(design, curve, variance, unlabeled, float(inputs.estimate["alpha"]))
        return budget if np.isfinite(budget.half_width(np.array([inputs.labels]))).all() else None

    def half_width(self, labels: np.ndarray) -> np.ndarray:
        """Of the design, for whole ``labels`` (k,); NaN where so few cannot carry it."""
        return np.array([self._half_width(int(n)) for n in labels])

    def _half_width(self, labels: int) -> float:
        folds = int(self.design.rpartition("-")[2]) if self.design.startswith("crossfit") else 2
        predicted = plan(
            self.curve,
            labels=labels,
            unlabeled=self.unlabeled,
            variance=self.variance,
            folds=(folds,),
            alpha=self.alpha,
        )[self.design]
        return float("nan") if predicted.interval_length is None else predicted.interval_length / 2

    def classical_half_width(self, labels: np.ndarray) -> np.ndarray:
        """Of ``labels`` (k,) answers alone."""
        return self._z * np.sqrt(self.variance / np.asarray(labels, dtype=float))

    def classical_labels_for(self, half_width: float) -> float:
        """Answers that the classical estimate needs for ``half_width``."""
        return self.variance * (self._z / half_width) ** 2

    @property
    def _z(self) -> float:
        return float(norm.ppf(1 - self.alpha / 2))
