"""Ray's list of a run's checkpoints, kept whole.

Ray overwrites its list in place. A kill or a full disk at that moment would leave it torn, and the run could never be
resumed; so a second copy is written by a rename, and put in its place before the next start.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ray.train import Checkpoint, UserCallback

from ftrect_ray.errors import InputError
from ftrect_ray.storage import RunStorage

LIST = "checkpoint_manager_snapshot.json"  # Ray's own
SECOND_LIST = "committed.json"


class SecondList(UserCallback):
    """Copies Ray's list after each change."""

    def __init__(self, storage: str, name: str) -> None:
        self.storage, self.name = storage, name

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            storage = RunStorage.open(self.storage)
            storage.write_bytes(storage.read_bytes(self.name, LIST), self.name, SECOND_LIST)


def mend(storage: RunStorage, name: str) -> None:
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
