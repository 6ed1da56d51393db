"""Is the model fit to help here? Checks with margins that were fixed before anybody saw a result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np

from ftrect_ray.estimators.diagnostics import FEW_LABELS, OUTSIDE_SHARE, SLOPE_MARGIN
from ftrect_ray.report import words
from ftrect_ray.report.inputs import Json, ReportInputs

LEAST_R2 = 0.05
LEAST_SPREAD = 0.01  # Var f / Var Y
MOST_ERRORS = 0.01  # share of texts without a prediction
MOST_SHIFT = 3.0  # standard errors between labelled and unlabelled texts


@dataclass(frozen=True)
class Check:
    """One line of the table: what was measured, its value, the margin, what it means; ``state`` PASS or WARN."""

    state: str
    name: str
    value: str
    margin: str
    words: str


def checks(inputs: ReportInputs) -> list[Check]:
    """All checks that the run's numbers allow, and the estimator's own warnings; none changes the estimate."""
    if inputs.design == "classical":
        return []
    found = inputs.estimate.get("diagnostics") or {}
    warnings = [Check("WARN", "Estimator", "", "", words.sentence(text)) for text in found.get("warnings") or ()]
    return [*_of_model(found, inputs), *_of_predictions(found, inputs), *_of_labels(found, inputs), *warnings]


def _check(passed: bool, name: str, value: str, margin: str, *, good: str, bad: str) -> Check:
    return Check("PASS" if passed else "WARN", name, value, margin, good if passed else bad)


def _of_model(found: Json, inputs: ReportInputs) -> Iterator[Check]:
    if words.is_number(r2 := found.get("r2")):
        parts = [
            f"{entry['name']} {words.percent(entry['r2'])}"
            for entry in found.get("models") or ()
            if words.is_number(entry.get("r2"))
        ]
        by_model = f" By model: {', '.join(parts)}." if len(parts) > 1 else ""
        yield _check(
            r2 >= LEAST_R2,
            "R² on unseen answers",
            words.percent(r2),
            f"at least {words.percent(LEAST_R2)}",
            good=f"Share of the answers’ variance that the model explains on answers that it never saw.{by_model}",
            bad="On answers that it never saw the model explains next to nothing. The estimate is right all the "
            f"same, but the model did not make it sharper.{by_model}",
        )
    if words.is_number(slope := found.get("calibration_slope")):
        low, high = 1 - SLOPE_MARGIN, 1 + SLOPE_MARGIN
        yield _check(
            low <= slope <= high,
            "Calibration slope",
            words.fixed(slope, 2),
            f"{low:g} to {high:g}",
            good="Where the model predicts one point more, people answer about one point more.",
            bad=f"The model {'exaggerates' if slope < 1 else 'understates'} differences between texts. "
            "Rectification keeps the estimate right; power tuning limits the loss.",
        )
    variance, total = found.get("variance_prediction"), _answer_variance(inputs)
    if words.is_number(variance) and total:
        yield _check(
            variance / total >= LEAST_SPREAD,
            "Spread of the predictions",
            words.percent(variance / total),
            f"at least {words.percent(LEAST_SPREAD)}",
            good="Var f as a share of Var Y: the model tells texts apart.",
            bad="The model predicts nearly the same for every text: it has collapsed. Look at the learning curves.",
        )


def _of_predictions(found: Json, inputs: ReportInputs) -> Iterator[Check]:
    if words.is_number(errors := found.get("prediction_errors")):
        share = errors / max(inputs.texts, 1)
        yield _check(
            share <= MOST_ERRORS,
            "Texts without a prediction",
            f"{words.count(errors)} ({words.percent(share, 1)})" if errors else "0",
            f"at most {words.percent(MOST_ERRORS)}",
            good="They would get the model’s mean training answer."
            if errors == 0
            else "They got the model’s mean training answer, which is still a function of the text alone.",
            bad="They got the model’s mean training answer. That is valid but less sharp; the column “error” of the "
            "predictions says why.",
        )
    if (outside := _outside(found, inputs)) is not None:
        low, high = (words.fixed(end, 0 if float(end).is_integer() else 2) for end in inputs.study["data"]["scale"])
        yield _check(
            outside <= OUTSIDE_SHARE,
            "Predictions outside the scale",
            words.percent(outside, 1),
            f"at most {words.percent(OUTSIDE_SHARE)}",
            good=f"Below {low} or above {high}, where no answer can be.",
            bad=f"Many predictions are below {low} or above {high}, where no answer can be: has the model learned?",
        )


def _of_labels(found: Json, inputs: ReportInputs) -> Iterator[Check]:
    n = inputs.estimate["n"]
    yield _check(
        n >= FEW_LABELS,
        "Labels that rectify",
        words.count(n),
        f"at least {FEW_LABELS}",
        good="Enough for the normal approximation behind the interval.",
        bad="Few labels: the normal approximation behind the interval is rough.",
    )
    if (shift := _shift(found, inputs)) is not None:
        yield _check(
            abs(shift) <= MOST_SHIFT,
            "Labelled against unlabelled texts",
            f"{words.fixed(shift, 1)} SE",
            f"within ±{MOST_SHIFT:g} SE",
            good="The model sees the same kind of texts on both sides, as random labelling makes it.",
            bad="The model predicts other answers for labelled than for unlabelled texts. If the labelled texts were "
            "not drawn at random, neither estimate is safe.",
        )


def _answer_variance(inputs: ReportInputs) -> float | None:
    if inputs.answers is None:
        return None
    known = np.asarray(inputs.answers, dtype=float)
    known = known[np.isfinite(known)]
    return float(known.var(ddof=1)) if len(known) > 1 else None


def _outside(found: Json, inputs: ReportInputs) -> float | None:
    """Share of predictions outside the answer's scale: of all texts where the run counted, else of the labelled."""
    scale, given = inputs.study["data"].get("scale"), found.get("outside_scale")
    if scale is None or (given is None and inputs.predictions is None):
        return None
    if given is not None:
        return float(given)
    known = np.asarray(inputs.predictions, dtype=float)
    known = known[np.isfinite(known)]
    return float(np.mean((known < scale[0]) | (known > scale[1]))) if len(known) else None


def _shift(found: Json, inputs: ReportInputs) -> float | None:
    """Classical minus rectified mean is λ(mean f labelled − mean f unlabelled): its size in standard errors.

    Only where both use the same labels, so not for ``split`` and ``recycle``.
    """
    classical = inputs.intervals("classical")
    if inputs.design not in ("crossfit", "rectify-only") or not inputs.is_mean or not classical:
        return None
    numbers = [*(inputs.estimate.get(key) for key in ("n", "m", "lam")), found.get("variance_prediction")]
    if not all(words.is_number(number) and number > 0 for number in numbers):
        return None
    n, m, lam, variance = (float(number) for number in numbers if number is not None)
    return (classical[0].value - float(inputs.estimate["value"])) / (lam * sqrt(variance * (1 / n + 1 / m)))
