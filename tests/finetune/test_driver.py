"""The fine-tunes on a real local Ray: two workers, a killed worker, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.fs as pafs
import pytest
import torch

from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.finetune import committed, driver, watching, worker
from ftrect_ray.finetune.spec import RESULT, Diverged, Epoch, FitResult
from ftrect_ray.finetune.watching import Watch, run_name
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Training


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
    yield
    ray.shutdown()


def _train_workers() -> list[int]:
    """Process ids of the Train workers of this test's own Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.ray
def test_two_workers_end_to_end(local_ray: None, tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    from ftrect_ray.finetune.training import fit_local
    from ftrect_ray.predictor import Predictor

    spec = make_spec(tiny_bert, workers=2, zero_stage=3, adapter="lora", lora={"dropout": 0.0})
    [result] = driver.finetune([spec], storage=str(tmp_path / "storage"), destination=tmp_path / "model")
    assert os.listdir(tmp_path / "model") == ["fold-0"]
    assert not [
        path for path in (tmp_path / "storage").rglob("*") if path.is_file() and path.name != ".validate_storage_marker"
    ]

    alone, alone_result = fit_local(spec)
    assert result.best_epoch == alone_result.best_epoch
    np.testing.assert_allclose(
        [epoch.stop_metric for epoch in result.curve], [epoch.stop_metric for epoch in alone_result.curve], rtol=1e-3
    )
    loaded = Predictor.load(tmp_path / "model" / "fold-0")
    np.testing.assert_allclose(loaded.predict(spec.stop.texts)[0], alone.predict(spec.stop.texts)[0], atol=1e-2)

    start = time.monotonic()
    assert driver.finetune([spec], storage=str(tmp_path / "storage"), destination=tmp_path / "model") == [result]
    assert time.monotonic() - start < 1.0  # in place already: nothing runs


@pytest.mark.ray
def test_killed_workers_lose_nothing(local_ray: None, tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    """Two kills: after the first Ray starts again by itself, after the second the same command does."""
    from ftrect_ray.predictor import Predictor

    storage, home = tmp_path / "storage", tmp_path / "model"
    calm = make_spec(tiny_bert, name="calm", workers=2, epochs=3, patience=3, batch_size=4, max_failures=0)
    [wanted] = driver.finetune([calm], storage=str(storage), destination=home)
    spec = replace(calm, name="kill", training=calm.training.model_copy(update={"checkpoint_steps": 1}))
    spec = replace(spec, training=spec.training.model_copy(update={"max_failures": 1}))
    outcome: list[FitResult | Exception] = []

    def run() -> None:
        try:
            outcome.extend(driver.finetune([spec], storage=str(storage), destination=home))
        except Exception as error:  # noqa: BLE001
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    _wait_for(storage / run_name(spec), epochs=0, steps=3)
    os.kill(_train_workers()[1], signal.SIGKILL)
    trained = _wait_for(storage / run_name(spec), epochs=1, steps=2)
    os.kill(_train_workers()[0], signal.SIGKILL)
    thread.join(120)
    with pytest.raises(
        EnvironmentFault, match=r"died, after 1 restarts \(training.max_failures\) — .*the same command goes on from"
    ):
        raise outcome.pop()

    whole = (storage / run_name(spec) / committed.LIST).read_bytes()
    (storage / run_name(spec) / committed.LIST).write_bytes(whole[: len(whole) // 2])  # as a kill of Ray would
    run()
    [result] = outcome
    assert isinstance(result, FitResult), result
    assert result.curve[0] == trained[0]  # with its seconds: it was not trained again
    assert [replace(epoch, seconds=0) for epoch in result.curve] == [
        replace(epoch, seconds=0) for epoch in wanted.curve
    ]
    assert result.model_seconds == sum(epoch.seconds for epoch in result.curve)
    texts = [*spec.train.texts, *spec.stop.texts]
    now, before = (Predictor.load(home / name).predict(texts)[0] for name in ("kill", "calm"))
    np.testing.assert_allclose(now, before, rtol=0, atol=1e-6)
    assert not (storage / run_name(spec)).exists()
    assert not list(Path(tempfile.gettempdir()).glob(worker.scratch_prefix(spec, str(storage)).name + "*"))


def _wait_for(run: Path, epochs: int, steps: int) -> list[Epoch]:
    """The curve in the first committed checkpoint with so many epochs, and so many steps of the next one."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):  # not there yet, half written, or replaced just now
            for state in json.loads((run / committed.LIST).read_text())["checkpoint_results"]:
                progress = json.loads((run / state["checkpoint_dir_name"] / "progress.json").read_text())
                curve = [Epoch(**epoch) for epoch in progress["curve"]]
                if (len(curve), len(progress["under_way"]["losses"])) >= (epochs, steps):
                    return curve
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint with {epochs} epochs and {steps} steps in {run}")


@pytest.mark.ray
def test_a_worker_without_rows_takes_part(local_ray: None, tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    from ftrect_ray.finetune.training import fit_local
    from ftrect_ray.predictor import Predictor

    settings = {"train": 3, "stop": 1, "batch_size": 1, "epochs": 2, "objective": "mse", "workers": 2}
    spec = make_spec(tiny_bert, name="few", **settings)  # in every step one of the two workers has no row
    [result] = driver.finetune([spec], storage=str(tmp_path / "storage"), destination=tmp_path / "model")
    alone, _ = fit_local(spec)
    assert len(result.curve) == 2
    there = Predictor.load(tmp_path / "model" / "few").predict(spec.train.texts)[0]
    np.testing.assert_allclose(there, alone.predict(spec.train.texts)[0], atol=1e-4)


@pytest.mark.ray
def test_divergence_keeps_its_checkpoint_and_the_other_fine_tune(
    local_ray: None, tiny_bert: Path, make_spec, tmp_path: Path
) -> None:
    rates = {"learning_rate": 1e30, "head_learning_rate": 1e30, "clip": 1e30, "warmup": 0.0}
    wild = make_spec(tiny_bert, name="wild", workers=1, checkpoint_steps=1, **rates)
    tame = make_spec(tiny_bert, name="tame", workers=1, epochs=1)
    with pytest.raises(Diverged, match="'wild' diverged: the loss is not finite in epoch 1, step 2") as caught:
        driver.finetune([wild, tame], storage=str(tmp_path / "storage"), destination=tmp_path / "model", parallel=2)
    assert os.listdir(tmp_path / "model") == ["tame"]
    kept = re.search(r"its last good checkpoint is (\S+) \(training.learning_rate\) — lower", str(caught.value))
    assert kept is not None
    assert len(json.loads((Path(kept[1]) / "progress.json").read_text())["under_way"]["losses"]) == 1
    slower = replace(wild, training=wild.training.model_copy(update={"learning_rate": 1e-3}))
    assert run_name(slower) not in kept[1]  # starts fresh
    for spec in (wild, tame):
        assert not list(Path(tempfile.gettempdir()).glob(worker.scratch_prefix(spec, str(tmp_path)).name + "*"))


# ------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_is_as_large_as_forecast(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    from ftrect_ray.finetune.training import Fit

    with Fit.alone(make_spec(tiny_bert)) as fit:
        fit.run()
        fit.save(tmp_path)
        size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
        assert 0.5 * size < worker.checkpoint_bytes(fit) < size  # pickled names weigh much in a model so small


def test_a_batch_larger_than_the_rows_is_one_step_of_all(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    from ftrect_ray.finetune.training import Fit

    steps = []
    with Fit.alone(make_spec(tiny_bert, train=5, batch_size=64, epochs=2)) as fit:
        fit.run(lambda fit, epoch_ended: steps.append(epoch_ended))
        fit.save(tmp_path)
    assert steps == [False, True, False, True]
    assert json.loads((tmp_path / "progress.json").read_text())["steps"] == 1


def test_a_full_disk_is_told_with_sizes_and_nothing_half_is_left(tmp_path: Path, monkeypatch) -> None:
    class Full:
        """As much of a fit as a checkpoint sees; its disk is /dev/full."""

        predictor = torch.nn.Linear(1000, 1000)
        predictor.trainable = lambda: {"weight": Full.predictor.weight}  # type: ignore[assignment]

        def save(self, home: Path) -> None:
            (home / "engine").symlink_to("/dev/full")
            torch.save(self.predictor.weight, home / "engine")

    checkpoints = worker.Checkpoints(Training(), tmp_path)
    with pytest.raises(RuntimeError):  # not for want of room, as far as anyone can see
        checkpoints(Full(), True)  # type: ignore[arg-type]
    monkeypatch.setattr(worker, "free_bytes", lambda path: 3_000_000)
    with pytest.raises(EnvironmentFault, match=r"a checkpoint needs up to 0.02 GB and 0.003 GB are free .* TMPDIR"):
        checkpoints(Full(), True)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_a_model_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "fold-0"
    source.mkdir()
    (source / "head.safetensors").write_bytes(b"new")
    target.mkdir()
    (target / "old").write_bytes(b"old")
    (source / "weights.safetensors").symlink_to(tmp_path / "gone")  # cannot be copied
    with pytest.raises(EnvironmentFault, match=r"cannot write the model of \S+ GB; \S+ GB are free \(.*fold-0\)"):
        driver._install(source, target)
    assert sorted(os.listdir(tmp_path)) == ["fold-0", "source"]
    assert os.listdir(target) == ["old"]
    (source / "weights.safetensors").unlink()
    (tmp_path / ".fold-0").mkdir()  # of a driver that was killed while it copied
    driver._install(source, target)
    assert sorted(os.listdir(tmp_path)) == ["fold-0", "source"]
    assert os.listdir(target) == ["head.safetensors"]


def test_a_full_storage_is_told_whoever_met_it(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    with pytest.raises(OSError) as full, pafs.LocalFileSystem().open_output_stream("/dev/full") as stream:
        stream.write(b"x" * 100_000)
    storage = RunStorage.open(tmp_path)
    for error in (WorkerGroupError("", {1: full.value}), ControllerError(full.value)):
        told = driver._failure(make_spec(tiny_bert), storage, pickle.loads(pickle.dumps(error)))
        assert isinstance(told, EnvironmentFault)
        assert re.search(r"no room for the checkpoints of the fine-tune 'fold-0', [\d.]+ GB are free", str(told))
        assert "the same command goes on from the last checkpoint" in str(told)


def test_the_storage_is_measured_before_training(tiny_bert: Path, make_spec, tmp_path: Path, monkeypatch) -> None:
    from ftrect_ray.finetune.training import Fit

    with Fit.alone(make_spec(tiny_bert)) as fit:
        assert worker.no_room(fit, str(tmp_path), 2) is None
        monkeypatch.setattr("ftrect_ray.layout.free_bytes", lambda path: 100)
        fault = worker.no_room(fit, str(tmp_path), 2)
        assert fault is not None
        assert "needs about" in str(fault)
        assert "TMPDIR" in str(worker.no_room(fit, "s3://bucket/run", 2))


def test_what_a_kill_left_half_done_is_mended(tmp_path: Path) -> None:
    storage, run = RunStorage.open(tmp_path), tmp_path / "run"

    def listed(name: str) -> str:
        return json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name}]})

    def folders(*names: str) -> None:
        for name in names:
            (run / name).mkdir(parents=True, exist_ok=True)
            (run / name / "progress.json").write_text("{}")

    committed.mend(storage, "run")  # nothing yet
    folders("checkpoint_1", "checkpoint_2", "checkpoint_3")
    (run / committed.LIST).write_text(listed("checkpoint_2"))
    (run / committed.SECOND_LIST).write_text(listed("checkpoint_1"))
    committed.mend(storage, "run")
    assert storage.list("run") == sorted([committed.LIST, committed.SECOND_LIST, "checkpoint_2"])

    folders("checkpoint_1")
    (run / committed.LIST).write_text(listed("checkpoint_2")[:-9])
    committed.mend(storage, "run")
    assert (run / committed.LIST).read_text() == listed("checkpoint_1")
    assert "checkpoint_2" not in storage.list("run")

    for name in (committed.LIST, committed.SECOND_LIST):
        (run / name).write_text("")
    committed.mend(storage, "run")
    assert not run.exists()


def test_what_a_killed_driver_left_of_a_finished_run_goes(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_bert)
    (tmp_path / "model" / "fold-0").mkdir(parents=True)
    result = FitResult("fold-0", (Epoch(1, 0.5, 0.25, 1.0),), 1, 1.0)
    result.write(tmp_path / "model" / "fold-0", spec.key)
    (tmp_path / "storage" / run_name(spec) / "checkpoint_1").mkdir(parents=True)
    assert driver.finetune([spec], storage=str(tmp_path / "storage"), destination=tmp_path / "model") == [result]
    assert os.listdir(tmp_path / "storage") == []


# ------------------------------------------------------------------------------------------ results and progress


def test_result_survives_its_file(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_bert)
    curve = (Epoch(1, 0.5, float("nan"), 1.25), Epoch(2, 0.25, 0.75, 1.0))
    result = FitResult("fold-0", curve, 2, 2.25)
    (tmp_path / "fold-0").mkdir()
    result.write(tmp_path / "fold-0", spec.key)
    assert "NaN" not in (tmp_path / "fold-0" / RESULT).read_text()
    back = FitResult.read(tmp_path / "fold-0", spec.key)
    assert back is not None
    assert repr(back) == repr(result)
    assert FitResult.read(tmp_path / "fold-0", replace(spec, seed=99).key) is None  # another fine-tune of the same name
    (tmp_path / "fold-0" / RESULT).write_text("{")
    assert FitResult.read(tmp_path / "fold-0", spec.key) is None


def test_watch_prints_each_epoch_once_and_steps_between(
    tiny_bert: Path, make_spec, tmp_path: Path, monkeypatch, capsys
) -> None:
    spec = make_spec(tiny_bert)
    watch = Watch([spec], str(tmp_path))

    def progress(checkpoint: str, epochs: int, steps: int) -> None:
        curve = [asdict(Epoch(1, 0.5, 0.25, 1.0)), asdict(Epoch(2, 0.5, float("nan"), 1.0))][:epochs]
        under_way = {"losses": [0.5] * steps, "seconds": 1.5 * steps}
        folder = tmp_path / run_name(spec) / checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "progress.json").write_text(json.dumps({"curve": curve, "under_way": under_way, "steps": 9}))

    def lines() -> list[str]:
        watch()
        return capsys.readouterr().err.splitlines()

    progress("checkpoint_1", 2, 0)
    assert lines() == []  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert lines() == [
        "fold-0: epoch 1 of at most 3, variance on the stop rows 0.25",
        "fold-0: epoch 2 of at most 3, variance on the stop rows nan",
    ]
    progress("checkpoint_2", 2, 4)
    assert lines() == []  # so soon after a line
    monkeypatch.setattr(watching, "STEP_SECONDS", 0.0)
    assert lines() == ["fold-0: epoch 3 of at most 3, step 4 of 9, 1.5 s each"]
    progress("checkpoint_2", 2, 3)  # after a kill some steps come again
    assert lines() == []
    (tmp_path / run_name(spec) / "checkpoint_1" / "progress.json").write_text("[")  # half written
    assert lines() == []


def test_two_of_a_name_are_refused(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_bert)
    with pytest.raises(ValueError, match="the same name"):
        driver.finetune([spec, spec], storage=str(tmp_path), destination=tmp_path)


def test_threads_finish_the_others_before_the_error(make_spec, tiny_bert: Path) -> None:
    specs = [make_spec(tiny_bert, name=name) for name in ("a", "b", "c")]
    done = []

    def fit(spec):
        if spec.name == "a":
            raise RuntimeError("a broke")
        time.sleep(0.05)
        done.append(spec.name)
        return FitResult(spec.name, (), 1, 0.0)

    with pytest.raises(RuntimeError, match=re.escape("a broke")):
        driver._in_threads(fit, specs, 2)
    assert sorted(done) == ["b", "c"]


def test_an_interrupt_starts_no_further_fine_tune(make_spec, tiny_bert: Path) -> None:
    specs = [make_spec(tiny_bert, name=name) for name in ("a", "b")]
    started, release = [], threading.Event()

    def fit(spec):
        started.append(spec.name)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        release.wait(10)
        return FitResult(spec.name, (), 1, 0.0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            driver._in_threads(fit, specs, 1)
    finally:
        signal.signal(signal.SIGINT, before)
    release.set()
    time.sleep(0.2)
    assert started == ["a"]
