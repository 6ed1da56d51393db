"""The model f: a transformer's hidden states, pooled, read out by one linear layer in the answer's unit.

    f(x) = center + spread · (w · pool(backbone(x)) + b) + offset

``center`` and ``spread`` are the mean and standard deviation of the training answers, so that the readout
starts at the mean and its weights live on a unit scale. The variance objective leaves the level of f free;
``offset`` sets it afterwards, such that the mean residual over the model's own rows is zero.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.batching import Encoded, batches_by_tokens, collate, encode
from ftrect_ray.finetune.pretrained import (
    adapt,
    check_fit,
    digest_of,
    first_line,
    load_backbone,
    load_tokenizer,
    pooling_of,
    quiet,
)
from ftrect_ray.models import resolve_model
from ftrect_ray.study import Model

BACKBONE, ADAPTER, TOKENIZER = "backbone", "adapter.safetensors", "tokenizer"
HEAD, READOUT = "head.safetensors", "readout.json"


@dataclass(frozen=True)
class Scale:
    """How the readout's number becomes an answer; all in the unit of the answers.

    ``train_mean`` is the mean answer of all training rows: what stands in for f(x) where x cannot be predicted.
    """

    center: float = 0.0
    spread: float = 1.0
    offset: float = 0.0
    train_mean: float = 0.0

    @classmethod
    def of(cls, answers: np.ndarray) -> Scale:
        """Standardise by the training ``answers`` (s,) alone; equal answers keep their unit."""
        center, spread = float(np.mean(answers)), float(np.std(answers))
        return cls(center, spread if spread > 1e-12 * max(1.0, abs(center)) else 1.0, 0.0, center)


class Head(nn.Linear):
    """The linear readout; it computes in fp32 whatever precision its weights are stored in."""

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` (n, hidden) to (n,)."""
        return functional.linear(pooled.float(), self.weight.float(), self.bias.float()).squeeze(-1)


