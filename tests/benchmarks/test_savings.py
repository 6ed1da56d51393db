"""The savings benchmark: what it asks for, and the table that goes into the documents."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "savings" / "savings.py"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    found = importlib.util.spec_from_file_location("savings_run", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["savings_run"] = module
    found.loader.exec_module(module)
    return module


def row(design: str, budget: int, **numbers: Any) -> dict[str, Any]:
    errors = {f"{name}_error": 0.004 for name, value in numbers.items() if isinstance(value, float)}
    own = {"model": "minilm", "objective": "variance", "design": design, "budget": budget, "replications": 998}
    return own | {"unavailable": 2, "coverage_honest": 0.0069, **numbers, **errors}


def test_the_table_shows_savings_coverage_and_what_the_planner_knew(run: ModuleType) -> None:
    rows = [row("mean", budget, saved=0.0, coverage=0.95) for budget in (300, 1000)]
    rows += [row("finetune-only", budget, coverage=0.41) for budget in (300, 1000)]
    rows += [row("split-20", 300, saved=0.1, coverage=0.94), row("split-ramp-up", 1000, saved=-0.2, coverage=0.951)]
    planner = {"predicted_ratio": 1.012, "regret": 0.021, "chosen": "crossfit-5 × 1000"}
    rows += [row("auto", budget, saved=0.3, coverage=0.952, **planner) for budget in (300, 1000)]
    result = {
        "data": "vader", "lane": "fast", "replications": 1000, "budgets": [300, 1000], "alpha": 0.05,
        "texts": None, "population": {"rows": 23703}, "rows": rows,
    }  # fmt: skip
    lines = run.table({"vader-fast": result}).splitlines()
    assert "## Default data: MiniLM frozen, closed form" in lines
    told = (
        "1,000 replications of each budget, 23,703 rows. The Monte-Carlo error of the coverage of honest intervals is"
    )
    assert f"{told} 0.7 points." in lines
    assert "| Fine-tune only (Var) | – (41.0 %) | – (41.0 %) |" in lines
    assert "| Var + PPI, ramp-up | – | -20.0 ± 0.4 % (95.1 %) |" in lines
    assert "| Chosen by the planner (Var) | 30.0 ± 0.4 % (95.2 %) | 30.0 ± 0.4 % (95.2 %) |" in lines
    assert "| planner: predicted / realised length | 1.012 ± 0.004 | 1.012 ± 0.004 |" in lines
    assert "| planner: variance over the best design's | 2.1 ± 0.4 % | 2.1 ± 0.4 % |" in lines
    assert not any("split-20" in line for line in lines)


def test_what_is_measured_later_joins_the_table(run: ModuleType) -> None:
    before = {"budgets": [300], "rows": [row("mean", 300, saved=0.0), row("auto", 300, saved=0.1)]}
    other = [{**found, "model": "smollm2"} for found in before["rows"]]
    now = {"budgets": [300, 500], "rows": [row("auto", 300, saved=0.3), row("auto", 500, saved=0.4), *other]}
    made = run.joined(before, now)
    assert made["budgets"] == [300, 500]
    found = {(one["model"], one["budget"], one["design"]): one["saved"] for one in made["rows"]}
    assert found == {
        ("minilm", 300, "auto"): 0.3,
        ("minilm", 500, "auto"): 0.4,
        ("smollm2", 300, "mean"): 0.0,
        ("smollm2", 300, "auto"): 0.1,
        ("minilm", 300, "mean"): 0.0,
    }
    assert run.joined(None, now) == now


def test_a_regret_that_was_told_without_the_best_design_is_dropped(run: ModuleType) -> None:
    alone = row("finetune-only", 300, saved=None)
    beside = [row("ppi", 300, saved=0.6), alone, row("crossfit-2", 300, saved=0.3), row("auto", 300, regret=0.0)]
    before = {"budgets": [300], "rows": beside}
    now = {"budgets": [300, 500], "rows": [row("auto", 300, regret=0.1), row("split-20", 500, regret=0.2)]}
    chosen = [row("auto", 300, model="any model", regret=0.1)]
    for saved, told in ((0.2, None), (0.4, 0.1)):  # answers of another model are no design that this one may take
        rows = [{**one, "saved": saved} for one in [*now["rows"], *chosen]]
        found = run.joined(before, {**now, "rows": rows})["rows"]
        regrets = {(one["model"], one["design"], one["budget"]): one.get("regret") for one in found}
        assert regrets["minilm", "auto", 300] == regrets["any model", "auto", 300] == told
        assert regrets["minilm", "split-20", 500] == 0.2


def test_quick_cases_come_first_and_wine_only_with_its_file(run: ModuleType) -> None:
    both = "vader,wine"
    options = argparse.Namespace(data=both, lanes="finetune,fast", wine=None, budgets=None, texts=None)
    assert [case.name for case in run.cases(options)] == ["vader-fast", "vader-finetune-2400", "vader-finetune-12000"]
    assert [case.budgets for case in run.cases(options)] == [(300, 500, 700, 1000), (300,), (1000,)]
    options = argparse.Namespace(data=both, lanes="fast", wine=Path("reviews.csv"), budgets="300,700", texts=None)
    assert [case.name for case in run.cases(options)] == ["vader-fast", "wine-fast"]
    assert {case.budgets for case in run.cases(options)} == {(300, 700)}
    options = argparse.Namespace(data="wine", lanes="fast", wine=Path("reviews.csv"), budgets=None, texts=None)
    assert [case.name for case in run.cases(options)] == ["wine-fast"]


def test_reviews_that_end_in_the_middle_of_a_row_are_read(run: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "cut.csv"
    file.write_text('id,description,points,taster\n0,"ripe, soft",90,A\n1,thin,82,B\n2,fresh,85\n3,bro')
    with open(run.reviews(file, tmp_path / "runs"), newline="") as cut:
        assert list(csv.reader(cut)) == [
            ["description", "points"],
            ["ripe, soft", "90"],
            ["thin", "82"],
            ["fresh", "85"],
        ]
