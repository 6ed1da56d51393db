"""What the report says of the objective and of the rows that chose the epoch, and of an untrained model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftrect_ray.report import ReportInputs, build_report, methods, sections, words
from ftrect_ray.report.budget import Budget
from ftrect_ray.study import Study

Make = Callable[..., ReportInputs]

#: An estimate of three coefficients, beside the plan's numbers.
COEFFICIENTS = {
    "target": "ols",
    "names": ["intercept", "age", "income"],
    "value": [1.0, 0.5, 0.2],
    "std_error": [0.1, 0.05, 0.02],
    "interval": [[0.8, 0.4, 0.16], [1.2, 0.6, 0.24]],
    "alpha": 0.05,
    "n": 600,
    "m": 23_103,
    "design": "crossfit",
    "interval_ratio": [0.8, 0.7, 0.9],
    "classical": {
        "value": [1, 0.5, 0.2],
        "std_error": [0.12, 0.07, 0.02],
        "interval": [[0.7, 0.3, 0.1], [1.3, 0.7, 1]],
    },
    "diagnostics": {"residual_variance": 1.32},
}


def aimed(make_inputs: Make, objective: str, **changes: Any) -> ReportInputs:
    """The same run, but of a regression, fine-tuned for ``objective``."""
    target = {"kind": "ols", "features": ["age", "income"], "coefficient": "age"}
    study = {**make_inputs().study, "target": target, "objective": objective}
    return make_inputs(**{"study": study, "estimate": COEFFICIENTS, "truth": None} | changes)


@pytest.mark.parametrize("objective", Study.model_fields["objective"].annotation.__args__)
def test_every_objective_is_named_in_words_and_on_the_axes(objective: str, make_inputs: Make) -> None:
    inputs = aimed(make_inputs, objective)
    html, _ = build_report(inputs)
    said = words.objective(inputs.study)
    assert f"was fine-tuned to minimise {said}" in methods.paragraph(inputs)
    assert f"minimised {said}; here it is after every epoch, on 45 labels" in html
    assert words.criterion(inputs.study) in html  # the axis of the curves
    assert "on 10% of each fine-tune's own labels, 45 of them" in methods.paragraph(inputs)
    others = {words.objective({**inputs.study, "objective": other}) for other in ("variance", "mse")} - {said}
    assert not any(f"minimise {other} " in methods.paragraph(inputs) for other in others)


def test_a_plan_for_a_coefficient_is_compared_with_that_coefficient(make_inputs: Make) -> None:
    inputs = aimed(make_inputs, "coefficient")
    assert inputs.planned == 1
    told = sections.allocation(inputs)
    assert told["of"] == " for the coefficient of age"
    assert float(told["came_out"]) == pytest.approx(0.2)  # of age, the second of three
    assert Budget.of(inputs) is not None
    html, _ = build_report(inputs)
    assert "ν = a·s" in html
    assert "ν is the residual variance weighted for the coefficient of age." in html
    assert "Var(Y − f)" not in methods.paragraph(inputs)
    assert "variance of the answers, no model" not in html


@pytest.mark.parametrize("objective", ["trace", "determinant", "variance"])
def test_a_plan_for_several_coefficients_or_the_mean_is_no_forecast_of_an_interval(
    objective: str, make_inputs: Make
) -> None:
    inputs = aimed(make_inputs, objective)
    assert sections.allocation(inputs)["came_out"] is None
    assert Budget.of(inputs) is None
    assert sections.allocation(inputs)["of"] == {
        "trace": " for all coefficients, their variances summed",
        "determinant": " for all coefficients, their variances in the geometric mean",
        "variance": " for the mean answer",
    }.get(objective)


def test_fine_tunes_that_held_back_different_numbers_say_both(make_inputs: Make) -> None:
    ledger = [{"use": "early_stop", "model": f"fold-{k}", "count": 30 + k} for k in range(2)]
    assert sections.stopping_rows(make_inputs(ledger_counts=ledger)) == "30 to 31"
    assert sections.stopping_rows(make_inputs(ledger_counts=[])) == ""


def test_an_untrained_model_is_called_so(make_inputs: Make) -> None:
    estimate = {**make_inputs().estimate, "design": "rectify-only"}
    ledger = [{"use": "rectify", "model": "zero-shot", "count": 600}]
    inputs = make_inputs(estimate=estimate, ledger_counts=ledger, curves={"zero-shot": []}, pilots=(), law=None)
    html, _ = build_report(inputs)
    assert "which was not trained but asked by a prompt" in methods.paragraph(inputs)
    assert "fine-tuned to minimise" not in html
    assert "Design: rectify a model as it is, untrained." in html
    given = make_inputs(estimate=estimate, ledger_counts=[{"use": "rectify", "model": "given", "count": 600}])
    assert "predictions made beforehand" in methods.paragraph(given)
