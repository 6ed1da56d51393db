"""The whole path on a real local Ray: a table of made-up reviews, a tiny random model, every engine for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from ftrect_ray.ledger import SEEING, Ledger, Use
from ftrect_ray.storage import RunStorage

pytestmark = pytest.mark.ray

GOOD, BAD, OTHER = ["good", "great", "love"], ["bad", "awful", "hate"], ["the", "film", "plot", "actor", "it", "a"]
LABELS, TEXTS = 120, 900


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """900 texts with an answer each, of which a study may see 120; every 100th text is empty."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(5)
    lines = ["id,text,rating,region"]
    for i in range(TEXTS):
        words = rng.choice(GOOD + BAD + OTHER, size=rng.integers(3, 12))
        score = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        text = "" if i % 100 == 99 else " ".join(words)
        lines.append(f"t{i},{text},{5 + score + rng.normal(0, 0.7):.3f},{'north' if i % 3 else 'south'}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    path = folder / "study.yaml"
    path.write_text(
        f"""
study: tiny
data: {{table: {folder}/texts.csv, text: text, label: rating, id: id}}
labels: {LABELS}
model: {{name: {tiny_bert}, max_tokens: 16, freeze_embeddings: false}}
pilots: {{sizes: [20, 40, 60], seeds: 1, validation: 30}}
training: {{epochs: 6, min_epochs: 2, learning_rate: 2.0e-2, head_learning_rate: 2.0e-2, batch_size: 8}}
inference: {{shard_rows: 200}}
"""
    )
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ftrect_ray", *(str(word) for word in words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=500, check=False)


def load(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def finished(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One undisturbed run and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    answer = run("run", study, "-o", folder, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == load(folder, "estimate.json")
    return folder, answer.stderr


def test_every_artifact_stands_and_says_what_it_promised(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    estimate, allocation, record = (load(folder, f"{name}.json") for name in ("estimate", "allocation", "run"))
    assert estimate.keys() >= {
        "target", "value", "std_error", "interval", "alpha", "lam", "n", "m", "design", "effective_n", "classical",
        "naive", "interval_ratio",
    }  # fmt: skip
    assert estimate["design"] == "crossfit"
    assert (estimate["n"], estimate["m"]) == (LABELS, TEXTS - LABELS)
    assert estimate["diagnostics"]["prediction_errors"] == 9
    names = [row["name"] for row in allocation["designs"]]
    single = ["classical", "rectify-only", "split", "split-after-pilots", "recycle", "sequential"]
    assert names == [*single, *(f"crossfit-{folds}" for folds in range(2, 11))]
    residuals = pq.read_table(folder / "pilot_residuals.parquet")
    assert residuals.num_rows == 3 * 30
    assert allocation["chosen"] == "crossfit-2"
    law = load(folder, "scaling_law.json")
    assert {"a", "alpha", "b", "r2", "intervals", "status", "s_star"} <= law.keys()
    stages = record["stages"]
    assert all(stage["status"] == "done" and stage["seconds"] >= 0 for stage in stages.values())
    assert stages["pilot"]["model_seconds"] > 0
    assert "of which the model computed" in printed
    assert (folder / "report.html").stat().st_size > 50_000
    assert {"intervals.png", "law.png"} <= set(os.listdir(folder / "figures"))
    for model in ("fold-0", "fold-1"):
        files = {path.name for path in (folder / "model" / model).rglob("*") if path.is_file()}
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
        assert "readout.json" in files


def test_no_label_rectifies_a_model_that_saw_it(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    ledger = Ledger.load(RunStorage.open(folder))
    assert len(ledger.budget) == LABELS
    assert sorted(ledger.ids(Use.RECTIFY)) == sorted(ledger.budget)
    for model in ledger.models(Use.RECTIFY):
        seen = {name for use in SEEING for name in ledger.ids(use, model)}
        assert seen
        assert not seen & set(ledger.ids(Use.RECTIFY, model))
    assert ledger.ids(Use.PILOT_MEASURE)
    # the answers outside the budget are in no artifact that a stage reads
    assert pq.read_table(folder / "table.parquet")["label"].null_count == TEXTS - LABELS


def test_every_id_is_predicted_once_by_every_model(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for model in ("fold-0", "fold-1"):
        shards = sorted((folder / "predictions" / model).iterdir())
        rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
        assert len(shards) == 5
        assert sorted(row["id"] for row in rows) == sorted(f"t{i}" for i in range(TEXTS))
        missing = [row for row in rows if row["prediction"] is None]
        assert len(missing) == 9
        assert all(row["error"] for row in missing)


def test_the_same_command_again_does_nothing_and_alpha_redoes_no_model(finished: tuple[Path, str], study: Path) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    again = run("run", study, "-o", folder)
    assert again.returncode == 0
    assert again.stderr.count("skipped: done already with the same inputs") == 7
    other = run("run", study, "-o", folder, "--set", "alpha=0.2", "--update")
    assert other.returncode == 0, other.stderr
    assert "[finetune] skipped" in other.stderr
    assert "[predict] skipped" in other.stderr
    assert load(folder, "estimate.json")["alpha"] == 0.2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert run("run", study, "-o", folder, "--update").returncode == 0


def test_a_study_aims_at_its_coefficient(study: Path, tmp_path: Path) -> None:
    """The model can see a text's words, and the feature counts them: pilots, plan and models are about that slope."""
    table = study.parent / "texts.csv"
    lines = table.read_text().splitlines()
    numbers = [line + "," + str(len(line.split(",")[1].split())) for line in lines[1:]]
    (tmp_path / "texts.csv").write_text("\n".join([lines[0] + ",words", *numbers]) + "\n")
    target = "{kind: ols, features: [words], coefficient: words}"
    settings = [
        f"data.table={tmp_path}/texts.csv",
        f"target={target}",
        "objective=coefficient",
        "design=crossfit",
        "pilots={sizes: [20, 40, 60], seeds: 1, validation: 30}",
    ]
    answer = run("run", study, "-o", tmp_path / "run", *(word for setting in settings for word in ("--set", setting)))
    assert answer.returncode == 0, answer.stderr
    folder = tmp_path / "run"
    estimate, allocation = load(folder, "estimate.json"), load(folder, "allocation.json")
    classical = next(row for row in allocation["designs"] if row["name"] == "classical")
    assert classical["std_error"] == pytest.approx(estimate["classical"]["std_error"][1], rel=1e-6)
    assert estimate["names"] == ["intercept", "words"]
    pilots = pq.read_table(folder / "pilots.parquet").to_pylist()
    assert all(0 < row["residual_variance"] < 3 * allocation["variance"] for row in pilots)
    curve = load(folder / "model" / "fold-0", "fit.json")["curve"]
    assert all(0 < epoch["stop_metric"] < 10 * allocation["variance"] for epoch in curve)
    report = (folder / "report.html").read_text()
    assert "to minimise the residual variance weighted for the coefficient of words" in report
    assert "variance of the coefficient × labels" in report

    other = run("run", study, "-o", folder, *(w for s in [*settings, "objective=variance"] for w in ("--set", s)))
    assert other.returncode == 2
    assert "add --update to redo what it can change (pilot, " in other.stderr


def test_an_untrained_model_is_asked_by_a_prompt_and_rectified_by_every_label(
    study: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    settings = [
        "design=rectify-only",
        "pilots=null",
        f"model={{name: {tiny_llama}, max_tokens: 24, options: "
        "{prompt: 'the film {text} was', answers: {good: 8, bad: 3}}}",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    folder = tmp_path / "run"
    answer = run("run", study, "-o", folder, *words)
    assert answer.returncode == 0, answer.stderr
    estimate = load(folder, "estimate.json")
    assert (estimate["design"], estimate["n"], estimate["m"]) == ("rectify-only", LABELS, TEXTS - LABELS)
    assert estimate["interval"][0] < 5 < estimate["interval"][1]
    assert estimate["diagnostics"]["prediction_errors"] == 9
    ledger = Ledger.load(RunStorage.open(folder))
    assert ledger.counts() == [{"use": "rectify", "model": "zero-shot", "count": LABELS}]
    assert load(folder / "model" / "zero-shot", "readout.json")["train_mean"] == 5.5  # no answer has a part in it
    assert not list((folder / "model" / "zero-shot").glob("model*.safetensors"))  # no copy of the base model
    predicted = [
        row["prediction"]
        for shard in sorted((folder / "predictions" / "zero-shot").iterdir())
        for row in pq.read_table(shard).to_pylist()
    ]
    known = np.array([value for value in predicted if value is not None])
    assert len(known) == TEXTS - 9
    assert 3 <= known.min() < known.max() <= 8
    assert "which was not trained but asked by a prompt" in (folder / "report.html").read_text()
    again = run("run", study, "-o", folder, *words)
    assert again.stderr.count("skipped: done already with the same inputs") == 6


def test_killed_and_interrupted_runs_continue_to_the_same_estimate(
    finished: tuple[Path, str], study: Path, tmp_path: Path
) -> None:
    """SIGKILL of the driver among the pilots, Ctrl-C in the fine-tune: the third call ends like an undisturbed run."""
    folder = tmp_path / "tiny"
    first = _start(study, folder)
    _wait(first, lambda: list((folder / "work" / "pilots").glob("*.json")))
    measured = {path: path.stat().st_mtime_ns for path in (folder / "work" / "pilots").glob("*.json")}
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()

    second = _start(study, folder)
    _wait(second, lambda: list((folder / "work").glob("finetune/*/checkpoint*")))
    workers = psutil.Process(second.pid).children(recursive=True)
    second.send_signal(signal.SIGINT)
    assert second.wait(timeout=60) == 130
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, [process.name() for process in alive]
    assert {path: path.stat().st_mtime_ns for path in measured} == measured  # finished pilots were not repeated

    third = run("run", study, "-o", folder)
    assert third.returncode == 0, third.stderr
    assert "[pilot] skipped: done already" in third.stderr
    undisturbed, resumed = load(finished[0], "estimate.json"), load(folder, "estimate.json")
    assert resumed["value"] == pytest.approx(undisturbed["value"], abs=0.05 * undisturbed["std_error"])
    assert not [name for name in os.listdir(folder) if name.startswith(".lock")]


def _start(study: Path, folder: Path) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command("run", study, "-o", folder), stdout=quiet, stderr=quiet, start_new_session=True)


def _wait(process: subprocess.Popen[bytes], happened) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, f"the run ended with {process.returncode} before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
