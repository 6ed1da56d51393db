"""The final fine-tunes on Ray Train: placed, watched, resumed after a failure, and brought home as a folder.

A run is named by the fine-tune's content, so the same call finds its own checkpoints again and can never
resume another's. Every checkpoint holds the best weights so far beside the training state, so the latest one
is all that must be kept. The last checkpoint of a run is the finished model.

A worker writes a checkpoint to a scratch folder of its machine, and Ray uploads it while training goes on. It counts
once every rank's part is in the storage and Ray has put its name on its list: a kill before that leaves the one before
in force.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import ray
from pyarrow.fs import FileType
from ray.train import Checkpoint, TrainingFailedError, UserCallback
from ray.train.collective import barrier, broadcast_from_rank_zero

# ray.train's own names mean V1 to a type checker and V2 at run time
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ftrect_ray.errors import EnvironmentFault, FtrectError, InputError
from ftrect_ray.finetune.opening import open_fit
from ftrect_ray.finetune.spec import Diverged, Epoch, FitResult, FitSpec
from ftrect_ray.finetune.watching import Watch, run_name
from ftrect_ray.layout import check_disk
from ftrect_ray.storage import RunStorage, free_bytes
from ftrect_ray.study import Training, digest

if TYPE_CHECKING:
    from ftrect_ray.finetune.opening import AnyFit
    from ftrect_ray.finetune.training import Fit

MODEL, RESULT = "model", "fit.json"
LIST = "checkpoint_manager_snapshot.json"  # Ray's own, which it overwrites in place
SECOND_LIST = "committed.json"  # ours, written by a rename
CONTROLLER_FAILURES = 10  # of a minute each: what a new node may take; Ray's own default waits for ever
WATCH_SECONDS = 2.0
PREEMPTION_SECONDS = 2.0  # between two looks for a notice that a node will go
POLL_SECONDS = "0.5"  # between a report and its commit; Ray's default is 2
SAME_COMMAND = "the same command goes on from the last checkpoint"
SCRATCH_REMEDY = "free space, or name a larger disk with TMPDIR where Ray's workers run"


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
        result = _finished(spec, home) or _fit(spec, checkpoints, home)
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
    _mend(storage, name)
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"spec": spec, "storage": storage.uri},
        scaling_config=_scaling(training),
        run_config=RunConfig(
            name=name,
            storage_path=storage.uri,
            failure_config=FailureConfig(
                max_failures=training.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[_SecondList(storage.uri, name)],
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
    result = _finished(spec, home)
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


# ------------------------------------------------------------------------------------------- Ray's list, kept whole


class _SecondList(UserCallback):
    """Copies Ray's list of checkpoints after each change: a kill while Ray overwrites it would leave it torn."""

    def __init__(self, storage: str, name: str) -> None:
        self.storage, self.name = storage, name

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            storage = RunStorage.open(self.storage)
            storage.write_bytes(storage.read_bytes(self.name, LIST), self.name, SECOND_LIST)


def _mend(storage: RunStorage, name: str) -> None:
    """What a kill left half done, in the storage of the run ``name``: a torn list, and folders that are not on it."""
    listed: list[str] = []
    for copy in (LIST, SECOND_LIST):
        with suppress(InputError):  # not there, or torn
            listed = [state["checkpoint_dir_name"] for state in storage.read_json(name, copy)["checkpoint_results"]]
            if copy != LIST:
                storage.write_bytes(storage.read_bytes(name, copy), name, LIST)
            break
    else:
        storage.delete(name)
    for entry in storage.list(name):
        if entry.startswith("checkpoint_") and entry not in (LIST, *listed):
            storage.delete(name, entry)


# ---------------------------------------------------------------------------------------------- what a worker does


