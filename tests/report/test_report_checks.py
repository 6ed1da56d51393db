"""The checks say PASS and WARN on the right side of their margins; words and methods follow the run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ftrect_ray.allocation import plan
from ftrect_ray.report import ReportInputs, methods, words
from ftrect_ray.report.budget import Budget, fitted_law
from ftrect_ray.report.diagnostics import checks
from ftrect_ray.report.figures_labels import label_rows

Make = Callable[..., ReportInputs]


def state(make: Make, name: str, **diagnostics: object) -> str:
    estimate = make().estimate
    found = checks(make(estimate={**estimate, "diagnostics": {**estimate["diagnostics"], **diagnostics}}))
    return next(check.state for check in found if check.name == name)


@pytest.mark.parametrize(
    ("name", "key", "good", "bad"),
    [
        ("R² on unseen answers", "r2", 0.05, 0.049),
        ("Calibration slope", "calibration_slope", 1.5, 1.51),
        ("Calibration slope", "calibration_slope", 0.5, 0.49),
        ("Spread of the predictions", "variance_prediction", 0.03, 0.02),  # Var Y is 2.5 here
        ("Texts without a prediction", "prediction_errors", 237, 238),  # of 23,703
        ("Predictions outside the scale", "outside_scale", 0.1, 0.11),
    ],
)
def test_margins(make_inputs: Make, name: str, key: str, good: float, bad: float) -> None:
    assert state(make_inputs, name, **{key: good}) == "PASS"
    assert state(make_inputs, name, **{key: bad}) == "WARN"


def test_share_outside_the_scale_is_counted_where_the_run_did_not(make_inputs: Make) -> None:
    predictions = np.zeros(600)
    predictions[:90] = 4.5
    found = checks(make_inputs(predictions=predictions))
    check = next(check for check in found if check.name == "Predictions outside the scale")
    assert (check.state, check.value) == ("WARN", "15.0%")


def test_labels_that_were_not_drawn_at_random_show(make_inputs: Make) -> None:
    """(0.5729 − 0.5378) / (0.958 · sqrt(1.31 (1/600 + 1/23103))) = 0.77; a difference of 0.2 is 4.4."""
    estimate = make_inputs().estimate
    name = "Labelled against unlabelled texts"
    check = next(check for check in checks(make_inputs()) if check.name == name)
    assert (check.state, check.value) == ("PASS", "0.8 SE")
    shifted = {**estimate, "classical": {**estimate["classical"], "value": 0.7378}}
    check = next(check for check in checks(make_inputs(estimate=shifted)) if check.name == name)
    assert (check.state, check.value) == ("WARN", "4.4 SE")
    split = {**shifted, "design": "split"}
    assert name not in [check.name for check in checks(make_inputs(estimate=split))]


def test_warnings_of_the_estimator_are_never_dropped(make_inputs: Make) -> None:
    estimate = make_inputs().estimate
    warned = {**estimate, "diagnostics": {**estimate["diagnostics"], "warnings": ["only 12 labels"]}}
    assert [check.words for check in checks(make_inputs(estimate=warned)) if check.name == "Estimator"] == [
        "Only 12 labels."
    ]


def test_label_rows_add_up_to_the_budget_and_group_like_pilots(make_inputs: Make) -> None:
    rows = dict(label_rows(make_inputs()))
    assert list(rows) == [
        "pilot of 50, 2 times",
        "pilot of 100, 2 times",
        "pilot of 200, 3 times",
        "model fold-0",
        "model fold-1",
    ]
    assert rows["pilot of 50, 2 times"] == {"finetune": 42, "early_stop": 8, "measure": 150}
    assert sum(rows["model fold-0"].values()) == 600


def test_budget_curve_passes_through_the_plan(make_inputs: Make) -> None:
    inputs = make_inputs()
    budget, law = Budget.of(inputs), fitted_law(inputs)
    assert budget is not None
    assert law is not None
    planned = plan(law, labels=600, unlabeled=23_103, variance=2.705, folds=(2,))["crossfit-2"].interval_length
    assert budget.half_width(np.array([600]))[0] == pytest.approx(planned / 2, rel=1e-9)
    assert budget.classical_half_width(np.array([600]))[0] == pytest.approx(1.959964 * (2.705 / 600) ** 0.5, rel=1e-6)
    assert budget.classical_half_width(np.array([budget.classical_labels_for(0.1)]))[0] == pytest.approx(0.1)


def test_methods_paragraph_is_the_run_that_was(make_inputs: Make) -> None:
    text = methods.paragraph(make_inputs())
    facts = ["600 human answers and 23,103 texts", "6 pilot fine-tunes with 50, 100, 200 labels", "K = 2 times"]
    facts += ["minilm (all weights trained)", "λ = 0.96", "0.538 [0.445, 0.630]", "Ray 2.60.0", "seed was 7"]
    for fact in [*facts, "95% interval"]:
        assert fact in text
    estimate = {**make_inputs().estimate, "design": "crossfit-5", "alpha": 0.1}
    text = methods.paragraph(make_inputs(estimate=estimate))
    assert "K = 5 times" in text
    assert "90% interval" in text


def test_names_of_other_rooms_are_in_plain_words() -> None:
    assert words.design("crossfit-5") == "cross-fitting, 5 folds"
    assert words.target({"kind": "quantile", "q": 0.9}, "income") == "90% quantile of income"
    assert words.sentence("α is free") == "α is free."
    assert words.plain("a\x00\ud800b") == "a?b"
