"""One draw of labels from a table, and what a design answers on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ftrect_ray.allocation.pilot_rows import Scheme
from ftrect_ray.estimators import Estimate, mean
from ftrect_ray.evaluation.learners import Learner
from ftrect_ray.ledger import Use

#: Seeds of a replication's own draws follow from its ``seed`` and one of these.
FOLDS, ORDER, RECALIBRATION, PILOTS = 0, 1, 4, 5


@dataclass(frozen=True)
class PilotRule:
    """How the pilots of ``auto`` and of the ramp-up designs spend labels.

    Attributes
    ----------
    scheme : {"shared", "ramp-up", "cross-validated", "cross-fitted"}
        Of ``auto``; see :mod:`ftrect_ray.allocation.pilot_rows`. The ramp-up designs ramp up, whatever it says.
    sizes : tuple of int or None
        Rising; those that the budget has no room for are left out. None: an eighth, a quarter, a half, and all of the
        labels that pilots may take.
    ramp : tuple of int or None
        Rising sizes of the ramp-up. None: a twentieth of the budget, two twentieths, and so on.
    seeds : int
        Repetitions of each size.
    folds : int
        Of ``cross-validated`` and ``cross-fitted``.
    validation : float
        Share of the budget that is V, where there is one (FTR: 20 %).
    """

    scheme: Scheme = "cross-fitted"
    sizes: tuple[int, ...] | None = None
    ramp: tuple[int, ...] | None = None
    seeds: int = 1
    folds: int = 5
    validation: float = 0.2


@dataclass(frozen=True, eq=False)
class Replication:
    """n labels drawn from a table of N rows, and a learner.

    Attributes
    ----------
    labeled : ndarray (n,) of int
        Positions of the labelled rows in the table, in random order.
    answers : ndarray (N,)
        No design sees those of other rows than the labelled ones.
    learner : Learner
        Of the same table.
    seed : int
        Every random choice follows from it.
    objective : {"variance", "mse"}
        What the learner minimises.
    alpha : float
        The intervals have level 1 − alpha.
    zero_shot : ndarray (N,) or None
        Predictions of all rows by a model that saw no label: what PPI rectifies.
    existing : tuple of ndarray (N,)
        Such predictions that ``auto`` may rectify instead of fine-tuning.
    lam : float, "tuned" or "crossfit"
        λ of rectified estimates, unless a design says which.
    pilots : PilotRule
    max_finetunes : int
        What ``auto`` may choose.
    """

    labeled: np.ndarray
    answers: np.ndarray
    learner: Learner
    seed: int
    objective: str = "variance"
    alpha: float = 0.05
    zero_shot: np.ndarray | None = None
    existing: tuple[np.ndarray, ...] = ()
    lam: float | Literal["tuned", "crossfit"] = "tuned"
    pilots: PilotRule = field(default_factory=PilotRule)
    max_finetunes: int = 5

    @property
    def n(self) -> int:
        """The label budget."""
        return len(self.labeled)

    @cached_property
    def y(self) -> np.ndarray:
        """Answers of the labelled rows (n,)."""
        return self.answers[self.labeled]

    @cached_property
    def unlabeled(self) -> np.ndarray:
        """bool (N,): all other rows."""
        others = np.ones(len(self.answers), dtype=bool)
        others[self.labeled] = False
        return others

    def rng(self, *stream: int) -> np.random.Generator:
        """The generator of one of the draws."""
        return np.random.default_rng([self.seed, *stream])

    def learn(self, own: Sequence[np.ndarray], seeds: Sequence[int], where: np.ndarray | None = None) -> np.ndarray:
        """Predictions of the table (N, K) by one model for each of ``own``, places among the n labels.

        With ``where``, at these rows of the table alone.
        """
        return self.learner.learn([self.labeled[places] for places in own], seeds, self.objective, where)

    def rectified(self, places: np.ndarray, f: np.ndarray, **options: Any) -> Estimate:
        """The mean rectified by the answers at ``places`` (n_r,), from predictions ``f`` (N,) or (N, K)."""
        given: Any = {"lam": self.lam, "alpha": self.alpha} | options
        return mean(self.y[places], f[self.labeled[places]], f[self.unlabeled], **given)


@dataclass(frozen=True, eq=False)
class Charge:
    """Labels that a design spent: what for, on which model, and which (places among the n)."""

    use: Use
    model: str
    places: np.ndarray


@dataclass(frozen=True, eq=False)
class DesignResult:
    """What a design answers on one replication.

    Attributes
    ----------
    value, std_error : float
    interval : (float, float)
    lam : float or None
        None where the notion is void.
    n_finetune : int
        Labels that train one of its final models; 0 where there is none.
    finetunes : int
        Final models.
    pilots : int
        Models that pilots trained.
    predicted_length : float or None
        Of the interval, by the plan that preceded it.
    chosen : str or None
        The design that ``auto`` chose.
    charges : tuple of Charge
        Every use of a label.
    """

    value: float
    std_error: float
    interval: tuple[float, float]
    lam: float | None
    n_finetune: int = 0
    finetunes: int = 0
    pilots: int = 0
    predicted_length: float | None = None
    chosen: str | None = None
    charges: tuple[Charge, ...] = ()

    @classmethod
    def of(cls, estimate: Estimate, charges: Sequence[Charge], **further: Any) -> DesignResult:
        """From the estimator's answer."""
        low, high = estimate.interval
        lam = None if estimate.lam is None else float(estimate.lam)
        ends = float(low), float(high)
        return cls(float(estimate.value), float(estimate.std_error), ends, lam, charges=tuple(charges), **further)

    @property
    def length(self) -> float:
        """Of the interval."""
        return self.interval[1] - self.interval[0]
