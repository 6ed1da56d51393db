"""The README is run: its Python, its study files, its commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ftrect_ray.cli import main
from ftrect_ray.cli import parser as grammar
from ftrect_ray.study_file import parse_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def commands() -> list[list[str]]:
    lines = [line.split("#")[0] for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/ftrect")]


def test_python_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert blocks("python")
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {})
    value, interval, worth = re.fullmatch(r"(\S+) \((.*)\) (\S+)\n", capsys.readouterr().out).groups()
    low, high = (float(re.sub(r"[^\d.]", "", end.replace("np.float64", ""))) for end in interval.split(","))
    assert low < 5.2
    assert high > 4.8
    assert low < float(value) < high
    assert float(worth) > 400


def test_study_files_are_valid() -> None:
    whole, asked, compared, change = blocks("yaml")
    assert parse_study(whole).labels == 400
    assert parse_study(asked).model.options is not None
    several = {key: value for key, value in yaml.safe_load(whole).items() if key != "model"} | yaml.safe_load(compared)
    assert set(parse_study(yaml.safe_dump(several)).contenders) == {"encoder", "reader"}
    merged = yaml.safe_load(whole) | yaml.safe_load(change)
    assert parse_study(yaml.safe_dump(merged)).model.adapter == "lora"


def test_every_command_has_the_options_that_are_shown() -> None:
    assert len(commands()) >= 8
    for words in commands():
        grammar.parse(*grammar.build(), words)


def test_the_commands_without_a_model_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = ["respondent,comment,trust,gpt_rating,region,household,w,age,income"]
    for i in range(600):
        trust = rng.integers(1, 11)
        answer, predicted = trust if i < 400 else "", trust + rng.normal()
        survey = f"{'north' if i % 3 else 'south'},h{i // 2},{rng.uniform(0.5, 2):.2f}"
        person = f"{rng.integers(18, 80)},{rng.lognormal(10):.0f}"
        rows.append(f"p{i},comment {i},{answer},{predicted:.2f},{survey},{person}")
    (tmp_path / "answers.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0])
    assert main(["validate", "mine.yaml"]) == 0
    done = [words for words in commands() if words[0] in ("init", "estimate", "plan")]
    assert {words[0] for words in done} == {"init", "estimate", "plan"}
    for words in done:
        assert main(words) == 0


#: Rows of the table of savings: design and model there, and the model and the design in savings.json.
FROZEN = {
    ("one split, sized by a ramp-up of pilots", "MiniLM, frozen"): ("minilm", "split-ramp-up"),
    ("best split in hindsight", "MiniLM, frozen"): ("minilm", "split-best"),
    ("cross-fitted, K = 5", "MiniLM, frozen"): ("minilm", "crossfit-5"),
    ("one split, sized by a ramp-up of pilots", "SmolLM2, a prompt's state"): ("smollm2", "split-ramp-up"),
    ("recalibrated PPI, nothing trained", "SmolLM2, its answers to a prompt"): ("smollm2", "recalibrated"),
    ("**the planner's choice of model and folds**", "SmolLM2, cross-fitted"): ("any model", "auto"),
}
#: Its columns of numbers.
COLUMNS = [(case, budget) for case in ("vader-fast", "wine-fast") for budget in (300, 500, 1000)]
SMALL_LLM = "SmolLM2, its answers to a prompt, LoRA"
TUNED = {"MiniLM, all weights": "minilm", SMALL_LLM: "smollm2"}


def measured(case: str, model: str, design: str, budget: int) -> dict[str, Any]:
    rows = json.loads((ROOT / "benchmarks" / "results" / "savings.json").read_text())[case]["rows"]
    wanted = {"model": model, "design": design, "budget": budget, "objective": "variance"}
    (found,) = [row for row in rows if wanted.items() <= row.items()]
    return dict(found)


def table_after(words: str) -> list[list[str]]:
    """Cells of the first table after ``words``."""
    lines = README[README.index(words) :].split("\n|", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_savings_of_frozen_models_are_those_that_were_measured() -> None:
    rows = table_after("The default data and Wine Reviews")
    assert {(row[0], row[1]) for row in rows} == set(FROZEN)
    for design, model, *cells in rows:
        for (case, budget), cell in zip(COLUMNS, cells, strict=True):
            saved = measured(case, *FROZEN[design, model], budget)["saved"]
            assert cell.strip("*") == f"{round(100 * saved) + 0:d} %".replace("-", "−"), (design, model, budget)


def test_the_savings_of_fine_tunes_are_those_that_were_measured() -> None:
    rows = table_after("Real fine-tunes")
    assert {row[0] for row in rows} == set(TUNED)
    for model, *cells in rows:
        for budget, case, told in ((300, "vader-finetune-2400", cells[:2]), (1000, "vader-finetune-12000", cells[2:])):
            found = measured(case, TUNED[model], "auto", budget)
            fewer = f"(SmolLM2 beside 1,000 labels: {found['replications']}, "
            assert fewer in README if (model, budget) == (SMALL_LLM, 1000) else found["replications"] == 30
            saved, ratio = (
                f"{unit * found[name]:.{digits}f} ± {unit * found[f'{name}_error']:.{digits}f}"
                for name, unit, digits in (("saved", 100, 1), ("predicted_ratio", 1, 3))
            )
            assert told == [f"{saved} %", ratio]
    both = measured("vader-finetune-12000", "any model", "auto", 1000)
    assert f"7 of the 8 draws at 1,000: {100 * both['saved']:.1f} ± {100 * both['saved_error']:.1f} %" in README
    ramp = measured("vader-finetune-2400", "minilm", "split-ramp-up", 300)
    assert f"{100 * ramp['saved']:.1f} ± {100 * ramp['saved_error']:.1f} %".replace("-", "−") in README


def test_the_planner_kept_its_word() -> None:
    """What the README says of lengths, regret and coverage, of all budgets."""
    cases = json.loads((ROOT / "benchmarks" / "results" / "savings.json").read_text())
    rows = [row for name in ("vader-fast", "wine-fast") for row in cases[name]["rows"]]
    assert f"Wine Reviews ({cases['wine-fast']['population']['rows']:,} of them)" in README
    assert max(row.get("saved_error", 0) for row in rows) < 0.0045
    autos = [row for row in rows if row["design"] == "auto"]
    assert max(abs(row["predicted_ratio"] - 1) for row in autos) < 0.01
    assert max(row["regret"] for row in autos) < 0.01
    shares = [row["coverage"] for row in rows if row["design"] != "finetune-only"]
    assert f"between {100 * min(shares):.1f} and {100 * max(shares):.1f} % of each rectified" in README


def test_its_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
