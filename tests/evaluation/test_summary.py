"""From records with a known truth to what the table, the page and the benchmark say."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.evaluation.outcome import table_csv
from ftrect_ray.evaluation.page import build_page
from ftrect_ray.evaluation.population import Population
from ftrect_ray.evaluation.records import KEY, SCHEMA, Records
from ftrect_ray.evaluation.spec import EvaluationSpec
from ftrect_ray.evaluation.summary import ANY, GRID_BEST, summarise
from ftrect_ray.evaluation.titles import table_rows
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model, Study

R, BUDGET, ROWS = 4000, 100, 10_000
#: Variance of a design over the sample mean's.
SHARES = {
    "mean": 1.0, "finetune-only": 0.1, "split-10": 0.9, "split-20": 0.7, "split-30": 0.8, "split-ramp-up": 1.2,
    "crossfit-5": 0.5, "auto": 0.52,
}  # fmt: skip


@pytest.fixture(scope="module")
def population() -> Population:
    answers = np.random.default_rng(2).normal(3, 2, ROWS)
    return Population(Rows(tuple(map(str, range(ROWS))), ("",) * ROWS, answers), None)


@pytest.fixture(scope="module")
def spec() -> EvaluationSpec:
    study = Study.model_validate({"study": "made-up", "data": {"table": "t.csv", "text": "text"}})
    return EvaluationSpec(study, R, (BUDGET,), tuple(SHARES))


@pytest.fixture(scope="module")
def rows(population: Population) -> list[dict[str, Any]]:
    """Errors correlated 0.7 with the sample mean's, of a finite table; the last 10 ramp-ups are refused."""
    rng = np.random.default_rng(4)
    sampling = math.sqrt(population.variance / BUDGET)
    shared = rng.normal(size=R)
    found = []
    for design, share in SHARES.items():
        noise = shared if design == "mean" else 0.7 * shared + math.sqrt(1 - 0.7**2) * rng.normal(size=R)
        sd = math.sqrt(share) * sampling
        errors = math.sqrt(sd**2 - population.spread**2) * noise if share > 0.1 else 5 * sd * noise
        estimated = sd * np.sqrt(rng.chisquare(400, R) / 400)
        for number in range(R):
            value = population.truth + float(errors[number])
            row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
            row |= {
                "model": "minilm",
                "objective": "variance",
                "budget": BUDGET,
                "replication": number,
                "design": design,
            }
            if design == "split-ramp-up" and number >= R - 10:
                row["unavailable"] = "no room for a pilot"
            else:
                half = 1.96 * float(estimated[number])
                row |= {
                    "value": value,
                    "std_error": float(estimated[number]),
                    "low": value - half,
                    "high": value + half,
                }
                row |= {"n_finetune": 80, "finetunes": 5, "pilots": 7 if design == "auto" else 0}
            if design == "auto":
                row |= {"predicted_length": 2 * 1.96 * sd * 1.05, "chosen": "crossfit-5" if number % 4 else "classical"}
            found.append(row)
    return found


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture(scope="module")
def summary(spec: EvaluationSpec, population: Population, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["design"]: row for row in summarise(spec, population, table(rows))}


def near(row: dict[str, Any], name: str, truth: float) -> None:
    assert row[f"{name}_error"] < 0.1 * max(abs(truth), 0.3)
    assert abs(row[name] - truth) < 4.5 * row[f"{name}_error"] + 1e-12, (name, row[name], truth)


def test_numbers_are_the_worlds(summary: dict[str, dict[str, Any]], population: Population) -> None:
    sampling = math.sqrt(population.variance / BUDGET)
    row = summary["crossfit-5"]
    near(row, "saved", 0.5)
    near(row, "saved_mse", 0.5)
    near(row, "length_ratio", math.sqrt(0.5))
    near(row, "effective_labels", 200)
    near(row, "bias", 0)
    near(row, "rmse", math.sqrt(0.5) * sampling)
    near(row, "mae", math.sqrt(0.5) * sampling * math.sqrt(2 / math.pi))
    near(row, "regret", 0)
    near(row, "regret_split", 0.5 / 0.7 - 1)
    assert abs(row["coverage_off"]) < 4
    near(summary["auto"], "regret", 0.04)
    near(summary["auto"], "predicted_ratio", 1.05)
    assert summary["auto"]["chosen"] == "crossfit-5 × 3000, classical × 1000"
    assert summary["mean"]["saved"] == 0
    for name in SHARES:
        assert (
            summary[name]["table_coverage_low"] < summary[name]["table_coverage"] < summary[name]["table_coverage_high"]
        )


def test_the_grids_best_point_is_found_over_all_replications(summary: dict[str, dict[str, Any]]) -> None:
    best, point = summary[GRID_BEST], summary["split-20"]
    assert best["is"] == "split-20"
    assert {**best, "design": "", "is": ""} == {**point, "design": "", "is": ""}


