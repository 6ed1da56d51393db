"""Every script of jobs/ through a real ``ray job submit`` to a local head, and ``ftrect submit`` to the same."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
STAGES = ["pilot", "allocate", "finetune", "predict", "rectify", "report"]


@pytest.mark.parametrize("name", ["run_study", "evaluate", *STAGES])
def test_scripts_are_thin(name: str) -> None:
    """A docstring, two imports, one call: nothing that the library does not do."""
    source = (ROOT / "jobs" / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 40
    kinds = [type(node).__name__ for node in ast.parse(source).body]
    assert kinds == ["Expr", "Import", "ImportFrom", "Expr"]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head of our own with a job server, on ports that nobody else has; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["start", "--head", "--block", "--num-cpus=2", "--port=0", f"--dashboard-port={port}"]
    words += ["--dashboard-agent-listen-port=0", "--include-dashboard=true", "--disable-usage-stats"]
    # as in a container image: `python` is the one that has the packages
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "disabled"}
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    started = subprocess.Popen([RAY, *words], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for_job_server(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        family = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
        started.terminate()
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                process.kill()


def _wait_for_job_server(address: str) -> None:
    """It answers before it can take a job."""
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + 90
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except (RuntimeError, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(1)
    words = ["good", "bad", "film", "plot"]
    lines = ["id,text,rating"]
    for i in range(300):
        text = rng.choice(words, size=6)
        level = sum(text == "good") - sum(text == "bad") + rng.normal(0, 0.5)
        lines.append(f"t{i},{' '.join(text)},{level:.3f}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    (folder / "study.yaml").write_text(
        f"study: job\ndata: {{table: {folder}/texts.csv, text: text, label: rating, id: id}}\nlabels: 80\n"
        f"model: {{name: {tiny_bert}, max_tokens: 16}}\npilots: {{sizes: [15, 25, 40], seeds: 1, validation: 20}}\n"
        "training: {epochs: 1, min_epochs: 1}\ndesign: crossfit\n"
    )
    return folder / "study.yaml"


@pytest.mark.ray
def test_stage_by_stage_and_the_whole(head: str, study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in [*STAGES, "run_study"]:
        words = ["job", "submit", "--address", head, "--working-dir", ".", "--", "python", f"jobs/{name}.py"]
        answer = subprocess.run(
            [RAY, *words, str(study), "-o", str(run)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "skipped: done already" in answer.stdout
    assert json.loads((run / "estimate.json").read_text())["n"] == 80


@pytest.mark.ray
def test_ftrect_submit_carries_data_and_code_along(head: str, study: Path, tmp_path: Path) -> None:
    words = ["submit", str(study), "-o", str(tmp_path / "run"), "--address", head, "--submission-id", "once"]
    words += ["--set", "design=classical"]
    command = [sys.executable, "-m", "ftrect_ray", *words]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads((tmp_path / "run" / "estimate.json").read_text())["design"] == "classical"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 3
    assert "error: the cluster did not take the job:" in again.stderr
    assert "once" in again.stderr
