"""A finished run as the report sees it: mean rating of short texts, 600 answers, two folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.allocate import decide
from ftrect_ray.pipeline.evidence import fit_law
from ftrect_ray.report import ReportInputs
from ftrect_ray.study_file import dump_study, parse_study

STUDY = """
study: vader-valence
data: {source: vader, text: text, label: rating, id: id, scale: [-4, 4]}
target: {kind: mean}
labels: 600
pilots: {sizes: [50, 100, 200], seeds: 2}
"""


def _pilots() -> list[dict[str, Any]]:
    measured = {50: (1.962, 1.781), 100: (1.571, 1.648), 200: (1.437, 1.402)}
    rows = [
        {"name": f"pilot-s{size}-r{r}", "size": size, "seed": r, "residual_variance": value, "n_measure": 150,
         "best_epoch": 5 + r, "seconds": 24.0 + size / 10, "status": "done", "error": None}
        for size, values in measured.items() for r, value in enumerate(values)
    ]  # fmt: skip
    failed = {"name": "pilot-s200-r2", "size": 200, "seed": 2, "residual_variance": None, "n_measure": 150,
              "best_epoch": None, "seconds": 11.0, "status": "failed", "error": "diverged at step 31"}  # fmt: skip
    return [*rows, failed]


def _allocation() -> tuple[dict[str, Any], dict[str, Any]]:
    """scaling_law.json and allocation.json, by the pipeline's own hand."""
    done = [row for row in _pilots() if row["status"] == "done"]
    sizes, measured = [row["size"] for row in done], [row["residual_variance"] for row in done]
    fit, law = fit_law(sizes, measured, 600, seed=7)
    answers = np.resize([-1.0, 1.0], 600) * (2.705 * 599 / 600) ** 0.5  # Var Y = 2.705
    rows, study = Rows(tuple(map(str, range(600))), ("",) * 600, answers), parse_study(STUDY)
    return law, decide(
        study, {"": fit}, rows=rows, unlabeled=23_103, spent=rows.take(np.arange(350)), predictions=None
    )[1]


def _ledger() -> list[dict[str, Any]]:
    rows = []
    for pilot in _pilots():
        stop = round(0.15 * pilot["size"])
        rows += [
            {"use": "pilot_train", "model": pilot["name"], "count": pilot["size"] - stop},
            {"use": "pilot_stop", "model": pilot["name"], "count": stop},
            {"use": "pilot_measure", "model": pilot["name"], "count": 150},
        ]
    for k in range(2):
        rows += [
            {"use": use, "model": f"fold-{k}", "count": n}
            for use, n in (("finetune", 255), ("early_stop", 45), ("rectify", 300))
        ]
    return rows


ESTIMATE = {
    "target": "mean",
    "names": None,
    "value": 0.5378,
    "std_error": 0.04731,
    "interval": [0.4451, 0.6305],
    "alpha": 0.05,
    "lam": 0.958,
    "n": 600,
    "m": 23_103,
    "design": "crossfit",
    "effective_n": 1208.5,
    "interval_ratio": 0.7047,
    "classical": {"value": 0.5729, "std_error": 0.06714, "interval": [0.4413, 0.7045]},
    "naive": {"value": 0.4512, "std_error": 0.0076, "interval": [0.4363, 0.4661]},
    "diagnostics": {
        "calibration_slope": 0.97,
        "r2": 0.512,
        "variance_prediction": 1.31,
        "residual_variance": 1.32,
        "prediction_errors": 3,
        "models": [{"name": "fold-0", "r2": 0.498}, {"name": "fold-1", "r2": 0.527}],
        "state": "WARN",
        "checks": [
            {
                "name": "r2",
                "state": "PASS",
                "value": 0.512,
                "margin": "at least 0",
                "text": "R² is 0.51",
                "remedy": "-",
            },
            {
                "name": "influence",
                "state": "WARN",
                "value": 0.3,
                "margin": "at most 25 %",
                "text": "labelled row 7 alone carries 30 % of the variance",
                "remedy": "look at that row",
            },
        ],
        "warnings": ["labelled row 7 alone carries 30 % of the variance"],
    },
}

RUN = {
    "study": "vader-valence",
    "started": "2026-03-02T09:14:00+00:00",
    "seed": 7,
    "git": "0f3c2a9d11aa",
    "python": "3.11.9",
    "versions": {"ftrect-ray": "0.1.0", "ray": "2.60.0", "torch": "2.13.0", "deepspeed": "0.19.8"},
    "stages": {
        "tables": {"status": "done", "seconds": 1.42, "cpu_seconds": 1.3},
        "pilot": {"status": "done", "seconds": 118.7, "cpu_seconds": 181.0, "model_seconds": 92.4},
        "allocate": {"status": "done", "seconds": 2.1, "cpu_seconds": 2.0},
        "finetune": {"status": "done", "seconds": 96.0, "cpu_seconds": 150.0, "model_seconds": 71.0},
        "predict": {"status": "done", "seconds": 64.9, "cpu_seconds": 101.0, "model_seconds": 51.5},
        "rectify": {"status": "done", "seconds": 0.6, "cpu_seconds": 0.6},
        "report": {"status": "running"},
    },
}


def _curve(*metrics: float) -> list[dict[str, float]]:
    return [{"epoch": e, "stop_metric": v, "train_loss": 0.9 * v} for e, v in enumerate(metrics, 1)]


def run_inputs() -> dict[str, Any]:
    """The keyword arguments of a complete :class:`ReportInputs`."""
    study = parse_study(STUDY)
    rng = np.random.default_rng(5)
    predictions = np.clip(rng.normal(0.45, 1.15, 600), -3.4, 3.3)
    answers = np.clip(predictions + rng.normal(0, 1.16, 600), -4, 4)
    answers += 0.0905 - (answers - predictions).mean()
    law, allocation = _allocation()
    return {
        "study": study.model_dump(mode="json"),
        "study_yaml": dump_study(study),
        "labels": 600,
        "texts": 23_703,
        "estimate": ESTIMATE,
        "pilots": _pilots(),
        "law": law,
        "allocation": allocation,
        "curves": {
            "fold-0": _curve(2.41, 1.82, 1.52, 1.39, 1.34, 1.33, 1.36, 1.37),
            "fold-1": _curve(2.55, 1.97, 1.61, 1.42, 1.38, 1.40, 1.41),
        },
        "best_epochs": {"fold-0": 6, "fold-1": 5},
        "ledger_counts": _ledger(),
        "answers": answers,
        "predictions": predictions,
        "truth": 0.5192,
        "run": RUN,
    }


@pytest.fixture
def make_inputs() -> Callable[..., ReportInputs]:
    """Build the run with some inputs replaced."""
    return lambda **changes: ReportInputs(**{**run_inputs(), **changes})
