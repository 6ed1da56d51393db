"""`ftrect evaluate` on a real Ray: the outcome is a function of what was asked, whatever happened on the way."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

DESIGNS = "ppi,split-20,split-40,split-ramp-up,crossfit-2,auto"
OUTCOME = ("records.parquet", "summary.csv", "summary.json", "report.html", "figures/saved.png", "evaluation.json")


def command(study: Path, place: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "ftrect_ray", "evaluate", str(study), "-o", str(place), *words]


def evaluate(study: Path, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(command(study, place, *words), capture_output=True, text=True, timeout=400, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer


def outcome(place: Path) -> dict[str, bytes]:
    return {name: (place / name).read_bytes() for name in OUTCOME}


@pytest.mark.ray
def test_killed_grown_or_in_one_go_it_is_the_same(
    make_study: Callable[..., Path], tiny_bert: Path, tmp_path: Path
) -> None:
    study = make_study(tiny_bert)
    words = ["--replications", "60", "--budgets", "110,150", "--designs", DESIGNS]
    whole = tmp_path / "whole"
    answer = evaluate(study, whole, *words, "--json")
    summary = json.loads(answer.stdout)
    assert "[evaluate] 120 of 120 replications" in answer.stderr
    assert summary == json.loads((whole / "summary.json").read_text())
    assert {path.name for path in (whole / "figures").iterdir()} == {"saved.png", "coverage.png", "planned.png"}

    killed = tmp_path / "killed"
    told = tmp_path / "told"
    with told.open("w") as log:
        process = subprocess.Popen(command(study, killed, *words), stderr=log, stdout=log)
    chunks = killed / "work" / "records"
    deadline = time.monotonic() + 300
    while not (chunks.is_dir() and any(chunks.iterdir())):
        assert process.poll() is None, told.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for one in family[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, timeout=20)
    kept = {path.name: path.stat().st_mtime_ns for path in chunks.iterdir()}
    assert not (killed / "records.parquet").exists()
    evaluate(study, killed, *words)
    assert 0 < len(kept) < 12
    assert not chunks.exists()
    assert outcome(killed) == outcome(whole)

    grown = tmp_path / "grown"
    evaluate(study, grown, "--replications", "4", "--budgets", "110", "--designs", "crossfit-2,split-20")
    evaluate(study, grown, *words)
    assert pq.read_table(grown / "records.parquet").num_rows == pq.read_table(whole / "records.parquet").num_rows
    ours, theirs = (list(csv.DictReader((place / "summary.csv").open())) for place in (grown, whole))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["design"] == other["design"]
        assert float(mine["saved"]) == pytest.approx(float(other["saved"]), abs=1e-9)
    again = evaluate(study, grown, *words)
    assert "[evaluate] skipped: all 60 replications are there" in again.stderr


@pytest.mark.ray
def test_a_terminated_evaluation_says_what_stays(
    make_study: Callable[..., Path], tiny_bert: Path, tmp_path: Path
) -> None:
    place, told = tmp_path / "out", tmp_path / "told"
    words = ["--replications", "3000", "--budgets", "110", "--designs", "crossfit-5"]
    with told.open("w") as log:
        process = subprocess.Popen(command(make_study(tiny_bert), place, *words), stderr=log, stdout=log)
    deadline = time.monotonic() + 300
    while not ((place / "work" / "records").is_dir() and any((place / "work" / "records").iterdir())):
        assert process.poll() is None, told.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=60) == 143, told.read_text()
    assert told.read_text().splitlines()[-1] == "interrupted: what is finished stays; the same command continues"


@pytest.mark.ray
def test_the_slow_lane_fine_tunes_and_keeps_every_fit(
    make_study: Callable[..., Path], tiny_bert: Path, tmp_path: Path
) -> None:
    study, place = make_study(tiny_bert), tmp_path / "slow"
    words = ["--replications", "2", "--budgets", "60", "--lane", "finetune", "--texts", "80"]
    evaluate(study, place, *words, "--designs", "crossfit-2", "--objectives", "variance,mse")
    fits = {path.name: path.stat().st_mtime_ns for path in (place / "work" / "fits").iterdir()}
    assert len(fits) == 2 * 2 * 2  # folds, replications, objectives
    evaluate(study, place, *words, "--designs", "crossfit-2,finetune-only", "--objectives", "variance")
    after = {path.name: path.stat().st_mtime_ns for path in (place / "work" / "fits").iterdir()}
    assert fits.items() <= after.items()
    assert len(after) == len(fits) + 2
    records = pq.read_table(place / "records.parquet").to_pylist()
    assert len(records) == 2 * 2 * 2 + 2  # mean and crossfit-2 twice, finetune-only once
    assert all(record["value"] is not None for record in records)


@pytest.mark.ray
def test_what_a_worker_cannot_do_is_said_in_one_line(
    make_study: Callable[..., Path], tiny_bert: Path, tmp_path: Path
) -> None:
    torn = shutil.copytree(tiny_bert, tmp_path / "torn")
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    words = ["--replications", "2", "--budgets", "60", "--designs", "crossfit-2"]
    answer = subprocess.run(
        command(make_study(torn), tmp_path / "out", *words), capture_output=True, text=True, timeout=400, check=False
    )
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.count("error: ") == 1
    assert answer.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in answer.stderr
