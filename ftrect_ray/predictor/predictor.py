"""The model f: a transformer's hidden states, pooled, read out by one linear layer in the answer's unit.

    f(x) = center + spread · (w · pool(backbone(x)) + b) + offset

``center`` and ``spread`` are the mean and standard deviation of the training answers, so that the readout
starts at the mean and its weights live on a unit scale. The variance objective leaves the level of f free;
``offset`` sets it afterwards, such that the mean residual over the model's own rows is zero.

Around a text there may be a prompt; then its last token's state is pooled. With answer options there is no linear
layer: f(x) = Σ_k p_k v_k + offset, see ``options``. Training sees it standardised by the same ``center`` and
``spread``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ftrect_ray.models import resolve_model
from ftrect_ray.predictor import folder
from ftrect_ray.predictor.head import Head, pool
from ftrect_ray.predictor.options import AnswerOptions, prompt_of
from ftrect_ray.predictor.prefix import LEAST, Prefix, behind, can_share, recomputes
from ftrect_ray.predictor.pretrained import (
    adapt,
    check_fit,
    digest_of,
    load_backbone,
    load_config,
    load_tokenizer,
    pooling_of,
)
from ftrect_ray.predictor.prompting import Prompt
from ftrect_ray.predictor.tokens import Encoded, batches_by_tokens, collate, encode
from ftrect_ray.study import Model

#: Tokens of one forward pass unless told: on a processor larger batches leave its caches.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16_384}


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

    def answers(self, standardised: np.ndarray) -> np.ndarray:
        """In the answer's unit, float64 (n,)."""
        return self.center + self.spread * standardised + self.offset

    def filled(self, predictions: np.ndarray) -> np.ndarray:
        """``predictions`` (n,), with ``train_mean`` where there is none."""
        return np.where(np.isnan(predictions), self.train_mean, predictions)


@dataclass(frozen=True)
class Scores:
    """What a model says of n texts.

    Attributes
    ----------
    values : ndarray, float64 (n,)
        In the answer's unit; NaN where there is none.
    errors : list of str or None
        Why there is none.
    cut : int
        Texts that were longer than the model reads.
    probabilities : ndarray, float64 (n, K), or None
        Of the answer options, where the model has them; rows of NaN where there are none.
    """

    values: np.ndarray
    errors: list[str | None]
    cut: int
    probabilities: np.ndarray | None