def _train_loop(config: dict[str, Any]) -> FtrectError | None:
    """What each worker runs. An error that every rank has alike is returned: a retry would not mend it."""
    import torch
    from ray.train.torch import get_device

    spec: FitSpec = config["spec"]
    torch.set_num_threads(spec.training.cpus_per_worker)
    latest = ray.train.get_checkpoint()
    if latest and latest.filesystem.get_file_info(f"{latest.path}/{MODEL}").type != FileType.NotFound:
        return None
    with open_fit(spec, get_device()) as fit:
        scratch = _scratch(scratch_prefix(spec, config["storage"]))
        fault = _no_room(fit, config["storage"], 1 if latest else 2) if fit.rank == 0 else None
        if fault := broadcast_from_rank_zero(fault):
            shutil.rmtree(scratch)
            return fault
        if latest:
            with latest.as_directory() as checkpoint:
                fit.resume(Path(checkpoint))
        diverged = finished = None
        try:
            fit.run(_Checkpoints(spec.training, scratch))
            finished = _finish(fit, scratch / "finished")
        except Diverged as error:
            diverged = error
        ray.train.report({"best_epoch": fit.best_epoch}, checkpoint=finished)  # when the uploads before it are done
        shutil.rmtree(scratch)
    return diverged


def _finish(fit: AnyFit, folder: Path) -> Checkpoint | None:
    """The finished model as the last checkpoint, of rank 0."""
    fit.finish()
    with _writing(fit, folder):
        fit.save_model(folder / MODEL)
    if fit.rank > 0:
        return None
    _write_result(fit.spec, fit.result, folder / MODEL)
    return Checkpoint.from_directory(folder)


class _Checkpoints:
    """After a step: where a checkpoint is due, write it, and let Ray upload it while training goes on.

    One upload at a time: a checkpoint waits until the one before has left the scratch folder.
    """

    def __init__(self, training: Training, scratch: Path) -> None:
        self.training, self.scratch = training, scratch
        self.home = scratch / "none yet"
        self.steps = 0
        self.saved = self.looked = time.monotonic()
        self.preempted = False

    def __call__(self, fit: Fit, epoch_ended: bool) -> None:
        self.steps += not epoch_ended
        if not epoch_ended and not self._due(fit):
            return
        while self.home.exists():
            time.sleep(0.01)
        self.home = Path(tempfile.mkdtemp(dir=self.scratch))
        with _writing(fit, self.home):
            fit.save(self.home)
        ray.train.report(
            {"epoch": len(fit.curve), "step": len(fit.under_way.losses)},
            checkpoint=Checkpoint.from_directory(self.home),
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


def scratch_prefix(spec: FitSpec, storage: str) -> Path:
    """What the scratch folders of the run's workers on this machine begin with."""
    return Path(tempfile.gettempdir()) / f"ftrect-{spec.name}-{digest([storage, run_name(spec)])}"


def _scratch(prefix: Path) -> Path:
    """An empty folder of this worker; what killed workers of the same run left on this machine is gone."""
    context = ray.train.get_context()
    if context.get_local_rank() == 0:
        for left in prefix.parent.glob(f"{prefix.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
    barrier()
    folder = Path(f"{prefix}-{context.get_world_rank()}")
    folder.mkdir()
    return folder


def checkpoint_bytes(fit: AnyFit) -> int:
    """About what a checkpoint of all ranks takes: AdamW's fp32 weights and moments, the weights, the best of them."""
    parameters = fit.predictor.trainable().values()
    sizes = [(getattr(p, "ds_numel", p.numel()), p.element_size()) for p in parameters]  # ds_numel: whole in ZeRO-3
    return sum(numbers * (12 + 2 * size) for numbers, size in sizes)


@contextmanager
def _writing(fit: AnyFit, folder: Path) -> Iterator[None]:
    """Where what is written to ``folder`` fails, it is removed; for want of room, the error says so."""
    try:
        yield
    except Exception as error:
        needed, free = checkpoint_bytes(fit), free_bytes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if free > needed:
            raise
        what = f"a checkpoint needs up to {needed / 1e9:.2g} GB and {free / 1e9:.2g} GB are free"
        raise EnvironmentFault(what, where=str(folder.parent), mend=SCRATCH_REMEDY) from error


def _no_room(fit: AnyFit, storage: str, checkpoints: int) -> EnvironmentFault | None:
    """Where the storage cannot hold so many ``checkpoints``, or the scratch folder its own part of one."""
    needed = checkpoint_bytes(fit)
    try:
        check_disk(storage, checkpoints * needed)
        check_disk(tempfile.gettempdir(), needed, mend=SCRATCH_REMEDY)
    except EnvironmentFault as fault:
        return fault
    return None


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
