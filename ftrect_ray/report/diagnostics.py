"""Is the model fit to help here? The estimator's checks and the run's own, with margins fixed before any result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ftrect_ray.estimators.checks import OUTSIDE_SHARE
from ftrect_ray.report import words
from ftrect_ray.report.inputs import Json, ReportInputs

MOST_ERRORS = 0.01  # share of texts without a prediction


@dataclass(frozen=True)
class Check:
    """One line of the table: what was measured, its value, the margin, what it means; ``state`` PASS, WARN, REFUSE."""

    state: str
    name: str
    value: str
    margin: str
    words: str


#: Check of the estimator → its title here, and how its value is written.
TITLES: dict[str, tuple[str, Callable[[float], str]]] = {
    "labels": ("Labels that rectify", words.count),
    "variation": ("Answers vary", lambda value: words.fixed(value, 2)),
    "collapse": ("Spread of the predictions", lambda value: words.fixed(value, 2)),
    "calibration": ("Calibration slope", lambda value: words.fixed(value, 2)),
    "r2": ("R² on unseen answers", words.percent),
    "range": ("Predictions beyond the answers", lambda value: words.percent(value, 1)),
    "unlabelled": ("Texts without an answer", words.count),
    "balance": ("Labelled against unlabelled texts", lambda value: f"{words.fixed(value, 2)} sd"),
    "weights": ("Weights", words.count),
    "influence": ("Largest single answer", words.percent),
    "rare": ("Rarer answer", words.count),
    "coverage": ("Expected coverage", lambda value: words.percent(value, 1)),
}


def checks(inputs: ReportInputs) -> list[Check]:
    """All checks of the run's numbers; none changes the estimate."""
    if inputs.design == "classical":
        return []
    found = inputs.estimate.get("diagnostics") or {}
    return [*_of_estimator(found), *_of_predictions(found, inputs)]


def _of_estimator(found: Json) -> Iterator[Check]:
    """Every check of the estimate, and its remarks that belong to none."""
    own = found.get("checks") or ()
    by_model = ", ".join(
        f"{entry['name']} {words.percent(entry['r2'])}"
        for entry in found.get("models") or ()
        if words.is_number(entry.get("r2"))
    )
    for check in own:
        title, written = TITLES[check["name"]]
        value = written(check["value"]) if words.is_number(check["value"]) else ""
        text = words.sentence(check["text"])
        if check["state"] != "PASS":
            text += f" Remedy: {check['remedy']}."
        if check["name"] == "r2" and "," in by_model:
            text += f" By model: {by_model}."
        yield Check(check["state"], title, value, check["margin"], text)
    told = {check["text"] for check in own}
    for warning in found.get("warnings") or ():
        if warning not in told:
            yield Check("WARN", "Estimator", "", "", words.sentence(warning))


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


def _check(passed: bool, name: str, value: str, margin: str, *, good: str, bad: str) -> Check:
    return Check("PASS" if passed else "WARN", name, value, margin, good if passed else bad)


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
