"""A head behind a prompt, and on the first layers alone: what it reads, what is kept of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AlbertConfig, AutoModel

from ftrect_ray.errors import InputError
from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.cache import feature_cache
from ftrect_ray.predictor.pretrained import check_model, load_config
from ftrect_ray.sizing.architecture import census, config_of, skeleton
from ftrect_ray.study import Model

WORDS = "the film was good i love it the plot was bad i hate it the actor was dull"
PROMPT = {"prompt": WORDS + " {text} it was"}
SHORT = {"prompt": "the {text} it was"}
ANSWERS = {"good": 1.0, "bad": 0.0}
TEXTS = ["the film was good", "bad", "a very dull plot and an awful actor", "not " * 40, "bad", ""]


def _head(folder: Path, options: dict | None = None, seed: int = 0, **settings) -> Predictor:
    settings = {"adapter": "head", "max_tokens": 32} | settings
    predictor = Predictor.create(Model(name=str(folder), options=options, **settings), seed=seed, scale=Scale(1, 2))
    with torch.no_grad():
        predictor.head.weight.mul_(30)
    return predictor


@pytest.mark.parametrize("options", [PROMPT, SHORT, PROMPT | {"answers": ANSWERS}], ids=["long", "short", "answers"])
def test_the_head_reads_the_state_of_the_prompts_last_token(options: dict, tiny_llama: Path) -> None:
    predictor = _head(tiny_llama, options)
    assert predictor.options is None
    assert bool(len(predictor.prefix)) == (options is not SHORT)
    tokens = predictor.encode(TEXTS).tokens
    found = predictor.features(tokens)
    for row, ids in zip(found[:-1], tokens[:-1], strict=True):
        with torch.no_grad():
            states = predictor.base(input_ids=torch.tensor(ids)[None]).last_hidden_state
        torch.testing.assert_close(row, states[0, -1], atol=1e-5, rtol=1e-5)
    assert torch.isnan(found[-1]).all()
    values, errors = predictor.predict(TEXTS)
    assert errors == [None] * 5 + ["empty text"]
    assert np.nanstd(values) > 1e-2


def test_features_of_texts_alone_do_not_depend_on_company(tiny_llama: Path) -> None:
    predictor = _head(tiny_llama, PROMPT)
    tokens = predictor.encode(TEXTS[:5]).tokens
    together = predictor.features(tokens, 1)
    for order in ([0], [3, 1], [4, 2, 0]):
        assert torch.equal(predictor.features([tokens[i] for i in order], 1), together[order])
    torch.testing.assert_close(predictor.features(tokens, 10_000), together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, -1, -2, 2])
@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_bert", "tiny_gpt2"])
def test_layers_above_are_not_there(kind: str, layer: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    whole, first = _head(folder), _head(folder, layer=layer)
    kept = layer % 2 if layer < 0 else layer
    assert first.model.layer == first.base.config.num_hidden_layers == kept
    names = [name for name, _ in first.base.named_parameters()]
    assert not any(f".{number}." in name for number in range(kept, 2) for name in names)
    tokens = first.encode(TEXTS[:3]).tokens
    found = first.features(tokens)
    with torch.no_grad():
        for row, ids in zip(found, tokens, strict=True):
            states = whole.base(input_ids=torch.tensor(ids)[None], output_hidden_states=True).hidden_states[kept][0]
            norm = {"tiny_llama": "norm", "tiny_gpt2": "ln_f"}.get(kind)
            if norm is not None and kept < 2:  # the last of them is behind the norm already
                states = getattr(whole.base, norm)(states)
            expected = states.mean(0) if first.model.pooling == "mean" else states[-1]
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["head", "lora", "full"])
@pytest.mark.parametrize(("options", "layer"), [(PROMPT, None), (None, 1), (PROMPT, -1), (SHORT, 1)])
def test_saved_and_loaded_says_the_same(
    adapter: str, options: dict | None, layer: int | None, tiny_llama: Path, tmp_path: Path
) -> None:
    predictor = _head(tiny_llama, options, adapter=adapter, layer=layer)
    with torch.no_grad():
        for parameter in predictor.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    expected, _ = predictor.predict(TEXTS[:5])
    predictor.save(tmp_path / "m")
    loaded = Predictor.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.predict(TEXTS[:5])[0], expected, atol=1e-6)
    assert loaded.model == predictor.model
    assert loaded.base.config.num_hidden_layers == (layer or 2) % 2 + 2 * (layer is None)


def test_caches_are_told_apart(tiny_llama: Path) -> None:
    models = [_head(tiny_llama), _head(tiny_llama, layer=1), _head(tiny_llama, PROMPT), _head(tiny_llama, SHORT)]
    assert len({feature_cache(model, None).folder for model in models}) == 4
    assert models[0].base_digest == models[2].base_digest != models[1].base_digest


def test_memory_is_forecast_for_the_first_layers(tiny_llama: Path) -> None:
    counts = []
    for layer in (None, 1):
        model = Model(name=str(tiny_llama), adapter="head", options=SHORT, layer=layer, max_tokens=16)
        counts.append(census(skeleton(config_of(model), model)).total)
    loaded = [_head(tiny_llama, SHORT, layer=layer) for layer in (None, 1)]
    assert counts == [sum(p.numel() for p in one.parameters()) for one in loaded]


@pytest.mark.parametrize("layer", [3, -3])
def test_a_layer_that_is_not_there(layer: int, tiny_llama: Path) -> None:
    with pytest.raises(InputError, match=rf"'layer' is {layer}, but .* has 2 hidden layers") as caught:
        check_model(Model(name=str(tiny_llama), adapter="head", layer=layer, max_tokens=16))
    assert caught.value.where == "model.layer"
    assert caught.value.mend == "give a number from 0 (embeddings) to 2, or from -2 to -1"


def test_a_model_whose_layers_are_one(tiny_bert: Path, tmp_path: Path) -> None:
    """ALBERT goes through one layer many times."""
    config = AlbertConfig(vocab_size=20, embedding_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2)
    config.intermediate_size = 32
    AutoModel.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_bert / name).read_bytes())
    with pytest.raises(InputError, match="is not a list of hidden layers") as caught:
        _head(tmp_path, layer=2)
    assert caught.value.where == "model.layer"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "head", "options": PROMPT, "pooling": "mean"}, "the head reads the prompt's last token"),
        ({"options": PROMPT | {"answers": ANSWERS}, "layer": 1}, "'layer' is for a head: set 'adapter: head'"),
        ({"options": PROMPT | {"answers": {"good": 1.0}}}, "'answers' must stand for at least two different numbers"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Model(**settings)


def test_a_prompt_must_leave_room_and_its_model_be_causal(tiny_llama: Path, tiny_bert: Path) -> None:
    with pytest.raises(InputError, match="the prompt alone leaves no room for a text in 'max_tokens' 16"):
        _head(tiny_llama, PROMPT, max_tokens=16)
    with pytest.raises(InputError, match="a prompt needs a causal language model"):
        load_config(str(tiny_bert), None, Model(name=str(tiny_bert), adapter="head", options=SHORT))
