"""The grid of cells, and one chunk of simulations of one of them."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from census import census
from designs import DESIGNS, M, Table
from learners import PREDICTORS, fitted, scores
from worlds import NO_X, OUTCOMES, World, world

from ftrect_ray.errors import FtrectError, StatisticalRefusal
from ftrect_ray.estimators import Estimate

LEVEL = 0.95
FORESEEING = ("coverage", "rare", "labels")
"""Checks that tell a user beforehand that the interval may hold less often than it says."""

SIZES = (50, 200, 1000)
TARGETS = ("mean", "proportions", "difference", "quantile", "ols", "logistic", "poisson", "multinomial")
GRID = ("split", "crossfit", "rotation", "recycled", "sequential", "finite")
LEFT_OUT = {
    **{(target, "sequential"): "sequential() is for means" for target in TARGETS if target != "mean"},
    ("quantile", "recycled"): "a quantile has no normal standard error to weigh the two parts by",
}


@dataclass(frozen=True)
class Cell:
    """One combination; ``name`` joins them with hyphens."""

    target: str
    design: str
    n: int
    predictor: str
    outcome: str

    @property
    def name(self) -> str:
        """For example ``mean-split-200-good-normal``."""
        return f"{self.target}-{self.design}-{self.n}-{self.predictor}-{self.outcome}"

    @property
    def classical(self) -> Cell:
        """The same answers without a model."""
        design = "classical_finite" if self.design == "finite" else "classical"
        outcome = "control" if self.design == "control" else self.outcome
        return Cell(self.target, design, self.n, "none", outcome)


def grid() -> Iterator[Cell]:
    """All cells, without the classical ones."""
    for target in TARGETS:
        for design in GRID:
            if (target, design) not in LEFT_OUT:
                for outcome in OUTCOMES:
                    for n in SIZES:
                        yield from (Cell(target, design, n, predictor, outcome) for predictor in PREDICTORS)
    yield from (Cell("mean", "control", n, "nearest", "control") for n in SIZES)


def _generator(name: str, chunk: int) -> np.random.Generator:
    """The stream of a name: the same on every machine, whatever else is run."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(np.random.SeedSequence([int.from_bytes(digest[:8], "big"), chunk]))


def simulate(cell: Cell, chunk: int, simulations: int) -> dict[str, Any]:
    """Sums over one chunk of simulations.

    Answers and features have the seed of target, n and outcome, so that all designs and predictors, and the classical
    interval, see the same ones; scores have that of the cell.
    """
    start = time.perf_counter()
    control = cell.outcome == "control"
    population = _CONTROL if control else world(cell.target, cell.outcome)
    shape = (simulations, cell.n + M)
    Y, X = population.draw(_generator(f"{cell.target}-{cell.n}-{cell.outcome}", chunk), shape)
    design, models = DESIGNS[cell.design], []
    if cell.predictor != "nearest":
        predictor = "useless" if cell.predictor == "none" else cell.predictor
        score = scores(predictor, population, Y, _generator(cell.name, chunk))
        models = [fitted(predictor, population, Y, score, training) for training in design.trainings(cell.n)]
    truths = np.broadcast_to(population.truth, (simulations, len(population.truth)))
    if "finite" in cell.design:
        truths = census(cell.target, population, Y, X)
    sums = _Sums(len(population.truth))
    for s in range(simulations):
        table = Table(cell.target, population, Y[s], X[s] if X is not NO_X else X, [f[s] for f in models])
        try:
            sums.add(design.estimate(table, cell.n), truths[s])
        except StatisticalRefusal:
            sums.refused += 1
        except (FtrectError, ValueError, ArithmeticError) as fault:  # a defect: shown, and the run goes on
            sums.failed += 1
            sums.fault = f"{type(fault).__name__}: {fault}"
    return {"cell": cell.name, "chunk": chunk, "seconds": time.perf_counter() - start, **sums.plain()}


class _Sums:
    """What is kept of the simulations of a chunk; lists have one entry a coordinate."""

    def __init__(self, width: int) -> None:
        self.runs = self.refused = self.failed = 0
        self.fault = ""
        self.too_low, self.too_high = np.zeros(width, dtype=int), np.zeros(width, dtype=int)
        self.length, self.error = np.zeros(width), np.zeros(width)
        self.states: Counter[str] = Counter()
        self.expected, self.expected_runs, self.foreseen = 0.0, 0, 0

    def add(self, estimate: Estimate, truth: np.ndarray) -> None:
        low, high = (np.atleast_1d(end) for end in estimate.interval)
        self.runs += 1
        self.too_low += high < truth
        self.too_high += low > truth
        self.length += high - low
        self.error += np.atleast_1d(estimate.value) - truth
        self.states[estimate.state] += 1
        checks = estimate.diagnostics["checks"]
        if found := [check["value"] for check in checks if check["name"] == "coverage"]:
            self.expected += min(found)
            self.expected_runs += 1
        self.foreseen += any(check["state"] != "PASS" for check in checks if check["name"] in FORESEEING)

    def plain(self) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "refused": self.refused,
            "failed": self.failed,
            "fault": self.fault,
            "too_low": self.too_low.tolist(),
            "too_high": self.too_high.tolist(),
            "length": self.length.tolist(),
            "error": self.error.tolist(),
            "warn": self.states["WARN"],
            "refuse": self.states["REFUSE"],
            "expected": self.expected,
            "expected_runs": self.expected_runs,
            "foreseen": self.foreseen,
        }


def _control_draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    x = rng.uniform(-1, 1, shape)
    return x + rng.standard_normal(shape), x[..., None]


_CONTROL = World(_control_draw, np.zeros(1), 0.0, 1.0)
