"""From pilots to a decision, in the unit of the objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ftrect_ray.allocation import Compute, LawFit, fit_scaling_law
from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators import classical_logistic, classical_ols, mean
from ftrect_ray.estimators.result import normal_quantile
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.allocate import decide
from ftrect_ray.pipeline.design import Decision
from ftrect_ray.pipeline.evidence import compute_of, fit_law
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}"
N = 400


def budget(binary: bool = False) -> Rows:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(N), rng.normal(40, 12, N), rng.normal(size=N)])
    answers = X @ [1.0, 0.02, 0.5] + rng.normal(size=N)
    answers = (answers > 2).astype(float) if binary else answers
    return Rows(tuple(map(str, range(N))), ("",) * N, answers, None, X)


def designs(rows: Rows, kind: str, objective: str, law: float, predictions: np.ndarray | None = None) -> dict:
    """allocation.json with pilots that measured ``law`` at every size."""
    target = f"target={{kind: {kind}, features: [age, z], coefficient: age}}"
    study = parse_study(TEXT, [target, f"objective={objective}"])
    fit, _ = fit_law([50, 100, 200], [law * 1.02, law * 1.01, law], N, 1)
    return decide(
        study, {"": fit}, rows=rows, unlabeled=100_000, spent=rows.take(np.arange(200)), predictions=predictions
    )[1]


def row(document: dict, name: str) -> dict:
    return next(entry for entry in document["designs"] if entry["name"] == name)


@pytest.mark.parametrize(("kind", "fit"), [("ols", classical_ols), ("logistic", classical_logistic)])
def test_without_a_model_the_plan_is_the_classical_interval_of_the_coefficient(kind: str, fit) -> None:
    rows = budget(binary=kind == "logistic")
    estimate = fit(rows.features, rows.answers)
    nu = N * estimate.std_error[1] ** 2
    document = designs(rows, kind, "coefficient", nu / 2)
    classical = row(document, "classical")
    assert document["variance"] == pytest.approx(nu, rel=1e-6)
    assert classical["std_error"] == pytest.approx(estimate.std_error[1], rel=1e-6)
    assert classical["interval_length"] == pytest.approx(2 * normal_quantile(0.05) * estimate.std_error[1], rel=1e-6)
    assert row(document, "crossfit-2")["std_error"] == pytest.approx(np.sqrt(nu / 2 / N), rel=0.05)
    assert document["chosen"] == "crossfit-2"
    assert designs(rows, kind, "coefficient", 1.1 * nu)["chosen"] == "classical"


def test_given_predictions_are_weighed_in_the_same_unit() -> None:
    rows = budget()
    predictions = rows.answers + np.random.default_rng(4).normal(size=N) * 0.3
    document = designs(rows, "ols", "coefficient", 1e9, predictions)
    scaled = [rows.answers - lam * predictions for lam in np.linspace(0, 1, 401)]
    left = min(classical_ols(rows.features, residual).std_error[1] ** 2 for residual in scaled)  # w (Y − λf), less x'Δ
    left *= (N - 1) / (N - 2)  # λ is of the same rows
    expected = left + (document["variance"] - N * left) / (N + 100_000)
    assert row(document, "rectify-only")["variance"] == pytest.approx(expected, rel=1e-4)
    assert document["chosen"] == "rectify-only"


@pytest.mark.parametrize(("scale", "level"), [(1.0, 0.0), (4.0, 0.0), (0.2, 10.0)])
def test_given_predictions_are_priced_at_the_weight_that_they_get(scale: float, level: float) -> None:
    """However spread and wherever: their order is what the tuned estimate uses, up to its largest λ of 1."""
    rng, rows = np.random.default_rng(5), plain()
    signal = 0.7 * rows.answers + np.sqrt(1 - 0.7**2) * rng.normal(size=N)
    f = level + scale * signal
    unlabeled = level + scale * rng.normal(size=100_000)
    study, arguments = parse_study(TEXT), {"rows": rows, "unlabeled": 100_000, "spent": rows.take(np.arange(200))}
    _, document = decide(study, {"": POOR}, predictions=f, **arguments)
    realised = mean(rows.answers, f, unlabeled)
    assert row(document, "rectify-only")["std_error"] == pytest.approx(realised.std_error, rel=0.02)


@pytest.mark.parametrize("design", ["split", "recycle"])
def test_labels_that_rectify_do_not_size_the_split(design: str) -> None:
    rows, spent = plain(), plain().take(np.arange(60))
    others = replace(rows, answers=np.where(np.arange(N) < 60, rows.answers, 3 * rows.answers + 1))
    study = parse_study(TEXT, [f"design={design}"])
    made = [
        decide(study, {"": GOOD}, rows=one, unlabeled=2000, spent=spent, predictions=None)[0] for one in (rows, others)
    ]
    assert made[0] == made[1]
    assert 60 < made[0].n_finetune < 200


def test_all_coefficients_together() -> None:
    rows = budget()
    error = classical_ols(rows.features, rows.answers).std_error
    trace = designs(rows, "ols", "trace", 1.0)
    assert row(trace, "classical")["std_error"] == pytest.approx(np.sqrt((error**2).sum()), rel=1e-6)
    determinant = row(designs(rows, "ols", "determinant", 1.0), "classical")["std_error"]
    assert error.min() < determinant < error.max()


@pytest.mark.parametrize("objective", ["variance", "mse"])
def test_other_objectives_plan_the_mean_answer(objective: str) -> None:
    rows = budget()
    document = designs(rows, "ols", objective, 0.1)
    assert document["variance"] == pytest.approx(np.var(rows.answers, ddof=1))


CANDIDATES = TEXT + "\ncandidates: {mini: {model: {name: minilm}}, llm: {model: {name: smollm2}}}"
SIZES = [50, 100, 200, 400]


def law(a: float, alpha: float, b: float) -> LawFit:
    """Four sizes on a law, with draws of 1 % noise."""
    variances = np.array([a * size**-alpha + b for size in SIZES])
    noise = np.random.default_rng(0).normal(size=(100, 4))
    return fit_scaling_law(SIZES, variances, replicates=variances * (1 + 0.01 * noise))


def plain(sigma2: float = 1.0) -> Rows:
    answers = np.resize([-1.0, 1.0], N) * (sigma2 * (N - 1) / N) ** 0.5
    return Rows(tuple(map(str, range(N))), ("",) * N, answers)


def chosen(
    text: str, laws: dict[str, LawFit], *overrides: str, zero_shot: dict[str, float] | None = None
) -> tuple[Decision, dict]:
    study = parse_study(text, list(overrides))
    return decide(
        study,
        laws,
        rows=plain(),
        unlabeled=100_000,
        spent=plain().take(np.arange(200)),
        predictions=None,
        zero_shot=zero_shot,
    )


GOOD, POOR = law(3.0, 0.6, 0.1), law(2.0, 0.3, 0.4)


@pytest.mark.parametrize("laws", [{"mini": POOR, "llm": GOOD}, {"llm": GOOD, "mini": POOR}])
def test_the_candidate_with_the_least_predicted_variance_is_taken(laws: dict[str, LawFit]) -> None:
    decision, document = chosen(CANDIDATES, laws)
    assert (decision.design, decision.candidate, decision.folds) == ("crossfit", "llm", 2)
    assert (document["candidate"], document["chosen"]) == ("llm", "crossfit-2")
    assert [entry["name"] for entry in document["candidates"]] == list(laws)
    assert "; of 2 candidates the next is 'mini', with variance" in document["reason"]
    own = next(entry for entry in document["candidates"] if entry["name"] == "llm")
    assert own["designs"] == document["designs"]
    low, high = row(document, "crossfit-2")["interval_length_range"]
    assert low < row(document, "crossfit-2")["interval_length"] < high


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("design=crossfit", Decision("crossfit", folds=2, candidate="llm")),
        ("design=split", Decision("split", n_finetune=200, selected_by_pilots=True, candidate="llm")),
        ("finetune_labels=120", Decision("recycle", n_finetune=120, candidate="llm")),
    ],
)
def test_a_named_design_takes_the_candidate_that_serves_it_best(override: str, expected: Decision) -> None:
    more = ["design=recycle"] if "finetune" in override else []
    decision, document = chosen(CANDIDATES, {"mini": POOR, "llm": GOOD}, override, *more)
    assert decision == expected
    assert document["reason"].startswith("named by the study")
    if decision.design == "crossfit":
        assert document["chosen"] == "crossfit-2"
        assert "; of 2 candidates the next is 'mini', with variance" in document["reason"]
    if override == "finetune_labels=120":  # the plan's own line is of another size: its prediction is not this one's
        assert document["chosen"] == "recycle-of-120"
        assert row(document, "recycle")["n_finetune"] != 120


def test_an_untrained_model_is_rectified_where_no_fine_tune_beats_it() -> None:
    decision, document = chosen(CANDIDATES, {"mini": POOR, "llm": POOR}, zero_shot={"llm": 0.2})
    assert decision == Decision("rectify-only", zero_shot=True, candidate="llm")
    assert document["reason"].startswith("do not fine-tune: ")
    assert row(document, "rectify-only")["note"] == "the model as it is, untrained"
    alone, _ = chosen(TEXT, {"": POOR}, zero_shot={"": 0.2})
    assert alone == Decision("rectify-only", zero_shot=True)
    better, _ = chosen(TEXT, {"": GOOD}, zero_shot={"": 0.9})
    assert better.design == "crossfit"


def test_given_predictions_that_are_better_than_the_untrained_model_are_rectified() -> None:
    study, rows = parse_study(CANDIDATES), plain()
    given = rows.answers + np.random.default_rng(4).normal(size=N) * 0.1
    decision, _ = decide(
        study, {"mini": POOR, "llm": POOR}, rows=rows, unlabeled=100_000, spent=rows.take(np.arange(200)),
        predictions=given, zero_shot={"llm": 0.2},
    )  # fmt: skip
    assert decision == Decision("rectify-only")


def test_without_a_law_the_plan_rests_on_the_measured_sizes_and_says_so() -> None:
    flat = fit_scaling_law([50, 100, 200], [0.50, 0.502, 0.499])
    decision, document = chosen(TEXT, {"": flat})
    assert flat.status == "flat"
    assert decision.design == "crossfit"
    assert "; the plan rests on the measured sizes: the residual variance changes by" in document["reason"]


def test_where_fine_tuning_loses_nothing_is_fine_tuned_and_the_condition_is_told() -> None:
    decision, document = chosen(TEXT, {"": law(1.0, 0.3, 0.95)})
    assert decision == Decision("classical")
    assert document["reason"].startswith("do not fine-tune: ")
    assert "no split beats the mean" in document["reason"]


def test_a_candidate_that_could_not_be_measured_is_named() -> None:
    decision, document = chosen(CANDIDATES, {"llm": GOOD})
    assert decision.candidate == "llm"
    assert document["reason"].endswith("; not measured: mini")


def test_equal_answers_need_no_model() -> None:
    rows = Rows(tuple(map(str, range(N))), ("",) * N, np.ones(N))
    arguments = {"rows": rows, "unlabeled": 10, "spent": rows.take(np.arange(200)), "predictions": None}
    decision, document = decide(parse_study(CANDIDATES), {"mini": POOR, "llm": GOOD}, **arguments)
    assert (decision, document["designs"]) == (Decision("classical"), [])
    with pytest.raises(StatisticalRefusal, match="cannot be sized: all answers are equal"):
        decide(parse_study(TEXT, ["design=split"]), {"": GOOD}, **arguments)


def test_costs_are_in_the_unit_of_one_device() -> None:
    timed = [
        row_of(consumed, 2.0 * consumed, predict, 3.0 + 2.0 * consumed + predict)
        for consumed, predict in ((20, 5.0), (40, 0.5), (80, 0.5))
    ]
    compute = compute_of(timed, devices=0.5)
    assert compute == Compute(1.0, 0.5 * 5.0 / 50, 1.5)
    assert compute_of(timed, devices=0.5, frozen=True) == Compute(1.0, 0.5 * 5.0 / 50, 1.5, one_pass=True)


def row_of(consumed: int, train: float, predict: float, seconds: float) -> dict:
    return {
        "consumed": consumed,
        "train_seconds": train,
        "predict_seconds": predict,
        "n_measure": 50,
        "seconds": seconds,
        "model_seconds": train + predict,
    }
