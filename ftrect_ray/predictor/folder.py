"""A fine-tuned model as a folder: safetensors, tokenizer and JSON, nothing else.

    backbone/    the whole backbone, as ``from_pretrained`` reads it       (adapter: full)
    adapter/     the adapter alone, as PEFT reads it                       (adapter: lora)
    head.safetensors, tokenizer/, readout.json                             (always; no head with answer options)

The folder of an adapter names its base model, and says by a digest which weights that was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftrect_ray.errors import InputError
from ftrect_ray.models import resolve_model
from ftrect_ray.predictor.pretrained import first_line
from ftrect_ray.study import Model

if TYPE_CHECKING:
    from ftrect_ray.predictor.predictor import Predictor

BACKBONE, ADAPTER, TOKENIZER = "backbone", "adapter", "tokenizer"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
HEAD, READOUT = "head.safetensors", "readout.json"
SHARD_BYTES = 4 * 10**9


def save(predictor: Predictor, directory: str | Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
    """Write the folder that :func:`load` reads.

    Parameters
    ----------
    weights : iterable of (name, Tensor), optional
        Whole tensors of everything in ``predictor.stored()``, one after the other, where the predictor itself holds
        only parts of them (ZeRO-3) or others than those to keep. Default: the predictor's own.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    backbone, adapter, head = _Shards(directory / BACKBONE), {}, {}
    for name, tensor in predictor.stored().items() if weights is None else weights:
        whole = tensor.detach().cpu().contiguous()
        if not whole.numel():
            raise RuntimeError(f"the weights of {name} are empty: a part of a partitioned model was taken for it")
        part, _, rest = name.partition(".")
        if part == "head":
            head[rest] = whole.float()
        elif predictor.model.adapter == "full":
            backbone.add(rest, whole)
        else:
            adapter[rest] = whole
    if predictor.model.adapter == "full":
        backbone.close()
        predictor.base.config.save_pretrained(directory / BACKBONE)
    elif predictor.model.adapter == "lora":
        assert isinstance(predictor.backbone, peft.PeftModel)
        predictor.backbone.peft_config["default"].save_pretrained(directory / ADAPTER)
        save_file(
            peft.get_peft_model_state_dict(predictor.backbone, state_dict=adapter),
            directory / ADAPTER / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )
    if head:
        save_file(head, directory / HEAD)
    predictor.tokenizer.save_pretrained(directory / TOKENIZER)
    readout = {
        **asdict(predictor.scale),
        "model": predictor.model.model_dump(),
        "base_digest": predictor.base_digest,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    (directory / READOUT).write_text(json.dumps(readout, indent=1) + "\n", encoding="utf-8")


def load(directory: str | Path, dtype: torch.dtype = torch.float32) -> Predictor:
    """See :meth:`Predictor.load`."""
    from ftrect_ray.predictor.predictor import Predictor, Scale

    directory = Path(directory)
    try:
        readout: dict[str, Any] = json.loads((directory / READOUT).read_text(encoding="utf-8"))
        model = Model.model_validate(readout["model"])
        scale = Scale(**{name: float(readout[name]) for name in ("center", "spread", "offset", "train_mean")})
        base_digest = str(readout["base_digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(directory / READOUT, error) from None
    base = str(directory / BACKBONE) if model.adapter == "full" else resolve_model(model.name, model.revision)
    loaded = Predictor.build(model, base, str(directory / TOKENIZER), seed=0, scale=scale)
    if model.adapter != "full" and loaded.base_digest != base_digest:
        raise InputError(
            f"the base model {model.name!r} is not the one that {str(directory)!r} was fine-tuned from",
            where=str(directory / READOUT),
            mend="restore the base model's weights, or fine-tune again",
        )
    loaded.base_digest = base_digest
    if loaded.head is not None:
        loaded.head.load_state_dict(_tensors(directory / HEAD, dict(loaded.head.state_dict())))
    if model.adapter == "lora":
        expected = peft.get_peft_model_state_dict(loaded.backbone)
        weights = _tensors(directory / ADAPTER / ADAPTER_WEIGHTS, expected)
        peft.set_peft_model_state_dict(loaded.backbone, weights)
    loaded.backbone.to(dtype)
    return loaded.requires_grad_(False).eval()


class _Shards:
    """Safetensors files of bounded size and their index, in the layout of ``from_pretrained``."""

    def __init__(self, folder: Path, limit: int = SHARD_BYTES) -> None:
        self.folder, self.limit = folder, limit
        self.waiting: dict[str, Tensor] = {}
        self.written: list[list[str]] = []
        self.bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self.waiting and sum(t.numel() * t.element_size() for t in self.waiting.values()) + size > self.limit:
            self._flush()
        self.waiting[name] = tensor
        self.bytes += size

    def close(self) -> None:
        """Write what is left; one file has the plain name and no index."""
        self._flush()
        parts = [self._part(number) for number in range(len(self.written))]
        if len(parts) == 1:
            parts[0].rename(self.folder / "model.safetensors")
            return
        index: dict[str, str] = {}
        for number, (part, names) in enumerate(zip(parts, self.written, strict=True), start=1):
            final = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            part.rename(self.folder / final)
            index |= dict.fromkeys(names, final)
        content = {"metadata": {"total_size": self.bytes}, "weight_map": index}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _flush(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(self.waiting, self._part(len(self.written)), metadata={"format": "pt"})
        self.written.append(list(self.waiting))
        self.waiting = {}

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.safetensors"


def _tensors(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must have the names and shapes of ``expected``."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    want = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    have = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if want != have:
        odd = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
        raise _unreadable(path, ValueError(f"tensor {odd[0]!r} has shape {have.get(odd[0])}, not {want.get(odd[0])}"))
    return tensors


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot read the model: {first_line(error)}", where=str(path), mend="fine-tune again, or restore the folder"
    )
