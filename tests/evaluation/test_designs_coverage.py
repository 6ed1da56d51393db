"""Every deployable design covers the truth as it says, on worlds where the truth is known; and one that must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ftrect_ray.evaluation.designs import DESIGNS, PilotRule, Replication
from ftrect_ray.evaluation.frozen import FrozenLearner
from ftrect_ray.evaluation.learners import Learner, SharedFits

LABELS, TEXTS, ALPHA, REPLICATIONS = 120, 900, 0.1, 500
DEPLOYABLE = [
    "mean", "ppi", "ppi++", "recalibrated", "split-20", "split-50", "sequential",
    "crossfit-2", "crossfit-5", "crossfit-10", "rotation-2-5",
    "auto", "recycle", "split-ramp-up",
]  # fmt: skip


class NearestNeighbour:
    """The answer of the nearest labelled row: it interpolates, and one row more changes its predictions a lot."""

    def __init__(self, features: np.ndarray, answers: np.ndarray) -> None:
        self.features, self.answers = features, answers

    def learn(
        self, own: Sequence[np.ndarray], seeds: Sequence[int], objective: str, where: np.ndarray | None = None
    ) -> np.ndarray:
        position = self.features[:, 0]
        nearest = (rows[np.abs(position[:, None] - position[rows]).argmin(1)] for rows in own)
        return np.stack([self.answers[rows] for rows in nearest], axis=1)


def world(seed: int, learner: Callable[[np.ndarray, np.ndarray], Learner]) -> Replication:
    """Skewed answers of mean 0, a linear part of half the variance, and a biased guess of each; all rows drawn anew."""
    rng = np.random.default_rng([7, seed])
    x = rng.normal(size=(LABELS + TEXTS, 8))
    y = x[:, 0] + 0.5 * (x[:, 1] + x[:, 2] ** 2 - 1) + rng.exponential(size=len(x)) - 1
    return Replication(
        labeled=rng.permutation(len(x))[:LABELS],
        answers=y,
        learner=SharedFits(learner(x, y)),
        seed=seed,
        alpha=ALPHA,
        zero_shot=2 + 0.6 * y + rng.normal(size=len(x)),
        pilots=PilotRule(ramp=(15, 30, 45, 60, 75), sizes=(30, 60, 120)),
    )


def covered(
    name: str, replications: int, learner: Callable[[np.ndarray, np.ndarray], Learner], **further: object
) -> float:
    """The share of intervals that hold 0."""
    results = (DESIGNS[name](replace(world(seed, learner), **further)) for seed in range(replications))
    return float(np.mean([result.interval[0] <= 0 <= result.interval[1] for result in results]))


@pytest.mark.parametrize("name", DEPLOYABLE)
def test_a_deployable_design_covers_as_it_says(name: str) -> None:
    share = covered(name, REPLICATIONS, FrozenLearner)
    assert abs(share - (1 - ALPHA)) <= 3 * np.sqrt(ALPHA * (1 - ALPHA) / REPLICATIONS)


def test_the_model_alone_does_not_cover() -> None:
    assert covered("finetune-only", 60, FrozenLearner) < 0.7


def test_cross_fitting_an_unstable_learner_does_not_cover() -> None:
    """METHOD: an interpolating 1-NN with K ≥ 5 covers less than it says; a check that these tests can see it."""
    replications = 3 * REPLICATIONS
    share = covered("crossfit-10", replications, NearestNeighbour, lam=1.0)
    assert share < (1 - ALPHA) - 3 * np.sqrt(ALPHA * (1 - ALPHA) / replications)


class Faint:
    """Predictions that explain ``share`` of the answers' variance, less a little noise, whatever they are fitted to."""

    def __init__(self, answers: np.ndarray, share: float) -> None:
        self.answers, self.share = answers, share

    def learn(
        self, own: Sequence[np.ndarray], seeds: Sequence[int], objective: str, where: np.ndarray | None = None
    ) -> np.ndarray:
        columns, spread = [], np.sqrt(self.share * (1 - self.share) + 0.02)
        for rows, seed in zip(own, seeds, strict=True):
            noise = np.random.default_rng([seed, len(rows)]).normal(size=len(self.answers))
            columns.append(self.share * self.answers + spread * noise)
        return np.stack(columns, axis=1)


@pytest.mark.parametrize("scheme", ["shared", "cross-fitted"])
def test_do_not_fine_tune_is_told_from_luck(scheme: str) -> None:
    """Pilots of which 150 or 600 labels measure; a model that explains nothing, and one that explains a sixth."""
    rule = PilotRule(scheme=scheme, sizes=(50, 100, 300), seeds=2, validation=0.25)
    kept = {0.0: 0, 1 / 6: 0}
    for share in kept:
        for seed in range(60):
            rng = np.random.default_rng([8, seed])
            answers, labeled = rng.normal(size=6000), rng.permutation(6000)[:600]
            learner = SharedFits(Faint(answers, share))
            drawn = Replication(labeled=labeled, answers=answers, learner=learner, seed=seed, pilots=rule)
            kept[share] += DESIGNS["auto"](drawn).chosen != "classical"
    assert kept[0.0] <= 4
    assert kept[1 / 6] >= 56
