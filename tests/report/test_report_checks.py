"""The checks say PASS and WARN on the right side of their margins; words and methods follow the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ftrect_ray.allocation import plan
from ftrect_ray.estimators import Sample, mean
from ftrect_ray.report import ReportInputs, build_report, methods, words
from ftrect_ray.report.budget import Budget, fitted_law
from ftrect_ray.report.diagnostics import TITLES, Check, checks
from ftrect_ray.report.figures_labels import label_rows

Make = Callable[..., ReportInputs]


def state(make: Make, name: str, **diagnostics: object) -> str:
    estimate = make().estimate
    found = checks(make(estimate={**estimate, "diagnostics": {**estimate["diagnostics"], **diagnostics}}))
    return next(check.state for check in found if check.name == name)


@pytest.mark.parametrize(
    ("name", "key", "good", "bad"),
    [
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


def test_checks_of_the_estimator_stand_with_their_remedy(make_inputs: Make) -> None:
    found = {check.name: check for check in checks(make_inputs())}
    assert found["R² on unseen answers"] == Check(
        "PASS", "R² on unseen answers", "51%", "at least 0", "R² is 0.51. By model: fold-0 50%, fold-1 53%."
    )
    assert found["Largest single answer"] == Check(
        "WARN",
        "Largest single answer",
        "30%",
        "at most 25 %",
        "Labelled row 7 alone carries 30 % of the variance. Remedy: look at that row.",
    )


def test_every_check_of_the_estimators_has_a_title() -> None:
    rng = np.random.default_rng(0)
    Y, weights = np.arange(60) % 2.0, rng.uniform(0.1, 1, 60)
    estimate = mean(Y, Y + rng.normal(size=60), rng.normal(size=500), sample=Sample(weights=weights))
    assert {check["name"] for check in estimate.diagnostics["checks"]} == set(TITLES)


def test_remarks_of_the_estimator_are_never_dropped(make_inputs: Make) -> None:
    estimate = make_inputs().estimate
    warned = {**estimate, "diagnostics": {**estimate["diagnostics"], "warnings": ["too few labels to tune λ"]}}
    assert [check.words for check in checks(make_inputs(estimate=warned)) if check.name == "Estimator"] == [
        "Too few labels to tune λ."
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
    budget, law = Budget.of(inputs), fitted_law(inputs.law)
    assert budget is not None
    assert law is not None
    planned = plan(law, labels=600, unlabeled=23_103, variance=2.705, folds=(2,))["crossfit-2"].interval_length
    assert budget.half_width(np.array([600]))[0] == pytest.approx(planned / 2, rel=1e-9)
    assert budget.classical_half_width(np.array([600]))[0] == pytest.approx(1.959964 * (2.705 / 600) ** 0.5, rel=1e-6)
    assert budget.classical_half_width(np.array([budget.classical_labels_for(0.1)]))[0] == pytest.approx(0.1)


def finite(inputs: ReportInputs) -> ReportInputs:
    return replace(inputs, study={**inputs.study, "population": "finite"}, estimate={**inputs.estimate, "m": 900})


def test_budget_of_a_finite_population_ends_with_its_rows(make_inputs: Make) -> None:
    inputs = finite(make_inputs())
    budget, law = Budget.of(inputs), fitted_law(inputs.law)
    assert budget is not None
    assert law is not None
    made = plan(law, labels=600, unlabeled=900, variance=2.705, folds=(2,), population="finite")
    assert 2 * budget.half_width(np.array([600]))[0] == pytest.approx(made["crossfit-2"].interval_length, rel=1e-9)
    assert 2 * budget.classical_half_width(np.array([600]))[0] == pytest.approx(made["classical"].interval_length)
    assert budget.classical_half_width(np.array([budget.classical_labels_for(0.1)]))[0] == pytest.approx(0.1)
    assert budget.more_than(600) == 1050  # half of the 900 that are left
    assert np.isnan(budget.half_width(np.array([1500]))[0])
    html, _ = build_report(inputs)
    assert "1,050 answers instead of 600" in html


@pytest.mark.parametrize(("design", "line"), [("split", "split-after-pilots"), ("recycle", "recycle")])
def test_budget_of_a_split_cannot_rectify_with_the_pilots_labels(design: str, line: str, make_inputs: Make) -> None:
    inputs = make_inputs()
    assert inputs.allocation is not None
    decision = {**inputs.allocation["decision"], "design": design, "selected_by_pilots": True}
    allocation = {**inputs.allocation, "decision": decision, "chosen": line}
    budget = Budget.of(replace(inputs, allocation=allocation, estimate={**inputs.estimate, "design": design}))
    law = fitted_law(inputs.law)
    assert budget is not None
    assert law is not None
    made = plan(law, labels=600, unlabeled=23_103, variance=2.705, spent=350)[line]
    assert made.n_finetune >= 350
    assert 2 * budget.half_width(np.array([600]))[0] == pytest.approx(made.interval_length, rel=1e-9)


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
