"""Models that do not fit: one clear error before any work; and the settings of an adapter."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from ftrect_ray.errors import InputError
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.pretrained import check_model, is_causal
from ftrect_ray.study import Model

OPTIONS = {"prompt": "{text} it was", "answers": {"good": 1, "bad": 0}}


def _model(folder: Path, **settings) -> Model:
    return Model(name=str(folder), **({"max_tokens": 24, "options": OPTIONS} | settings))


@pytest.fixture(params=[check_model, Predictor.create], ids=["check_model", "create"])
def load(request: pytest.FixtureRequest) -> Callable[[Model], Any]:
    """What looks at a model before a run, and what makes it."""
    return request.param


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


def _edit(folder: Path, file: str = "config.json", **changes) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))


def test_a_sound_model_passes(load: Callable, tiny_llama: Path, tiny_chat: Path, tiny_bert: Path) -> None:
    load(_model(tiny_llama))
    load(_model(tiny_chat, max_tokens=64))
    load(_model(tiny_bert, options=None))
    load(_model(tiny_llama, options=None))


def test_checking_reads_no_weights(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftrect_ray.predictor import pretrained

    seen = []
    load = pretrained.load_backbone
    monkeypatch.setattr(pretrained, "load_backbone", lambda *a, **k: seen.append(load(*a, **k)) or seen[-1])
    check_model(_model(llama))
    assert {parameter.device.type for parameter in seen[0].parameters()} == {"meta"}


@pytest.mark.parametrize("options", [None, OPTIONS])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_encoder_decoder": True}, "is neither an encoder nor a causal model of text"),
        ({"hidden_size": 32}, "tensor '.*' has shape .* and the configuration wants"),
        ({"num_hidden_layers": 3}, "its weights lack '.*layers.2"),
        ({"vocab_size": 1000}, r"has shape \(18, 16\), and the configuration wants \(1000, 16\)"),
        ({"hidden_size": "many"}, "cannot load the model|is neither"),
        ({"hidden_act": "nope"}, "cannot load the model"),
        ({"num_attention_heads": 0}, "cannot load the model"),
        ({"model_type": "nope"}, "cannot load the model"),
        ({"num_key_value_heads": 3}, "cannot load the model|has shape"),
        ({"max_position_embeddings": 8}, "'max_tokens' is 24, but .* reads 8 tokens at most"),
    ],
)
def test_a_configuration_that_does_not_fit(
    changes: dict[str, Any], message: str, options: Any, load: Callable, llama: Path
) -> None:
    _edit(llama, **changes)
    with pytest.raises(InputError) as caught:
        load(_model(llama, options=options))
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_more_tokens_than_embeddings(load: Callable, llama: Path) -> None:
    content = json.loads((llama / "tokenizer.json").read_text())
    content["model"]["vocab"]["extra"] = len(content["model"]["vocab"])
    (llama / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has 19 tokens, its weights know 18"):
        load(_model(llama))


def test_no_token_to_pad_with(load: Callable, llama: Path) -> None:
    load(_model(llama))  # it has an end-of-text token, which pads
    _edit(llama, "tokenizer_config.json", eos_token=None)
    with pytest.raises(InputError, match="has neither a padding nor an end-of-text token"):
        load(_model(llama))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_read(dtype: torch.dtype, llama: Path) -> None:
    _store(llama, {name: tensor.to(dtype) for name, tensor in load_file(llama / "model.safetensors").items()})
    predictor = Predictor.create(_model(llama))
    assert {parameter.dtype for parameter in predictor.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_weights_that_are_no_floats_are_refused(dtype: torch.dtype, load: Callable, llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    name = next(name for name in sorted(tensors) if "q_proj" in name)
    _store(llama, tensors | {name: tensors[name].to(dtype)})
    with pytest.raises(InputError, match=f"tensor '{name}' holds [IB]"):
        load(_model(llama))


def _store(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_prompt_without_room_for_a_text(load: Callable, tiny_chat: Path) -> None:
    options = Predictor.create(_model(tiny_chat, max_tokens=100)).options
    least = len(options.prompt.fixed()) + 1 + options.longest
    load(_model(tiny_chat, max_tokens=least))
    with pytest.raises(InputError, match=f"leaves no room for a text .* set 'max_tokens' to {least} or more"):
        load(_model(tiny_chat, max_tokens=least - 1))


@pytest.mark.parametrize(
    ("config", "causal"),
    [
        ({"model_type": "bert"}, False),
        ({"model_type": "bert", "is_decoder": True}, True),
        ({"model_type": "roberta", "architectures": ["RobertaForCausalLM"]}, False),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, True),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, True),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, False),
        ({"model_type": "distilbert"}, False),
        ({"model_type": "mamba"}, True),
    ],
)
def test_which_models_are_causal(config: dict[str, Any], causal: bool) -> None:
    kind = config.pop("model_type")
    assert is_causal(AutoConfig.for_model(kind, **config)) is causal


@pytest.mark.parametrize("kind", ["bloom", "mpt", "opt", "gpt_neox", "mamba", "falcon", "qwen3", "gemma2", "phi"])
def test_left_padding_changes_nothing(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    """Whatever a model makes of positions: relative, absolute, with an offset, or none."""
    from transformers import AutoModelForCausalLM

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    small |= {"vocab_size": 18, "max_position_embeddings": 32, "num_key_value_heads": 2, "pad_token_id": 1}
    own = {
        "bloom": {"n_head": 2, "n_layer": 2},
        "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 32},
        "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0},
        "gemma2": {"head_dim": 8},
        "qwen3": {"head_dim": 8},
        "falcon": {"num_kv_heads": 2},
        "mamba": {"state_size": 4},
    }.get(kind, {})
    folder = Path(
        shutil.copytree(tiny_llama, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "config*"))
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**small, **own, "bos_token_id": 1, "eos_token_id": 1})
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        model.save_pretrained(folder)
    answers = {"good": 1, "good plot": 3, "bad": -1}
    predictor = Predictor.create(_model(folder, options={"prompt": "{text} it was", "answers": answers}))
    texts = ["good", "the film was a very good plot", "i hate it"]
    together, _ = predictor.distribution(texts)
    for row, text in zip(together, texts, strict=True):
        alone, _ = predictor.distribution([text])
        assert abs(alone[0] - row).max() < 1e-5
    assert abs(together[0] - together[1]).max() > 1e-4


def test_a_model_that_reads_the_padding_has_no_options(load: Callable, llama: Path) -> None:
    AutoConfig.for_model("rwkv", vocab_size=18, hidden_size=16, num_hidden_layers=2).save_pretrained(llama)
    with pytest.raises(InputError, match=r"answer options need a model that skips padding; .* \(rwkv\) does not"):
        load(_model(llama))


# ------------------------------------------------------------------------------------------------- the adapter


@pytest.mark.parametrize("init", [True, False, "gaussian", "pissa", "olora", "orthogonal"])
def test_an_adapter_can_start_from_the_weights(init: bool | str, load: Callable, tiny_llama: Path) -> None:
    load(_model(tiny_llama, adapter="lora", lora={"rank": 4, "more": {"init_lora_weights": init}}))


def test_targets_and_further_fields_of_an_adapter(tiny_llama: Path) -> None:
    lora = {
        "targets": ["q_proj", "v_proj"],
        "rank": 2,
        "alpha": 8,
        "more": {"use_rslora": True, "use_dora": True, "layers_to_transform": [1], "init_lora_weights": "gaussian"},
    }
    predictor = Predictor.create(_model(tiny_llama, adapter="lora", lora=lora))
    names = {re.sub(r".*layers\.(\d).*\.(\w_proj)\..*", r"\1 \2", name) for name in predictor.trainable()}
    assert names == {"1 q_proj", "1 v_proj"}
    config = predictor.backbone.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora, config.use_dora) == (2, 8, True, True)
    assert any("magnitude" in name for name in predictor.trainable())


@pytest.mark.parametrize(
    ("lora", "message", "where"),
    [
        ({"more": {"use_dorra": True}}, "'use_dorra' is not a field .* did you mean 'use_dora'", "use_dorra"),
        ({"more": {"r": 4}}, "'r' is not a field .* it is 'lora.rank'", "r"),
        ({"more": {"target_modules": ["q_proj"]}}, "it is 'lora.targets'", "target_modules"),
        ({"more": {"task_type": "CAUSAL_LM"}}, "'task_type' is not a field", "task_type"),
        ({"more": {"use_dora": "yes"}}, "'use_dora' is 'yes': Input should be a valid boolean", "use_dora"),
        ({"more": {"use_dora": 1}}, "'use_dora' is 1: Input should be a valid boolean", "use_dora"),
        ({"more": {"rank_pattern": [1]}}, "'rank_pattern' is", "rank_pattern"),
        ({"more": {"bias": "some"}}, "'bias' is 'some'", "bias"),
        ({"more": {"layers_to_transform": [1.5]}}, "'layers_to_transform' is", "layers_to_transform"),
        ({"more": {"init_lora_weights": "nope"}}, "'init_lora_weights' is 'nope'", "init_lora_weights"),
        ({"targets": ["nowhere"]}, "the adapter does not fit .*nowhere", ""),
        ({"targets": ["q_proj"], "more": {"layers_to_transform": [9]}}, "the adapter does not fit", ""),
        ({"more": {"layers_to_transform": [1]}}, "PEFT refuses the adapter: `layers_to_transform`", None),
    ],
)
def test_settings_of_an_adapter_that_are_refused(
    lora: dict[str, Any], message: str, where: str | None, load: Callable, tiny_llama: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(_model(tiny_llama, adapter="lora", lora=lora))
    assert caught.value.where == {"": "model.lora", None: "model.lora.more"}.get(where, f"model.lora.more.{where}")
