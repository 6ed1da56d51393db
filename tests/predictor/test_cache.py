"""The cache of what texts give: shared by processes, and never trusted further than its hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.predictor import Predictor, cache
from ftrect_ray.predictor.cache import CachedTokens, TextCache, feature_cache
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model

KIND = pa.list_(pa.float32(), 3)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.fixture
def storage(tmp_path: Path) -> RunStorage:
    return RunStorage.open(tmp_path / "cache")


def files(storage: RunStorage) -> list[Path]:
    return sorted(Path(storage.root).rglob("*.arrow"))


def test_what_one_process_puts_another_gets(storage: RunStorage) -> None:
    one, other = TextCache(storage, "key", KIND), TextCache(storage, "key", KIND)
    assert one.get(["a", "b"]) == [None, None]
    one.put(["a", "\ud800"], [array(1, 2, 3), array(np.nan, np.nan, np.nan)])
    found, none, lone = other.get(["a", "b", "\ud800"])
    np.testing.assert_array_equal(found, array(1, 2, 3))
    assert none is None
    assert np.isnan(lone).all()
    other.put(["b"], [array(4, 5, 6)])  # after ``one`` has looked
    np.testing.assert_array_equal(one.get(["b"])[0], array(4, 5, 6))
    assert len(files(storage)) == 2


def test_another_key_or_kind_is_another_cache(storage: RunStorage) -> None:
    TextCache(storage, "key", KIND).put(["a"], [array(1, 2, 3)])
    assert TextCache(storage, "other", KIND).get(["a"]) == [None]
    assert TextCache(storage, "key", pa.list_(pa.float32(), 4)).get(["a"]) == [None]


def test_the_same_again_is_the_same_file(storage: RunStorage) -> None:
    for _ in range(2):
        TextCache(storage, "key", KIND).put(["a"], [array(1, 2, 3)])
    assert len(files(storage)) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped bit", "foreign", "foreign of the right hash", "nulls"])
def test_a_damaged_or_foreign_file_is_as_good_as_absent(damage: str, storage: RunStorage) -> None:
    TextCache(storage, "key", KIND).put(["a"], [array(1, 2, 3)])
    [path] = files(storage)
    content = path.read_bytes()
    if damage in ("nulls", "foreign of the right hash"):
        kind = KIND if damage == "nulls" else pa.list_(pa.int64())
        rows = pa.table(
            [pa.array([b"x" * 16], pa.binary(16)), pa.array([None], kind)],
            schema=pa.schema([("text", pa.binary(16)), ("array", kind)]),
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        content = sink.getvalue().to_pybytes()
        path = path.with_name(cache._file(content))
    else:
        flipped = bytes([*content[:-40], content[-40] ^ 1, *content[-39:]])
        content = {"cut": content[:-9], "empty": b"", "flipped bit": flipped, "foreign": b"PAR1"}[damage]
    files(storage)[0].unlink()
    path.write_bytes(content)
    again = TextCache(storage, "key", KIND)
    assert again.get(["a"]) == [None]
    again.put(["a"], [array(1, 2, 3)])
    np.testing.assert_array_equal(TextCache(storage, "key", KIND).get(["a"])[0], array(1, 2, 3))


def test_beyond_the_limit_nothing_is_kept(storage: RunStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    full = TextCache(storage, "key", KIND)
    full.put(["a"], [array(1, 2, 3)])
    monkeypatch.setattr(cache, "LIMIT_BYTES", files(storage)[0].stat().st_size + 20)
    full.put(["b"], [array(4, 5, 6)])  # fits into memory, and not into the folder
    assert full.get(["b"])[0] is not None
    assert len(files(storage)) == 1
    monkeypatch.setattr(cache, "LIMIT_BYTES", 24)
    full.put(["c"], [array(7, 8, 9)])
    assert full.get(["c"]) == [None]
    assert TextCache(storage, "key", KIND).get(["a"]) == [None]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_costs_time_alone(storage: RunStorage) -> None:
    Path(storage.root).mkdir()
    Path(storage.root).chmod(0o500)
    mine = TextCache(storage, "key", KIND)
    mine.put(["a"], [array(1, 2, 3)])
    assert mine.get(["a"])[0] is not None


def test_a_file_where_the_folder_should_be_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    mine = TextCache(RunStorage.open(tmp_path / "cache"), "key", KIND)
    mine.put(["a"], [array(1, 2, 3)])
    assert mine.get(["a", "b"])[1] is None


def test_without_a_storage_it_is_a_memory(tmp_path: Path) -> None:
    mine = TextCache(None, "key", KIND)
    mine.put(["a"], [array(1, 2, 3)])
    np.testing.assert_array_equal(mine.get(["a"])[0], array(1, 2, 3))


WRITER = """
import sys
import numpy as np, pyarrow as pa
from ftrect_ray.predictor.cache import TextCache
from ftrect_ray.storage import RunStorage
mine = TextCache(RunStorage.open(sys.argv[1]), "key", pa.list_(pa.float32(), 3))
for i in range(40):
    text = str(i % 20)
    if mine.get([text])[0] is None:
        mine.put([text], [np.full(3, i % 20, dtype=np.float32)])
