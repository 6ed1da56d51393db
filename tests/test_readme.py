"""The README is run: its Python, its study files, its commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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


def test_its_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
