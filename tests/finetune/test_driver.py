"""The fine-tunes on a real local Ray: two workers, a killed worker, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from ftrect_ray.finetune import driver
from ftrect_ray.finetune.spec import Epoch, FitResult
from ftrect_ray.finetune.watching import Watch, run_name


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
def test_a_killed_worker_resumes_from_a_checkpoint(local_ray: None, tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_bert, name="kill", workers=2, epochs=20, patience=20, batch_size=2, train=32, max_failures=1)
    outcome: list[FitResult | Exception] = []

    def run() -> None:
        try:
            outcome.extend(driver.finetune([spec], storage=str(tmp_path / "storage"), destination=tmp_path / "model"))
        except Exception as error:  # noqa: BLE001
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    trained = _wait_for_epochs(tmp_path / "storage", 8)
    victims = _train_workers()
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    thread.join(200)
    [result] = outcome
    assert isinstance(result, FitResult), result
    assert [epoch.epoch for epoch in result.curve] == list(range(1, 21))
    # An epoch that was trained again would have other seconds. Reports just before the kill may be lost, the first not.
    assert result.curve[0] == trained[0]
    assert (tmp_path / "model" / "kill" / "head.safetensors").is_file()


def _wait_for_epochs(storage: Path, epochs: int) -> list[Epoch]:
    """The curve in a checkpoint below ``storage`` as soon as it has so many epochs."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        for file in storage.glob("*/checkpoint_*/progress.json"):
            with contextlib.suppress(OSError, ValueError):  # half written, or replaced by a newer one just now
                curve = [Epoch(**epoch) for epoch in json.loads(file.read_text())["curve"]]
                if len(curve) >= epochs:
                    return curve
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint with {epochs} epochs in {storage}")


@pytest.mark.ray
def test_divergence_is_raised_once_and_the_other_fine_tune_is_kept(
    local_ray: None, tiny_bert: Path, make_spec, tmp_path: Path
) -> None:
    from ftrect_ray.finetune.training import Diverged

    wild = make_spec(
        tiny_bert, name="wild", workers=1, learning_rate=1e30, head_learning_rate=1e30, clip=1e30, warmup=0.0
    )
    tame = make_spec(tiny_bert, name="tame", workers=1, epochs=1)
    with pytest.raises(Diverged, match="'wild' diverged: the loss is not finite in epoch 1"):
        driver.finetune([wild, tame], storage=str(tmp_path / "storage"), destination=tmp_path / "model", parallel=2)
    assert os.listdir(tmp_path / "model") == ["tame"]


def test_result_survives_its_file(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_bert)
    curve = (Epoch(1, 0.5, float("nan"), 1.25), Epoch(2, 0.25, 0.75, 1.0))
    result = FitResult("fold-0", curve, 2, 2.25)
    (tmp_path / "fold-0").mkdir()
    driver._write_result(spec, result, tmp_path / "fold-0")
    assert "NaN" not in (tmp_path / "fold-0" / driver.RESULT).read_text()
    back = driver._finished(spec, tmp_path)
    assert back is not None
    assert repr(back) == repr(result)
    assert driver._finished(replace(spec, seed=99), tmp_path) is None  # another fine-tune of the same name
    (tmp_path / "fold-0" / driver.RESULT).write_text("{")
    assert driver._finished(spec, tmp_path) is None


def test_watch_prints_each_epoch_once(tiny_bert: Path, make_spec, tmp_path: Path, monkeypatch, capsys) -> None:
    spec = make_spec(tiny_bert)
    watch = Watch([spec], str(tmp_path))
    checkpoint = tmp_path / run_name(spec) / "checkpoint_1"
    checkpoint.mkdir(parents=True)
    curve = [asdict(Epoch(1, 0.5, 0.25, 1.0)), asdict(Epoch(2, 0.5, float("nan"), 1.0))]
    (checkpoint / "progress.json").write_text(json.dumps({"curve": curve}))
    watch()
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    watch()
    watch()
    (checkpoint / "progress.json").write_text("[")  # half written
    watch()
    assert capsys.readouterr().err.splitlines() == [
        "fold-0: epoch 1 of at most 3, variance on the stop rows 0.25",
        "fold-0: epoch 2 of at most 3, variance on the stop rows nan",
    ]


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
