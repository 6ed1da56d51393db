"""Counts without numbers are those of the real models; bad models are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.models import MODELS
from ftrect_ray.predictor import Predictor
from ftrect_ray.sizing.architecture import PERSISTENT, census, config_of, skeleton
from ftrect_ray.sizing.presets import PRESETS
from ftrect_ray.study import Lora, Model, Options


@pytest.mark.parametrize("tiny", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "full"},
        {"adapter": "full", "freeze_embeddings": False},
        {"adapter": "lora"},
        {"adapter": "lora", "lora": Lora(rank=3, targets=["query", "q_proj"])},
        {"adapter": "lora", "lora": Lora(rank=2, more={"use_dora": True})},
        {"adapter": "head"},
    ],
)
def test_counts_are_those_of_the_model_itself(tiny: str, settings: dict, request: pytest.FixtureRequest) -> None:
    model = Model(name=str(request.getfixturevalue(tiny)), max_tokens=16, **settings)
    itself = Predictor.create(model)
    counted = census(skeleton(config_of(model), model))
    assert counted.total == sum(parameter.numel() for parameter in itself.parameters())
    assert counted.trainable == sum(parameter.numel() for parameter in itself.trainable().values())
    assert counted.largest == max(parameter.numel() for parameter in itself.trainable().values())
    assert counted.persistent == counted.total  # all tensors of these are below the threshold
    assert {name: p.shape for name, p in itself.named_parameters()} == {
        name: p.shape for name, p in skeleton(config_of(model), model).named_parameters()
    }


def test_answer_options_bring_the_output_layer_and_no_head(tiny_llama: Path) -> None:
    model = Model(name=str(tiny_llama), max_tokens=16, options=Options(prompt="{text}", answers={"a": 1, "b": 2}))
    names = dict(skeleton(config_of(model), model).named_parameters())
    assert "backbone.lm_head.weight" in names
    assert not any(name.startswith("head.") for name in names)


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("0.5b", 494.0), ("7b", 7248.0 - 134.2), ("70b", 70_553.7 - 1050.7), ("minilm", 22.7 - 0.15), ("smollm2", 134.5)],
)
def test_presets_have_the_published_sizes(preset: str, millions: float) -> None:
    """What the model cards say, less the output layer or the pooler, which a regression head does not use."""
    model = Model(name=preset)
    assert census(skeleton(config_of(model), model)).total / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_presets_know_the_named_models(name: str) -> None:
    assert name in PRESETS


def test_nothing_has_numbers() -> None:
    predictor = skeleton(config_of(Model(name="70b")), Model(name="70b", adapter="lora"))
    assert {str(parameter.device) for parameter in predictor.parameters()} == {"meta"}


def test_zero_3_keeps_small_tensors_whole(small_folder: Path) -> None:
    model = Model(name=str(small_folder), max_tokens=64)
    assert census(skeleton(config_of(model), model)).persistent == census(skeleton(config_of(model), model)).total
    model = Model(name="minilm")
    sizes = [p.numel() for p in skeleton(config_of(model), model).parameters()]
    assert census(skeleton(config_of(model), model)).persistent == sum(size for size in sizes if size <= PERSISTENT)


def test_a_folder_needs_no_more_than_its_configuration(small_folder: Path) -> None:
    assert [path.name for path in small_folder.iterdir()] == ["config.json"]
    assert config_of(Model(name=str(small_folder))).hidden_size == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ({"model_type": "t5", "d_model": 8}, "neither an encoder nor a causal model"),
        ({"model_type": "no-such-kind"}, "cannot load the model"),
        ("{", "cannot load the model"),
    ],
)
def test_a_folder_that_is_no_model(content: object, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message) as refusal:
        config_of(Model(name=str(tmp_path)))
    assert "--model" in str(refusal.value)


@pytest.mark.parametrize("name", ["no such model!", "../x", "a/b/c"])
def test_a_name_of_no_sound_form(name: str) -> None:
    with pytest.raises(InputError, match="neither a preset nor a named model nor a folder nor a Hugging Face id"):
        config_of(Model(name=name))


def test_more_tokens_than_the_model_reads() -> None:
    with pytest.raises(InputError, match="'minilm' reads 512 tokens at most; got 513"):
        skeleton(config_of(Model(name="minilm")), Model(name="minilm", max_tokens=513))


def test_answer_options_of_an_encoder() -> None:
    model = Model(name="minilm", options=Options(prompt="{text}", answers={"a": 1, "b": 2}))
    with pytest.raises(InputError, match="a prompt needs a causal language model"):
        skeleton(config_of(model), model)
