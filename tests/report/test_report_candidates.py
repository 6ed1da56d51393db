"""What the report says of pilots of several models, of their doubt, and of a plan without a law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ftrect_ray.allocation import Compute, fit_scaling_law
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.allocate import decide
from ftrect_ray.pipeline.evidence import Evidence, fit_law, law_document
from ftrect_ray.report import ReportInputs, build_report
from ftrect_ray.report.budget import Budget
from ftrect_ray.report.figures_plan import available_designs
from ftrect_ray.study_file import parse_study

Make = Callable[..., ReportInputs]

STUDY = """
study: vader-valence
data: {source: vader, text: text, label: rating, id: id, scale: [-4, 4]}
labels: 600
candidates: {mini: {model: {name: minilm}}, llm: {model: {name: smollm2}}}
pilots: {scheme: cross-validated, sizes: [50, 100, 200], seeds: 2}
"""
SIZES = np.repeat([40.0, 80.0, 160.0], 2)


def compared(make: Make, llm: np.ndarray, status: str) -> ReportInputs:
    """The run of two candidates; ``llm`` (6,) are the second one's variances."""
    study, rng = parse_study(STUDY), np.random.default_rng(3)
    measured = {"mini": np.array([2.1, 2.05, 1.9, 1.92, 1.8, 1.82]), "llm": llm}
    laws = {}
    for name, variances in measured.items():
        replicates = variances * (1 + 0.02 * rng.normal(size=(200, 6)))
        laws[name] = fit_law(SIZES, variances, 600, 7, counts=[50, 50, 100, 100, 200, 200], replicates=replicates)
    assert laws["llm"][0].status == status
    compute = {"mini": Compute(0.1, 0.001), "llm": Compute(2.0, 0.05)}
    evidence = Evidence(laws, {}, {}, compute)
    answers = np.resize([-1.0, 1.0], 600) * (2.705 * 599 / 600) ** 0.5
    rows = Rows(tuple(map(str, range(600))), ("",) * 600, answers)
    fits = {name: fit for name, (fit, _) in laws.items()}
    spent = rows.take(np.arange(200))
    _, allocation = decide(
        study, fits, rows=rows, unlabeled=23_103, spent=spent, predictions=None, compute=compute, zero_shot={"llm": 2.6}
    )
    pilots: list[dict[str, Any]] = [
        {"name": f"pilot-{name}-s{size:g}", "candidate": name, "size": size, "seed": 0, "residual_variance": value,
         "n_measure": 100, "best_epoch": 1, "seconds": 3.0, "status": "done", "error": None}
        for name, variances in measured.items() for size, value in zip([0, *SIZES], [2.6, *variances], strict=True)
    ]  # fmt: skip
    chosen = study.with_candidate(allocation["candidate"])
    return make(
        study=chosen.model_dump(mode="json"),
        pilots=pilots,
        law=law_document(evidence, allocation["candidate"]),
        allocation=allocation,
    )


FALLING = np.array([1.45, 1.47, 1.28, 1.3, 1.17, 1.19])


def test_candidates_stand_side_by_side_with_the_doubt_of_their_lengths(make_inputs: Make) -> None:
    inputs = compared(make_inputs, FALLING, "identified")
    assert inputs.candidate == "llm"
    assert list(inputs.laws) == ["llm", "mini"]
    html, figures = build_report(inputs)
    assert "Models compared, by the design that was chosen" in html
    assert "llm (chosen)" in html
    assert "of 2 candidates the next is &#39;mini&#39;" in html
    assert "95% of its doubt" in html
    assert "Device-hours" in html
    assert "untrained" in html
    assert "of 2 candidate models" in html
    assert "each cross-validated in 5 folds" in html
    assert "chose the model and the design" in html
    assert {"law", "designs"} <= figures.keys()
    assert "smollm2" in html


def test_of_many_numbers_of_folds_some_are_shown_and_the_chosen_one_always(make_inputs: Make) -> None:
    inputs = compared(make_inputs, FALLING, "identified")
    names = [str(row["name"]) for row in available_designs(inputs)]
    assert "crossfit-5" in names
    assert "crossfit-7" not in names
    other = {**(inputs.allocation or {}), "chosen": "crossfit-7"}
    chosen = make_inputs(study=inputs.study, law=inputs.law, allocation=other)
    assert "crossfit-7" in [row["name"] for row in available_designs(chosen)]


def test_without_a_law_the_figures_rest_on_the_measured_levels(make_inputs: Make) -> None:
    flat = np.array([1.3, 1.27, 1.29, 1.31, 1.28, 1.3])
    inputs = compared(make_inputs, flat, "flat")
    html, _ = build_report(inputs)
    assert "the measured levels, on which the plan rests" in html
    assert "the plan rests on the measured sizes: the residual variance changes by" in html
    budget = Budget.of(inputs)
    assert budget is not None
    assert budget.curve.variance(500.0) == pytest.approx(budget.curve.variance(160.0))


def test_a_refusal_to_fine_tune_reaches_the_page(make_inputs: Make) -> None:
    study = parse_study(STUDY.replace("candidates: ", "# "))
    rows = Rows(tuple(map(str, range(600))), ("",) * 600, np.resize([-1.0, 1.0], 600))
    fit = fit_scaling_law([50, 100, 200], [1.3, 1.2, 1.15])
    _, allocation = decide(
        study, {"": fit}, rows=rows, unlabeled=1000, spent=rows.take(np.arange(350)), predictions=None
    )
    assert allocation["chosen"] == "classical"
    assert allocation["reason"].startswith("do not fine-tune: ")
    html, _ = build_report(make_inputs(allocation=allocation))
    assert "Do not fine-tune: " in html
