"""Does the variance objective leave less residual variance than the mean square? And than cheaper models?

    make objectives                                                (hours on two cores; the same command continues)
    .venv/bin/python benchmarks/finetune/objectives.py --output benchmarks/results --wine reviews.csv

For each data set, readout, seed and number of labels s, fine-tunes with both objectives on the same s labels (a tenth
of them chooses the epoch), nested in s, and measures Var(Y − f) on the same held-out rows. Differences between
objectives are paired: same rows, same order, same initial weights. A measurement that is done is not done again.
Writes ``objectives.json`` and ``objectives.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftrect_ray.evaluation.presets import PROMPTS
from ftrect_ray.finetune.pilot import PilotSpec, measure
from ftrect_ray.finetune.pilot_plan import plan_untrained
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.pipeline.design import hold_back_stopping_rows
from ftrect_ray.sources import load_source
from ftrect_ray.study import Model, Training

SIZES, HELD_OUT = (50, 100, 200, 400), {"head": 2000, "ridge": 2000, "options": 400}


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    data: str
    readout: str
    objective: str
    seed: int
    size: int

    @property
    def key(self) -> str:
        return f"{self.data}/{self.readout}/{self.objective}/{self.seed}/{self.size}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--wine", type=Path, help="csv with 'description' and 'points'; without it vader alone")
    parser.add_argument("--readouts", default="head,ridge,options")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--table-only", action="store_true", help="write the table of what is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    record = options.output / "objectives.json"
    done: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    tables = {"vader": vader} | ({"wine": lambda: wine(options.wine)} if options.wine else {})
    loaded: dict[str, Rows] = {}
    if not options.table_only:
        sizes = [int(size) for size in options.sizes.split(",")]
        for cell in cells(list(tables), options.readouts.split(","), options.seeds, sizes):
            if cell.key in done:
                continue
            if cell.data not in loaded:
                loaded[cell.data] = tables[cell.data]()
            started = time.perf_counter()
            found = residual_variance(cell, loaded[cell.data])
            done[cell.key] = {
                "residual_variance": found,
                "seconds": time.perf_counter() - started,
                "variance": float(np.var(loaded[cell.data].answers, ddof=1)),
            }
            record.write_text(json.dumps(done, indent=1) + "\n")
            print(f"{cell.key}: {found:.4f} in {done[cell.key]['seconds']:.0f} s", flush=True)
    (options.output / "objectives.md").write_text(table(done))
    return 0


def cells(data: list[str], readouts: list[str], seeds: int, sizes: list[int]) -> Iterator[Cell]:
    """Whole seeds first, so that an interrupted run holds whole comparisons."""
    for readout in readouts:
        for name in data:
            for seed in range(seeds):
                for size in [0, *sizes] if readout == "options" else sizes:
                    for objective in ("variance",) if readout == "ridge" or not size else ("variance", "mse"):
                        yield Cell(name, readout, objective, seed, size)


def residual_variance(cell: Cell, rows: Rows) -> float:
    """On held-out rows; both objectives of a seed and size have the same rows. Without labels: of the bare model."""
    order = np.random.default_rng([cell.seed, 41]).permutation(len(rows))
    held_out = HELD_OUT[cell.readout]
    measured, own = rows.take(order[:held_out]), rows.take(order[held_out : held_out + cell.size])
    model, training = SETTINGS[cell.readout](cell.data)
    if not cell.size:
        pilot = plan_untrained(measured, model, training, cell.objective)
        assert pilot is not None
    else:
        train, stop = hold_back_stopping_rows(own, 0.1)
        fit = FitSpec(cell.key, train, stop, model, training, cell.objective, cell.seed)
        pilot = PilotSpec(cell.key, cell.size, cell.seed, fit, measured)
    found = measure(pilot).residual_variance
    assert found is not None
    return found


def _options(data: str) -> tuple[Model, Training]:
    model = Model(name="smollm2", adapter="lora", max_tokens=192, options=PROMPTS[data])
    return model, Training(workers=1, epochs=3, min_epochs=2, patience=2, learning_rate=5e-4)


SETTINGS = {
    "head": lambda data: (Model(name="minilm"), Training(workers=1)),
    "ridge": lambda data: (Model(name="minilm", adapter="head"), Training(workers=1)),
    "options": _options,
}


def vader() -> Rows:
    table = load_source("vader")
    return Rows(
        tuple(map(str, table["id"].to_pylist())),
        tuple(table["text"].to_pylist()),
        np.asarray(table["rating"].to_numpy(), dtype=np.float64),
    )


def wine(path: Path) -> Rows:
    """Reviews, each description once."""
    found: dict[str, float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["description"], float(row["points"]))
    ids = tuple(f"w{i}" for i in range(len(found)))
    return Rows(ids, tuple(found), np.array(list(found.values())))


# -------------------------------------------------------------------------------------------------- the table

TITLES = {
    "head": "regression head, MiniLM, all weights",
    "ridge": "regression head, MiniLM frozen, closed form",
    "options": "option probabilities, SmolLM2-135M, LoRA",
}


def table(done: dict[str, Any]) -> str:
    """Means over seeds with their standard errors, and the paired difference of the objectives."""
    lines = [
        "# Variance objective, mean square, and a frozen backbone",
        "",
        "Residual variance Var(Y − f) on held-out rows; mean over seeds ± its standard error. s counts the labels that",
        "choose the epoch. Difference: variance objective minus mean square on the same rows, paired; below zero the",
        "variance objective is better.",
        "",
        "| data (Var Y) | readout | s | seeds | variance objective | mean square | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str, int], dict[str, dict[int, float]]] = {}
    for key, result in done.items():
        data, readout, objective, seed, size = key.split("/")
        cell = found.setdefault((data, readout, int(size)), {"variance": {}, "mse": {}})
        cell[objective][int(seed)] = result["residual_variance"]
    variance = {key.split("/")[0]: result["variance"] for key, result in done.items()}
    titles = list(TITLES)
    for place, cell in sorted(found.items(), key=lambda item: (item[0][0], titles.index(item[0][1]), item[0][2])):
        ours, theirs = cell["variance"], cell["mse"]
        gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        name, kind, labels = place
        what = f"| {name} ({variance[name]:.2f}) | {TITLES[kind]} | {labels or '0 (untrained)'} | {len(ours)} "
        lines.append(f"{what}| {_mean([*ours.values()])} | {_mean([*theirs.values()])} | {_mean(gaps, sign='+')} |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float], sign: str = "") -> str:
    if not values:
        return ""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):{sign}.3f} ± {error:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
