"""The parts that a model starts from: a pretrained backbone and its tokenizer, checked, and what of them trains.

Weights come from safetensors alone, and no code that lies beside them is run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.models import resolve_model
from ftrect_ray.predictor.options import prompt_of
from ftrect_ray.study import Lora, Model

#: Fields of ``peft.LoraConfig`` that have a name of their own in the study file.
LORA_NAMES = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}
#: Fields that are not a setting of the adapter.
NOT_LORA = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
NOT_LORA |= {"inference_mode", "runtime_config"}
LAYER = re.compile(r"\.\d+\.")
#: Models that read the padding on the left of a text as a part of it (measured).
PADDED_WRONGLY = {"cpmant", "recurrent_gemma", "rwkv", "xlnet", "xlstm"}
#: What a model folder of unknown make can raise on its way through transformers.
LOADING = (
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    ImportError,
    AssertionError,
    SafetensorError,
    StrictDataclassError,
)


def load_config(base: str, revision: str | None, model: Model) -> Any:
    """The configuration at ``base`` (folder or Hugging Face id), without its weights.

    Raises
    ------
    InputError
        It does not load, is no encoder or causal model of text, is an encoder where there is a prompt, or does not
        have ``model.layer``.
    """
    try:
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=False)
    except LOADING as error:
        raise _cannot_load(model, error) from None
    if getattr(config, "is_encoder_decoder", False) or not isinstance(getattr(config, "hidden_size", None), int):
        raise InputError(
            f"the model {model.name!r} ({config.model_type}) is neither an encoder nor a causal model of text",
            where="model.name",
            mend="name an encoder (BERT-like) or a causal language model",
        )
    if model.options is not None and not is_causal(config):
        raise InputError(
            f"a prompt needs a causal language model; {model.name!r} ({config.model_type}) is an encoder",
            where="model.options",
            mend="name a causal language model, or leave 'options' out",
        )
    if model.has_options and config.model_type in PADDED_WRONGLY:
        raise InputError(
            f"answer options need a model that skips padding; {model.name!r} ({config.model_type}) does not",
            where="model.options",
            mend="name another model, or leave 'options' out",
        )
    if hasattr(config, "use_cache"):
        config.use_cache = False
    for name, value in of_first_layers(config, model).items():
        setattr(config, name, value)
    return config


def of_first_layers(config: Any, model: Model) -> dict[str, Any]:
    """Fields of ``config`` that make it that of the layers below ``model.layer`` alone; none where it is None.

    Raises
    ------
    InputError
        There is no such layer, or the model is not a list of layers.
    """
    if model.layer is None:
        return {}
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise _no_list_of_layers(model)
    if not -layers <= model.layer <= layers:
        raise InputError(
            f"'layer' is {model.layer}, but {model.name!r} has {layers} hidden layers",
            where="model.layer",
            mend=f"give a number from 0 (embeddings) to {layers}, or from -{layers} to -1",
        )
    kept = model.layer % layers if model.layer < 0 else model.layer
    lists = {name: value[:kept] for name, value in vars(config).items() if _one_each(value, layers)}
    return {**lists, "num_hidden_layers": kept}


def _one_each(value: Any, layers: int) -> bool:
    return isinstance(value, list) and len(value) == layers


def _no_list_of_layers(model: Model) -> InputError:
    return InputError(
        f"{model.name!r} is not a list of hidden layers of which the first could be taken",
        where="model.layer",
        mend="leave 'layer' out, or name another model",
    )


def is_causal(config: Any) -> bool:
    """Does each token see only those before it? (Many encoders can also be built as decoders, by ``is_decoder``.)"""
    if getattr(config, "is_decoder", False):
        return True
    if getattr(config, "use_bidirectional_attention", False) in (True, "all"):
        return False
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def pooling_of(setting: str, config: Any) -> str:
    """``auto`` resolved: the last token of a causal model, the mean over an encoder's tokens."""
    if setting != "auto":
        return setting
    return "last" if is_causal(config) else "mean"


