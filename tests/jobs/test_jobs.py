"""Every script of jobs/ through a real ``ray job submit`` to a local head, and ``ftrect submit`` to the same."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STAGES = ["pilot", "allocate", "finetune", "predict", "rectify", "report"]


@pytest.mark.parametrize("name", ["run_study", *STAGES])
def test_scripts_are_thin(name: str) -> None:
    """A docstring, two imports, one call: nothing that the library does not do."""
    source = (ROOT / "jobs" / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 40
    kinds = [type(node).__name__ for node in ast.parse(source).body]
    assert kinds == ["Expr", "Import", "ImportFrom", "Expr"]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A Ray of our own with a job server; its address."""
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    context = ray.init(address="local", num_cpus=2, include_dashboard=True, dashboard_port=0, log_to_driver=False)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


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
        f"model: {{name: {tiny_bert}, max_tokens: 16}}\npilots: {{sizes: [20, 40], seeds: 1, validation: 20}}\n"
        "training: {epochs: 1, min_epochs: 1}\n"
    )
    return folder / "study.yaml"


@pytest.mark.ray
def test_stage_by_stage_and_the_whole(head: str, study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in [*STAGES, "run_study"]:
        words = ["job", "submit", "--address", head, "--working-dir", ".", "--", "python", f"jobs/{name}.py"]
        ray_command = str(Path(sys.executable).with_name("ray"))
        answer = subprocess.run(
            [ray_command, *words, str(study), "-o", str(run)],
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
