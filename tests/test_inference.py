"""Batch prediction on a real local Ray with a tiny random model: complete, shared between actors, resumable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.inference import predict_all
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Inference, Model

pytestmark = pytest.mark.ray

ROWS, MODELS = 600, ["fold-0", "fold-1"]
SETTINGS = Inference(shard_rows=10, batch_tokens=512, precision="fp32")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT of one layer that knows a hundred words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("backbone")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *(f"w{i}" for i in range(98))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=100, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def storage(tmp_path: Path, backbone: str) -> RunStorage:
    """A run with a table and two models. Every hundredth text is empty, every fiftieth longer than 64 tokens."""
    from ftrect_ray.predictor import Predictor

    texts = [
        None if i % 100 == 0 else " ".join(f"w{(i * k) % 97}" for k in range(80 if i % 50 == 1 else 2 + i % 9))
        for i in range(ROWS)
    ]
    storage = RunStorage.open(tmp_path / "run")
    storage.create()
    table = pa.table({"id": [f"r{i}" for i in range(ROWS)], "text": texts, "label": pa.nulls(ROWS, pa.float64())})
    storage.write_table(table, "table.parquet")
    for seed, model in enumerate(MODELS):
        Predictor.create(Model(name=backbone, max_tokens=64), seed=seed).save(storage.path("model", model))
    return storage


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def head_storage(storage: RunStorage) -> RunStorage:
    """The same with two readouts of one frozen backbone."""
    import torch

    from ftrect_ray.predictor import Predictor, Scale

    model = Model(name=Predictor.load(storage.path("model", "fold-0")).model.name, max_tokens=64, adapter="head")
    for seed, name in enumerate(MODELS):
        storage.delete("model", name)
        predictor = Predictor.create(model, seed=seed, scale=Scale(5.0 + seed, 2.0, 0.0, 5.0))
        with torch.no_grad():
            predictor.head.weight.mul_(100)
        predictor.save(storage.path("model", name))
    return storage


def written(storage: RunStorage, model: str) -> pa.Table:
    return pa.concat_tables(
        [storage.read_table("predictions", model, name) for name in storage.list("predictions", model)]
    )


def stamps(storage: RunStorage) -> dict[str, int]:
    """When each finished shard was written."""
    folder = Path(storage.path("predictions"))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("*/shard-*.parquet")}


@pytest.mark.usefixtures("local_ray")
def test_every_text_has_its_row_and_both_actors_work(storage: RunStorage) -> None:
    from ftrect_ray.predictor import Predictor

    summary = predict_all(storage, MODELS, SETTINGS, actors=2)
    assert (summary.rows, summary.computed, summary.kept) == (2 * ROWS, 120, 0)
    assert summary.errors == {"no text": 2 * ROWS // 100}
    assert summary.texts_cut == ROWS // 50
    assert summary.actors == 2
    assert 0 < summary.model_seconds < 2 * summary.seconds
    table = storage.read_table("table.parquet")
    for model in MODELS:
        rows = written(storage, model)
        assert rows["id"].to_pylist() == table["id"].to_pylist()
        expected, errors = Predictor.load(storage.path("model", model)).predict(table["text"].to_pylist())
        assert np.asarray(rows["prediction"].to_numpy()) == pytest.approx(expected, abs=1e-5, nan_ok=True)
        assert rows["error"].to_pylist() == errors

    again = predict_all(storage, MODELS, SETTINGS, actors=2)
    assert (again.computed, again.kept, again.actors, again.model_seconds) == (0, 120, 0, 0)
    assert (again.errors, again.texts_cut) == (summary.errors, summary.texts_cut)


@pytest.mark.usefixtures("local_ray")
def test_readouts_of_one_backbone_are_predicted_as_alone(head_storage: RunStorage) -> None:
    from ftrect_ray.predictor import Predictor

    summary = predict_all(head_storage, MODELS, SETTINGS, actors=2)
    assert (summary.rows, summary.computed, summary.kept) == (2 * ROWS, 120, 0)
    assert (summary.errors, summary.texts_cut) == ({"no text": 2 * ROWS // 100}, ROWS // 50)
    texts = head_storage.read_table("table.parquet")["text"].to_pylist()
    predicted = []
    for model in MODELS:
        rows = written(head_storage, model)
        expected, errors = Predictor.load(head_storage.path("model", model)).predict(texts)
        predicted.append(np.asarray(rows["prediction"].to_numpy()))
        assert predicted[-1] == pytest.approx(expected, abs=1e-4, nan_ok=True)
        assert rows["error"].to_pylist() == errors
    assert np.nanmin(np.abs(predicted[1] - predicted[0])) > 1e-3
    head_storage.delete("predictions", "fold-1", "shard-00002.parquet")
    head_storage.delete("predictions", "fold-0", "shard-00003.parquet")
    assert predict_all(head_storage, MODELS, SETTINGS, actors=1).computed == 2
    assert np.asarray(written(head_storage, "fold-1")["prediction"].to_numpy()) == pytest.approx(
        predicted[1], abs=1e-5, nan_ok=True
    )


def test_a_task_of_several_readouts_passes_the_backbone_once(head_storage: RunStorage) -> None:
    from ftrect_ray.scorer import Scorer

    scorer = Scorer([], {}, head_storage.uri, SETTINGS)
    predictors = scorer._load(MODELS)
    assert predictors[0].backbone is predictors[1].backbone
    passes = []
    predictors[0].backbone.register_forward_hook(lambda *_: passes.append(1))
    texts = ["w1 w2", None, "w3"]
    together = scorer._score(predictors, texts)
    assert len(passes) == 1
    for predictor, scores in zip(predictors, together, strict=True):
        alone = predictor.score(texts, SETTINGS.batch_tokens)
        assert scores.values == pytest.approx(alone.values, abs=1e-6, nan_ok=True)
        assert (scores.errors, scores.cut, scores.probabilities) == (alone.errors, alone.cut, None)
    assert [scorer._load([model])[0] is kept for model, kept in zip(MODELS, predictors, strict=True)] == [True, True]


@pytest.mark.usefixtures("local_ray")
def test_answer_options_leave_their_probabilities(storage: RunStorage, tiny_llama: Path) -> None:
    from ftrect_ray.predictor import Predictor

    answers = {"good": 1.0, "bad": -1.0, "dull": 0.0}
    model = Model(
        name=str(tiny_llama), max_tokens=16, adapter="lora", options={"prompt": "the {text} was", "answers": answers}
    )
    Predictor.create(model).save(storage.path("model", "asked"))
    predict_all(storage, ["asked"], Inference(shard_rows=300, precision="fp32"), actors=1)
    rows = written(storage, "asked")
    assert rows.column_names == ["id", "prediction", "error", "probabilities"]
    for prediction, error, probabilities in zip(
        *(rows[name].to_pylist() for name in rows.column_names[1:]), strict=True
    ):
        assert (prediction is None) == (probabilities is None) == (error is not None)
        if probabilities:
            assert sum(probabilities) == pytest.approx(1, abs=1e-5)
            assert prediction == pytest.approx(np.dot(probabilities, list(answers.values())), abs=1e-5)


@pytest.mark.usefixtures("local_ray")
def test_only_what_has_changed_is_computed_anew(storage: RunStorage) -> None:
    predict_all(storage, MODELS, Inference(shard_rows=200, precision="fp32"), actors=2)
    before = stamps(storage)
    readout = storage.read_bytes("model", "fold-1", "readout.json")
    storage.write_bytes(readout + b"\n", "model", "fold-1", "readout.json")
    table = storage.read_table("table.parquet")
    texts = table["text"].to_pylist()
    texts[300] = "w1 w2"  # in the second of three shards
    storage.write_table(table.set_column(1, "text", pa.array(texts)), "table.parquet")
    summary = predict_all(storage, MODELS, Inference(shard_rows=200, precision="fp32"), actors=2)
    changed = {name for name, stamp in stamps(storage).items() if stamp != before[name]}
    assert changed == {"fold-0/shard-00001.parquet", *(f"fold-1/shard-0000{i}.parquet" for i in range(3))}
    assert (summary.computed, summary.kept) == (4, 2)
    larger = predict_all(storage, MODELS, Inference(shard_rows=400, precision="fp32"), actors=2)
    assert larger.computed == 4
    assert len(stamps(storage)) == 4  # the third shard of each model is gone


@pytest.mark.usefixtures("local_ray")
def test_a_broken_model_is_one_readable_error(storage: RunStorage) -> None:
    storage.write_bytes(b"{", "model", "fold-0", "readout.json")
    with pytest.raises(InputError, match="cannot read the model"):
        predict_all(storage, ["fold-0"], SETTINGS, actors=1)


DRIVER = """
import sys
import ray
from ftrect_ray.inference import predict_all
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Inference

if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    settings = Inference.model_validate_json(sys.argv[2])
    summary = predict_all(RunStorage.open(sys.argv[1]), ["fold-0", "fold-1"], settings, actors=2)
    print(summary.computed)
"""


def test_a_killed_run_computes_only_the_missing_shards(storage: RunStorage) -> None:
    """SIGKILL of the driver at half of the work: its actors go with it, and what they wrote is kept."""
    command = [sys.executable, "-c", DRIVER, storage.uri, SETTINGS.model_dump_json()]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(stamps(storage)) < 40:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    family = psutil.Process(first.pid).children(recursive=True)
    actors = [process for process in family if "MapWorker" in " ".join(process.cmdline())]
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert len(actors) == 2
    assert psutil.wait_procs(actors, timeout=60)[1] == []  # Ray's own agents follow within a minute or two
    before = stamps(storage)
    assert 40 <= len(before) < 120

    second = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300)
    assert int(second.stdout) == 120 - len(before)
    after = stamps(storage)
    assert {name: after[name] for name in before} == before
    for model in MODELS:
        assert written(storage, model)["id"].to_pylist() == [f"r{i}" for i in range(ROWS)]
        assert storage.list("predictions", model) == [f"shard-{i:05d}.parquet" for i in range(60)]