def load_backbone(
    base: str, revision: str | None, model: Model, config: Any, *, device: str | None = None
) -> PreTrainedModel:
    """The weights at ``base`` (folder or Hugging Face id) in fp32, complete: the hidden layers that ``config`` has, or
    with answer options the whole language model.

    Inside transformers' ``HfDeepSpeedConfig`` of stage 3 every rank holds its part of each parameter only; all ranks
    must then call it, and the number format is that of the DeepSpeed configuration. On the ``device`` "meta" no
    weights are read: names and shapes alone.

    Raises
    ------
    InputError
        It does not load, or lacks weights.
    """
    kind: Any = AutoModelForCausalLM if model.has_options else AutoModel
    try:
        with quiet():
            backbone, info = kind.from_pretrained(
                base,
                config=config,
                revision=revision,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                device_map=device,
            )
        for name, stored, wanted in sorted(info["mismatched_keys"]):
            raise ValueError(f"tensor {name!r} has shape {tuple(stored)}, and the configuration wants {tuple(wanted)}")
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise ValueError(f"its weights lack {missing[0]!r} and {len(missing) - 1} more")
        surplus = _of_left_out_layers(info["unexpected_keys"], backbone)
        if surplus and model.layer is None:
            raise ValueError(f"its weights have {surplus[0]!r}, a layer that the configuration leaves out")
    except LOADING as error:
        raise _cannot_load(model, error) from None
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # BERT's [CLS] layer is not on the path to the readout
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    if model.layer is not None and config.num_hidden_layers not in map(len, lists):
        raise _no_list_of_layers(model)
    return backbone


def _of_left_out_layers(unexpected: Iterable[str], backbone: PreTrainedModel) -> list[str]:
    """Stored tensors that are named like one of the model's own, but for the number of the layer."""
    known = {LAYER.sub(".#.", name) for name in backbone.state_dict()}
    return sorted(name for name in unexpected if LAYER.sub(".#.", name).endswith(tuple(known)))


