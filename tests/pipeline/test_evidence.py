"""From the pilots' files to ``allocation.json``: the stage itself, on what pilots of a known law would have left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.allocation import ScalingLaw
from ftrect_ray.allocation.split import best_whole, tuned_variance
from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.ledger import Ledger, Use
from ftrect_ray.pipeline import stages
from ftrect_ray.pipeline.context import Run
from ftrect_ray.pipeline.meter import Meter
from ftrect_ray.pipeline.record import RunRecord
from ftrect_ray.storage import RunStorage
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}\ntraining: {workers: 1}\n"
LAW = ScalingLaw(10.0, 0.5, 0.5)
SIGMA2 = 4.0
M = 20_000
Allocated = dict[str, Any]


@pytest.fixture
def allocated(tmp_path: Path) -> Callable[..., Allocated]:
    """``allocated(answers, measured_on, sizes, *overrides)``: allocation.json of a run with such pilots.

    Each pilot is measured on the rows ``measured_on`` and leaves what ``LAW`` says there; two repetitions a size.
    """

    def make(answers: np.ndarray, measured_on: np.ndarray, sizes: list[int], *overrides: str) -> Allocated:
        rng, n = np.random.default_rng(4), len(answers)
        study = parse_study(TEXT, [f"pilots={{sizes: {sizes}, seeds: 2}}", *overrides])
        ids = [f"r{i}" for i in range(n + M)]
        storage = RunStorage.open(tmp_path)
        storage.create()
        table = {"id": pa.array(ids), "text": pa.array(ids), "label": pa.array([*answers, *[None] * M], pa.float64())}
        storage.write_table(pa.table(table), "table.parquet")
        ledger, pilots, kept = Ledger(ids[:n]), [], []
        others = np.setdiff1d(np.arange(n), measured_on)
        shared = rng.normal(size=len(measured_on))
        for size in sizes:
            for seed in (0, 1):
                name = f"pilot-s{size}-r{seed}"
                residual = np.sqrt(LAW.variance(float(size))) * shared / np.std(shared, ddof=1)
                residual = residual * (1 + 0.003 * rng.normal())
                if np.ptp(answers) < 2:  # rare answers, and a model that tells everybody what most say
                    residual = answers[measured_on] + 0.01 * shared
                numbers = {"train_seconds": 1.0, "predict_seconds": 0.1, "seconds": 2.0, "model_seconds": 1.1}
                pilots.append(
                    {"name": name, "size": size, "seed": seed, "candidate": "", "status": "done", "consumed": size}
                    | {"n_measure": len(measured_on), **numbers}
                )
                kept += [
                    {"pilot": name, "id": ids[i], "residual": float(u)}
                    for i, u in zip(measured_on, residual, strict=True)
                ]
                ledger.record(Use.PILOT_TRAIN, name, [ids[i] for i in others[:size]])
                ledger.record(Use.PILOT_MEASURE, name, [ids[i] for i in measured_on])
        ledger.save(storage)
        storage.write_table(pa.Table.from_pylist(pilots), "pilots.parquet")
        storage.write_table(pa.Table.from_pylist(kept), "pilot_residuals.parquet")
        with ExitStack() as stack, Meter() as meter:
            stages.allocate(Run(study, storage, RunRecord(storage, study), meter, stack, None))
        return dict(storage.read_json("allocation.json"))

    return make


def answers_of(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, np.sqrt(SIGMA2), n)


@pytest.mark.parametrize("design", ["split", "recycle"])
def test_the_law_sizes_a_split_beyond_what_the_pilots_spent(design: str, allocated: Callable[..., Allocated]) -> None:
    n = 3000
    made = allocated(answers_of(n), np.arange(200), [50, 100, 150, 200], f"design={design}")

    def criterion(s: np.ndarray) -> np.ndarray:
        of_split = tuned_variance(LAW.variance(s), n - s, M, SIGMA2)
        return np.asarray(1 / (s / SIGMA2 + 1 / of_split)) if design == "recycle" else of_split

    best = best_whole(criterion, 400, n - 10)
    assert best > 480  # far above the 400 labels that are spent
    assert made["decision"]["n_finetune"] == pytest.approx(best, rel=0.15)
    assert made["reason"] == "named by the study; size by the pilots' law"


def test_labels_that_rectify_never_size_the_split(allocated: Callable[..., Allocated]) -> None:
    answers = answers_of(1000)
    changed = np.where(np.arange(1000) < 400, answers, 5 * answers + 3)  # 400 are spent
    sizes = [
        allocated(given, np.arange(200), [50, 100, 150, 200], "design=split")["decision"]["n_finetune"]
        for given in (answers, changed)
    ]
    assert sizes[0] == sizes[1]


def test_equal_answers_among_those_that_measure_tell_nothing(allocated: Callable[..., Allocated]) -> None:
    """3 % of the answers are 1, and none of V: a model that always says 0 would look perfect there."""
    answers = (np.arange(200) >= 194).astype(float)
    with pytest.raises(StatisticalRefusal, match="answers that the pilots were measured on are equal") as caught:
        allocated(answers, np.arange(50), [20, 40, 80])
    assert "'pilots.validation'" in (caught.value.mend or "")


def test_one_different_answer_among_those_that_measure_is_enough(allocated: Callable[..., Allocated]) -> None:
    answers = (np.arange(200) % 34 == 0).astype(float)
    made = allocated(answers, np.arange(50), [20, 40, 80])
    assert made["chosen"] == "classical"  # such a model explains nothing
    classical = next(row for row in made["designs"] if row["name"] == "classical")
    crossed = next(row for row in made["designs"] if row["name"] == "crossfit-2")
    assert crossed["interval_length"] == pytest.approx(classical["interval_length"], rel=0.02)


@pytest.mark.parametrize("override", ["design=auto", "design=crossfit"])
def test_equal_answers_are_no_error(override: str, allocated: Callable[..., Allocated]) -> None:
    several = "candidates={a: {model: {name: minilm}}, b: {model: {name: smollm2}}}"
    made = allocated(np.full(200, 3.7), np.arange(50), [20, 40, 80], override, several)
    assert made["chosen"] == ("classical" if override == "design=auto" else "crossfit-2")
