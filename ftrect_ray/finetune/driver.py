"""The final fine-tunes on Ray Train: placed, watched, resumed after a failure, and brought home as a folder.

A run is named by the fine-tune's content, so the same call finds its own checkpoints again and can never
resume another's. Every checkpoint holds the best weights so far beside the training state, so the latest one
is all that must be kept. The last checkpoint of a run is the finished model.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.train import Checkpoint, TrainingFailedError

# ray.train's own names mean V1 to a type checker and V2 at run time
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ftrect_ray.errors import EnvironmentFault, FtrectError
from ftrect_ray.finetune.committed import SecondList, mend
from ftrect_ray.finetune.spec import FitResult, FitSpec
from ftrect_ray.finetune.watching import Watch, run_name
from ftrect_ray.finetune.worker import MODEL, train_loop
from ftrect_ray.storage import RunStorage, free_bytes
from ftrect_ray.study import Training

CONTROLLER_FAILURES = 10  # of a minute each: what a new node may take; Ray's own default waits for ever
WATCH_SECONDS = 2.0
POLL_SECONDS = "0.5"  # between a report and its commit; Ray's default is 2
SAME_COMMAND = "the same command goes on from the last checkpoint"


def finetune(specs: Sequence[FitSpec], *, storage: str, destination: str | Path, parallel: int = 1) -> list[FitResult]:
    """Fine-tune every spec on the connected Ray cluster and put each model at ``destination/<name>``.

    What is at its destination already is not done again, and what was interrupted goes on from its last checkpoint.

    Parameters
    ----------
    specs : sequence of FitSpec
        With distinct names.
    storage : str
        Path or URI for checkpoints, reachable from every node. A finished run leaves nothing there; one that diverged
        leaves its last checkpoint, which the error names.
    destination : str or Path
        A folder of this machine.
    parallel : int
        Fine-tunes at once; each takes ``training.workers`` workers. They may be more than the rows of a step: those
        without a row take part in everything but the loss.

    Returns
    -------
    list of FitResult
        In the order of ``specs``.

    Raises
    ------
    Diverged
        A loss became infinite or NaN. The other fine-tunes are finished before this is raised.
    EnvironmentFault
        Workers died more than ``training.max_failures`` times (nodes that gave notice do not count), found no place
        for ten minutes, or no room on a disk. The checkpoints stay.
    KeyboardInterrupt
        At once; what is under way ends with the connection to Ray, and its checkpoints stay.
    """
    if len({spec.name for spec in specs}) != len(specs):
        raise ValueError("two fine-tunes have the same name")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_SECONDS)
    home, checkpoints = Path(destination).resolve(), RunStorage.open(storage)
    home.mkdir(parents=True, exist_ok=True)

    def fit(spec: FitSpec) -> FitResult:
        result = FitResult.read(home / spec.name, spec.key) or _fit(spec, checkpoints, home)
        checkpoints.delete(run_name(spec))
        return result

    results = _in_threads(fit, specs, parallel, Watch(specs, storage))
    return [results[spec.name] for spec in specs]


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


def _fit(spec: FitSpec, storage: RunStorage, home: Path) -> FitResult:
    training, name = spec.training, run_name(spec)
    mend(storage, name)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"spec": spec, "storage": storage.uri},
        scaling_config=_scaling(training),
        run_config=RunConfig(
            name=name,
            storage_path=storage.uri,
            failure_config=FailureConfig(
                max_failures=training.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[SecondList(storage.uri, name)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        run: Any = trainer.fit()
    except TrainingFailedError as error:
        raise _failure(spec, storage, error) from error
    if isinstance(run.return_value, FtrectError):
        raise _with_checkpoint(run.return_value, run.checkpoint)
    with run.checkpoint.as_directory() as folder:
        _install(Path(folder) / MODEL, home / spec.name)
    result = FitResult.read(home / spec.name, spec.key)
    assert result is not None
    return result


def _scaling(training: Training) -> ScalingConfig:
    gpus = training.gpus_per_worker
    if gpus == "auto":
        gpus = int(ray.cluster_resources().get("GPU", 0) >= training.workers)
    resources = {"CPU": training.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    return ScalingConfig(num_workers=training.workers, use_gpu=gpus > 0, resources_per_worker=resources)


def _failure(spec: FitSpec, storage: RunStorage, error: TrainingFailedError) -> FtrectError:
    """The worker's own error where it has one with a remedy, else what Ray says."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    for failure in failures:
        for cause in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(cause, FtrectError):
                return cause
            if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
                room = f", {free_bytes(storage.root) / 1e9:.1f} GB are free" if storage.is_local else ""
                what = f"no room for the checkpoints of the fine-tune {spec.name!r}{room}"
                return EnvironmentFault(what, where=storage.uri, mend=f"free space; {SAME_COMMAND}")
    if any(hasattr(failure, "health_check_failure") for failure in failures):
        return EnvironmentFault(
            f"a worker of the fine-tune {spec.name!r} died, after {spec.training.max_failures} restarts",
            where="training.max_failures",
            mend=f"look whether its node has memory enough; {SAME_COMMAND}",
        )
    reason = (str(failures[0]).strip() or type(failures[0]).__name__).splitlines()[-1]
    return EnvironmentFault(
        f"the fine-tune {spec.name!r} failed: {reason}", mend=f"see the workers' logs; {SAME_COMMAND}"
    )


def _with_checkpoint(error: FtrectError, checkpoint: Checkpoint | None) -> FtrectError:
    kept = "no checkpoint was made before" if checkpoint is None else f"its last good checkpoint is {checkpoint.path}"
    return type(error)(f"{error.what}; {kept}", where=error.where, mend=error.mend)


# ------------------------------------------------------------------------------------------ the model's folder


def _install(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target`` such that ``target`` is either absent, the old folder, or complete."""
    fresh = target.with_name(f".{target.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        shutil.copytree(source, fresh)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        size = sum(file.lstat().st_size for file in source.rglob("*"))
        what = f"cannot write the model of {size / 1e9:.2g} GB; {free_bytes(target) / 1e9:.2g} GB are free"
        raise EnvironmentFault(what, where=str(target), mend=f"free space; {SAME_COMMAND}") from error
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)