class Predictor(nn.Module):
    """Backbone, pooling, readout and tokenizer of one fine-tuned model.

    Use :meth:`create` for a fresh one and :meth:`load` for a saved one.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        tokenizer: PreTrainedTokenizerBase,
        model: Model,
        scale: Scale,
        base_digest: str,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.tokenizer = backbone, head, tokenizer
        self.model, self.scale, self.base_digest = model, scale, base_digest

    # -------------------------------------------------------------------------------------------- making

    @classmethod
    def create(cls, model: Model, *, seed: int = 0, scale: Scale | None = None) -> Predictor:
        """A fresh predictor in fp32: pretrained backbone, adapter as asked, readout near zero.

        Parameters
        ----------
        model : Model
            Which backbone, which of its weights train, how it pools.
        seed : int
            Of the readout's and the adapter's initial weights.
        scale : Scale, optional
            Default: the readout's number is the answer.

        Raises
        ------
        InputError
            The model does not load, has no use here, or is too short for ``model.max_tokens``.
        """
        return cls._build(model, resolve_model(model.name, model.revision), None, seed, scale or Scale())

    @classmethod
    def _build(cls, model: Model, base: str, tokenizer_from: str | None, seed: int, scale: Scale) -> Predictor:
        revision = model.revision if tokenizer_from is None else None
        backbone = load_backbone(base, revision, model)
        tokenizer = load_tokenizer(tokenizer_from or base, revision, model.name)
        check_fit(model, backbone, tokenizer)
        model = model.model_copy(update={"pooling": pooling_of(model.pooling, backbone.config)})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = Head(backbone.config.hidden_size, 1)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
            base_digest = digest_of(backbone)
            adapted = adapt(backbone, model)
        return cls(adapted, head, tokenizer, model, scale, base_digest).eval()

    # --------------------------------------------------------------------------------------- saving, loading

    def save(self, directory: str | Path) -> None:
        """Write the folder that :meth:`load` reads: safetensors, tokenizer and JSON, nothing else.

        ``full`` writes the whole backbone. ``lora`` and ``head`` write what was trained, and name the base model.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.model.adapter == "full":
            assert isinstance(self.backbone, PreTrainedModel)
            with quiet():
                self.backbone.save_pretrained(directory / BACKBONE)
        elif self.model.adapter == "lora":
            adapter = peft.get_peft_model_state_dict(self.backbone)
            save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, directory / ADAPTER)
        save_file({name: tensor.float() for name, tensor in self.head.state_dict().items()}, directory / HEAD)
        self.tokenizer.save_pretrained(directory / TOKENIZER)
        readout = {
            **asdict(self.scale),
            "model": self.model.model_dump(),
            "hidden": self.head.in_features,
            "base_digest": self.base_digest,
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        }
        (directory / READOUT).write_text(json.dumps(readout, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path, dtype: torch.dtype = torch.float32) -> Predictor:
        """Read what :meth:`save` wrote; the backbone's weights are cast to ``dtype``, the readout stays fp32.

        Raises
        ------
        InputError
            The folder is incomplete, or its weights are not those of the model that it names.
        """
        directory = Path(directory)
        try:
            readout: dict[str, Any] = json.loads((directory / READOUT).read_text(encoding="utf-8"))
            model = Model.model_validate(readout["model"])
            scale = Scale(**{name: float(readout[name]) for name in ("center", "spread", "offset", "train_mean")})
            base_digest = str(readout["base_digest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(directory / READOUT, error) from None
        base = str(directory / BACKBONE) if model.adapter == "full" else resolve_model(model.name, model.revision)
        loaded = cls._build(model, base, str(directory / TOKENIZER), 0, scale)
        if model.adapter != "full" and loaded.base_digest != base_digest:
            raise InputError(
                f"the base model {model.name!r} is not the one that {str(directory)!r} was fine-tuned from",
                where=str(directory / READOUT),
                mend="restore the base model's weights, or fine-tune again",
            )
        loaded.base_digest = base_digest
        loaded.head.load_state_dict(_tensors(directory / HEAD, dict(loaded.head.state_dict())))
        if model.adapter == "lora":
            expected = peft.get_peft_model_state_dict(loaded.backbone)
            peft.set_peft_model_state_dict(loaded.backbone, _tensors(directory / ADAPTER, expected))
        loaded.backbone.to(dtype)
        return loaded.requires_grad_(False).eval()

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that the fine-tune moves, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def load_trainable(self, weights: dict[str, Tensor]) -> None:
        """Put the trained weights (by the names of :meth:`trainable`) in place."""
        mine = self.trainable()
        if mine.keys() != weights.keys():
            raise ValueError(f"trained weights do not fit the model: {sorted(mine.keys() ^ weights.keys())[:4]}")
        with torch.no_grad():
            for name, parameter in mine.items():
                if parameter.shape != weights[name].shape:
                    raise ValueError(f"shape of {name}: {tuple(weights[name].shape)}, not {tuple(parameter.shape)}")
                parameter.copy_(weights[name])

    # -------------------------------------------------------------------------------------------- computing

    def train(self, mode: bool = True) -> Predictor:
        """As in torch, but a backbone that is wholly frozen keeps its dropout off."""
        super().train(mode)
        if self.model.adapter == "head":
            self.backbone.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Standardised predictions (n,) in fp32 of right-padded ``input_ids`` and ``attention_mask`` (n, tokens)."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(pool(hidden, attention_mask, self.model.pooling))

    def encode(self, texts: Sequence[str | None]) -> Encoded:
        """Token ids of each text, cut at ``model.max_tokens``; see :func:`batching.encode`."""
        return encode(self.tokenizer, texts, self.model.max_tokens)

    @torch.inference_mode()
    def predict(self, texts: Sequence[str | None], batch_tokens: int = 8192) -> tuple[np.ndarray, list[str | None]]:
        """Predicted answers; a text that cannot be predicted costs its own row and no other.

        Parameters
        ----------
        texts : sequence of str or None, length n
        batch_tokens : int
            Padded tokens of one forward pass, at most (one long text may exceed it alone).

        Returns
        -------
        values : ndarray, float64 (n,)
            In the answer's unit; NaN where there is none.
        errors : list of str or None, length n
            Why there is none.
        """
        encoded = self.encode(texts)
        errors = list(encoded.errors)
        values = np.full(len(errors), np.nan)
        device = self.head.weight.device
        self.eval()
        for rows in batches_by_tokens(encoded.lengths, batch_tokens):
            ids, mask = collate([encoded.tokens[i] for i in rows], self.tokenizer.pad_token_id)
            values[rows] = self(ids.to(device), mask.to(device)).double().cpu().numpy()
        values = self.scale.center + self.scale.spread * values + self.scale.offset
        for i in np.flatnonzero(~np.isfinite(values)):
            errors[i] = errors[i] or "the model gives no finite number"
            values[i] = np.nan
        return values, errors

    def centre(self, mean_residual: float) -> None:
        """Move the level of f by ``mean_residual`` (answer's unit), the mean of Y − f over the model's own rows."""
        self.scale = replace(self.scale, offset=self.scale.offset + mean_residual)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Hidden states (n, tokens, hidden), right-padded, to one fp32 vector a row (n, hidden).

    ``mean``: over the attended tokens. ``last``: the last attended token, the only one of a causal model that
    has seen the whole text.
    """
    if pooling == "last":
        last = attention_mask.sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    mask = attention_mask.unsqueeze(-1).float()
    return (hidden.float() * mask).sum(1) / mask.sum(1)


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