def test_the_model_alone_saves_nothing(summary: dict[str, dict[str, Any]]) -> None:
    row = summary["finetune-only"]
    assert "saved" not in row
    assert row["coverage"] < 0.4
    assert row["coverage_off"] < -50


def test_another_models_answers_are_no_design_that_was_missed(
    population: Population, rows: list[dict[str, Any]]
) -> None:
    """Predictions in the table are."""
    better = [row | {"design": "ppi", "std_error": 0.5 * row["std_error"]} for row in rows if row["design"] == "mean"]
    beside = [row for row in rows if row["design"] in ("mean", "crossfit-5", "auto")] + better
    data, designs = {"table": "t.csv", "text": "text"}, ("ppi", "crossfit-5", "auto")
    for column, untrained, best in ((None, prompted(), 0.5), ("f", None, 0.25)):
        study = Study.model_validate({"study": "made-up", "data": data | {"prediction": column}})
        spec = EvaluationSpec(study, R, (BUDGET,), designs, untrained=untrained)
        auto = next(row for row in summarise(spec, population, table(beside)) if row["design"] == "auto")
        near(auto, "regret", 0.52 / best - 1)


def prompted() -> Model:
    return Model.model_validate({"name": "smollm2", "options": {"prompt": "{text}", "answers": {"yes": 1, "no": 0}}})


def test_refused_replications_are_counted_with_their_reason(summary: dict[str, dict[str, Any]]) -> None:
    row = summary["split-ramp-up"]
    assert (row["replications"], row["unavailable"], row["reason"]) == (R - 10, 10, "no room for a pilot")
    near(row, "saved", -0.2)
    assert summary["mean"]["replications"] == R


def test_among_several_models_the_planner_takes_the_shortest_promise(
    population: Population, rows: list[dict[str, Any]]
) -> None:
    """Replications in which the second model promises less are its own, and the others the first one's.

    In the last two the first one's planner refuses, in the last both do.
    """
    data = {"table": "t.csv", "text": "text"}
    candidates = {"minilm": {"model": {"name": "minilm"}}, "other": {"model": {"name": "smollm2"}}}
    study = Study.model_validate({"study": "made-up", "data": data, "candidates": candidates})
    both = EvaluationSpec(study, 100, (BUDGET,), ("auto",))
    beside = []
    for row in rows:
        number = row["replication"]
        if number >= 100 or row["design"] not in ("mean", "auto"):
            continue
        other = row | {"model": "other"}
        if row["design"] == "auto":
            other["predicted_length"] *= 0.9 if number < 30 else 1.1
            other["std_error"] *= 10
        refused = dict.fromkeys(set(row) - set(KEY)) | {"unavailable": "no room for a pilot"}
        dead = row["design"] == "auto" and number >= 98
        beside += [row | refused if dead else row, other | refused if dead and number == 99 else other]
    found = {(row["model"], row["design"]): row for row in summarise(both, population, table(beside))}
    chosen = found["any model", "auto"]
    assert (
        chosen["chosen"]
        == "minilm: crossfit-5 × 51, other: crossfit-5 × 23, minilm: classical × 17, other: classical × 8"
    )
    assert (chosen["replications"], chosen["unavailable"], chosen["reason"]) == (99, 1, "no room for a pilot")
    json.dumps(chosen, allow_nan=False)
    assert chosen["pilots"] == pytest.approx(np.mean([14.0] * 98 + [7.0]))  # of both models, but for a refused one
    assert chosen["regret"] == pytest.approx(0.52 * (68 + 31 * 100) / 99 - 1, rel=0.05)  # over the sample mean
    assert found["any model", "mean"]["rmse"] == found["minilm", "mean"]["rmse"]


def test_candidates_that_climb_alone_are_not_chosen_among(population: Population, rows: list[dict[str, Any]]) -> None:
    """Under a ramp-up each spends other labels, and no record says what a study of all would have spent."""
    pilots = {"scheme": "ramp-up", "sizes": [20, 40, 80]}
    candidates = {"minilm": {"model": {"name": "minilm"}}, "other": {"model": {"name": "smollm2"}}}
    study = {"study": "made-up", "data": {"table": "t.csv", "text": "text"}, "candidates": candidates, "pilots": pilots}
    both = EvaluationSpec(Study.model_validate(study), 100, (BUDGET,), ("auto",))
    beside = [row | {"model": model} for row in rows for model in candidates if row["design"] in ("mean", "auto")]
    assert {row["model"] for row in summarise(both, population, table(beside))} == set(candidates)


