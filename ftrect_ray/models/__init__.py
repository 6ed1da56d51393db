"""Which language model a name means: a named one from the cache, a checked folder, or a Hugging Face id.

Only safetensors weights are loaded, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.models.checking import check_model_folder, count_parameters, stored_tensors
from ftrect_ray.models.named import MODELS, NamedModel, named_folder

__all__ = [
    "MODELS",
    "NamedModel",
    "check_model_folder",
    "count_parameters",
    "model_card",
    "resolve_model",
    "stored_tensors",
]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
MAX_ID_CHARACTERS = 200


def resolve_model(name: str, revision: str | None = None) -> str:
    """What to give to ``from_pretrained``: a folder with a checked model, or a Hugging Face id of sound form.

    Parameters
    ----------
    name : str
        A key of :data:`MODELS`, a folder, or a Hugging Face id, tried in this order.
    revision : str, optional
        Branch, tag or commit of a Hugging Face id; it travels beside the id and is refused elsewhere.

    Raises
    ------
    InputError
        The name has no sound form, or the folder holds no loadable model.
    EnvironmentFault
        A named model cannot be fetched.
    """
    if name in MODELS:
        _refuse_revision(name, revision)
        return str(named_folder(MODELS[name]))
    if os.path.isdir(name):
        _refuse_revision(name, revision)
        check_model_folder(name)
        return os.path.abspath(name)
    if not HUB_ID.fullmatch(name) or ".." in name or len(name) > MAX_ID_CHARACTERS:
        raise _not_a_model(name)
    return name


def _not_a_model(name: str) -> InputError:
    shown = repr(name if len(name) <= 80 else name[:77] + "...")
    return InputError(
        f"'model.name' {shown} is neither a named model nor a folder nor a Hugging Face id",
        mend=near_match(name, MODELS) + ", or give a folder with safetensors weights, or an id like 'owner/name'",
    )


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise InputError(f"'model.revision' is for Hugging Face ids; {name!r} has none", mend="leave 'revision' out")


def model_card(name: str) -> dict[str, Any]:
    """What a report says of a model: name, origin, licence, parameters (None where unknown)."""
    if name in MODELS:
        model = MODELS[name]
        return {"name": name, "origin": model.origin, "licence": model.licence, "parameters": model.parameters}
    parameters = count_parameters(name) if os.path.isdir(name) else None
    return {"name": name, "origin": name, "licence": None, "parameters": parameters}
