"""A model without its numbers, and how many numbers it has.

PyTorch's ``meta`` device builds the very modules that a fine-tune would, adapters included, with shapes alone: 70
billion parameters take a second and no memory. Counting them is exact for every architecture that transformers knows.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerBase

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.models import HUB_ID, MAX_ID_CHARACTERS
from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.head import Head
from ftrect_ray.predictor.options import AnswerOptions
from ftrect_ray.predictor.pretrained import (
    LOADING,
    adapt,
    first_line,
    is_causal,
    load_config,
    of_first_layers,
    pooling_of,
    quiet,
)
from ftrect_ray.predictor.prompting import Prompt
from ftrect_ray.sizing.presets import PRESETS
from ftrect_ray.study import Model

PERSISTENT = 100_000
"""Numbers up to which ZeRO-3 keeps a tensor whole on every GPU (DeepSpeed's ``stage3_param_persistence_threshold``)."""


@dataclass(frozen=True)
class Census:
    """How many numbers a model has; a tensor that two modules share counts once.

    Attributes
    ----------
    total, trainable : int
    largest : int
        Of the largest tensor that trains.
    widest : int
        Of the largest tensor of all.
    persistent : int
        In tensors that ZeRO-3 does not partition.
    """

    total: int
    trainable: int
    largest: int
    widest: int
    persistent: int


def config_of(model: Model) -> Any:
    """The configuration of a preset, a named model, a folder with config.json, or a Hugging Face id.

    Nothing but config.json is read or downloaded.

    Raises
    ------
    InputError
        There is none, or the model is none that can be fine-tuned here.
    """
    name = model.name
    if name in PRESETS:
        fields = dict(PRESETS[name].config)
        config = AutoConfig.for_model(fields.pop("model_type"), use_cache=False, **fields)
        for field, value in of_first_layers(config, model).items():
            setattr(config, field, value)
        return config
    if os.path.isdir(name):
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"model folder {name!r} has no config.json", where="--model")
    elif not HUB_ID.fullmatch(name) or ".." in name or len(name) > MAX_ID_CHARACTERS:
        raise InputError(
            f"{name[:80]!r} is neither a preset nor a named model nor a folder nor a Hugging Face id",
            where="--model",
            mend=near_match(name, PRESETS),
        )
    try:
        return load_config(name, model.revision, model)
    except InputError as error:
        mend = f"{near_match(name, PRESETS)}, or give a folder with config.json, or a Hugging Face id"
        raise InputError(error.what, where="--model", mend=mend) from None


def skeleton(config: Any, model: Model) -> Predictor:
    """The predictor that a fine-tune of ``model`` would train, on the ``meta`` device, in fp32.

    It has no tokenizer, so each of its answer options is taken to be one token.

    Raises
    ------
    InputError
        ``model.max_tokens`` is more than it reads, or its modules cannot be built or adapted.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and model.max_tokens > positions:
        raise InputError(
            f"{model.name!r} reads {positions} tokens at most; got {model.max_tokens}",
            where="--tokens",
            mend=f"give {positions} or fewer",
        )
    if model.options is not None and not is_causal(config):
        raise InputError(
            f"a prompt needs a causal language model; {model.name!r} is an encoder",
            where="--options",
            mend="leave it out",
        )
    kind: Any = AutoModelForCausalLM if model.has_options else AutoModel
    answers = model.options.answers if model.options is not None and model.has_options else None
    options = None if answers is None else _options(answers, model.max_tokens)
    try:
        with torch.device("meta"), quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that PEFT uses and transformers 6 will change
            backbone = kind.from_config(config, dtype=torch.float32)
            if getattr(backbone, "pooler", None) is not None:
                backbone.pooler = None
            head = None if options else Head(config.hidden_size, 1)
            adapted = adapt(backbone, model)
    except LOADING as error:
        raise InputError(
            f"the model {model.name!r} cannot be built from its configuration: {first_line(error)}", where="--model"
        ) from None
    model = model.model_copy(update={"pooling": pooling_of(model.pooling, config)})
    return Predictor(adapted, head, cast(PreTrainedTokenizerBase, None), model, Scale(), "", None, options)


def _options(answers: Mapping[str, float], max_tokens: int) -> AnswerOptions:
    codes = tuple((token,) for token in range(len(answers)))
    return AnswerOptions(cast(Prompt, None), codes, tuple(answers.values()), max_tokens)


def census(module: nn.Module) -> Census:
    """Count the parameters of ``module``."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    trainable = [size for size, trains in sizes if trains]
    return Census(
        total=sum(size for size, _ in sizes),
        trainable=sum(trainable),
        largest=max(trainable, default=0),
        widest=max(size for size, _ in sizes),
        persistent=sum(size for size, _ in sizes if size <= PERSISTENT),
    )
