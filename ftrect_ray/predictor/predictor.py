"""The model f: a transformer's hidden states, pooled, read out by one linear layer in the answer's unit.

    f(x) = center + spread · (w · pool(backbone(x)) + b) + offset

``center`` and ``spread`` are the mean and standard deviation of the training answers, so that the readout
starts at the mean and its weights live on a unit scale. The variance objective leaves the level of f free;
``offset`` sets it afterwards, such that the mean residual over the model's own rows is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftrect_ray.models import resolve_model
from ftrect_ray.predictor import folder
from ftrect_ray.predictor.head import Head, pool
from ftrect_ray.predictor.pretrained import (
    adapt,
    check_fit,
    digest_of,
    load_backbone,
    load_tokenizer,
    pooling_of,
)
from ftrect_ray.predictor.tokens import Encoded, batches_by_tokens, collate, encode
from ftrect_ray.study import Model


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


class Predictor(nn.Module):
    """Backbone, pooling, readout and tokenizer of one fine-tuned model.

    Use :meth:`create` for a fresh one and :meth:`load` for a saved one.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: Head | None,
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
        return cls.build(model, resolve_model(model.name, model.revision), None, seed=seed, scale=scale or Scale())

    @classmethod
    def build(cls, model: Model, base: str, tokenizer_from: str | None, *, seed: int, scale: Scale) -> Predictor:
        """From the weights at ``base`` (folder or id) and the tokenizer at ``tokenizer_from`` (default: ``base``)."""
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
        """Write the folder that :meth:`load` reads; see ``predictor.folder``."""
        folder.save(self, directory)

    @classmethod
    def load(cls, directory: str | Path, dtype: torch.dtype = torch.float32) -> Predictor:
        """Read what :meth:`save` wrote; the backbone's weights are cast to ``dtype``, the readout stays fp32.

        Raises
        ------
        InputError
            The folder is incomplete, or its weights are not those of the model that it names.
        """
        return folder.load(directory, dtype)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that the fine-tune moves, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def stored(self) -> dict[str, Tensor]:
        """What a saved folder holds, by name: all weights of a backbone that trained whole, else what trained."""
        if self.model.adapter != "full":
            return dict(self.trainable())
        kept = self.state_dict().keys()  # leaves buffers out that are made anew
        named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name: tensor for name, tensor in named.items() if name in kept}

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model, without an adapter's wrapping."""
        backbone = self.backbone
        model = backbone.get_base_model() if isinstance(backbone, peft.PeftModel) else backbone
        assert isinstance(model, PreTrainedModel)
        return model

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

    def collate(self, rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` takes, from the tokens of some texts; no texts give one row of padding."""
        return collate(rows, int(self.tokenizer.pad_token_id))

    def read(self, outputs: Tensor) -> Tensor:
        """Standardised predictions (n,) from what :meth:`forward` returns."""
        return outputs

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
        device = next(self.parameters()).device
        self.eval()
        for rows in batches_by_tokens(encoded.lengths, batch_tokens):
            ids, mask = self.collate([encoded.tokens[i] for i in rows])
            values[rows] = self.read(self(ids.to(device), mask.to(device))).double().cpu().numpy()
        values = self.scale.center + self.scale.spread * values + self.scale.offset
        for i in np.flatnonzero(~np.isfinite(values)):
            errors[i] = errors[i] or "the model gives no finite number"
            values[i] = np.nan
        return values, errors

    def centre(self, mean_residual: float) -> None:
        """Move the level of f by ``mean_residual`` (answer's unit), the mean of Y − f over the model's own rows."""
        self.scale = replace(self.scale, offset=self.scale.offset + mean_residual)
