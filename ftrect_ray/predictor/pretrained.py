"""The parts that a model starts from: a pretrained backbone and its tokenizer, checked, and what of them trains.

Weights come from safetensors alone, and no code that lies beside them is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ftrect_ray.errors import InputError
from ftrect_ray.study import Model


def pooling_of(setting: str, config: Any) -> str:
    """``auto`` resolved: the last token of a causal model, the mean over an encoder's tokens."""
    if setting != "auto":
        return setting
    architectures = getattr(config, "architectures", None) or []
    causal = getattr(config, "is_decoder", False) or any(name.endswith("ForCausalLM") for name in architectures)
    return "last" if causal else "mean"


def load_backbone(base: str, revision: str | None, model: Model) -> PreTrainedModel:
    """The hidden layers at ``base`` (folder or Hugging Face id) in fp32, complete.

    Raises
    ------
    InputError
        It does not load, lacks weights, or is no encoder or causal model of text.
    """
    try:
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=False)
        if getattr(config, "is_encoder_decoder", False) or not isinstance(getattr(config, "hidden_size", None), int):
            raise InputError(
                f"the model {model.name!r} ({config.model_type}) is neither an encoder nor a causal model of text",
                where="model.name",
                mend="name an encoder (BERT-like) or a causal language model",
            )
        if hasattr(config, "use_cache"):
            config.use_cache = False
        with quiet():
            backbone, info = AutoModel.from_pretrained(
                base,
                config=config,
                revision=revision,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise ValueError(f"its weights lack {missing[0]!r} and {len(missing) - 1} more")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"cannot load the model {model.name!r}: {first_line(error)}",
            where="model.name",
            mend="give a named model, a folder with config.json and safetensors weights, or a Hugging Face id",
        ) from None
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # BERT's [CLS] layer is not on the path to the readout
    return backbone


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and tables of transformers: what matters of them is checked here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_tokenizer(base: str, revision: str | None, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer at ``base``, padding on the right, with the end-of-text token where it has none to pad with.

    Raises
    ------
    InputError
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base, revision=revision, trust_remote_code=False, padding_side="right"
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"cannot load the tokenizer of {name!r}: {first_line(error)}",
            where="model.name",
            mend="the model's folder needs tokenizer.json",
        ) from None
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"the tokenizer of {name!r} has neither a padding nor an end-of-text token",
                where="model.name",
                mend="add pad_token to its tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_fit(model: Model, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tokens that the backbone has no embedding or no position for would fail in mid-training."""
    embeddings: Any = backbone.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer of {model.name!r} has {len(tokenizer)} tokens, its weights know {rows}",
            where="model.name",
            mend="take the tokenizer that belongs to the weights",
        )
    positions = getattr(backbone.config, "max_position_embeddings", None)
    limit = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    if model.max_tokens > limit:
        raise InputError(
            f"'max_tokens' is {model.max_tokens}, but {model.name!r} reads {limit} tokens at most",
            where="model.max_tokens",
            mend=f"set it to {limit} or fewer",
        )


def adapt(backbone: PreTrainedModel, model: Model) -> nn.Module:
    """Choose what trains: all weights, low-rank adapters, or none but the readout."""
    if model.adapter == "lora":
        config = peft.LoraConfig(
            r=model.lora.rank, lora_alpha=model.lora.alpha, lora_dropout=model.lora.dropout, target_modules="all-linear"
        )
        return peft.get_peft_model(backbone, config)
    backbone.requires_grad_(model.adapter == "full")
    if model.adapter == "full" and model.freeze_embeddings:
        backbone.get_input_embeddings().requires_grad_(False)
    return backbone


def digest_of(backbone: PreTrainedModel) -> str:
    """Sixteen hex digits of the first numbers of every parameter: other weights of the same shapes differ in it."""
    first = [parameter.detach().flatten()[:64].float().numpy().tobytes() for parameter in backbone.parameters()]
    return hashlib.sha256(b"".join(first)).hexdigest()[:16]


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
