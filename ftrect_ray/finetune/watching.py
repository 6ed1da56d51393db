"""Progress of fine-tunes that run elsewhere, read from the checkpoints that they leave.

Lines that a worker prints would come with Ray's prefixes, or not at all where its logs are off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import pyarrow.fs as pafs

from ftrect_ray.finetune.spec import FitSpec
from ftrect_ray.storage import RunStorage

PROGRESS = "progress.json"  # the curve so far and the epoch under way, in every checkpoint


def run_name(spec: FitSpec) -> str:
    """The folder of its checkpoints: by its content, so that no other fine-tune's are ever resumed."""
    return f"{spec.name}-{spec.key}"


class Watch:
    """Prints one line on stderr for each epoch since the last call; says nothing where stderr is no terminal.

    Parameters
    ----------
    specs : sequence of FitSpec
    storage : str
        Path or URI of the checkpoints, as given to ``finetune``.
    """

    def __init__(self, specs: Sequence[FitSpec], storage: str) -> None:
        self.specs, self.storage = specs, RunStorage.open(storage)
        self.shown = dict.fromkeys((spec.name for spec in specs), 0)

    def __call__(self) -> None:
        """Look once."""
        if not sys.stderr.isatty():
            return
        for spec in self.specs:
            for epoch in self._curve(spec)[self.shown[spec.name] :]:
                self.shown[spec.name] += 1
                done = f"{spec.name}: epoch {epoch['epoch']} of at most {spec.training.epochs}"
                metric = f"{spec.objective} on the stop rows {epoch['stop_metric']:.4g}"
                print(f"{done}, {metric}", file=sys.stderr, flush=True)

    def _curve(self, spec: FitSpec) -> list[dict[str, float]]:
        """The longest curve in the fine-tune's checkpoints; they come and go while this reads them."""
        filesystem = self.storage.filesystem
        run = pafs.FileSelector(self.storage.path(run_name(spec)), allow_not_found=True)
        curves: list[list[dict[str, float]]] = [[]]
        for entry in filesystem.get_file_info(run):
            try:
                with filesystem.open_input_stream(f"{entry.path}/{PROGRESS}") as file:
                    curves.append(json.loads(file.read())["curve"])
            except (OSError, ValueError, TypeError):
                continue
        return max(curves, key=len)
