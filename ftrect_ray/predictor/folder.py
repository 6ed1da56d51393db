"""A fine-tuned model as a folder: safetensors, tokenizer and JSON, nothing else, and nothing unpickled.

    config.json, model*.safetensors   the whole backbone, as ``from_pretrained`` reads it   (adapter: full)
    adapter/                          the adapter alone, as PEFT reads it                   (adapter: lora)
    head.safetensors                  weight (1, hidden) and bias (1,)                      (not with answer options)
    tokenizer.json, …, readout.json   always

The folder of an adapter names its base model, and says by a digest which weights that was.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftrect_ray.errors import InputError
from ftrect_ray.models import MODELS, check_model_folder, resolve_model, stored_tensors
from ftrect_ray.predictor.precision import cast
from ftrect_ray.predictor.pretrained import first_line
from ftrect_ray.study import Model

if TYPE_CHECKING:
    from ftrect_ray.predictor.predictor import Predictor, Scale

ADAPTER = "adapter"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEAD, READOUT = "head.safetensors", "readout.json"
SHARD_BYTES = 4 * 10**9
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MEND = "fine-tune again, or restore the folder and the base model that it names"
#: Fields of an adapter's configuration that change what it computes.
COMPUTES = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


def save(
    predictor: Predictor,
    directory: str | Path,
    weights: Iterable[tuple[str, Tensor]] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the folder that :func:`load` reads.

    Parameters
    ----------
    directory : str or Path
        New or empty: files of another model would be taken for parts of this one.
    weights : iterable of (name, Tensor), optional
        Whole tensors of everything in ``predictor.stored()``, one after the other, where the predictor itself holds
        only parts of them (ZeRO-3) or others than those to keep. Default: the predictor's own.
    shard_bytes : int
        Of one file of a whole backbone, and of what waits in memory to be written.

    Raises
    ------
    InputError
        The directory is not empty.
    RuntimeError
        ``weights`` are not those of ``predictor.stored()``.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise InputError("the folder is not empty", where=str(directory), mend="name a new one")
    whole, adapter, head = _Shards(directory, shard_bytes), {}, {}
    missing = set(predictor.stored())
    for name, tensor in predictor.stored().items() if weights is None else weights:
        if name not in missing or not tensor.numel():
            raise RuntimeError(f"{name} is {tuple(tensor.shape)}: not a tensor to store, or a part of one")
        missing.remove(name)
        part, _, rest = name.partition(".")
        if part == "head":
            head[rest] = _plain(tensor).float()
        elif predictor.model.adapter == "full":
            whole.add(rest, _plain(tensor))
        else:
            adapter[rest] = _plain(tensor)
    if missing:
        raise RuntimeError(f"{len(missing)} tensors are not there to be stored, the first {min(missing)}")
    if predictor.model.adapter == "full":
        whole.close()
        config = copy.copy(predictor.base.config)
        config.dtype, config.architectures = whole.dtype, [type(predictor.base).__name__]
        if hasattr(config, "use_cache"):
            config.use_cache = True  # off for training alone
        config.save_pretrained(directory)
    elif predictor.model.adapter == "lora":
        _save_adapter(predictor, adapter, directory / ADAPTER)
    if head:
        save_file(head, directory / HEAD)
    predictor.tokenizer.save_pretrained(directory)
    readout = {
        **asdict(predictor.scale),
        "model": predictor.model.model_dump(),
        "base_digest": predictor.base_digest,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    (directory / READOUT).write_text(json.dumps(readout, indent=1) + "\n", encoding="utf-8")


def load(directory: str | Path, dtype: torch.dtype = torch.float32) -> Predictor:
    """See :meth:`Predictor.load`."""
    from ftrect_ray.predictor.predictor import Predictor

    directory = Path(directory)
    _refuse_links(directory)
    model, scale, base_digest = _read_readout(directory / READOUT)
    try:
        if model.adapter == "full":
            check_model_folder(directory)
        base = str(directory) if model.adapter == "full" else resolve_model(model.name, model.revision)
        loaded = Predictor.build(model, base, str(directory), seed=0, scale=scale)
    except InputError as error:
        raise InputError(error.what, where=str(directory), mend=MEND) from None
    if model.adapter == "full":
        _check_names(directory, loaded)
    elif loaded.base_digest != base_digest:
        raise InputError(
            f"the base model {model.name!r} is not the one that {str(directory)!r} was fine-tuned from",
            where=str(directory / READOUT),
            mend=MEND,
        )
    loaded.base_digest = base_digest
    if loaded.head is not None:
        loaded.head.load_state_dict(_read_tensors(directory / HEAD, dict(loaded.head.state_dict())))
    if model.adapter == "lora":
        _load_adapter(loaded, directory / ADAPTER)
    _check_finite(directory, loaded)
    cast(loaded.backbone, dtype)
    return loaded.eval()


def load_readout(base: Predictor, directory: str | Path) -> Predictor:
    """As :func:`load`, on the frozen backbone that ``base`` holds: the folder's must be the same one.

    Raises
    ------
    InputError
    """
    directory = Path(directory)
    _refuse_links(directory)
    model, scale, base_digest = _read_readout(directory / READOUT)
    if model != base.model or base_digest != base.base_digest or base.head is None:
        raise _unreadable(directory, "its backbone is another one")
    head = copy.deepcopy(base.head)
    head.load_state_dict(_read_tensors(directory / HEAD, dict(head.state_dict())))
    loaded = base.with_readout(head, scale)
    _check_finite(directory, loaded)
    return loaded


def _check_finite(directory: Path, loaded: Predictor) -> None:
    for name, parameter in loaded.trainable().items():
        if not torch.isfinite(parameter).all():
            raise _unreadable(directory, f"the weights of {name} are not finite")


# ------------------------------------------------------------------------------------------------- whole weights


class _Shards:
    """Safetensors files of bounded size and their index, in the layout of ``from_pretrained``."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit, self.dtype = folder, limit, torch.float32
        self.waiting: dict[str, Tensor] = {}
        self.waiting_bytes = self.bytes = 0
        self.written: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        if self.waiting and self.waiting_bytes + tensor.nbytes > self.limit:
            self._flush()
        self.dtype = tensor.dtype if tensor.dtype in FLOATS else self.dtype
        self.waiting[name] = tensor
        self.waiting_bytes += tensor.nbytes

    def close(self) -> None:
        """Write what is left; one file has the plain name and no index."""
        self._flush()
        if len(self.written) == 1:
            self._part(0).rename(self.folder / "model.safetensors")
            return
        index: dict[str, str] = {}
        for number, names in enumerate(self.written):
            final = f"model-{number + 1:05d}-of-{len(self.written):05d}.safetensors"
            self._part(number).rename(self.folder / final)
            index |= dict.fromkeys(names, final)
        content = {"metadata": {"total_size": self.bytes}, "weight_map": index}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _flush(self) -> None:
        save_file(self.waiting, self._part(len(self.written)), metadata={"format": "pt"})
        self.written.append(list(self.waiting))
        self.bytes += self.waiting_bytes
        self.waiting, self.waiting_bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.safetensors"


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _check_names(directory: Path, loaded: Predictor) -> None:
    """The files must hold the backbone's tensors, and no others: transformers leaves out what it does not know."""
    want = {name.partition(".")[2] for name in loaded.stored() if name.startswith("backbone.")}
    if odd := sorted(want ^ stored_tensors(directory).keys()):
        raise _unreadable(directory, f"tensor {odd[0]!r} {'is missing' if odd[0] in want else 'has no place in it'}")


