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
from ftrect_ray.study import Study, dump_study

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunStorage]:
    """A finished run without its fine-tunes: table, ledger, predictions, estimate, as the contract has them.

    ``make_run(design="crossfit", n=120, m=400, folds=2, missing=0)``: answers Y = 1 + age/50 + noise, models that
    see a part of it, and the first ``missing`` unlabelled texts without a prediction.
    """

    def make(
        design: str = "crossfit", *, name: str = "tiny", n: int = 120, m: int = 400, folds: int = 2, missing: int = 0
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
                "finetune_labels": max(10, n // 3),
                "folds": folds,
            }
        )
        storage.write_bytes(dump_study(study).encode(), "study.yaml")
        evidence = load_evidence(storage)
        storage.write_json(evidence.estimate(study.target, study.alpha), "estimate.json")
        return storage

    return make
