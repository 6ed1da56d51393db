"""A run's model as a folder for those who do not have this package: PEFT's and transformers' formats, and a card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors import SafetensorError
from torch import Tensor

from ftrect_ray.errors import EnvironmentFault, InputError, near_match
from ftrect_ray.ledger import Ledger, Use
from ftrect_ray.predictor import folder
from ftrect_ray.predictor.card import card
from ftrect_ray.predictor.precision import resolve_precision
from ftrect_ray.predictor.predictor import Predictor
from ftrect_ray.predictor.pretrained import first_line
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Options
from ftrect_ray.study_file import parse_study

#: Texts on which a merged model must predict as before, but for this share of the answers' standard deviation.
PROBE, MERGING = ["the quick brown fox jumps over the lazy dog", "0 1 2 3 4 5 6 7 8 9"], 1e-3


def export(
    run: str | Path, directory: str | Path, *, model: str | None = None, merge: bool = False, dtype: str = "fp32"
) -> dict[str, Any]:
    """Write a model of a run into a folder of its own, with a ``README.md`` whose code computes f(x) without us.

    Parameters
    ----------
    run : str or Path
        A run's folder or URI.
    directory : str or Path
        Local, new or empty. It appears whole or not at all.
    model : str, optional
        Its name in the run; may be left out where the run has one.
    merge : bool
        Write the whole backbone, an adapter merged into it, as a folder of transformers.
    dtype : {"fp32", "bf16"}
        Of the stored weights; an adapter is merged in fp32 before. The readout stays fp32.

    Returns
    -------
    dict
        ``model``, ``folder``, ``adapter`` (full, lora or head: what the folder holds), ``dtype``, ``bytes``,
        ``files``, and ``note`` (or None).

    Raises
    ------
    InputError
        No such model, a folder that is not empty, or a model that does not load.
    EnvironmentFault
        The folder cannot be written.
    """
    storage = RunStorage.open(run)
    name = _choose(storage, model)
    target = _free(directory)
    with storage.local_copy("model", name) as source:
        predictor = Predictor.load(source)
    trained = predictor.model.adapter
    note = "the model was trained whole: there is nothing to merge" if merge and trained == "full" else None
    if merge:
        predictor = merged(predictor)
    study, ledger = parse_study(storage.read_bytes("study.yaml").decode()), Ledger.load(storage)
    labels = len(ledger.ids(Use.FINETUNE, name)), len(ledger.ids(Use.EARLY_STOP, name))
    with _appearing(target) as place:
        folder.save(predictor, place, _cast(predictor, dtype))
        title = f"{study.study}, {name}"
        text = card(predictor, title=title, objective=study.objective, trained=trained, labels=labels)
        (place / "README.md").write_text(text, encoding="utf-8")
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return {
        "model": name,
        "folder": str(target),
        "adapter": predictor.model.adapter,
        "dtype": dtype,
        "bytes": sum(path.stat().st_size for path in files),
        "files": [path.relative_to(target).as_posix() for path in files],
        "note": note,
    }


def merged(predictor: Predictor) -> Predictor:
    """The same f with a whole backbone: an adapter is added to the weights that it adapts (in place).

    Raises
    ------
    InputError
        The adapter is of a kind that cannot be merged, or one that is something else when it is merged.
    """
    before, _ = predictor.predict(PROBE)
    backbone = predictor.backbone
    if isinstance(backbone, peft.PeftModel):
        try:
            backbone = backbone.merge_and_unload()
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise _unmergeable(first_line(error)) from None
    model = predictor.model.model_copy(update={"adapter": "full", "options": _read_by(predictor)})
    parts = (predictor.head, predictor.tokenizer, model, predictor.scale, predictor.base_digest)
    whole = Predictor(backbone, *parts, predictor.prompt, predictor.options).eval()
    moved = np.nanmax(np.abs(whole.predict(PROBE)[0] - before), initial=0.0)
    if moved > MERGING * predictor.scale.spread:  # layers that share their weights, for example
        raise _unmergeable(f"predictions move by {moved:.2g}")
    return whole


def _read_by(predictor: Predictor) -> Options | None:
    """The prompt, without the answers that a head does not read: a folder of whole weights would take them for it."""
    options = predictor.model.options
    return options if options is None or predictor.options else options.model_copy(update={"answers": {}})


def _unmergeable(reason: str) -> InputError:
    return InputError(f"the adapter cannot be merged: {reason}", mend="leave --merge out")


def _cast(predictor: Predictor, dtype: str) -> Iterator[tuple[str, Tensor]]:
    """What the folder holds, one tensor after the other in ``dtype``; the readout and integers as they are."""
    number = resolve_precision(dtype, torch.device("cpu"))
    for name, tensor in predictor.stored().items():
        plain = name.startswith("head.") or not tensor.is_floating_point()
        yield name, tensor if plain else tensor.to(number)


def _choose(storage: RunStorage, model: str | None) -> str:
    names = [name for name in storage.list("model") if storage.exists("model", name, folder.READOUT)]
    names = [name for name in names if not name.startswith(".") and ".tmp-" not in name]  # half-written ones
    if not names:
        raise InputError(
            "there is no fine-tuned model", where=storage.uri, mend="'ftrect run' makes them, where the design has any"
        )
    if model is None and len(names) > 1:
        raise InputError(f"there are {len(names)} models", where=storage.uri, mend=f"add --model {'|'.join(names)}")
    if model not in (None, *names):
        raise InputError(f"there is no model {model!r}", where=storage.uri, mend=near_match(model, names))
    return model or names[0]


def _free(directory: str | Path) -> Path:
    text = str(directory)
    if "\0" in text or "://" in text or not text.strip():
        raise InputError(f"not a folder of this machine: {text!r}", mend="give a local path")
    target = Path(os.path.abspath(os.path.expanduser(text)))
    if target.is_dir() and any(target.iterdir()):
        raise InputError("the folder is not empty", where=text, mend="name a new one; nothing was overwritten")
    if os.path.lexists(target) and not target.is_dir():
        raise InputError("there is a file of this name", where=text, mend="name a new folder")
    return target


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder that takes the place of ``target`` when the block has ended well, and is removed otherwise."""
    place = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        place.mkdir(parents=True)
        yield place
        place.rename(target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise EnvironmentFault(
            f"cannot write the folder: {reason}", where=str(target), mend="free space, or choose another folder with -o"
        ) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)