def _cannot_load(model: Model, error: Exception) -> InputError:
    return InputError(
        f"cannot load the model {model.name!r}: {first_line(error)}",
        where="model.name",
        mend="give a named model, a folder with config.json and safetensors weights, or a Hugging Face id",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and tables of transformers: what matters of them is checked here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
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
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises no narrower one
        raise InputError(
            f"cannot load the tokenizer of {name!r}: {first_line(error)}",
            where="model.name",
            mend="the model's folder needs tokenizer.json",
        ) from None
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise InputError(
            f"'model_max_length' of the tokenizer of {name!r} is {tokenizer.model_max_length!r}",
            where="model.name",
            mend="write a number into its tokenizer_config.json",
        )
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
    rows = getattr(embeddings.weight, "ds_shape", embeddings.weight.shape)[0]  # ds_shape: whole, under ZeRO-3
    tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if tokens > rows:
        raise InputError(
            f"the tokenizer of {model.name!r} has {tokens} tokens, its weights know {rows}",
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


def check_model(model: Model) -> None:
    """Whether a model folder's configuration, tokenizer and weights fit each other and ``model``; no weights are read.

    Before processes load a model in parts: of a tensor that does not fit, rank 0 alone would know.

    Raises
    ------
    InputError
    """
    base = resolve_model(model.name, model.revision)
    config = load_config(base, model.revision, model)
    tokenizer = load_tokenizer(base, model.revision, model.name)
    prompt_of(model, tokenizer)
    backbone = load_backbone(base, model.revision, model, config, device="meta")
    check_fit(model, backbone, tokenizer)
    if model.adapter == "lora":
        lora_config(model.lora)
        no_start = model.lora.model_copy(update={"more": {**model.lora.more, "init_lora_weights": False}})
        adapt(backbone, model.model_copy(update={"lora": no_start}))  # PiSSA and others start from weights


def adapt(backbone: PreTrainedModel, model: Model) -> nn.Module:
    """Choose what trains: all weights, low-rank adapters, or none but the readout.

    Frozen embeddings that are also the output layer (tied) are frozen as both.

    Raises
    ------
    InputError
        The adapter's settings are not PEFT's, or do not fit the model.
    """
    if model.adapter == "lora":
        config = lora_config(model.lora)
        try:
            with quiet():
                return peft.get_peft_model(backbone, config)
        except LOADING as error:
            raise InputError(
                f"the adapter does not fit {model.name!r}: {first_line(error)}",
                where="model.lora",
                mend="name modules of the model in 'targets', or leave it out",
            ) from None
    backbone.requires_grad_(model.adapter == "full")
    if model.adapter == "full" and model.freeze_embeddings:
        backbone.get_input_embeddings().requires_grad_(False)
    return backbone


def lora_config(lora: Lora) -> peft.LoraConfig:
    """PEFT's configuration of the adapter; the fields in ``lora.more`` must be PEFT's, and of the types it declares.

    Raises
    ------
    InputError
    """
    types = typing.get_type_hints(peft.LoraConfig)
    settable = (
        {field.name for field in dataclasses.fields(peft.LoraConfig) if field.init} - NOT_LORA - LORA_NAMES.keys()
    )
    for name, value in lora.more.items():
        where = f"model.lora.more.{name}"
        if name not in settable:
            mend = f"it is 'lora.{LORA_NAMES[name]}'" if name in LORA_NAMES else near_match(name, settable)
            raise InputError(f"{name!r} is not a field of an adapter that can be set here", where=where, mend=mend)
        try:
            TypeAdapter(types[name]).validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError, ValueError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
            raise InputError(f"{name!r} is {value!r}: {problem}", where=where, mend="see peft.LoraConfig") from None
    try:
        return peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets,
            **lora.more,
        )
    except LOADING as error:
        raise InputError(
            f"PEFT refuses the adapter: {first_line(error)}", where="model.lora.more", mend="see peft.LoraConfig"
        ) from None


def checkpoint_activations(backbone: nn.Module) -> None:
    """Compute activations again in the backward pass instead of keeping them.

    Raises
    ------
    InputError
        The model cannot.
    """
    base = backbone.get_base_model() if isinstance(backbone, peft.PeftModel) else backbone
    assert isinstance(base, PreTrainedModel)
    try:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError:
        raise InputError(
            f"{type(base).__name__} cannot checkpoint activations",
            where="training.gradient_checkpointing",
            mend="leave it out",
        ) from None
    if not base.get_input_embeddings().weight.requires_grad:
        base.enable_input_require_grads()  # else a layer without trained weights of its own cuts the graph


def digest_of(backbone: PreTrainedModel) -> str:
    """Sixteen hex digits of the first numbers of every parameter: other weights of the same shapes differ in it.

    The numbers are rounded to bf16 first, so that a model loaded in bf16 has the digest of the same one in fp32.

    A model in parts (ZeRO-3) has the digest of the whole one; all ranks must call it.
    """
    first = [
        _first_numbers(parameter).bfloat16().float().cpu().numpy().tobytes() for parameter in backbone.parameters()
    ]
    digest = [hashlib.sha256(b"".join(first)).hexdigest()[:16]]
    if any(hasattr(parameter, "ds_tensor") for parameter in backbone.parameters()):
        torch.distributed.broadcast_object_list(digest, src=0)
    return digest[0]


def _first_numbers(parameter: Any, count: int = 64) -> Tensor:
    """The first ``count`` numbers; of a parameter in parts they are right on rank 0, which has the first part."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter.detach().flatten()[:count]
    count = min(count, parameter.ds_numel)
    if parameter.ds_tensor.numel() >= count:
        return parameter.ds_tensor.detach().flatten()[:count]
    import deepspeed  # here, because only what is already under DeepSpeed comes this far

    with deepspeed.zero.GatheredParameters(parameter):
        return parameter.detach().flatten()[:count].clone()


def first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"unknown name {error}"
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if more and first.endswith(":") else first