class Predictor(nn.Module):
    """Backbone, pooling, readout and tokenizer of one fine-tuned model.

    Use :meth:`create` for a fresh one and :meth:`load` for a saved one. The readout is either ``head`` or ``options``;
    the other is None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: Head | None,
        tokenizer: PreTrainedTokenizerBase,
        model: Model,
        scale: Scale,
        base_digest: str,
        prompt: Prompt | None = None,
        options: AnswerOptions | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.tokenizer = backbone, head, tokenizer
        self.model, self.scale, self.base_digest = model, scale, base_digest
        self.prompt, self.options = prompt, options
        self._takes = inspect.signature(self.base.forward).parameters
        self.prefix = self._shared_beginning()
        self._kept: DynamicCache | None = None

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
            The model does not load, has no use here, or is too short for ``model.max_tokens``; its tokenizer cannot
            tell the answer options apart; the adapter does not fit it.
        """
        return cls.build(model, resolve_model(model.name, model.revision), None, seed=seed, scale=scale or Scale())

    @classmethod
    def build(cls, model: Model, base: str, tokenizer_from: str | None, *, seed: int, scale: Scale) -> Predictor:
        """From the weights at ``base`` (folder or id) and the tokenizer at ``tokenizer_from`` (default: ``base``)."""
        revision = model.revision if tokenizer_from is None else None
        config = load_config(base, revision, model)
        tokenizer = load_tokenizer(tokenizer_from or base, revision, model.name)
        prompt, options = prompt_of(model, tokenizer)
        backbone = load_backbone(base, revision, model, config)
        check_fit(model, backbone, tokenizer)
        layer = None if model.layer is None else int(backbone.config.num_hidden_layers)
        model = model.model_copy(update={"pooling": pooling_of(model.pooling, backbone.config), "layer": layer})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = None if options else _new_head(backbone.config.hidden_size)
            base_digest = digest_of(backbone)
            adapted = adapt(backbone, model)
        return cls(adapted, head, tokenizer, model, scale, base_digest, prompt, options).eval()

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

    # -------------------------------------------------------------------------------------------- computing

    def with_readout(self, head: Head, scale: Scale) -> Predictor:
        """Another readout on the same frozen backbone, which both then hold."""
        parts = (self.tokenizer, self.model, scale, self.base_digest, self.prompt)
        return Predictor(self.backbone, head, *parts).eval()

    def train(self, mode: bool = True) -> Predictor:
        """As in torch, but a backbone that is wholly frozen keeps its dropout off."""
        super().train(mode)
        if self.model.adapter == "head":
            self.backbone.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the model says of the rows that :meth:`collate` made, in fp32.

        Standardised predictions (n,); with answer options their log-probabilities (n, K).
        """
        if self.head is not None:
            return self.head(self.pooled(input_ids, attention_mask))
        options = self._answer_options
        kept = options.longest + 1
        logits = self._read(input_ids, attention_mask, kept).logits
        return options.log_probabilities(logits[:, -kept:])

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The features that the head reads, fp32 (n, hidden)."""
        if self.prompt is None:
            hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        else:
            hidden = self._read(input_ids, attention_mask, 1).last_hidden_state
        return pool(hidden, attention_mask[:, -hidden.shape[1] :], self.model.pooling)

    def _read(self, ids: Tensor, mask: Tensor, logits: int) -> Any:
        """What the backbone says of prompts, with the ``logits`` of so many last tokens.

        Their beginning goes first. All ranks make two passes, whatever their rows begin with: ZeRO-3 needs that.
        """
        if "position_ids" not in self._takes:
            return self._pass(ids, mask, logits)
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # a text begins at 0, and padding does not count
        if not self._shares:
            return self._pass(ids, mask, logits, position_ids=positions)
        shared = len(self.prefix)
        alike = self.prefix.begins(ids, mask)
        past = self._kept if alike else None
        if past is None:
            rows = slice(1 if alike else None)
            past = self._keys_and_values(*(x[rows, :shared] for x in (ids, mask, positions)))
        return self._pass(ids[:, shared:], mask, logits, position_ids=positions[:, shared:], past_key_values=past)

    def _keys_and_values(self, ids: Tensor, mask: Tensor, positions: Tensor) -> DynamicCache:
        """Of the beginning of prompts, for the pass over what comes behind it."""
        cache = DynamicCache(config=self.base.config)
        self._pass(ids, mask, 1, position_ids=positions, past_key_values=cache)
        return behind(cache)

    def _pass(self, ids: Tensor, mask: Tensor, logits: int, **further: Any) -> Any:
        if "logits_to_keep" in self._takes:  # as positions: a slice would be multiplied with a copy of W for each row
            further["logits_to_keep"] = torch.arange(ids.shape[1] - logits, ids.shape[1], device=ids.device)
        if "past_key_values" in further:
            further["use_cache"] = True
        return self.backbone(input_ids=ids, attention_mask=mask, **further)

    def _shared_beginning(self) -> Prefix:
        """That of all prompts, where it is worth a pass of its own and the model allows one."""
        if self.prompt is None or not can_share(self.base, self._takes, self.model.max_tokens):
            return Prefix()
        return Prefix(self.prompt.beginning) if len(self.prompt.beginning) >= LEAST else Prefix()

    def encode(self, texts: Sequence[str | None]) -> Encoded:
        """Token ids of each text, cut at ``model.max_tokens``; with a prompt, of the prompt around it."""
        if self.prompt is None:
            return encode(self.tokenizer, texts, self.model.max_tokens)
        behind_it = 0 if self.options is None else self.options.longest
        return self.prompt.encode(texts, self.model.max_tokens - behind_it)

    def collate(self, rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` takes, from the tokens of some texts; no texts give one text of padding.

        Where prompts share their beginning, it fills the first columns; padding comes behind it.
        """
        own = collate if self.options is None else self.options.collate
        return self.prefix.collate(rows, int(self.tokenizer.pad_token_id), own)

    def batches(self, tokens: Sequence[np.ndarray], batch_tokens: int) -> Iterator[np.ndarray]:
        """Positions of the texts that have tokens, for one :meth:`collate` each; see ``tokens.batches_by_tokens``."""
        return batches_by_tokens(self.costs(np.array([len(ids) for ids in tokens], dtype=np.int64)), batch_tokens)

    def costs(self, lengths: np.ndarray) -> np.ndarray:
        """What texts of ``lengths`` (n,) tokens cost in a forward pass, in tokens computed, int64 (n,)."""
        costs = self.prefix.costs(lengths)
        return costs if self.options is None else self.options.rows_tokens(costs)

    def read(self, outputs: Tensor) -> Tensor:
        """Standardised predictions (n,) from what :meth:`forward` returns."""
        if self.options is None:
            return outputs
        return self.options.expected(outputs, self.scale.center, self.scale.spread)

    def predict(
        self, texts: Sequence[str | None], batch_tokens: int | None = None
    ) -> tuple[np.ndarray, list[str | None]]:
        """Predicted answers; a text that cannot be predicted costs its own row and no other.

        Parameters
        ----------
        texts : sequence of str or None, length n
        batch_tokens : int, optional
            Padded tokens of one forward pass, at most (one long text may exceed it alone). Default: what the device
            computes fastest.

        Returns
        -------
        values : ndarray, float64 (n,)
            In the answer's unit; NaN where there is none. With answer options, their expected value.
        errors : list of str or None, length n
            Why there is none.
        """
        scores = self.score(texts, batch_tokens)
        return scores.values, scores.errors

    def distribution(
        self, texts: Sequence[str | None], batch_tokens: int | None = None
    ) -> tuple[np.ndarray, list[str | None]]:
        """Probabilities of the K answer options, in the order of the study: float64 (n, K), and the errors.

        As :meth:`predict`; rows of NaN where there are none. The scale plays no part in them.
        """
        scores = self.score(texts, batch_tokens)
        if scores.probabilities is None:
            raise _no_options()
        return scores.probabilities, scores.errors

    def score(self, texts: Sequence[str | None], batch_tokens: int | None = None) -> Scores:
        """All that one pass over ``texts`` tells; see :meth:`predict` for the arguments."""
        encoded = self.encode(texts)
        width = () if self.options is None else (len(self.options.codes),)
        return self.scores(self._through(self, encoded.tokens, batch_tokens, *width), encoded)

    def features(self, tokens: Sequence[np.ndarray], batch_tokens: int | None = None) -> Tensor:
        """What the head reads of texts given as token ids: fp32 (n, hidden) on the CPU, NaN where there are none."""
        return self._through(self.pooled, tokens, batch_tokens, int(self.base.config.hidden_size))

    @torch.inference_mode()
    def score_features(self, features: Tensor, encoded: Encoded) -> Scores:
        """As :meth:`score`, from the :meth:`features` of ``encoded`` texts."""
        assert self.head is not None
        return self.scores(self.head(features.to(self.head.weight.device)).cpu(), encoded)

    @torch.inference_mode()
    def scores(self, outputs: Tensor, encoded: Encoded) -> Scores:
        """The answers that ``outputs`` of :meth:`forward` stand for, one row for each of the ``encoded`` texts."""
        values = self.scale.answers(self.read(outputs).double().numpy())
        probabilities = None if self.options is None else outputs.double().softmax(-1).numpy()
        return Scores(values, _no_number(values, encoded.errors), encoded.cut, probabilities)

    @torch.inference_mode()
    def _through(
        self,
        step: Callable[[Tensor, Tensor], Tensor],
        tokens: Sequence[np.ndarray],
        batch_tokens: int | None,
        *width: int,
    ) -> Tensor:
        """What ``step`` says of each text, fp32 (n, *width) on the CPU; NaN where there are no tokens."""
        device = next(self.parameters()).device
        self.eval()
        found = torch.full((len(tokens), *width), torch.nan)
        with self.beginning_kept():
            for rows in self.batches(tokens, batch_tokens or BATCH_TOKENS[device.type]):
                ids, mask = self.collate([tokens[i] for i in rows])
                found[rows] = step(ids.to(device), mask.to(device)).float().cpu()
        return found

    @contextmanager
    def beginning_kept(self) -> Iterator[None]:
        """Inside, the beginning that prompts share goes through the model once for all calls of :meth:`forward`.

        With its graph, where there is one: what the calls say then goes through one backward pass together.
        """
        if self._shares:
            beginning = self.prefix.tokens[None].to(next(self.parameters()).device)
            places = torch.arange(len(self.prefix), device=beginning.device)[None]
            self._kept = self._keys_and_values(beginning, torch.ones_like(beginning), places)
        try:
            yield
        finally:
            self._kept = None

    @property
    def _shares(self) -> bool:
        """Whether prompts have a beginning to share, and the model keeps its keys and values."""
        return bool(len(self.prefix)) and not (self.training and recomputes(self.base))

    @property
    def _answer_options(self) -> AnswerOptions:
        if self.options is None:
            raise _no_options()
        return self.options

    def centre(self, mean_residual: float) -> None:
        """Move the level of f by ``mean_residual`` (answer's unit), the mean of Y − f over the model's own rows."""
        self.scale = replace(self.scale, offset=self.scale.offset + mean_residual)


def _new_head(hidden: int) -> Head:
    """A readout near zero: every first prediction is the mean answer."""
    head = Head(hidden, 1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def _no_options() -> ValueError:
    return ValueError("the model has a regression head, and no answer options")


def _no_number(values: np.ndarray, errors: Sequence[str | None]) -> list[str | None]:
    """The errors of ``values`` (n,), which get NaN where they are not finite."""
    errors = list(errors)
    bad = ~np.isfinite(values)
    values[bad] = np.nan
    for i in np.flatnonzero(bad):
        errors[i] = errors[i] or "the model gives no finite number"
    return errors
