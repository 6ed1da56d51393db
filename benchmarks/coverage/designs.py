"""From one simulated table to an estimate: which labels train which model, and which estimator is asked.

All designs have n labels and M unlabelled rows. K = 2 models (crossfit), 4 models (rotation) and those of the batches
are really fitted, each to its own training labels (see :mod:`learners`); only ``split`` and ``finite`` are given a
model from elsewhere, so that all n labels rectify. ``recycled`` trains on the first 30 % of the labels; ``sequential``
has three batches, the first without a model. The control interpolates: 1-nearest-neighbour, ten folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from learners import Training
from worlds import World

from ftrect_ray.estimators import (
    Estimate,
    difference,
    logistic,
    mean,
    multinomial,
    ols,
    poisson,
    proportions,
    quantile,
    recycle,
    rotation,
    sequential,
)

M = 2000
FOLDS, ROTATION, TRAINED, BATCHES, NEAREST_FOLDS = 2, 4, 2, 3, 10
RECYCLED_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class Table:
    """One simulation: N rows of which the first n are labelled.

    Attributes
    ----------
    target : str
    world : World
    Y : ndarray (N,)
    X : ndarray (N, p)
        Empty where the target has no features.
    models : list of ndarray
        Predictions of all rows by each model, (N,) or (N, c).
    """

    target: str
    world: World
    Y: np.ndarray
    X: np.ndarray
    models: Sequence[np.ndarray]

    def ask(self, labeled: np.ndarray, own: np.ndarray, other: np.ndarray, **options: Any) -> Estimate:
        """The target's estimate from the rows ``labeled`` (positions), their predictions, and M unlabelled ones."""
        return _TARGETS[self.target](self, labeled, own, other, options)

    @property
    def unlabeled(self) -> slice:
        """The last M rows."""
        return slice(len(self.Y) - M, None)


Target = Callable[[Table, np.ndarray, np.ndarray, np.ndarray, Any], Estimate]
"""(table, labelled rows, their predictions, those of the unlabelled rows, options) -> Estimate."""


def _mean(table: Table, rows: np.ndarray, own: np.ndarray, other: np.ndarray, options: Any) -> Estimate:
    return mean(table.Y[rows], own, other, **options)


def _proportions(table: Table, rows: np.ndarray, own: np.ndarray, other: np.ndarray, options: Any) -> Estimate:
    assert table.world.shares is not None
    return proportions(table.Y[rows], own, other, categories=np.arange(len(table.world.shares)), **options)


def _difference(table: Table, rows: np.ndarray, own: np.ndarray, other: np.ndarray, options: Any) -> Estimate:
    """The second group (X = 1) less the first."""
    parts: list[np.ndarray] = []
    folds = options.pop("folds", None)
    for group in (1, 0):
        mine = table.X[rows, 0] == group
        parts += [table.Y[rows][mine], own[mine], other[table.X[table.unlabeled, 0][: len(other)] == group]]
        if folds is not None:
            options["folds" if group == 1 else "folds_other"] = folds[mine]
    return difference(*parts, **options)


def _quantile(table: Table, rows: np.ndarray, own: np.ndarray, other: np.ndarray, options: Any) -> Estimate:
    return quantile(table.Y[rows], own, other, table.world.q, **options)


def _regression(estimator: Callable[..., Estimate]) -> Target:
    def ask(table: Table, rows: np.ndarray, own: np.ndarray, other: np.ndarray, options: Any) -> Estimate:
        design = table.X[table.unlabeled][: len(other)]
        if table.world.shares is not None and other.ndim == 3:
            other = np.moveaxis(other, 1, 2)  # multinomial has the models last
        return estimator(table.X[rows], table.Y[rows], own, design, other, **options)

    return ask


_TARGETS: dict[str, Target] = {
    "mean": _mean,
    "proportions": _proportions,
    "difference": _difference,
    "quantile": _quantile,
    "ols": _regression(ols),
    "logistic": _regression(logistic),
    "poisson": _regression(poisson),
    "multinomial": _regression(multinomial),
}


@dataclass(frozen=True)
class Design:
    """A way to spend n labels.

    Attributes
    ----------
    trainings : callable
        n -> for each model the positions of its training rows (None: a model from elsewhere).
    estimate : callable
        (table, n) -> Estimate.
    """

    trainings: Callable[[int], list[Training]]
    estimate: Callable[[Table, int], Estimate]


