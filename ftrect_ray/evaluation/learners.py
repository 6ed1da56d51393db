"""From labels to predictions: what a design of an evaluation may ask for, and the study's own fine-tune behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ftrect_ray.finetune.opening import fitted
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.pipeline.design import hold_back_stopping_rows
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model, Training, digest

#: Every fit of an evaluation has this name: what it computes must not depend on who asked for it.
FIT = "evaluation"


class Learner(Protocol):
    """Trains one model for each set of labelled rows, and predicts the whole table with each."""

    def learn(
        self, own: Sequence[np.ndarray], seeds: Sequence[int], objective: str, where: np.ndarray | None = None
    ) -> np.ndarray:
        """Predictions of the table's N rows.

        Parameters
        ----------
        own : sequence of ndarray of int
            For each model the positions of the rows whose labels it is charged with, early stopping included, in the
            order in which it takes them: the last ones choose the epoch.
        seeds : sequence of int
            For each model: initialisation, order of the rows, dropout.
        objective : {"variance", "mse"}
            What it minimises.
        where : ndarray of int, optional
            Positions of the rows that are to be predicted; default all. A pilot is measured on few.

        Returns
        -------
        ndarray (N, len(own)), float64
            In the unit of the answers; NaN where nothing was asked for. Equal rows (order included), seed and objective
            give equal predictions.
        """
        ...


class SharedFits:
    """A learner that does nothing twice: designs that ask for equal rows, seed and objective share one fit.

    A fit that was asked for at a few rows is trained again where another design asks for more.

    Parameters
    ----------
    learner : Learner

    Attributes
    ----------
    fits : int
        Models that were trained.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner, self.fits = learner, 0
        self._known: dict[tuple[bytes, int, str], tuple[np.ndarray, np.ndarray | None]] = {}

    def learn(
        self, own: Sequence[np.ndarray], seeds: Sequence[int], objective: str, where: np.ndarray | None = None
    ) -> np.ndarray:
        """See :class:`Learner`; only what was never asked for is trained."""
        rows = [np.ascontiguousarray(part, dtype=np.int64) for part in own]
        keys = [(part.tobytes(), int(seed), objective) for part, seed in zip(rows, seeds, strict=True)]
        missing = {key: place for place, key in enumerate(keys) if not self._has(key, where)}
        if missing:
            places = list(missing.values())
            fresh = self.learner.learn([rows[i] for i in places], [int(seeds[i]) for i in places], objective, where)
            self.fits += len(places)
            self._known |= {key: (column, where) for key, column in zip(missing, fresh.T, strict=True)}
        return np.stack([self._known[key][0] for key in keys]).T

    def _has(self, key: tuple[bytes, int, str], where: np.ndarray | None) -> bool:
        if key not in self._known:
            return False
        there = self._known[key][1]
        return there is None or (where is not None and bool(np.isin(where, there).all()))


class FineTuneLearner:
    """The study's own fine-tune, one after the other in this process.

    Parameters
    ----------
    rows : Rows
        The whole table, every answer known; a fit sees the answers of its own rows alone.
    model, training : Model, Training
        ``training.workers`` says how many would share the work of a study; here one does it.
    kept : RunStorage, optional
        A folder where every finished fit leaves its predictions: after a kill, or for a design that is added later, it
        is not done again.
    cache : str, optional
        Path or URI of a folder where fits find each other's tokens and frozen features.
    """

    def __init__(
        self,
        rows: Rows,
        model: Model,
        training: Training,
        *,
        kept: RunStorage | None = None,
        cache: str | None = None,
    ) -> None:
        self.rows, self.model, self.kept, self.cache = rows, model, kept, cache
        self.training = training.model_copy(update={"workers": 1, "cpus_per_worker": 1})
        self._texts = digest(rows.texts)

    def learn(
        self, own: Sequence[np.ndarray], seeds: Sequence[int], objective: str, where: np.ndarray | None = None
    ) -> np.ndarray:
        """See :class:`Learner`.

        Raises
        ------
        Diverged
        InputError
            The model does not load, or a fit has too few rows.
        """
        columns = [self._one(rows, seed, objective, where) for rows, seed in zip(own, seeds, strict=True)]
        return np.stack(columns, axis=1)

    def _one(self, own: np.ndarray, seed: int, objective: str, where: np.ndarray | None) -> np.ndarray:
        train, stop = hold_back_stopping_rows(self.rows.take(own), self.training.stopping_fraction)
        spec = FitSpec(FIT, train, stop, self.model, self.training, objective, seed, cache=self.cache)
        name = f"{digest([spec.key, self._texts, None if where is None else where.tolist()])}.npy"
        if self.kept is not None and self.kept.exists(name):
            return self.kept.read_array(name)
        f = np.full(len(self.rows), np.nan)
        asked = np.arange(len(f)) if where is None else where
        with fitted(spec) as fit:
            f[asked] = fit.scale.filled(fit.predict([self.rows.texts[i] for i in asked]))
        if self.kept is not None:
            self.kept.write_array(f, name)
        return f
