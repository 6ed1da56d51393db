"""Progress of fine-tunes that run elsewhere, read from the checkpoints that they leave.

Lines that a worker prints would come with Ray's prefixes, or not at all where its logs are off.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import pyarrow.fs as pafs

from ftrect_ray.finetune.spec import FitSpec
from ftrect_ray.storage import RunStorage

PROGRESS = "progress.json"  # the curve so far and the epoch under way, in every checkpoint
STEP_SECONDS = 10.0  # between two lines about the steps of a fine-tune


def run_name(spec: FitSpec) -> str:
    """The folder of its checkpoints: by its content, so that no other fine-tune's are ever resumed."""
    return f"{spec.name}-{spec.key}"


class Watch:
    """Prints on stderr a line for each epoch, and where epochs take long, now and then one for the newest step.

    It says nothing where stderr is no terminal.

    Parameters
    ----------
    specs : sequence of FitSpec
    storage : str
        Path or URI of the checkpoints, as given to ``finetune``.
    """

    def __init__(self, specs: Sequence[FitSpec], storage: str) -> None:
        self.storage = RunStorage.open(storage)
        self.lines = [_Lines(spec) for spec in specs]

    def __call__(self) -> None:
        """Look once."""
        if not sys.stderr.isatty():
            return
        for lines in self.lines:
            for line in lines.new(self._progress(lines.spec)):
                print(line, file=sys.stderr, flush=True)

    def _progress(self, spec: FitSpec) -> list[dict[str, Any]]:
        """What the fine-tune's checkpoints say of its progress; they come and go while this reads them."""
        filesystem = self.storage.filesystem
        run = pafs.FileSelector(self.storage.path(run_name(spec)), allow_not_found=True)
        found = []
        for entry in filesystem.get_file_info(run):
            try:
                with filesystem.open_input_stream(f"{entry.path}/{PROGRESS}") as file:
                    found.append(json.loads(file.read()))
            except (OSError, ValueError):
                continue
        return found


class _Lines:
    """What has been said about one fine-tune: so many epochs and steps, at that time."""

    def __init__(self, spec: FitSpec) -> None:
        self.spec = spec
        self.epochs, self.step = 0, 0
        self.said = time.monotonic()

    def new(self, found: Sequence[dict[str, Any]]) -> list[str]:
        """The lines about what is new in ``found``, the progress in each checkpoint."""
        if not found:
            return []
        newest = max(found, key=lambda progress: (len(progress["curve"]), len(progress["under_way"]["losses"])))
        lines = [
            f"{self._epoch(epoch['epoch'])}, {self.spec.objective} on the stop rows {epoch['stop_metric']:.4g}"
            for epoch in newest["curve"][self.epochs :]
        ]
        if lines:
            self.epochs, self.step, self.said = len(newest["curve"]), 0, time.monotonic()
        done, seconds = len(newest["under_way"]["losses"]), newest["under_way"]["seconds"]
        ahead = len(newest["curve"]) == self.epochs and done > self.step
        if ahead and time.monotonic() - self.said >= STEP_SECONDS:
            self.step, self.said = done, time.monotonic()
            pace = f"{seconds / done:.2g} s each"
            lines.append(f"{self._epoch(self.epochs + 1)}, step {done} of {newest['steps']}, {pace}")
        return lines

    def _epoch(self, epoch: int) -> str:
        return f"{self.spec.name}: epoch {epoch} of at most {self.spec.training.epochs}"
