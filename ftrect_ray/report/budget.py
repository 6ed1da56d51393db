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
    """σ² of one answer as the plan knew it: Var Y for the mean, else labels times the classical variance.

    Else from the classical estimate itself; None where nothing tells it.
    """
    known = (inputs.allocation or {}).get("variance")
    if words.is_number(known):
        return float(known)
    classical = inputs.intervals("classical")
    planned = inputs.planned
    return classical[planned].std_error ** 2 * inputs.labels if classical and planned is not None else None


def design_effect(inputs: ReportInputs) -> float:
    """Of how the labels were sampled, as the plan knew it."""
    return float((inputs.allocation or {}).get("design_effect") or 1.0)


@dataclass(frozen=True)
class Budget:
    """Half-widths of the interval at level 1 − ``alpha`` as a function of the number of labels n.

    ``variance`` is σ² of one answer, ``effect`` that of how the labels were sampled. The ``unlabeled`` texts stay as
    many while the labels grow, unless the target is the mean of the table's own ``rows``; ``spent`` labels of the
    pilots may not rectify.
    """

    design: str
    curve: Curve
    variance: float
    unlabeled: int
    alpha: float
    effect: float = 1.0
    spent: int = 0
    rows: int | None = None

    @classmethod
    def of(cls, inputs: ReportInputs) -> Budget | None:
        """The budget of a run for one number with pilots and a fine-tuned design; None for any other."""
        curve, variance = planned_curve(inputs.law or {}), answer_variance(inputs)
        if inputs.planned is None or curve is None or not variance or inputs.design not in FINETUNED:
            return None
        design = f"crossfit-{inputs.folds}" if inputs.design == "crossfit" else inputs.design
        given = inputs.allocation or {}
        sized = bool((given.get("decision") or {}).get("selected_by_pilots"))
        spent = int(given.get("spent") or 0) if sized else 0
        if design == "split" and spent:
            design = "split-after-pilots"
        unlabeled = int(inputs.estimate.get("m") or max(inputs.texts - inputs.labels, 1))
        effect = design_effect(inputs)
        rows = inputs.labels + unlabeled if inputs.study.get("population") == "finite" else None
        budget = cls(design, curve, variance, unlabeled, float(inputs.estimate["alpha"]), effect, spent, rows)
        return budget if np.isfinite(budget.half_width(np.array([inputs.labels]))).all() else None

    def more_than(self, labels: int) -> int:
        """Twice as many, or half of the rows that are left."""
        return 2 * labels if self.rows is None else min(2 * labels, (labels + self.rows) // 2)

    def half_width(self, labels: np.ndarray) -> np.ndarray:
        """Of the design, for whole ``labels`` (k,); NaN where so few cannot carry it."""
        return np.array([self._half_width(int(n)) for n in labels])

    def _half_width(self, labels: int) -> float:
        if self.rows is not None and labels >= self.rows:
            return float("nan")
        folds = int(self.design.rpartition("-")[2]) if self.design.startswith("crossfit") else 2
        predicted = plan(
            self.curve,
            labels=labels,
            unlabeled=self.unlabeled if self.rows is None else self.rows - labels,
            variance=self.variance,
            folds=(folds,),
            population="infinite" if self.rows is None else "finite",
            alpha=self.alpha,
            effect=self.effect,
            spent=self.spent,
        )[self.design]
        return float("nan") if predicted.interval_length is None else predicted.interval_length / 2

    def classical_half_width(self, labels: np.ndarray) -> np.ndarray:
        """Of ``labels`` (k,) answers alone."""
        of_mean = np.maximum(1 / np.asarray(labels, dtype=float) - self._known, 0.0)
        return self._z * np.sqrt(self.effect * self.variance * of_mean)

    def classical_labels_for(self, half_width: float) -> float:
        """Answers that the classical estimate needs for ``half_width``."""
        return 1 / ((half_width / self._z) ** 2 / (self.effect * self.variance) + self._known)

    @property
    def _known(self) -> float:
        """1/N, of a finite population."""
        return 0.0 if self.rows is None else 1 / self.rows

    @property
    def _z(self) -> float:
        return float(norm.ppf(1 - self.alpha / 2))
