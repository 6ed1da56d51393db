"""How long the planner takes: one question each, from pilots or from a fit, median of many on one core.

    python benchmarks/savings/planner_speed.py        (half a minute)

Prints a table of milliseconds. The goal is 100 ms for the whole planner: the law with 400 draws, the plan of every
design with its interval, s*, the labels for a width, the cheapest design, the labels for a power.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

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

WINE = ScalingLaw(16.86, 0.553, 2.754)
SIZES = np.repeat([50, 75, 100, 150, 200, 300], 2)
GOAL = 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
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

    questions: dict[str, Callable[[], object]] = {
        "law, 12 pilots, 400 draws": lambda: fit_scaling_law(SIZES, variances, counts=[100] * len(SIZES)),
        "s* with its interval": lambda: s_star_interval(fit, 500),
        "ramp-up: the next size": lambda: next_size([50, 75, 100, 150, 200, 300], measured, 100, 500),
        "plan of 17 designs, with intervals": lambda: plan(fit, labels=500, **costs, **shared).choose(),
        "the same of 3 models": lambda: plan_models(
            dict.fromkeys("abc", fit), labels=500, prices=prices, unlabeled=14_500, variance=9.57
        ),
        "labels for a width": lambda: labels_for_half_width(fit, 0.2, **shared),
        "cheapest design for a width": lambda: cheapest(fit, 0.2, **costs, **shared),
        "labels for a power": lambda: labels_for_power(fit, 0.5, **shared),
        "whole planner": whole,
    }
    print("| question | ms |\n|---|---|")
    for question, ask in questions.items():
        print(f"| {question} | {_milliseconds(ask, repeats):.1f} |")
    return 0 if _milliseconds(whole, repeats) < GOAL else 1


def _milliseconds(ask: Callable[[], object], repeats: int) -> float:
    ask()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


if __name__ == "__main__":
    raise SystemExit(main())
