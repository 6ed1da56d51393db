"""Shared by all tests: a quiet Ray, and small studies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.ledger import Ledger, Use
from ftrect_ray.rectify import load_evidence
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Study
from ftrect_ray.study_file import dump_study

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunStorage]:
    """A finished run without its fine-tunes: table, ledger, predictions, estimate, as the contract has them.

    ``make_run(design="crossfit", n=120, m=400, folds=2, missing=0)``: answers Y = 1 + age/50 + noise, models that
    see a part of it, and the first ``missing`` unlabelled texts without a prediction.
    """

    def make(
        design: str = "crossfit",
        *,
        name: str = "tiny",
        n: int = 120,
        m: int = 400,
        folds: int = 2,
        missing: int = 0,
        sampling: dict[str, pa.Array] | None = None,
    ) -> RunStorage:
        rng = np.random.default_rng(5)
        rows = n + m
        age, signal = rng.integers(18, 90, rows).astype(float), rng.normal(size=rows)
        answers = 1 + age / 50 + signal + 0.5 * rng.normal(size=rows)
        ids = [f"r{i}" for i in range(rows)]
        columns = {
            "id": pa.array(ids),
            "text": pa.array([f"text {i}" for i in range(rows)]),
            "label": pa.array([*answers[:n], *[None] * m], pa.float64()),
            "age": pa.array(age),
            "zip": pa.array([f"{i % 7:03d}" for i in range(rows)]),
            "region": pa.array([None if i % 50 == 49 else ("north", "south", "east")[i % 3] for i in range(rows)]),
            "urban": pa.array([i % 2 == 0 for i in range(rows)]),
            **(sampling or {}),
        }
        storage = RunStorage.open(tmp_path / name)
        storage.create()
        ledger = Ledger(ids[:n])
        models = {"crossfit": [f"fold-{k}" for k in range(folds)], "split": ["split"], "recycle": ["split"]}.get(
            design, []
        )
        if design == "crossfit":
            for k, model in enumerate(models):
                ledger.record(Use.FINETUNE, model, [ids[i] for i in range(n) if i % folds != k])
                ledger.record(Use.RECTIFY, model, [ids[i] for i in range(n) if i % folds == k])
        elif models:
            ledger.record(Use.FINETUNE, "split", ids[: n // 3])
            ledger.record(Use.RECTIFY, "split", ids[n // 3 : n])
            if design == "recycle":
                ledger.record(Use.CLASSICAL, "split", ids[: n // 3])
        elif design == "rectify-only":
            columns["prediction"] = pa.array(
                [None if n <= i < n + missing else v for i, v in enumerate(1.8 + signal)], pa.float64()
            )
            ledger.record(Use.RECTIFY, "given", ids[:n])
        else:
            ledger.record(Use.CLASSICAL, "none", ids[:n])
        ledger.save(storage)
        storage.write_table(pa.table(columns), "table.parquet")
        for k, model in enumerate(models):
            values = [
                None if n <= i < n + missing else v
                for i, v in enumerate(1.8 + 0.2 * k + signal + 0.3 * rng.normal(size=rows))
            ]
            for shard, start in enumerate(range(0, rows, 200)):
                part = {
                    "id": pa.array(ids[start : start + 200]),
                    "prediction": pa.array(values[start : start + 200], pa.float64()),
                    "error": pa.array(
                        ["empty text" if v is None else None for v in values[start : start + 200]], pa.string()
                    ),
                }
                storage.write_table(pa.table(part), "predictions", model, f"shard-{shard:05d}.parquet")
            storage.write_json({"train_mean": 2.0}, "model", model, "readout.json")
        data = {"table": "somewhere.csv", "text": "text", "scale": [-5, 8]} | (
            {"prediction": "f"} if design == "rectify-only" else {}
        )
        study = Study.model_validate(
            {
                "study": name,
                "data": data,
                "design": design,
                "pilots": None,
                "finetune_labels": max(10, n // 3) if design in ("split", "recycle") else None,
                "folds": folds,
            }
        )
        storage.write_bytes(dump_study(study).encode(), "study.yaml")
        evidence = load_evidence(storage)
        storage.write_json(evidence.estimate(study.target, study.alpha), "estimate.json")
        return storage

    return make


# -------------------------------------- models small enough to train in a test: random weights, no download

WORDS = ["the", "film", "was", "good", "bad", "dull", "great", "awful"]
WORDS += ["plot", "actor", "love", "hate", "it", "a", "not", "i"]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of two layers and 16 dimensions, no dropout, and a word-piece tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=0.2,
            )
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a causal model of two layers whose tokenizer has no padding token."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    vocabulary = {token: i for i, token in enumerate(["<unk>", "</s>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", model_max_length=32
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
                initializer_range=0.2,
            )
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_spec():
    """``make_spec(folder, train=24, stop=8, …settings of Model and Training)``: a fine-tune on made-up sentences.

    An answer is 10 + 2·(good words − bad words) + noise.
    """
    from ftrect_ray.finetune.spec import FitSpec, Rows
    from ftrect_ray.study import Model, Training

    def make(
        folder: Path,
        *,
        train: int = 24,
        stop: int = 8,
        seed: int = 0,
        objective: str = "variance",
        name: str = "fold-0",
        **settings,
    ):
        random = np.random.default_rng(seed)
        texts = [" ".join(random.choice(WORDS, size=random.integers(2, 12))) for _ in range(train + stop)]
        value = {"good": 1, "great": 1, "love": 1, "bad": -1, "awful": -1, "hate": -1}
        level = np.array([sum(value.get(word, 0) for word in text.split()) for text in texts])
        rows = Rows(
            tuple(f"r{i}" for i in range(train + stop)),
            tuple(texts),
            10 + 2 * level + random.normal(0, 0.5, train + stop),
        )
        of_model = {"max_tokens": 16} | {key: settings.pop(key) for key in list(settings) if key in Model.model_fields}
        training = {
            "precision": "fp32",
            "batch_size": 8,
            "epochs": 3,
            "learning_rate": 1e-2,
            "head_learning_rate": 1e-2,
            "min_epochs": 1,
        }
        return FitSpec(
            name,
            rows.take(np.arange(train)),
            rows.take(np.arange(train, train + stop)),
            Model(name=str(folder), **of_model),
            Training(**(training | settings)),
            objective,
            seed,
        )

    return make


@pytest.fixture
def make_model_run(tmp_path: Path) -> Callable[..., RunStorage]:
    """``make_model_run(base, models=["fold-0"], objective="variance", …settings of Model)``: a run with models alone.

    A model's weights are as if trained; its ledger has 9 labels that trained it and 3 that chose its epoch.
    """
    import torch

    from ftrect_ray.predictor import Predictor, Scale
    from ftrect_ray.study import Model

    def make(
        base: str | Path, *, models: tuple[str, ...] = ("fold-0",), objective: str = "variance", **settings
    ) -> RunStorage:
        model = Model(name=str(base), max_tokens=16, **settings)
        ids = [f"r{i}" for i in range(12 * len(models))]
        storage, ledger = RunStorage.open(tmp_path / "run"), Ledger(ids)
        storage.create()
        for number, name in enumerate(models):
            predictor = Predictor.create(model, seed=number, scale=Scale(5.0, 2.0, 0.25, 5.0))
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for parameter in predictor.trainable().values():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            predictor.save(storage.path("model", name))
            mine = ids[12 * number : 12 * number + 12]
            ledger.record(Use.FINETUNE, name, mine[:9])
            ledger.record(Use.EARLY_STOP, name, mine[9:])
        ledger.save(storage)
        study = Study.model_validate(
            {
                "study": "small",
                "data": {"table": "answers.csv", "text": "text"},
                "design": "crossfit",
                "objective": objective,
                "model": model,
            }
        )
        storage.write_bytes(dump_study(study).encode(), "study.yaml")
        return storage

    return make
