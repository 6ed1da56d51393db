"""``run.json``: which stages are done, for which inputs, at what cost; and what a changed study means for them."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ftrect_ray.errors import InputError
from ftrect_ray.finetune import spec
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Study, digest

#: The rooms in the order in which the table walks through them.
STAGES = ("tables", "pilot", "allocate", "finetune", "predict", "rectify", "report")

#: Settings that each stage reads, as dotted keys; what a stage inherits from the one before is not repeated.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "tables": ("data", "labels", "seed", "target.features"),
    "pilot": ("pilots", "model", "candidates", "training", "objective"),
    "allocate": ("design", "folds", "max_finetunes", "finetune_labels", "population", "alpha"),
    "finetune": ("model", "training", "objective"),
    "predict": ("inference",),
    "rectify": ("target", "population", "alpha"),
    "report": ("study",),
}

#: Settings that say how hard to try, not what to compute: changing them invalidates nothing.
EFFORT = frozenset(
    {
        *(f"training.{name}" for name in spec.EFFORT),
        *(f"pilots.{name}" for name in ("max_failures", "cpus_per_pilot", "gpus_per_pilot")),
        "inference.actors",
        "data.max_rows",
        "data.max_bytes",
    }
)

_PACKAGES = ("ftrect-ray", "ray", "torch", "transformers", "peft", "deepspeed", "numpy", "scipy", "pyarrow")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"training.epochs": 8, ...}``."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat.update(flatten(child, f"{prefix}.{key}" if prefix else key))
    return flat


def reads(study: Study, stage: str) -> tuple[str, ...]:
    """Dotted keys of what ``stage`` itself reads: a fine-tune for coefficients is one for this target alone."""
    aims = stage in ("pilot", "finetune") and study.objective in spec.TARGETED
    return SETTINGS[stage] + ("target",) * aims


def settings_of(study: Study, stage: str) -> dict[str, Any]:
    """The settings that ``stage`` itself reads."""
    wanted = reads(study, stage)
    return {
        key: value
        for key, value in flatten(study.model_dump(mode="json")).items()
        if not _is_effort(key) and any(key == name or key.startswith(name + ".") for name in wanted)
    }


def _is_effort(key: str) -> bool:
    """Whether the setting, a candidate's own ones included, says how hard to try."""
    return re.sub(r"^candidates\.[^.]+\.", "", key) in EFFORT


def changes(old: Study, new: Study) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, ``{dotted key: (old, new)}``, effort settings left out."""
    before, after = (flatten(study.model_dump(mode="json")) for study in (old, new))
    keys = [key for key in [*before, *(k for k in after if k not in before)] if not _is_effort(key)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def invalidated(changed: Iterable[str], study: Study) -> list[str]:
    """The stages of ``study`` that read one of the changed settings, and all behind the first of them."""
    keys = list(changed)
    touched = [
        stage
        for stage in STAGES
        if any(
            key == name or key.startswith(name + ".") or name.startswith(key + ".")
            for key in keys
            for name in reads(study, stage)
        )
    ]
    return list(STAGES[STAGES.index(touched[0]) :]) if touched else []


def refuse_changed(storage: RunStorage, old: Study, new: Study) -> None:
    """Stop before a run is silently mixed from two studies.

    Raises
    ------
    InputError
        Naming every changed setting, both digests, and the stages that would be done again.
    """
    different = changes(old, new)
    if not different:
        return
    shown = ", ".join(f"{key} {before!r} → {after!r}" for key, (before, after) in different.items())
    hashes = f"{digest(old.model_dump(mode='json'))} → {digest(new.model_dump(mode='json'))}"
    stages = ", ".join(invalidated(different, new)) or "no stage"
    raise InputError(
        f"the study differs from the one in the run: {shown}; hash {hashes}",
        where=storage.url("study.yaml"),
        mend=f"add --update to redo what it can change ({stages}), or start another run with -o",
    )


class RunRecord:
    """The manifest of a run, written after every change.

    Parameters
    ----------
    storage : RunStorage
    study : Study
    """

    def __init__(self, storage: RunStorage, study: Study) -> None:
        self._storage = storage
        if storage.exists("run.json"):
            self.content: dict[str, Any] = storage.read_json("run.json")
        else:
            self.content = {"study": study.study, "started": _now(), "stages": {}}
        self.content |= {"seed": study.seed, "versions": versions(), "python": platform.python_version()}
        self.content["git"] = _git_revision()

    def is_done(self, stage: str, key: str) -> bool:
        """Whether ``stage`` has finished with inputs of this key."""
        entry = self.content["stages"].get(stage, {})
        return bool(entry.get("status") == "done" and entry.get("key") == key)

    def begin(self, stage: str, key: str) -> None:
        self.content["stages"][stage] = {"status": "running", "key": key, "started": _now()}
        self.save()

    def finish(self, stage: str, costs: Mapping[str, Any]) -> None:
        self.content["stages"][stage] |= {"status": "done", "finished": _now(), **costs}
        self.save()

    def note(self, **facts: Any) -> None:
        """Add top-level facts, for example the data's fingerprint."""
        self.content |= facts
        self.save()

    def save(self) -> None:
        self._storage.write_json(self.content, "run.json")


def versions() -> dict[str, str]:
    """Versions of the packages that can change a number."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _git_revision() -> str | None:
    """The revision of the checkout that this package runs from, if it runs from one."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