assert all(array[0] == i for i, array in enumerate(mine.get([str(i) for i in range(20)])))
"""


def test_processes_write_side_by_side(storage: RunStorage) -> None:
    running = [subprocess.Popen([sys.executable, "-c", WRITER, storage.root]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    found = TextCache(storage, "key", KIND).get([str(i) for i in range(20)])
    assert [array[0] for array in found if array is not None] == list(range(20))


# ------------------------------------------------------------------------------------------------- of a model


TEXTS = ["the film was good", "", None, "bad", "the film was good", "a plot " * 30]


def test_cached_tokens_are_those_of_the_tokenizer(tiny_bert: Path, storage: RunStorage, monkeypatch) -> None:
    predictor = Predictor.create(Model(name=str(tiny_bert), max_tokens=16))
    expected = predictor.encode(TEXTS).tokens
    for _ in range(2):
        found = CachedTokens(predictor, storage)(TEXTS)
        assert [ids.tolist() for ids in found] == [ids.tolist() for ids in expected]
        assert {ids.dtype for ids in found} == {np.dtype(np.int64)}
        monkeypatch.setattr(Predictor, "encode", lambda *_: pytest.fail("tokenised again"))


def test_tokens_depend_on_length_tokenizer_and_prompt(tiny_bert: Path, tiny_llama: Path) -> None:
    options = {"prompt": "the film {text} was", "answers": {"good": 1, "bad": 0}}
    models = [
        Model(name=str(tiny_bert), max_tokens=16),
        Model(name=str(tiny_bert), max_tokens=17),
        Model(name=str(tiny_llama), max_tokens=16),
        Model(name=str(tiny_llama), max_tokens=16, options=options),
        Model(name=str(tiny_llama), max_tokens=16, options=options | {"prompt": "the {text} was"}),
    ]
    folders = [CachedTokens(Predictor.create(model), None).cache.folder for model in models]
    assert len(set(folders)) == 5
    assert CachedTokens(Predictor.create(models[0], seed=3), None).cache.folder == folders[0]


def test_what_was_tokenised_before_does_not_matter(tiny_bert: Path, storage: RunStorage) -> None:
    predictor = Predictor.create(Model(name=str(tiny_bert), max_tokens=16))
    before = CachedTokens(predictor, storage)
    tokens = before(TEXTS)
    predictor.tokenizer(["a", "a film"], truncation=True, max_length=3, padding=True)
    after = CachedTokens(predictor, storage)
    assert after.cache.folder == before.cache.folder
    assert [ids.tolist() for ids in predictor.encode(TEXTS).tokens] == [ids.tolist() for ids in tokens]


def test_features_depend_on_weights_pooling_and_precision(tiny_bert: Path, tmp_path: Path) -> None:
    model = Model(name=str(tiny_bert), max_tokens=16, adapter="head")
    same, half = Predictor.create(model, seed=1), Predictor.create(model)
    half.backbone.bfloat16()
    last = Predictor.create(model.model_copy(update={"pooling": "last"}))
    other = Predictor.create(model)
    other.base_digest = "of other weights"
    folders = [feature_cache(predictor, None).folder for predictor in (Predictor.create(model), half, last, other)]
    assert len(set(folders)) == 4
    assert feature_cache(same, None).folder == folders[0]