# ------------------------------------------------------------------------------------------------------- adapter


def _save_adapter(predictor: Predictor, weights: dict[str, Tensor], folder: Path) -> None:
    """As ``PeftModel.save_pretrained`` writes it, but of these ``weights``, and naming the base as the study does."""
    assert isinstance(predictor.backbone, peft.PeftModel)
    config: Any = copy.copy(predictor.backbone.peft_config["default"])
    name = predictor.model.name
    config.base_model_name_or_path = MODELS[name].origin if name in MODELS else name
    config.revision, config.inference_mode = predictor.model.revision, True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # the same file in every process
    config.save_pretrained(str(folder))
    tensors = peft.get_peft_model_state_dict(predictor.backbone, state_dict=weights)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _load_adapter(predictor: Predictor, folder: Path) -> None:
    """Put an adapter in place whose configuration and tensors are those that ``readout.json`` asks for."""
    assert isinstance(predictor.backbone, peft.PeftModel)
    want = predictor.backbone.peft_config["default"].to_dict()
    try:
        have = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        different = [name for name in COMPUTES if have.get(name, want[name]) != want[name]]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _unreadable(folder / ADAPTER_CONFIG, first_line(error)) from None
    if different:
        name = different[0]
        raise _unreadable(folder / ADAPTER_CONFIG, f"{name!r} is {have[name]!r}; {READOUT} asks for {want[name]!r}")
    tensors = _read_tensors(folder / ADAPTER_WEIGHTS, peft.get_peft_model_state_dict(predictor.backbone))
    peft.set_peft_model_state_dict(predictor.backbone, tensors)


# ------------------------------------------------------------------------------------------------------- reading


def _read_readout(path: Path) -> tuple[Model, Scale, str]:
    from ftrect_ray.predictor.predictor import Scale

    try:
        readout: dict[str, Any] = json.loads(path.read_bytes())
        model = Model.model_validate(readout["model"])
        scale = Scale(**{name: float(readout[name]) for name in ("center", "spread", "offset", "train_mean")})
        if not all(map(math.isfinite, asdict(scale).values())) or scale.spread <= 0:
            raise ValueError("center, spread, offset and train_mean must be finite, and spread > 0")
        return model, scale, str(readout["base_digest"])
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(path, f"'{'.'.join(map(str, ('model', *first['loc'])))}': {first['msg']}") from None
    except KeyError as error:
        raise _unreadable(path, f"it has no {error}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(path, first_line(error)) from None


def _read_tensors(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must have the names and shapes of ``expected`` and hold floats."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, first_line(error)) from None
    want = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    have = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(want.keys() | have.keys()):
        if name not in have or name not in want:
            raise _unreadable(path, f"tensor {name!r} {'is missing' if name in want else 'has no place in it'}")
        if have[name] != want[name]:
            raise _unreadable(path, f"tensor {name!r} has shape {have[name]}, not {want[name]}")
        if tensors[name].dtype not in FLOATS:
            raise _unreadable(path, f"tensor {name!r} holds {tensors[name].dtype}, not floating-point numbers")
    return tensors


def _refuse_links(directory: Path) -> None:
    root = os.path.realpath(directory)
    for path in directory.rglob("*"):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            raise _unreadable(path, "a link that leads out of the folder")


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"cannot read the model: {reason}", where=str(path), mend=MEND)
