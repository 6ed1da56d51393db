"""The GPU benchmark: checked on a CPU with a tiny model, and honest where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "llm.py"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_without_a_gpu_nothing_is_written(tmp_path):
    finished = run("--output", str(tmp_path / "out"), CUDA_VISIBLE_DEVICES="")
    assert finished.returncode == 3
    assert finished.stderr == "error: torch finds no GPU here, so nothing is measured\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
def test_on_a_cpu_it_runs_and_claims_nothing(tmp_path):
    words = ("--device", "cpu", "--model", "tiny", "--gpus", "2", "--steps", "2")
    finished = run(
        "--output", str(tmp_path), *words, "--settings", "ours full zero-3 checkpointed*", "bare lora padded*"
    )
    assert finished.returncode == 0, finished.stderr
    ours, bare = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert (ours["world"], bare["world"]) == (2, 1)
    for row in (ours, bare):
        assert "error" not in row
        # two layers of 32 dimensions: attention 32·32·2 + 32·16·2, feed-forward 3·32·64
        assert row["matrices"] == 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
        assert len(row["seconds"]) == 2
        assert row["utilisation"] is None
        assert row["peak_bytes"] is None
    assert ours["tokens"] == [2 * 2 * 16] * 2
    assert all(16 <= tokens <= 2 * 16 for tokens in bare["tokens"])
    assert ours["forecast_bytes"] > 0
    table = (tmp_path / "gpu.md").read_text()
    assert "Not on a GPU" in table
    assert "| goal |" not in table


def test_the_goals_are_judged_by_the_numbers(tmp_path):
    """The table of two made-up rows: one forecast is off by a fifth, one is exact; utilisation is reached."""
    program = """
import json, sys
sys.path.insert(0, sys.argv[1])
import llm
common = dict(side="ours", adapter="full", zero_stage=2, checkpointing=False, shortest=1.0, world=1, step_seconds=0.1)
rows = [
    common | dict(micro_batch=8, tokens_per_second=1e4, utilisation=0.3, peak_bytes=100, forecast_bytes=120),
    common | dict(micro_batch=32, tokens_per_second=2e4, utilisation=0.5, peak_bytes=100, forecast_bytes=100),
]
rows.append(rows[1] | dict(side="bare", tokens_per_second=2.5e4, utilisation=0.55))
print(llm.table(dict(machine="X", gpus=1, model="1.3b", peak_flops=1e15, rows=rows)))
print(llm.flops_per_token("full", 10**9, llm.SIZES["1.3b"]) / 1e9)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program, str(SCRIPT.parent)], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert "| forecast of the peak memory, the worst | ± 10% | +20.0% | **missed** |" in finished.stdout
    assert "| model FLOP utilisation, full, the best | ≥ 45% | 50.0% | met |" in finished.stdout
    assert finished.stdout.count("| 0.800 |") == 1  # ours over bare, at 32 texts
    # 6 N + 12 L h s = 6 + 12·20·2048·512 / 10⁹
    assert float(finished.stdout.splitlines()[-1]) == pytest.approx(6 + 12 * 20 * 2048 * 512 / 1e9)
