"""Which shards are kept: exactly those whose rows, model and precision are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.shards import Shard, backbone_key, plan_shards, read_facts, sweep, write_shard
from ftrect_ray.storage import RunStorage

FACTS = {"errors": {"empty text": 1}, "cut": 2, "seconds": 0.5, "actor": "a"}


@pytest.fixture
def storage(tmp_path: Path) -> RunStorage:
    storage = RunStorage.open(tmp_path)
    storage.write_bytes(b"weights", "model", "fold-0", "head.safetensors")
    storage.write_bytes(b"weights", "model", "fold-1", "head.safetensors")
    return storage


def part(*texts: str | None) -> pa.Table:
    return pa.table({"id": [f"r{i}" for i in range(len(texts))], "text": pa.array(texts, pa.string())})


def keys(storage: RunStorage, *parts: pa.Table, precision: str = "auto") -> list[str]:
    return [shard.key for shard in plan_shards(parts, ["fold-0"], storage, precision)]


def test_every_pair_is_planned_model_by_model(storage: RunStorage) -> None:
    shards = list(plan_shards([part("a"), part("b")], ["fold-0", "fold-1"], storage, "auto"))
    assert [(shard.model, shard.index) for shard in shards] == [
        ("fold-0", 0),
        ("fold-0", 1),
        ("fold-1", 0),
        ("fold-1", 1),
    ]
    assert shards[1].path == ("predictions", "fold-0", "shard-00001.parquet")


def test_a_key_follows_rows_model_and_precision(storage: RunStorage) -> None:
    before = keys(storage, part("a", "b"), part("c"))
    assert keys(storage, part("a", "b"), part("c")) == before
    changed = keys(storage, part("a", "B"), part("c"))
    assert (changed[0] != before[0], changed[1]) == (True, before[1])
    assert keys(storage, part("a", None))[0] != keys(storage, part("a", ""))[0]
    assert keys(storage, part("a", "b"), precision="fp32")[0] != before[0]
    storage.write_bytes(b"others!", "model", "fold-0", "head.safetensors")
    assert not set(keys(storage, part("a", "b"), part("c"))) & set(before)


def test_a_key_follows_the_names_of_the_models_files(storage: RunStorage) -> None:
    before = keys(storage, part("a"))
    storage.filesystem.move(
        storage.path("model", "fold-0", "head.safetensors"), storage.path("model", "fold-0", "tail.safetensors")
    )
    assert keys(storage, part("a")) != before


def test_a_shard_is_written_whole_and_known_again(storage: RunStorage) -> None:
    shard = Shard("fold-0", 3, "key-1")
    assert read_facts(storage, shard) is None
    write_shard(storage, shard, part("x", "")["id"], np.array([1.5, np.nan]), [None, "empty text"], FACTS)
    assert storage.read_table(*shard.path).to_pydict() == {
        "id": ["r0", "r1"],
        "prediction": [1.5, None],
        "error": [None, "empty text"],
    }
    assert read_facts(storage, shard) == FACTS
    assert read_facts(storage, Shard("fold-0", 3, "key-2")) is None
    assert storage.list("predictions", "fold-0") == ["shard-00003.parquet"]


def test_probabilities_stand_beside_the_prediction(storage: RunStorage) -> None:
    shard = Shard("fold-0", 0, "key-1")
    probabilities = np.array([[0.25, 0.75], [np.nan, np.nan]])
    values = np.array([1.75, np.nan])
    write_shard(storage, shard, part("x", "")["id"], values, [None, "empty text"], FACTS, probabilities)
    table = storage.read_table(*shard.path)
    assert table.schema.field("probabilities").type == pa.list_(pa.float32())
    assert table["probabilities"].to_pylist() == [[0.25, 0.75], None]


def test_models_share_a_backbone_where_only_their_readouts_differ(storage: RunStorage) -> None:
    head = {"model": {"name": "minilm", "adapter": "head"}, "base_digest": "d", "center": 1.0}
    for number, name in enumerate(
        ["fold-0", "fold-1", "longer", "other-base", "other-tokens", "full", "broken", "odd"]
    ):
        storage.write_bytes(bytes([number]), "model", name, "head.safetensors")
        storage.write_json(head | {"center": float(number)}, "model", name, "readout.json")
    storage.write_json(head | {"model": head["model"] | {"max_tokens": 9}}, "model", "longer", "readout.json")
    storage.write_json(head | {"base_digest": "e"}, "model", "other-base", "readout.json")
    storage.write_bytes(b"{}", "model", "other-tokens", "tokenizer.json")
    storage.write_json(head | {"model": head["model"] | {"adapter": "full"}}, "model", "full", "readout.json")
    storage.write_bytes(b"{", "model", "broken", "readout.json")
    storage.write_json([], "model", "odd", "readout.json")
    keys = {name: backbone_key(storage, name) for name in storage.list("model")}
    assert keys["fold-0"] == keys["fold-1"]
    assert len(set(keys.values())) == len(keys) - 1
    assert [keys[name] for name in ("full", "broken", "odd")] == ["full", "broken", "odd"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_broken_shard_is_not_done(storage: RunStorage, content: bytes) -> None:
    shard = Shard("fold-0", 0, "key")
    storage.write_bytes(content, *shard.path)
    assert read_facts(storage, shard) is None


def test_sweeping_leaves_the_planned_shards_alone(storage: RunStorage) -> None:
    for name in ("shard-00000.parquet", "shard-00001.parquet", "shard-00000.parquet.tmp-99"):
        storage.write_bytes(b"x", "predictions", "fold-0", name)
    storage.write_bytes(b"x", "predictions", "other", "shard-00000.parquet")
    sweep(storage, [Shard("fold-0", 0, "key")])
    assert storage.list("predictions", "fold-0") == ["shard-00000.parquet"]
    assert storage.list("predictions", "other") == ["shard-00000.parquet"]
