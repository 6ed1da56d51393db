"""The final fine-tunes on Ray Train: placed, watched, resumed after a failure, and brought home as a folder.

A run is named by the fine-tune's content, so the same call finds its own checkpoints again and can never
resume another's. Every checkpoint holds the best weights so far beside the training state, so the latest one
is all that must be kept. The last checkpoint of a run is the finished model.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import ray
from ray.train import Checkpoint, TrainingFailedError

# ray.train's own names mean V1 to a type checker and V2 at run time
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ftrect_ray.errors import EnvironmentFault, FtrectError
from ftrect_ray.finetune.spec import Epoch, FitResult, FitSpec
from ftrect_ray.finetune.watching import Watch, run_name
from ftrect_ray.study import Training

if TYPE_CHECKING:
    from ftrect_ray.finetune.training import Fit

MODEL, RESULT = "model", "fit.json"
CONTROLLER_FAILURES = 2  # Ray's own default retries a placement that cannot succeed for ever
WATCH_SECONDS = 2.0
PREEMPTION_SECONDS = 5.0  # between two looks for a notice that a node will go
POLL_SECONDS = "0.5"  # between a report and its commit; Ray's default is 2


def finetune(specs: Sequence[FitSpec], *, storage: str, destination: str | Path, parallel: int = 1) -> list[FitResult]:
    """Fine-tune every spec on the connected Ray cluster and put each model at ``destination/<name>``.

    What is at its destination already is not done again, and what was interrupted goes on from its last epoch.

    Parameters
    ----------
    specs : sequence of FitSpec
        With distinct names.
    storage : str
        Path or URI for checkpoints, reachable from every node; a finished run leaves nothing there.
    destination : str or Path
        A folder of this machine.
    parallel : int
        Fine-tunes at once; each takes ``training.workers`` workers.

    Returns
    -------
    list of FitResult
        In the order of ``specs``.

    Raises
    ------
    Diverged
        A loss became infinite or NaN. The other fine-tunes are finished before this is raised.
    EnvironmentFault
        Workers died more than ``training.max_failures`` times, or found no place.
    KeyboardInterrupt
        At once; what is under way ends with the connection to Ray, and its checkpoints stay.
    """
    if len({spec.name for spec in specs}) != len(specs):
        raise ValueError("two fine-tunes have the same name")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_SECONDS)
    home = Path(destination).resolve()
    home.mkdir(parents=True, exist_ok=True)
    results = {spec.name: _finished(spec, home) for spec in specs}
    pending = [spec for spec in specs if results[spec.name] is None]
    results.update(_in_threads(lambda spec: _fit(spec, storage, home), pending, parallel, Watch(pending, storage)))
    return [result for spec in specs if (result := results[spec.name])]


def _in_threads(
    fit: Callable[[FitSpec], FitResult],
    specs: Sequence[FitSpec],
    threads: int,
    watch: Callable[[], None] = lambda: None,
) -> dict[str, FitResult]:
    """``fit`` of each spec by its name, ``threads`` at once; the first error is raised when all have ended.

    Threads, because ``TorchTrainer.fit`` in the main thread turns Ctrl-C into a silent exit with code 0.
    Daemon threads, because the process must be able to end while one of them waits.
    """
    waiting: SimpleQueue[FitSpec] = SimpleQueue()
    for spec in specs:
        waiting.put(spec)
    results: dict[str, FitResult] = {}
    errors: list[BaseException] = []
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                spec = waiting.get_nowait()
            except Empty:
                return
            try:
                results[spec.name] = fit(spec)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
                errors.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(specs)))]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(WATCH_SECONDS)
                watch()
    finally:
        stopped.set()
    if errors:
        raise errors[0]
    return results


# ---------------------------------------------------------------------------------------------------- one run


def _fit(spec: FitSpec, storage: str, home: Path) -> FitResult:
    training = spec.training
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"spec": spec},
        scaling_config=_scaling(training),
        run_config=RunConfig(
            name=run_name(spec),
            storage_path=storage,
            failure_config=FailureConfig(
                max_failures=training.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        run: Any = trainer.fit()
    except TrainingFailedError as error:
        raise _failure(spec, error) from error
    if isinstance(run.return_value, FtrectError):
        raise _with_checkpoint(run.return_value, run.checkpoint)
    with run.checkpoint.as_directory() as folder:
        _install(Path(folder) / MODEL, home / spec.name)
    run.checkpoint.filesystem.delete_dir(posixpath.dirname(run.checkpoint.path))
    result = _finished(spec, home)
    assert result is not None
    return result


def _scaling(training: Training) -> ScalingConfig:
    gpus = training.gpus_per_worker
    if gpus == "auto":
        gpus = int(ray.cluster_resources().get("GPU", 0) >= training.workers)
    resources = {"CPU": training.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    return ScalingConfig(num_workers=training.workers, use_gpu=gpus > 0, resources_per_worker=resources)


def _train_loop(config: dict[str, Any]) -> FtrectError | None:
    """What each worker runs. An error that every rank has alike is returned: a retry would not mend it."""
    import torch
    from ray.train.torch import get_device

    from ftrect_ray.finetune.training import Diverged, Fit  # deepspeed: workers only

    spec: FitSpec = config["spec"]
    torch.set_num_threads(spec.training.cpus_per_worker)
    device = get_device()
    latest = ray.train.get_checkpoint()
    with latest.as_directory() if latest else nullcontext() as checkpoint:
        if checkpoint and (Path(checkpoint) / MODEL).is_dir():
            return None
        with Fit(spec, device) as fit:
            if checkpoint:
                fit.resume(Path(checkpoint))
            workshop = _workshop(spec)
            try:
                fit.run(_Checkpoints(spec.training, workshop))
            except Diverged as error:
                return error
            fit.finish()
            fit.save_model(workshop / MODEL)
            if fit.rank == 0:
                _write_result(spec, fit.result, workshop / MODEL)
            finished = Checkpoint.from_directory(workshop) if fit.rank == 0 else None
            ray.train.report({"best_epoch": fit.best_epoch}, checkpoint=finished)
            shutil.rmtree(workshop)
    return None


class _Checkpoints:
    """After a step: where a checkpoint is due, write it, and let Ray upload it while training goes on."""

    def __init__(self, training: Training, workshop: Path) -> None:
        self.training, self.workshop = training, workshop
        self.steps = 0
        self.saved = self.looked = time.monotonic()
        self.preempted = False

    def __call__(self, fit: Fit, epoch_ended: bool) -> None:
        self.steps += not epoch_ended
        if not epoch_ended and not self._due(fit):
            return
        home = Path(tempfile.mkdtemp(dir=self.workshop))
        fit.save(home)
        ray.train.report(
            {"epoch": len(fit.curve), "step": len(fit.under_way.losses)},
            checkpoint=Checkpoint.from_directory(home),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,  # removes the folder when it is done
        )
        self.steps, self.saved = 0, time.monotonic()

    def _due(self, fit: Fit) -> bool:
        """Rank 0 has the clock; all ranks do the same."""
        now = time.monotonic()
        late, look = fit.agreed(
            now - self.saved >= self.training.checkpoint_seconds, now - self.looked >= PREEMPTION_SECONDS
        )
        if look:  # a barrier through Ray: not after every step
            self.looked, before = now, self.preempted
            self.preempted = ray.train.get_preemption_info() is not None
            late = late or self.preempted > before
        return late or self.steps == self.training.checkpoint_steps


def _workshop(spec: FitSpec) -> Path:
    """An empty folder of this worker; what a killed worker of the same fine-tune left in it is gone."""
    folder = Path(tempfile.gettempdir()) / f"ftrect-{run_name(spec)}-{ray.train.get_context().get_world_rank()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _with_checkpoint(error: FtrectError, checkpoint: Checkpoint | None) -> FtrectError:
    kept = "no checkpoint was made before" if checkpoint is None else f"its last good checkpoint is {checkpoint.path}"
    return type(error)(f"{error.what}; {kept}", where=error.where, mend=error.mend)


def _failure(spec: FitSpec, error: TrainingFailedError) -> FtrectError:
    """The worker's own error where it has one with a remedy, else what Ray says."""
    failures = getattr(error, "worker_failures", {}).values()
    for failure in failures:
        for cause in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(cause, FtrectError):
                return cause
    first = next(iter(failures), error)
    return EnvironmentFault(
        f"the fine-tune {spec.name!r} failed: {str(first).strip().splitlines()[-1]}",
        mend="see the workers' logs; the same command goes on from the last epoch",
    )


# ------------------------------------------------------------------------------------------ the model's folder


def _install(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target`` such that ``target`` is either absent, the old folder, or complete."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)


def _write_result(spec: FitSpec, result: FitResult, folder: Path) -> None:
    record = asdict(result) | {"key": spec.key}
    for epoch in record["curve"]:
        if math.isnan(epoch["stop_metric"]):
            epoch["stop_metric"] = None  # JSON has no NaN
    (folder / RESULT).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _finished(spec: FitSpec, home: Path) -> FitResult | None:
    """The result of this very fine-tune where its folder is in place."""
    try:
        record = json.loads((home / spec.name / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if record.pop("key", None) != spec.key:
        return None
    for epoch in record["curve"]:
        if epoch["stop_metric"] is None:
            epoch["stop_metric"] = math.nan
    return FitResult(**record | {"curve": tuple(Epoch(**epoch) for epoch in record["curve"])})
