"""The model's folder: what others read in it, and what is refused when it is read again."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from ftrect_ray.errors import InputError
from ftrect_ray.predictor import Predictor, Scale, folder
from ftrect_ray.study import Model

TEXTS = ["the film was good", "bad", "a very dull plot and an awful actor but i love it", "great great great"]
WEIGHTS = "adapter/adapter_model.safetensors"


def _predictor(base: Path, **settings: Any) -> Predictor:
    predictor = Predictor.create(
        Model(name=str(base), max_tokens=16, **settings), seed=1, scale=Scale(5.0, 2.0, 0.25, 5.0)
    )
    with torch.no_grad():
        for parameter in predictor.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return predictor


@pytest.fixture
def saved(tiny_bert: Path, tmp_path: Path) -> Callable[..., Path]:
    """``saved(adapter)``: the folder of a model as if trained."""

    def make(adapter: str) -> Path:
        _predictor(tiny_bert, adapter=adapter).save(tmp_path / "m")
        return tmp_path / "m"

    return make


def refusal(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        Predictor.load(directory)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_llama"])
def test_shards_load_again_in_transformers_and_here(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    predictor = _predictor(request.getfixturevalue(kind))
    folder.save(predictor, tmp_path / "m", shard_bytes=3000)
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    shards = [name for name in files if name.startswith("model-")]
    assert len(shards) >= 3
    assert files == ["head.safetensors", *shards]
    assert shards[-1] == f"model-{len(shards):05d}-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in predictor.base.state_dict().values())
    plain, info = (
        AutoModel.from_pretrained(tmp_path / "m", output_loading_info=True, add_pooling_layer=False)
        if (kind == "tiny_bert")
        else AutoModel.from_pretrained(tmp_path / "m", output_loading_info=True)
    )
    assert not any(info.values())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, predictor.base.state_dict()[name]), name
    np.testing.assert_array_equal(Predictor.load(tmp_path / "m").predict(TEXTS)[0], predictor.predict(TEXTS)[0])


def test_no_more_than_a_shard_waits_in_memory(tiny_bert: Path, tmp_path: Path) -> None:
    predictor = _predictor(tiny_bert)
    limit, alive, most = 3000, 0, 0
    sizes = [tensor.nbytes for tensor in predictor.stored().values()]

    def freed(size: int) -> None:
        nonlocal alive
        alive -= size

    def stream() -> Iterator[tuple[str, Tensor]]:
        nonlocal alive, most
        for name, tensor in predictor.stored().items():
            array = tensor.detach().numpy().copy()
            weakref.finalize(array, freed, array.nbytes)
            alive += array.nbytes
            most = max(most, alive)
            given = torch.from_numpy(array)
            del array
            yield name, given
            del given

    folder.save(predictor, tmp_path / "m", stream(), shard_bytes=limit)
    assert most <= limit + 2 * max(sizes)
    assert sum(sizes) > 2 * (limit + 2 * max(sizes))


def test_the_weights_that_are_given_are_those_that_are_kept(tiny_bert: Path, tmp_path: Path) -> None:
    predictor, kept = _predictor(tiny_bert), _predictor(tiny_bert)
    with torch.no_grad():
        for parameter in kept.parameters():
            parameter.mul_(1.1)
    folder.save(predictor, tmp_path / "m", iter(kept.stored().items()))
    np.testing.assert_array_equal(Predictor.load(tmp_path / "m").predict(TEXTS)[0], kept.predict(TEXTS)[0])
    stored = predictor.stored()
    name = next(iter(stored))
    for weights, message in [
        ({other: tensor for other, tensor in stored.items() if other != name}, f"1 tensors are not there .* {name}"),
        ({**stored, name: torch.zeros(0)}, f"{name} is \\(0,\\): not a tensor to store, or a part of one"),
        ({**stored, "backbone.more": torch.zeros(2)}, "backbone.more is .* not a tensor to store"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            folder.save(predictor, tmp_path / message[:9], iter(weights.items()))


def test_a_folder_in_use_is_not_written_into(saved: Callable[..., Path], tiny_bert: Path) -> None:
    directory = saved("full")
    with pytest.raises(InputError, match="the folder is not empty"):
        _predictor(tiny_bert).save(directory)


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_llama"])
def test_peft_reads_the_adapter(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(kind)
    predictor = _predictor(base, adapter="lora")
    predictor.save(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["inference_mode"] is True
    assert config["target_modules"] == sorted(config["target_modules"])
    plain = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path / "m" / "adapter").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "m")(TEXTS[2], return_tensors="pt")
    arguments = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        theirs, ours = (model(**arguments).last_hidden_state for model in (plain, predictor.backbone))
        bare = AutoModel.from_pretrained(base)(**arguments).last_hidden_state
    assert torch.equal(theirs, ours)
    assert (bare - ours).abs().max() > 0.01


@pytest.mark.parametrize("adapter", ["full", "lora", "head"])
def test_a_loaded_model_can_be_saved_again(adapter: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    first = Predictor.load(saved(adapter))
    first.save(tmp_path / "again")
    np.testing.assert_array_equal(Predictor.load(tmp_path / "again").predict(TEXTS)[0], first.predict(TEXTS)[0])


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_what_was_saved_in_half_precision_loads_as_asked(adapter: str, tiny_bert: Path, tmp_path: Path) -> None:
    predictor = _predictor(tiny_bert, adapter=adapter)
    half = ((name, tensor.bfloat16()) for name, tensor in predictor.stored().items())
    folder.save(predictor, tmp_path / "m", half)
    stored = load_file(tmp_path / "m" / ("model.safetensors" if adapter == "full" else WEIGHTS))
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    if adapter == "full":
        assert AutoModel.from_pretrained(tmp_path / "m").dtype == torch.bfloat16
    expected = predictor.predict(TEXTS)[0]
    for dtype, tolerance in ((torch.float32, 0.05), (torch.bfloat16, 0.1)):
        loaded = Predictor.load(tmp_path / "m", dtype)
        assert {parameter.dtype for parameter in loaded.backbone.parameters()} == {dtype}
        assert loaded.head is not None
        assert loaded.head.weight.dtype == torch.float32
        np.testing.assert_allclose(loaded.predict(TEXTS)[0], expected, atol=tolerance)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("adapter", "file"),
    [
        ("full", "readout.json"),
        ("full", "head.safetensors"),
        ("full", "config.json"),
        ("full", "model.safetensors"),
        ("full", "tokenizer.json"),
        ("lora", WEIGHTS),
        ("lora", "adapter/adapter_config.json"),
        ("lora", "tokenizer.json"),
        ("head", "head.safetensors"),
    ],
)
def test_a_missing_or_broken_file(adapter: str, file: str, saved: Callable[..., Path]) -> None:
    directory = saved(adapter)
    content = (directory / file).read_bytes()
    (directory / file).unlink()
    assert re.search(r"cannot (read|load) the (model|tokenizer)|has no ", refusal(directory))
    (directory / file).write_bytes(content[: len(content) // 2])
    assert re.search(r"cannot (read|load) the (model|tokenizer)|is not (JSON|a sound)", refusal(directory))


@pytest.mark.parametrize("adapter", ["full", "lora", "head"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, tensor: {name: tensor[..., 1:].contiguous()}, "has shape|have shape"),
        (lambda name, tensor: {f"{name}.more": tensor}, "lack|is missing|has no place in it"),
        (lambda name, tensor: {name: tensor, "more.weight": torch.zeros(2)}, "'more.weight' has no place in it"),
        (lambda name, tensor: {name: tensor.long()}, "holds .*, not floating-point numbers"),
        (lambda name, tensor: {name: tensor * torch.nan}, "the weights of .* are not finite"),
        (lambda name, tensor: {name: tensor + torch.inf}, "the weights of .* are not finite"),
    ],
    ids=["shape", "name", "extra", "integers", "nan", "inf"],
)
def test_tensors_that_do_not_fit(
    adapter: str, change: Callable[[str, Tensor], dict[str, Tensor]], message: str, saved: Callable[..., Path]
) -> None:
    directory = saved(adapter)
    file = directory / {"full": "model.safetensors", "lora": WEIGHTS, "head": "head.safetensors"}[adapter]
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("weight") and "embeddings" not in name)
    save_file(tensors | {name: tensors[name]}, file, metadata={"format": "pt"})
    Predictor.load(directory)
    rest = {other: tensor for other, tensor in tensors.items() if other != name}
    save_file(rest | change(name, tensors[name]), file, metadata={"format": "pt"})
    assert re.search(message, refusal(directory))


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        (lambda r: r["model"]["lora"].update(rank=4), r"'r' is 8; readout.json asks for 4"),
        (lambda r: r["model"]["lora"].update(alpha=64), r"'lora_alpha' is 16; readout.json asks for 64"),
        (lambda r: r["model"].update(adapter="loro"), r"'model.adapter': Input should be 'full', 'lora' or 'head'"),
        (lambda r: r["model"].update(trust=True), r"'model.trust': Extra inputs are not permitted"),
        (lambda r: r.update(spread=float("nan")), "must be finite, and spread > 0"),
        (lambda r: r.update(spread=0), "must be finite, and spread > 0"),
        (lambda r: r.update(center="x"), "could not convert string to float: 'x'"),
        (lambda r: r.update(offset=[1]), "must be a string or a real number"),
        (lambda r: r.pop("offset"), "it has no 'offset'"),
        (lambda r: r.pop("base_digest"), "it has no 'base_digest'"),
        (lambda r: r.update(base_digest="0" * 16), "is not the one that .* was fine-tuned from"),
    ],
)
def test_a_readout_that_does_not_fit(
    readout: Callable[[dict[str, Any]], Any], message: str, saved: Callable[..., Path]
) -> None:
    directory = saved("lora")
    content = json.loads((directory / "readout.json").read_text())
    readout(content)
    (directory / "readout.json").write_text(json.dumps(content))
    assert re.search(message, refusal(directory))


def test_a_readout_that_is_no_object(saved: Callable[..., Path]) -> None:
    directory = saved("head")
    for content in ("[" * 100_000, "[]", "null", '"\ud800"', "\x00"):
        (directory / "readout.json").write_text(content, errors="surrogatepass")
        assert "cannot read the model" in refusal(directory)
    (directory / "readout.json").write_bytes(b"\xff\xfe")
    assert "cannot read the model" in refusal(directory)


def test_an_adapter_of_another_base(saved: Callable[..., Path], tiny_llama: Path) -> None:
    directory = saved("lora")
    content = json.loads((directory / "readout.json").read_text())
    content["model"]["name"] = str(tiny_llama)
    (directory / "readout.json").write_text(json.dumps(content))
    assert "18" in refusal(directory)  # the tokens that the other one knows
    content["model"]["name"] = str(tiny_llama / "nowhere")
    (directory / "readout.json").write_text(json.dumps(content))
    assert "is neither a named model nor a folder" in refusal(directory)


@pytest.mark.parametrize("length", [2**63, 2**40])
def test_a_header_that_is_a_bomb(length: int, saved: Callable[..., Path]) -> None:
    for adapter, file in (("lora", WEIGHTS), ("full", "model.safetensors")):
        directory = saved(adapter)
        path = directory / file
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
        assert re.search("cannot read the model|not a sound safetensors file", refusal(directory))
        shutil.rmtree(directory)


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_pickle_lying_around_is_never_read(adapter: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    directory, canary = saved(adapter), tmp_path / "canary"
    expected = Predictor.load(directory).predict(TEXTS)[0]
    names = ["pytorch_model.bin", "head.bin", "training_args.bin", "model.pt", "tokenizer.pkl"]
    places = [directory / name for name in names] + [directory / "adapter" / "adapter_model.bin"] * (adapter == "lora")
    for place in places:
        place.write_bytes(pickle.dumps(Canary(canary)))
    np.testing.assert_array_equal(Predictor.load(directory).predict(TEXTS)[0], expected)
    (directory / ("model.safetensors" if adapter == "full" else WEIGHTS)).unlink()
    refusal(directory)
    assert not canary.exists()
    pickle.loads(places[0].read_bytes())
    assert canary.exists()  # the canary sings where it is let


@pytest.mark.parametrize("file", ["head.safetensors", "readout.json", "adapter"])
def test_a_link_out_of_the_folder(file: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    directory = saved("lora")
    (directory / file).rename(tmp_path / "outside")
    (directory / file).symlink_to(tmp_path / "outside")
    assert "a link that leads out of the folder" in refusal(directory)
    (directory / file).unlink()
    (tmp_path / "outside").rename(directory / "inside")
    (directory / file).symlink_to(directory / "inside")
    Predictor.load(directory)
    (tmp_path / "link").symlink_to(directory)
    Predictor.load(tmp_path / "link")


@pytest.mark.parametrize("content", ['{"auto_map": {"AutoModel": "evil.Model"}, "model_type": "bert"}', "{}", "[]"])
def test_a_configuration_that_asks_for_code_or_says_nothing(content: str, saved: Callable[..., Path]) -> None:
    directory = saved("full")
    (directory / "config.json").write_text(content)
    (directory / "evil.py").write_text("raise SystemExit('run')")
    assert re.search("auto_map|cannot load the model|not a JSON object", refusal(directory))
