"""Model folders: what is refused before anything is loaded."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ftrect_ray.errors import InputError
from ftrect_ray.models import check_model_folder, model_card

UNSOUND = "not a sound safetensors file"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest folder that passes."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"weight": np.ones((2, 3), np.float32), "positions": np.arange(4)}, tmp_path / "model.safetensors")
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_model_folder(folder)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sound_folder_passes_and_its_parameters_are_counted(folder: Path) -> None:
    check_model_folder(folder)
    assert model_card(str(folder))["parameters"] == 6  # the integer tensor is a buffer


def test_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert re.search(
        r"^safetensors required: .* no model.safetensors; it has pytorch_model.bin, which can run code", refusal(folder)
    )


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors — convert it" in refusal(folder)


@pytest.mark.parametrize("filename", ["config.json", "tokenizer_config.json"])
def test_foreign_code(folder: Path, filename: str) -> None:
    (folder / filename).write_text('{"auto_map": {"AutoModel": "modeling.Evil"}}')
    assert f"asks for its own code ('auto_map' in {filename}), which is never run" in refusal(folder)


def test_missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json — name the folder that holds it" in refusal(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "this is an adapter; name the folder of a whole model" in refusal(folder)


def test_missing_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer — save it beside the model: tokenizer.save_pretrained(folder)" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json of model folder .* is not JSON"),
        ("[1]", "config.json of model folder .* is not a JSON object"),
        ("[" * 100_000, "config.json of model folder .* is not JSON"),
    ],
    ids=["broken", "list", "deep"],
)
def test_broken_config(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    assert re.search(message, refusal(folder))


def header(tensors: dict[str, dict[str, object]]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:5], "shorter than 8 bytes"),
        (lambda whole: struct.pack("<Q", 2**63) + whole[8:], "a header of 9223372036854775808 bytes in a file of"),
        (lambda whole: whole[:-1], UNSOUND),
        (lambda whole: struct.pack("<Q", 4) + b"[1] ", "not a JSON object"),
        (lambda whole: struct.pack("<Q", 4) + b"{{{{", UNSOUND),
        (
            lambda _: header({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}) + bytes(12),
            UNSOUND,
        ),
        (
            lambda _: header({"a": tensor(0, 8, [2]), "b": tensor(12, 20, [2])}) + bytes(20),
            UNSOUND,
        ),
        (lambda _: header({"a": tensor(0, 8, [2**40, 2**40])}) + bytes(8), UNSOUND),
        (lambda _: header({f"t{i}": tensor(0, 0, [0]) for i in range(100_001)}), "100001 tensors, more than 100000"),
    ],
    ids=["stub", "length", "truncated", "list", "not-json", "overlap", "hole", "overflow", "many"],
)
def test_unsound_weights(folder: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    text = refusal(folder)
    assert message in text
    assert "model.safetensors of model folder" in text


def test_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"weight": "part-1.safetensors"}}')
    check_model_folder(folder)
    for shard in ("part-2.safetensors", "../part-1.safetensors", str(folder / "part-1.safetensors")):
        index.write_text(json.dumps({"weight_map": {"weight": shard}}))
        assert f"has no shard {shard!r}" in refusal(folder)
    index.write_text('{"weight_map": []}')
    assert "safetensors required" in refusal(folder)
