"""What a worker of Ray Train does: fit, write checkpoints beside the training, hand in the finished model.

A checkpoint is written to a scratch folder of the worker's machine, and Ray uploads it while training goes on. It
counts once every rank's part is in the storage and Ray has put its name on its list: a kill before that leaves the one
before in force.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from pyarrow.fs import FileType
from ray.train import Checkpoint
from ray.train.collective import barrier, broadcast_from_rank_zero

from ftrect_ray.errors import EnvironmentFault, FtrectError
from ftrect_ray.finetune.opening import open_fit
from ftrect_ray.finetune.spec import Diverged, FitSpec
from ftrect_ray.finetune.watching import run_name
from ftrect_ray.layout import check_disk
from ftrect_ray.storage import free_bytes
from ftrect_ray.study import Training, digest

if TYPE_CHECKING:
    from ftrect_ray.finetune.opening import AnyFit
    from ftrect_ray.finetune.training import Fit

MODEL = "model"
PREEMPTION_SECONDS = 2.0  # between two looks for a notice that a node will go
SCRATCH_REMEDY = "free space, or name a larger disk with TMPDIR where Ray's workers run"


def train_loop(config: dict[str, Any]) -> FtrectError | None:
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
        fault = no_room(fit, config["storage"], 1 if latest else 2) if fit.rank == 0 else None
        if fault := broadcast_from_rank_zero(fault):
            shutil.rmtree(scratch)
            return fault
        if latest:
            with latest.as_directory() as checkpoint:
                fit.resume(Path(checkpoint))
        diverged = finished = None
        try:
            fit.run(Checkpoints(spec.training, scratch))
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
    fit.result.write(folder / MODEL, fit.spec.key)
    return Checkpoint.from_directory(folder)


class Checkpoints:
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


def no_room(fit: AnyFit, storage: str, checkpoints: int) -> EnvironmentFault | None:
    """Where the storage cannot hold so many ``checkpoints``, or the scratch folder its own part of one."""
    needed = checkpoint_bytes(fit)
    try:
        check_disk(storage, checkpoints * needed)
        check_disk(tempfile.gettempdir(), needed, mend=SCRATCH_REMEDY)
    except EnvironmentFault as fault:
        return fault
    return None