def _split(table: Table, n: int, **options: Any) -> Estimate:
    (f,) = table.models
    return table.ask(np.arange(n), f[:n], f[table.unlabeled], **options)


def _classical(table: Table, n: int) -> Estimate:
    return _split(table, n, lam=0.0)


def _finite(table: Table, n: int) -> Estimate:
    return _split(table, n, population="finite")


def _classical_finite(table: Table, n: int) -> Estimate:
    return _split(table, n, population="finite", lam=0.0)


def _cross_trainings(n: int) -> list[Training]:
    return [np.flatnonzero(np.arange(n) % FOLDS != k) for k in range(FOLDS)]


def _crossfit(table: Table, n: int, **options: Any) -> Estimate:
    """Each label is predicted by the model of its fold, which never saw it."""
    folds = np.arange(n) % len(table.models)
    own = np.stack([f[:n] for f in table.models])[folds, np.arange(n)]
    other = np.stack([f[table.unlabeled] for f in table.models], axis=1)
    return table.ask(np.arange(n), own, other, folds=folds, **options)


def _rotation_unseen(n: int) -> np.ndarray:
    """(n, q): True where a model did not see the row."""
    return rotation(np.arange(n) % ROTATION, TRAINED)


def _rotation_trainings(n: int) -> list[Training]:
    return [np.flatnonzero(~unseen) for unseen in _rotation_unseen(n).T]


def _rotation(table: Table, n: int) -> Estimate:
    """FTR 1.2: every label is predicted by the q − p models that did not see it."""
    unseen = _rotation_unseen(n)
    share = (unseen / unseen.sum(axis=1, keepdims=True)).T
    own = sum(np.reshape(w, (n,) + (1,) * (f.ndim - 1)) * f[:n] for w, f in zip(share, table.models, strict=True))
    other = np.stack([f[table.unlabeled] for f in table.models], axis=1)
    return table.ask(np.arange(n), np.asarray(own), other, folds=unseen)


def _batches(n: int) -> np.ndarray:
    return np.arange(n) * BATCHES // n


def _sequential_trainings(n: int) -> list[Training]:
    return [np.flatnonzero(_batches(n) < batch) for batch in range(1, BATCHES)]


def _sequential(table: Table, n: int) -> Estimate:
    """The first batch has no model: zeros."""
    models = np.stack([np.zeros(len(table.Y)), *table.models], axis=1)
    return sequential(table.Y[:n], models[:n], models[table.unlabeled], _batches(n))


def _recycled_trainings(n: int) -> list[Training]:
    return [np.arange(round(RECYCLED_SHARE * n))]


def _recycled(table: Table, n: int) -> Estimate:
    (f,) = table.models
    spent = round(RECYCLED_SHARE * n)
    trained, rest = np.arange(spent), np.arange(spent, n)
    classical = table.ask(trained, f[trained], f[table.unlabeled], lam=0.0)
    return recycle(classical, table.ask(rest, f[rest], f[table.unlabeled]))


def _control(table: Table, n: int) -> Estimate:
    """Ten folds of a learner that repeats its nearest training answer: unstable, so the plug-in variance fails."""
    position, folds = table.X[:, 0], np.arange(n) % NEAREST_FOLDS
    models = [_nearest(position[:n][folds != k], table.Y[:n][folds != k], position) for k in range(NEAREST_FOLDS)]
    return _crossfit(Table("mean", table.world, table.Y, table.X, models), n, lam=1.0)


def _nearest(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    order = np.argsort(x)
    known, answers = x[order], y[order]
    right = np.clip(np.searchsorted(known, new), 1, len(known) - 1)
    return np.asarray(answers[right - (new - known[right - 1] < known[right] - new)])


def _elsewhere(n: int) -> list[Training]:
    return [None]


DESIGNS: dict[str, Design] = {
    "split": Design(_elsewhere, _split),
    "crossfit": Design(_cross_trainings, _crossfit),
    "rotation": Design(_rotation_trainings, _rotation),
    "sequential": Design(_sequential_trainings, _sequential),
    "recycled": Design(_recycled_trainings, _recycled),
    "finite": Design(_elsewhere, _finite),
    "control": Design(lambda n: [], _control),
    "classical": Design(_elsewhere, _classical),
    "classical_finite": Design(_elsewhere, _classical_finite),
}
