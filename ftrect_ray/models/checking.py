"""Is this folder a model that may be loaded? Safetensors weights, no foreign code, nothing missing."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from ftrect_ray.errors import InputError

MAX_CONFIG_BYTES = 16 << 20
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 100_000
FLOATS = ("F64", "F32", "F16", "BF16")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")


def check_model_folder(path: str | Path) -> None:
    """Refuse a folder that needs foreign code, has no safetensors weights, or is incomplete.

    Raises
    ------
    InputError
        Naming the folder as it was given, and the file.
    """
    folder, shown = Path(path), repr(str(path))
    config = _read_json(folder / "config.json", shown)
    if config is None:
        adapter = (folder / "adapter_config.json").exists()
        mend = "this is an adapter; name the folder of a whole model" if adapter else "name the folder that holds it"
        raise InputError(f"model folder {shown} has no config.json", mend=mend)
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"model folder {shown} has an adapter beside the model (adapter_config.json)",
            mend="merge the adapter, or put it into a folder of its own",
        )
    for filename in ("config.json", "tokenizer_config.json"):
        if "auto_map" in (_read_json(folder / filename, shown) or {}):
            raise InputError(
                f"model folder {shown} asks for its own code ('auto_map' in {filename}), which is never run",
                mend="use a model of an architecture that transformers knows",
            )
    if not any((folder / filename).is_file() for filename in TOKENIZER_FILES):
        raise InputError(
            f"model folder {shown} has no tokenizer", mend="save it beside the model: tokenizer.save_pretrained(folder)"
        )
    for weights in _weights(folder, shown):
        _check_weights(weights, shown)


def _read_json(path: Path, shown: str) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("too large")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path.name} of model folder {shown} is not JSON: {error}", mend="fetch the model anew"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name} of model folder {shown} is not a JSON object", mend="fetch the model anew")
    return content


def _weights(folder: Path, shown: str) -> list[Path]:
    """The safetensors files that ``from_pretrained`` would load: one file, or the shards of an index."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = _read_json(folder / "model.safetensors.index.json", shown)
    if index is not None:
        shards = index.get("weight_map")
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        for name in names:
            if name != Path(name).name or not (folder / name).is_file():
                raise InputError(f"model folder {shown} has no shard {name!r}", mend="fetch the model anew")
        if names:
            return [folder / name for name in names]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    found = f"; it has {pickles[0]}, which can run code when it is read" if pickles else ""
    raise InputError(
        f"safetensors required: model folder {shown} has no model.safetensors{found}",
        mend="convert it: model.save_pretrained(folder) writes safetensors",
    )


def _read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: 8 bytes of length (little endian), then JSON.

    Raises
    ------
    ValueError
        The length is impossible or the JSON is broken.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError("shorter than 8 bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header


def _check_weights(path: Path, shown: str) -> None:
    """Header bounds first, then the safetensors library's own validation (overlaps, holes, truncation)."""
    from safetensors import SafetensorError, safe_open

    try:
        header = _read_header(path)
        if len(header) > MAX_TENSORS:
            raise ValueError(f"{len(header)} tensors, more than {MAX_TENSORS}")
        with safe_open(path, framework="np"):
            pass
        for name, tensor in header.items():
            if name.endswith((".weight", ".bias")) and tensor["dtype"] not in FLOATS:
                raise ValueError(f"tensor {name!r} holds {tensor['dtype']}, not floating-point numbers")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(
            f"{path.name} of model folder {shown} is not a sound safetensors file: {error}", mend="fetch the model anew"
        ) from None


def stored_tensors(folder: str | Path) -> dict[str, dict[str, Any]]:
    """``dtype`` and ``shape`` of each tensor of a checked model folder, by name; the weights are not read."""
    headers = [_read_header(weights) for weights in _weights(Path(folder), repr(str(folder)))]
    return {name: tensor for header in headers for name, tensor in header.items() if name != "__metadata__"}


def count_parameters(folder: str | Path) -> int:
    """Floating-point numbers in the weights of a checked model folder (integer tensors are buffers)."""
    tensors = stored_tensors(folder).values()
    return sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"].startswith(("F", "BF")))
