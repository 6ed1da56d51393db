"""Pilots under a real Ray Tune: side by side, failing, killed and continued."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from ftrect_ray.errors import EnvironmentFault, InputError, StatisticalRefusal
from ftrect_ray.finetune.pilot import PilotResult, PilotSpec, measure
from ftrect_ray.finetune.pilot_plan import plan_pilots
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.study import Model, Pilots

pytestmark = pytest.mark.ray

#: A driver that says each result as it comes: for killing.
DRIVER = """
import pickle, sys
from ftrect_ray.cluster import cluster_session
from ftrect_ray.finetune.pilots import run_pilots
with open(sys.argv[1], "rb") as file, cluster_session("local"):
    specs = pickle.load(file)
    say = lambda result: print(result.name, flush=True)
    run_pilots(specs, storage=sys.argv[2], slots=1, max_failures=0, on_result=say)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    with (
        tempfile.TemporaryDirectory(prefix="rt", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)  # a short path: sockets allow 107 characters
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=128 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def plan(tiny_bert, make_spec) -> Callable[..., list[PilotSpec]]:
    """``plan(sizes=…, seeds=…)``: pilots of a tiny model on 120 synthetic sentences."""
    whole = make_spec(tiny_bert, train=100, stop=20)
    parts = (whole.train, whole.stop)
    rows = Rows(
        tuple(f"r{i}" for i in range(120)),
        tuple(text for part in parts for text in part.texts),
        np.concatenate([part.answers for part in parts]),
    )

    def make(sizes: tuple[int, ...] = (20, 30, 40), seeds: int = 1, **training: object) -> list[PilotSpec]:
        settings = whole.training.model_copy(update=training)
        pilots = Pilots(sizes=list(sizes), seeds=seeds)
        return plan_pilots(rows, pilots, Model(name=str(tiny_bert), max_tokens=16), settings, "variance", 7)

    return make


def run(specs: list[PilotSpec], storage: Path, **settings) -> list[PilotResult]:
    from ftrect_ray.finetune.pilots import refuse_failed, run_pilots

    results = run_pilots(specs, **{"storage": str(storage), "slots": 2, "max_failures": 0} | settings)
    refuse_failed(results)
    return results


def trial_processes() -> list[psutil.Process]:
    """Workers of this test's cluster that run a trial."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "ImplicitFunc" in " ".join(child.cmdline()):
                found.append(child)
    return found


def diverging(spec: PilotSpec) -> PilotSpec:
    return replace(spec, fit=replace(spec.fit, training=spec.fit.training.model_copy(update={"learning_rate": 1e30})))


def test_six_pilots_load_their_libraries_twice_and_are_measured_once(cluster, plan, tmp_path, capfd):
    specs, told, workers = plan(sizes=(20, 40, 60), seeds=2), [], set()
    capfd.readouterr()

    def on_result(result: PilotResult) -> None:
        told.append(result.name)
        workers.update(process.pid for process in trial_processes())

    results = run(specs, tmp_path, on_result=on_result)
    assert capfd.readouterr() == ("", "")  # neither Tune's tables nor warnings; progress is for terminals
    assert [result.name for result in results] == [spec.name for spec in specs]
    assert sorted(told) == sorted(spec.name for spec in specs)
    assert {result.status for result in results} == {"done"}
    assert len(workers) <= 2
    here = measure(specs[0])  # the same recipe, whichever process runs it
    assert results[0].residual_variance == pytest.approx(here.residual_variance, rel=1e-4)

    told.clear()
    assert run(specs, tmp_path, on_result=on_result) == results  # seconds too: read, not measured
    assert told == [spec.name for spec in specs]
    files = {f"{spec.key}.{kind}" for spec in specs for kind in ("json", "parquet")}
    assert {path.name for path in tmp_path.iterdir()} == files

    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    more = run(plan(sizes=(20, 30, 40, 60), seeds=2), tmp_path)
    assert len(more) == 8
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())
    assert [result for result in more if result.size != 30] == results


@pytest.mark.parametrize(("max_failures", "after_a_kill"), [(0, "failed"), (1, "done")])
def test_a_failing_pilot_does_not_take_the_others_along(cluster, plan, tmp_path, max_failures, after_a_kill):
    diverged, killed, healthy = plan()
    specs = [diverging(diverged), killed, healthy]

    def kill_the_worker(result: PilotResult) -> None:
        if result.name == diverged.name:  # its process waits for the next pilot
            for process in trial_processes():
                process.kill()

    results = run(specs, tmp_path, slots=1, max_failures=max_failures, on_result=kill_the_worker)
    assert [result.status for result in results] == ["failed", after_a_kill, "done"]
    assert results[0].error.startswith("the fine-tune 'pilot-s20-r0' diverged: the loss is not finite in epoch 1, step")
    assert "lower training.learning_rate" in results[0].error
    assert results[1].error == (None if max_failures else "its worker died (killed, or out of memory)")
    done = [".json", ".parquet"] * (1 + max_failures)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted(done)  # failures leave nothing


def test_where_all_fail_the_error_has_their_reason_and_its_kind(cluster, plan, tmp_path):
    specs = plan()
    with pytest.raises(
        StatisticalRefusal, match=r"no pilot of 3 succeeded: the fine-tune 'pilot-s20-r0' diverged.* \(and 2 more\)"
    ):
        run([diverging(spec) for spec in specs], tmp_path)
    model = Model(name=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"no pilot of 1 succeeded: .*nowhere"):
        run([replace(specs[0], fit=replace(specs[0].fit, model=model))], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_always_dies_is_the_environments_fault(cluster, plan, tmp_path):
    import threading

    over = threading.Event()

    def reaper() -> None:
        while not over.wait(0.05):
            for process in trial_processes():
                with contextlib.suppress(psutil.Error):
                    process.kill()

    thread = threading.Thread(target=reaper)
    thread.start()
    try:
        with pytest.raises(EnvironmentFault, match="no pilot of 1 succeeded: its worker died"):
            run(plan()[:1], tmp_path)
    finally:
        over.set()
        thread.join()


def test_a_killed_driver_is_continued_without_repeating_what_is_done(cluster, plan, tmp_path):
    import pickle

    specs, storage = plan(sizes=(20, 30, 40, 50)), tmp_path / "pilots"
    (tmp_path / "specs").write_bytes(pickle.dumps(specs))
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "specs"), str(storage)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean | {"RAY_TMPDIR": "/tmp"})
    assert driver.stdout is not None
    first = driver.stdout.readline().strip()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    finished = {path: path.stat().st_mtime_ns for path in storage.glob("*.json")}
    assert first == specs[0].name
    assert 1 <= len(finished) < 4

    results = run(specs, storage)
    assert not [path for path in storage.iterdir() if path.is_dir()]  # nothing is left of the killed sweep
    assert [(result.name, result.status) for result in results] == [(spec.name, "done") for spec in specs]
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())
    assert {json.loads(path.read_text())["name"] for path in storage.glob("*.json")} == {spec.name for spec in specs}


def test_rounds_keep_their_workers_from_round_to_round_and_tries_a_dead_one_again(cluster, plan, tmp_path):
    from ftrect_ray.finetune.pilots import Pace, run_pilots

    specs, workers, rounds, pace = plan(sizes=(20, 30, 40, 50)), set(), [], Pace()

    def following(results):
        rounds.append([result.name for result in results])
        return specs[len(results) : len(results) + 1]

    def on_result(result: PilotResult) -> None:
        workers.update(process.pid for process in trial_processes())
        if result.size == 30:  # its process waits for the next round
            for process in trial_processes():
                process.kill()

    settings = {"storage": str(tmp_path), "slots": 2, "max_failures": 1, "pace": pace}
    results = run_pilots(specs, following, on_result=on_result, **settings)
    assert [(result.name, result.status) for result in results] == [(spec.name, "done") for spec in specs]
    names = [spec.name for spec in specs]
    assert rounds == [names[:k] for k in range(5)]
    assert len(workers) <= 2  # one before it was killed, and one after
    assert 0 < pace.orchestration < 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".parquet"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run_pilots(specs, lambda known: specs if not known else [], **settings) == results
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_rounds_go_on_where_a_pilot_fails(cluster, plan, tmp_path):
    from ftrect_ray.finetune.pilots import run_pilots

    first, *others = plan()
    specs = [diverging(first), *others]
    results = run_pilots(
        specs, lambda known: specs[len(known) : len(known) + 1], storage=str(tmp_path), slots=1, max_failures=0
    )
    assert [(result.status, result.kind) for result in results] == [("failed", "diverged"), ("done", ""), ("done", "")]
