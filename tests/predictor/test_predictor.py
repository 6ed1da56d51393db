"""The model: pooling, reading and writing, and texts that are hard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.batching import epoch_batches
from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.head import pool
from ftrect_ray.predictor.tokens import batches_by_tokens
from ftrect_ray.study import Model

TEXTS = ["the film was good", "bad", "a very dull plot and an awful actor but i love it", "great great great"]


def _predictor(folder: Path, **settings) -> Predictor:
    predictor = Predictor.create(
        Model(name=str(folder), max_tokens=16, **settings), seed=1, scale=Scale(5.0, 2.0, 0.25, 5.0)
    )
    with torch.no_grad():
        for parameter in predictor.trainable().values():  # as if trained; LoRA's B starts at zero
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return predictor


def test_pool_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [4.0], [9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0], [5.0]]
    assert pool(hidden, mask, "last").tolist() == [[3.0], [9.0]]


def test_auto_pooling_and_padding_follow_the_model(tiny_bert: Path, tiny_llama: Path) -> None:
    encoder, causal = _predictor(tiny_bert), _predictor(tiny_llama)
    assert (encoder.model.pooling, causal.model.pooling) == ("mean", "last")
    assert causal.tokenizer.pad_token == causal.tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_llama"])
def test_padding_changes_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    predictor = _predictor(request.getfixturevalue(kind))
    together, _ = predictor.predict(TEXTS, batch_tokens=10_000)
    alone = [predictor.predict([text])[0][0] for text in TEXTS]
    narrow, _ = predictor.predict(TEXTS, batch_tokens=8)
    assert np.ptp(together) > 0.01
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(narrow, alone, atol=2e-6)


def test_the_scale_is_the_readouts_unit(tiny_bert: Path) -> None:
    predictor = _predictor(tiny_bert)
    values, _ = predictor.predict(TEXTS)
    encoded = predictor.encode(TEXTS[:1])
    raw = predictor(torch.tensor(encoded.tokens[0])[None], torch.ones(1, len(encoded.tokens[0]), dtype=torch.long))
    assert values[0] == pytest.approx(5 + 2 * raw.item() + 0.25, abs=1e-6)
    predictor.centre(-1.0)
    np.testing.assert_allclose(predictor.predict(TEXTS)[0], values - 1.0, atol=1e-9)


def test_scale_of_answers() -> None:
    assert Scale.of(np.array([1.0, 3.0])) == Scale(2.0, 1.0, 0.0, 2.0)
    assert Scale.of(np.full(5, 0.1)) == Scale(
        pytest.approx(0.1), 1.0, 0.0, pytest.approx(0.1)
    )  # equal answers: no division by zero
    np.testing.assert_array_equal(Scale.of(np.array([1.0, 3.0])).filled(np.array([np.nan, 7.0])), [2.0, 7.0])


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("adapter", ["full", "lora", "head"])
def test_saved_and_loaded_predicts_the_same(
    kind: str, adapter: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    predictor = _predictor(request.getfixturevalue(kind), adapter=adapter)
    predictor.save(tmp_path / "m")
    loaded = Predictor.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.predict(TEXTS)[0], predictor.predict(TEXTS)[0], rtol=0, atol=1e-6)
    assert loaded.scale == predictor.scale
    assert loaded.model == predictor.model
    files = {path.suffix for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert files <= {".json", ".safetensors", ".jinja", ".txt"}


def test_what_trains(tiny_bert: Path) -> None:
    names = {adapter: set(_predictor(tiny_bert, adapter=adapter).trainable()) for adapter in ("full", "lora", "head")}
    assert names["head"] == {"head.weight", "head.bias"}
    assert all("lora_" in name for name in names["lora"] - names["head"])
    assert len(names["lora"]) > 2
    assert not any("word_embeddings" in name for name in names["full"])
    thawed = _predictor(tiny_bert, freeze_embeddings=False).trainable()
    assert set(thawed) - names["full"] == {"backbone.embeddings.word_embeddings.weight"}


def test_a_frozen_backbone_has_no_dropout(tiny_bert: Path) -> None:
    predictor = _predictor(tiny_bert, adapter="head").train()
    assert predictor.training
    assert not predictor.backbone.training


def test_half_precision_is_close_and_the_head_stays_fp32(tiny_bert: Path, tmp_path: Path) -> None:
    predictor = _predictor(tiny_bert)
    predictor.save(tmp_path / "m")
    half = Predictor.load(tmp_path / "m", torch.bfloat16)
    assert half.head.weight.dtype == torch.float32
    assert next(half.backbone.parameters()).dtype == torch.bfloat16
    np.testing.assert_allclose(half.predict(TEXTS)[0], predictor.predict(TEXTS)[0], atol=0.1)


def test_hard_texts_cost_their_own_row(tiny_bert: Path) -> None:
    texts = [None, "", " \n\t", "\ud800", "good", 7, "zzz 🙂", "good " * 50_000, "\0"]
    values, errors = _predictor(tiny_bert).predict(texts)  # type: ignore[arg-type]
    assert errors[:4] == ["no text", "empty text", "empty text", "not valid Unicode (a lone surrogate)"]
    assert errors[4] is None
    assert errors[5] == "not a text but int"
    assert errors[6:] == [None, None, None]
    assert np.isnan(values).tolist() == [error is not None for error in errors]


def test_a_model_that_gives_no_number_says_so(tiny_bert: Path) -> None:
    predictor = _predictor(tiny_bert)
    with torch.no_grad():
        predictor.head.bias.fill_(float("inf"))
    values, errors = predictor.predict(TEXTS)
    assert np.isnan(values).all()
    assert set(errors) == {"the model gives no finite number"}


def test_nothing_to_predict(tiny_bert: Path) -> None:
    values, errors = _predictor(tiny_bert).predict([])
    assert values.shape == (0,)
    assert errors == []


def test_long_texts_are_cut_and_counted(tiny_bert: Path) -> None:
    encoded = _predictor(tiny_bert).encode(["good " * 14, "good " * 15, None])  # with [CLS] and [SEP]: 16 and 17 of 16
    assert encoded.lengths.tolist() == [16, 16, 0]
    assert encoded.cut == 1


def test_more_tokens_than_positions_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(InputError, match="'max_tokens' is 64, but .* reads 32 tokens at most .*set it to 32 or fewer"):
        Predictor.create(Model(name=str(tiny_bert), max_tokens=64))


def test_tokens_without_an_embedding_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "m"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    known = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"]["extra"] = known
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=f"has {known + 1} tokens, its weights know {known}"):
        Predictor.create(Model(name=str(folder), max_tokens=16))


@pytest.mark.parametrize("adapter", ["lora", "head"])
def test_an_adapter_of_another_base_is_refused(adapter: str, tiny_bert: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    _predictor(base, adapter=adapter).save(tmp_path / "m")
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    save_file({**tensors, name: tensors[name] + 1e-3}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="is not the one that .* was fine-tuned from"):
        Predictor.load(tmp_path / "m")


def test_weights_that_do_not_fit_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    predictor = _predictor(tiny_bert)
    predictor.save(tmp_path / "m")
    head = tmp_path / "m" / "head.safetensors"
    good = load_file(head)
    save_file({**good, "weight": torch.zeros(1, 3)}, head)
    with pytest.raises(InputError, match=r"cannot read the model: tensor 'weight' has shape \(1, 3\), not \(1, 16\)"):
        Predictor.load(tmp_path / "m")
    save_file(good, head)
    weights = tmp_path / "m" / "model.safetensors"
    tensors = load_file(weights)
    lost = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"its weights lack '{lost}'"):
        Predictor.load(tmp_path / "m")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model": {}}', '{"model": {"name": "x", "trust": 1}}'])
def test_a_broken_readout_is_an_input_error(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "readout.json").write_text(content)
    with pytest.raises(InputError, match="cannot read the model"):
        Predictor.load(tmp_path)


def test_batches_by_tokens_respects_the_budget() -> None:
    lengths = np.array([5, 0, 3, 9, 3, 40])
    batches = [rows.tolist() for rows in batches_by_tokens(lengths, 18)]
    assert batches == [[5], [3, 0], [2, 4]]  # 40 alone; 9 + 5 padded to 18; 0 tokens nowhere


def test_epoch_batches_are_even_and_depend_on_seed_and_epoch() -> None:
    batches = epoch_batches(17, 16, seed=1, epoch=1)
    assert [len(rows) for rows in batches] == [9, 8]
    assert sorted(np.concatenate(batches)) == list(range(17))
    again, other = epoch_batches(17, 16, seed=1, epoch=1), epoch_batches(17, 16, seed=1, epoch=2)
    assert np.array_equal(np.concatenate(batches), np.concatenate(again))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(other))
