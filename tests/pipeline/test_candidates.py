"""Several candidate models in one study, on a real local Ray: a ramp-up that is killed, continued and added to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ftrect_ray.ledger import SEEING, Ledger, Use
from ftrect_ray.storage import RunStorage
from ftrect_ray.study_file import load_study

pytestmark = pytest.mark.ray

GOOD, BAD, OTHER = ["good", "great", "love"], ["bad", "awful", "hate"], ["the", "film", "plot", "actor", "it", "a"]
LABELS, TEXTS = 160, 600


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(5)
    lines = ["id,text,rating"]
    for i in range(TEXTS):
        words = rng.choice(GOOD + BAD + OTHER, size=rng.integers(3, 12))
        score = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        lines.append(f"t{i},{' '.join(words)},{5 + score + rng.normal(0, 0.7):.3f}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    path = folder / "study.yaml"
    path.write_text(
        f"""
study: candidates
data: {{table: {folder}/texts.csv, text: text, label: rating, id: id}}
labels: {LABELS}
candidates:
  bert: {{model: {{name: {tiny_bert}, max_tokens: 16, adapter: head}}}}
  llama: {{model: {{name: {tiny_llama}, max_tokens: 16, adapter: head}}}}
pilots: {{scheme: ramp-up, sizes: [20, 30, 45, 60, 80], seeds: 1, validation: 40}}
inference: {{shard_rows: 200}}
"""
    )
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ftrect_ray", *(str(word) for word in words)]


def records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "work" / "pilots").glob("*.json")}


def test_candidates_climb_together_and_what_is_measured_is_never_measured_again(study: Path, tmp_path: Path) -> None:
    folder, quiet = tmp_path / "run", subprocess.DEVNULL
    killed = subprocess.Popen(command("run", study, "-o", folder), stdout=quiet, stderr=quiet, start_new_session=True)
    deadline = time.monotonic() + 240
    while not records(folder):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = records(folder)

    answer = subprocess.run(
        command("run", study, "-o", folder), capture_output=True, text=True, timeout=500, check=False
    )
    assert answer.returncode == 0, answer.stderr
    after = records(folder)
    assert before.items() <= after.items()

    pilots = pq.read_table(folder / "pilots.parquet").to_pylist()
    climbed = {name: [row["size"] for row in pilots if row["candidate"] == name] for name in ("bert", "llama")}
    ramp = [20, 30, 45, 60, 80]
    assert all(sizes == ramp[: len(sizes)] and len(sizes) >= 3 for sizes in climbed.values())
    assert [row["size"] for row in pilots] == sorted(row["size"] for row in pilots)  # side by side, size after size

    ledger = Ledger.load(RunStorage.open(folder))
    used = {i for use in (Use.PILOT_TRAIN, Use.PILOT_STOP) for i in ledger.ids(use)}
    assert len(used) == max(map(max, climbed.values()))  # the labels of sizes that were not needed are untouched
    assert set(ledger.models(Use.PILOT_TRAIN)) == {row["name"] for row in pilots}
    assert len(ledger.ids(Use.PILOT_MEASURE)) == 40
    for model in ledger.models(Use.RECTIFY):
        assert not {i for use in SEEING for i in ledger.ids(use, model)} & set(ledger.ids(Use.RECTIFY, model))

    allocation, laws = (json.loads((folder / f"{name}.json").read_text()) for name in ("allocation", "scaling_law"))
    assert [row["name"] for row in allocation["candidates"]] == list(laws["candidates"]) == ["bert", "llama"]
    assert allocation["decision"]["candidate"] == allocation["candidate"] == "bert"
    assert {law["status"] for law in laws["candidates"].values()} <= {"identified", "flat", "unidentified", "rising"}
    chosen = next(row for row in allocation["designs"] if row["name"] == allocation["chosen"])
    assert chosen["interval_length_range"][0] < chosen["interval_length"] < chosen["interval_length_range"][1]
    assert chosen["gpu_hours"] > 0
    named = json.loads((folder / "model" / "fold-0" / "readout.json").read_text())["model"]["name"]
    assert named == load_study(study).with_candidate("bert").model.name
    stage = json.loads((folder / "run.json").read_text())["stages"]["pilot"]
    assert 0 < stage["orchestration"] <= 1
    assert "; orchestration " in answer.stderr
    assert "bert" in (folder / "report.html").read_text()

    again = f"candidates.again={{model: {{name: {named}, max_tokens: 16, adapter: head}}}}"
    more = command("pilot", study, "-o", folder, "--update", "--set", again)
    answer = subprocess.run(more, capture_output=True, text=True, timeout=500, check=False)
    assert answer.returncode == 0, answer.stderr
    assert records(folder) == after  # the same model by another name is measured already
    pilots = pq.read_table(folder / "pilots.parquet").to_pylist()
    assert [row["size"] for row in pilots if row["candidate"] == "again"] == climbed["bert"]
    assert "orchestration" not in answer.stderr
