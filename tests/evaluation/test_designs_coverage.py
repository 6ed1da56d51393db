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
