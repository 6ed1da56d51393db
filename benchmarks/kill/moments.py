"""When to kill, told from the files that a fine-tune writes; and what to kill."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ftrect_ray.finetune.committed import LIST
from ftrect_ray.finetune.spec import FitSpec
from ftrect_ray.finetune.watching import PROGRESS, run_name
from ftrect_ray.finetune.worker import scratch_prefix

LOOK_SECONDS = 0.001


@dataclass(frozen=True)
class Place:
    """Of the curve: ``epochs`` done, and ``steps`` of the next one; ``seconds`` of the epochs done."""

    epochs: int
    steps: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Traces:
    """What a fine-tune on this machine leaves on its disks while it runs."""

    spec: FitSpec
    storage: Path

    def scratch(self, pattern: str, rank: str = "0") -> list[Path]:
        """Paths in a worker's scratch folder, ``pattern`` from there."""
        prefix = scratch_prefix(self.spec, str(self.storage))
        return sorted(prefix.parent.glob(f"{prefix.name}-{rank}/{pattern}"))

    def committed(self) -> list[str]:
        """Names of the checkpoints on Ray's list."""
        try:
            listed = json.loads((self.run / LIST).read_text())["checkpoint_results"]
        except (OSError, ValueError):  # not yet, or just now being written
            return []
        return [state["checkpoint_dir_name"] for state in listed]

    @property
    def run(self) -> Path:
        return self.storage / run_name(self.spec)

    def uploading(self) -> list[Path]:
        """Checkpoints in the storage that are not on the list."""
        committed = self.committed()
        newest = max(committed, default="")  # names are times; older ones are being removed
        return [path for path in self.run.glob("checkpoint_2*") if path.name > newest]

    def place(self) -> Place:
        """What the newest checkpoint on the list holds."""
        for _ in range(100):  # a newer one may take its place while this reads
            for name in self.committed():
                with suppress(OSError, ValueError):
                    return place_in(self.run / name / PROGRESS)
        return Place(0, 0, ())


def place_in(progress: Path) -> Place:
    content = json.loads(progress.read_text())
    curve = content["curve"]
    return Place(len(curve), len(content["under_way"]["losses"]), tuple(epoch["seconds"] for epoch in curve))


def _step(traces: Traces) -> Iterator[str]:
    """Right after a step: a checkpoint is being written."""
    yield from (str(path) for path in traces.scratch("tmp*"))


def _upload(traces: Traces) -> Iterator[str]:
    """A checkpoint is being copied to the storage."""
    yield from (path.name for path in traces.uploading())


def _commit(traces: Traces) -> Iterator[str]:
    """All of a checkpoint is in the storage; Ray's list does not have it yet."""
    files = {name: sum(1 for _ in (traces.run / name).rglob("*.*")) for name in traces.committed()}
    for path in traces.uploading():
        if files and sum(1 for _ in path.rglob("*.*")) >= max(files.values()) > 0:
            yield path.name


def _evaluation(traces: Traces) -> Iterator[str]:
    """An epoch's last step is done: the stop rows are being predicted."""
    for progress in traces.scratch(f"tmp*/{PROGRESS}"):
        with suppress(OSError, ValueError, KeyError):
            if place_in(progress).steps == json.loads(progress.read_text())["steps"]:
                yield str(progress)


def _save(traces: Traces) -> Iterator[str]:
    """The finished model is being written."""
    yield from (str(path) for path in traces.scratch("finished"))


MOMENTS: dict[str, Callable[[Traces], Iterator[str]]] = {
    "step": _step,
    "upload": _upload,
    "commit": _commit,
    "evaluation": _evaluation,
    "save": _save,
}


def wait_for(moment: str, occurrence: int, traces: Traces, alive: Callable[[], bool]) -> bool:
    """Return at the ``occurrence``-th time (from 1) that ``moment`` is seen; False where ``alive()`` ended before."""
    seen: set[str] = set()
    while alive():
        seen.update(MOMENTS[moment](traces))
        if len(seen) >= occurrence:
            return True
        time.sleep(LOOK_SECONDS)
    return False


# ---------------------------------------------------------------------------------------------------- killing


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def train_workers(pid: int) -> list[psutil.Process]:
    """The Train workers below a process, rank 0 first: it listens at one port more, that of the rendezvous."""
    found = []
    for process in family(pid):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                listening = sum(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp"))
                found.append((-listening, process.pid, process))
    return [process for *_, process in sorted(found, key=lambda entry: entry[:2])]
