"""The fast lane: readouts in closed form on features computed once, for thousands of replications."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.ridge import fit_readout


class FrozenLearner:
    """What ``adapter: head`` does to a table whose features are known: a :class:`~.learners.Learner` without a model.

    Each model is ``finetune.ridge``'s readout of its own rows, as ``finetune.frozen.FrozenFit`` fits it, and one matrix
    product in float32 predicts the table with all of them. There is nothing random, so seeds change nothing.

    Parameters
    ----------
    features : array (N, p)
        Taken as float32. Rows with a number that is not finite are texts without a prediction: they train nothing, and
        the mean answer of a model's rows stands for them.
    answers : array (N,)
        A model sees those of its own rows alone.

    Raises
    ------
    InputError
        Shapes that do not match, answers that are not finite.

    Examples
    --------
    >>> x = np.arange(8.0)[:, None]
    >>> learner = FrozenLearner(x, 3 * x[:, 0] + 1)
    >>> learner.learn([np.arange(4)], [0], "variance").round(2)[-1].tolist()
    [22.0]
    """

    def __init__(self, features: ArrayLike, answers: ArrayLike) -> None:
        self.features, self.answers = np.asarray(features, dtype=np.float32), np.asarray(answers, dtype=np.float64)
        if self.features.ndim != 2 or self.answers.shape != self.features.shape[:1]:
            raise InputError(
                f"features (N, p) and answers (N,) are needed; got {self.features.shape} and {self.answers.shape}"
            )
        if not np.isfinite(self.answers).all():
            raise InputError("every answer must be a finite number", mend="leave out the rows without one")

    def learn(
        self, own: Sequence[np.ndarray], seeds: Sequence[int], objective: str, where: np.ndarray | None = None
    ) -> np.ndarray:
        """See :meth:`.learners.Learner.learn`.

        Raises
        ------
        InputError
            A model with fewer than two rows that have features.
        """
        slopes = np.empty((len(own), self.features.shape[1]), dtype=np.float32)
        levels, means = np.empty(len(own)), np.empty(len(own))
        for k, (rows, _) in enumerate(zip(own, seeds, strict=True)):
            x, y = self.features[rows].astype(np.float64), self.answers[rows]
            usable = np.isfinite(x).all(axis=1)
            if np.count_nonzero(usable) < 2:
                raise InputError(f"{np.count_nonzero(usable)} rows of a model have features; it needs 2")
            found = fit_readout(objective, x[usable], y[usable], np.ones((np.count_nonzero(usable), 1)))
            slopes[k], levels[k], means[k] = found.slopes, found.level, y.mean()
        asked = self.features if where is None else self.features[where]
        predicted = (slopes @ asked.T).T + levels
        predicted = np.where(np.isfinite(predicted), predicted, means)
        if where is None:
            return predicted
        whole = np.full((len(self.features), len(own)), np.nan)
        whole[where] = predicted
        return whole