def test_records_come_back_as_they_were_in_any_order(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    storage = RunStorage.open(tmp_path)
    rows = [row for row in rows if row["replication"] < 30]
    kept = Records(storage)
    for part in (rows[100:], rows[:50], rows[50:100]):
        kept.add(part)
    reopened = Records(storage)
    assert reopened.table == kept.table
    assert kept.table.to_pylist() == sorted(rows, key=lambda row: [row[name] for name in KEY])
    chunks = {name: storage.read_bytes("work", "records", name) for name in storage.list("work", "records")}
    reopened.finish()
    first = storage.read_bytes("records.parquet")
    assert storage.list("work", "records") == []
    for name, chunk in chunks.items():  # killed before they were dropped
        storage.write_bytes(chunk, "work", "records", name)
    again = Records(storage)
    assert again.table == kept.table
    again.finish()
    assert storage.read_bytes("records.parquet") == first
    assert ("minilm", "variance", BUDGET, 3, "auto") in again
    assert ("minilm", "variance", BUDGET, 30, "auto") not in again


def test_csv_holds_every_row_and_number(summary: dict[str, dict[str, Any]]) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(list(summary.values())))))
    assert [row["design"] for row in rows] == list(summary)
    assert float(rows[6]["saved"]) == summary["crossfit-5"]["saved"]
    assert rows[1]["saved"] == ""


@pytest.fixture(scope="module")
def document(population: Population, summary: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "study": "made-up <b>", "lane": "fast", "models": ["minilm"], "budgets": [BUDGET], "replications": R,
        "texts": None, "untrained": "smollm2", "alpha": 0.05, "notes": ["A remark."], "rows": list(summary.values()),
        "population": {"rows": ROWS, "truth": population.truth, "repeated": 12, "beyond": 0},
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(document: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    return build_page(document, "study: made-up")


def test_the_page_loads_nothing_and_has_every_design(page: tuple[str, dict[str, bytes]]) -> None:
    html, pngs = page
    assert set(pngs) == {"saved", "coverage", "planned"}
    assert all(png.startswith(b"\x89PNG") for png in pngs.values())
    assert not re.search(r"<script|<img|<link|url\((?!#)|https?://(?!www\.w3\.org)", html)
    assert "made-up &lt;b&gt;" in html
    for title in (
        "Sample mean",
        "Fine-tune only (Var)",
        "Var + PPI, grid-best",
        "Var + PPI, ramp-up",
        "Cross-fitted, K = 5",
    ):
        assert title in html
    assert "split-20" not in html
    assert "10 replications without an estimate: no room for a pilot" in html
    assert re.search(r"minilm, 100 labels: the planner’s choice saved <b>4[78]%</b> of the labels", html)
    assert "Left out: 12 rows with the text of an earlier row. A remark." in html
    assert not re.search(r">\s*nan|None<|inf%", html)


def test_a_page_of_replications_that_tell_nothing_has_no_pictures(document: dict[str, Any]) -> None:
    """Answers that are nearly all equal: every drawn set was constant, and no variance has a ratio."""
    told = {"saved", "saved_error", "predicted_ratio", "predicted_ratio_error"}
    rows = [{name: value for name, value in row.items() if name not in told} for row in document["rows"]]
    html, pngs = build_page({**document, "rows": rows}, "")
    assert pngs == {}
    assert "<figure" not in html
    assert "Cross-fitted, K = 5" in html


def test_the_choice_among_models_is_the_headline(document: dict[str, Any]) -> None:
    among = [{**row, "model": ANY} for row in document["rows"] if row["design"] in ("mean", "auto")]
    html, _ = build_page({**document, "models": ["minilm", "smollm2"], "rows": [*document["rows"], *among]}, "")
    headlines = re.findall(r'<p class="answer">(.*?) saved', html)
    assert headlines == ["100 labels: the planner’s choice of model and design"]


def test_rows_stand_as_in_the_paper() -> None:
    designs = [
        "auto",
        "crossfit-10",
        "crossfit-2",
        "split-ramp-up",
        "split-best",
        "split-20",
        "ppi",
        "mean",
        "finetune-only",
    ]
    rows = [
        {"model": "m", "objective": objective, "budget": 1, "design": design}
        for objective in ("variance", "mse")
        for design in designs
    ]
    assert [row.title for row in table_rows(rows, "m")] == [
        "Sample mean", "Fine-tune only (MSE)", "Fine-tune only (Var)", "PPI only", "MSE + PPI, grid-best",
        "Var + PPI, grid-best", "MSE + PPI, ramp-up", "Var + PPI, ramp-up", "Cross-fitted, K = 2 (MSE)",
        "Cross-fitted, K = 2 (Var)", "Cross-fitted, K = 10 (MSE)", "Cross-fitted, K = 10 (Var)",
        "Chosen by the planner (MSE)", "Chosen by the planner (Var)",
    ]  # fmt: skip
