"""How long the planner takes, and how fast designs are replayed in closed form.

    python benchmarks/savings/speed.py --output benchmarks/results        (two minutes on one core)

Milliseconds: one question each, from pilots or from a fit, median of many. The goal is 100 ms for the whole planner:
the law with 400 draws, the plan of every design with its interval, s*, the labels for a width, the cheapest design, the
labels for a power. Replications: of 300 labels among 23,703 rows with 384 made-up features, by the seconds that the
processor worked; the goal is 20 a second for cross-fitting. Writes ``savings_speed.md``.
"""

from __future__ import annotations

import os

# Before NumPy is imported: small matrices are slower on several threads.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftrect_ray.allocation import (
    Compute,
    Prices,
    ScalingLaw,
    cheapest,
    fit_scaling_law,
    labels_for_half_width,
    labels_for_power,
    next_size,
    plan,
    plan_models,
    s_star_interval,
)
from ftrect_ray.evaluation.designs import DESIGNS, Replication
from ftrect_ray.evaluation.frozen import FrozenLearner

WINE = ScalingLaw(16.86, 0.553, 2.754)
SIZES = np.repeat([50, 75, 100, 150, 200, 300], 2)
GOAL_MS, GOAL_RATE = 100.0, 20.0
ROWS, FEATURES, LABELS = 23_703, 384, 300


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = questions()
    taken = {question: _milliseconds(ask, options.repeats) for question, ask in asked.items()}
    rates = {name: _rate(name, options.repeats) for name in ("crossfit-2", "crossfit-5", "crossfit-10", "auto")}
    lines = [
        "# Speed of the planner and of the fast lane",
        "",
        "Command: `python benchmarks/savings/speed.py --output benchmarks/results`",
        "",
        "| question | ms |",
        "|---|---|",
        *(f"| {question} | {value:.1f} |" for question, value in taken.items()),
        "",
        f"{LABELS} labels among {ROWS:,} rows, {FEATURES} features, estimate included:",
        "",
        "| design | replications per CPU second |",
        "|---|---|",
        *(f"| {name} | {rate:.1f} |" for name, rate in rates.items()),
    ]
    print("\n".join(lines))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "savings_speed.md").write_text("\n".join(lines) + "\n")
    return 0 if taken["whole planner"] < GOAL_MS and rates["crossfit-5"] >= GOAL_RATE else 1


def questions() -> dict[str, Callable[[], object]]:
    """What a planner is asked."""
    rng = np.random.default_rng(0)
    variances = WINE.variance(SIZES) * (1 + 0.03 * rng.normal(size=len(SIZES)))
    replicates = variances * (1 + 0.05 * rng.normal(size=(400, len(SIZES))))
    compute, prices = Compute(1.0, 0.01), Prices(1.0, 2.0)
    shared: dict[str, Any] = {
        "unlabeled": 14_500,
        "variance": 9.57,
        "rectify_variance": 5.0,
        "rotations": [(2, 3), (1, 3)],
    }
    costs: dict[str, Any] = {"compute": compute, "prices": prices}
    fit = fit_scaling_law(SIZES, variances, counts=[100] * len(SIZES))
    measured = {int(size): [float(v) for v in variances[size == SIZES]] for size in np.unique(SIZES)[:4]}

    def whole() -> None:
        made = fit_scaling_law(SIZES, variances, counts=[100] * len(SIZES), replicates=replicates)
        plan(made, labels=500, **costs, **shared).choose()
        s_star_interval(made, 500)
        labels_for_half_width(made, 0.2, **shared)
        cheapest(made, 0.2, **costs, **shared)
        labels_for_power(made, 0.5, **shared)

    return {
        "law, 12 pilots, 400 draws": lambda: fit_scaling_law(SIZES, variances, counts=[100] * len(SIZES)),
        "s* with its interval": lambda: s_star_interval(fit, 500),
        "ramp-up: the next size": lambda: next_size([50, 75, 100, 150, 200, 300], measured, 100, 500),
        "plan of every design, with intervals": lambda: plan(fit, labels=500, **costs, **shared).choose(),
        "the same of 3 models": lambda: plan_models(
            dict.fromkeys("abc", fit), labels=500, prices=prices, unlabeled=14_500, variance=9.57
        ),
        "labels for a width": lambda: labels_for_half_width(fit, 0.2, **shared),
        "cheapest design for a width": lambda: cheapest(fit, 0.2, **costs, **shared),
        "labels for a power": lambda: labels_for_power(fit, 0.5, **shared),
        "whole planner": whole,
    }


def _milliseconds(ask: Callable[[], object], repeats: int) -> float:
    ask()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def _rate(design: str, repeats: int) -> float:
    """Replications of ``design`` per second of the processor."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, FEATURES)).astype(np.float32) / np.arange(1, FEATURES + 1) ** 0.5
    answers = features @ rng.normal(size=FEATURES) + rng.normal(size=ROWS)
    learner = FrozenLearner(features, answers)

    def one(number: int) -> None:
        labeled = np.random.default_rng([1, number]).choice(ROWS, LABELS, replace=False)
        DESIGNS[design](Replication(labeled, answers, learner, number))

    one(0)
    start = time.process_time()
    for number in range(1, repeats + 1):
        one(number)
    return repeats / (time.process_time() - start)


if __name__ == "__main__":
    raise SystemExit(main())
