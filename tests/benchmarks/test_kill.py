"""Kills of the node and of the driver; a node that gives notice. Kills of a worker are in finetune/test_driver.py."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

KILL = Path(__file__).parents[2] / "benchmarks" / "kill"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the benchmark's tables and its scratch: the undisturbed run is made once."""
    return tmp_path_factory.mktemp("kill")


@pytest.mark.ray
@pytest.mark.parametrize(("kind", "moment"), [("driver", "evaluation"), ("node", "upload")])
def test_a_kill_changes_nothing(kind: str, moment: str, place: Path) -> None:
    command = [
        sys.executable,
        str(KILL / "kill.py"),
        "--output",
        str(place / kind),
        "--scratch",
        str(place / "scratch"),
    ]
    command += ["--kinds", kind, "--moments", moment, "--points", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    [row] = json.loads((place / kind / "kill.json").read_text())["points"].values()
    assert row["difference"] <= 1e-6
    assert row["committed"] != "nothing"
    assert row["left"] == []
    assert f"| {kind} | {moment} " in (place / kind / "kill.md").read_text()


@pytest.mark.ray
def test_a_node_that_gives_notice_saves_first(tiny_bert: Path, make_spec, tmp_path: Path, monkeypatch) -> None:
    """It does not count as a failure, of which none is allowed here; and no checkpoint was due."""
    monkeypatch.syspath_prepend(KILL)
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    from kill import finished, outcome, start
    from moments import Traces, family, kill
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    from ftrect_ray.finetune.training import fit_local

    effort = {"workers": 1, "max_failures": 0, "checkpoint_seconds": 10_000}
    spec = make_spec(tiny_bert, train=4000, batch_size=2, epochs=1, learning_rate=1e-3, **effort)
    process, traces = start(spec, tmp_path, in_cluster=True), Traces(spec, tmp_path / "storage")
    try:
        _wait(lambda: bool(traces.scratch("")))
        node = json.loads((tmp_path / "node").read_text())
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int(1000 * (time.time() + 60))
        accepted, _ = GcsClient(address=node["address"]).drain_node(node["id"], reason, "it is a spot node", deadline)
        assert accepted
        _wait(lambda: traces.place().steps > 0)
        kill(family(node["pid"]))
        finished(process, tmp_path)
    finally:
        kill(family(process.pid))
    values, result = outcome(spec, tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker; more cost time in a model so small
    alone, _ = fit_local(spec)
    torch.set_num_threads(threads)
    np.testing.assert_allclose(values, alone.predict([*spec.train.texts, *spec.stop.texts])[0], rtol=0, atol=1e-6)
    assert len(result["curve"]) == 1


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)
