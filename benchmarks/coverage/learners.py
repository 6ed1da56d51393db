"""Predictors, from useless to good: a score of every row, and a learner that is really fitted to the training labels.

A score g is drawn once for a row and is the same for all models. A model f is g after its learner: least squares of Y
on g (good, biased), or the mean of Y − g (useless, over-dispersed), over the training labels, which the row is not
among. A model from elsewhere has the population's values of these. Numbers are then held within the world's bounds.

============= ========================================== =======================
predictor     score of a number                          score of a category
============= ========================================== =======================
useless       level + sd·ε, independent of Y             a guess without Y
biased        the good one, shrunk by half, one sd more  shrunk to the last one
good          Y + sd/2·ε: R² is 0.8                      right in 80 % and more
overdispersed Y + 2·sd·ε: its error is larger than Y     certain, half of it wrong
============= ========================================== =======================
"""

from __future__ import annotations

import numpy as np
from worlds import World

PREDICTORS = ("useless", "biased", "good", "overdispersed")

RELIABILITY = 0.8
"""Var Y / Var(Y + sd/2·ε): the slope of Y on the good score."""

Training = np.ndarray | None
"""Positions of the training rows; None: a model from elsewhere."""


def scores(predictor: str, world: World, Y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores (S, N), or (S, N, c) of categories, for answers (S, N)."""
    if world.shares is not None:
        return _guesses(predictor, world.shares, Y, rng)
    noise = rng.standard_normal(Y.shape) * world.deviation
    if predictor == "useless":
        return world.level + noise
    return np.asarray(Y + (2.0 if predictor == "overdispersed" else 0.5) * noise)


def _guesses(predictor: str, shares: np.ndarray, Y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    known = {"useless": 0.0, "biased": 0.8, "good": 0.8, "overdispersed": 0.5}[predictor]
    chance = np.searchsorted(np.cumsum(shares)[:-1], rng.random(Y.shape), side="right")
    guess = np.where(rng.random(Y.shape) < known, Y, chance)
    certain = (guess[..., None] == np.arange(len(shares))).astype(float)
    return certain if predictor == "overdispersed" else 0.8 * certain + 0.2 * shares


def fitted(predictor: str, world: World, Y: np.ndarray, score: np.ndarray, training: Training = None) -> np.ndarray:
    """Predictions of all rows, shaped like ``score``, by a model fitted to the rows ``training``."""
    if world.shares is not None:
        return _fitted_guesses(predictor, world.shares, Y, score, training)
    level, deviation = world.level, world.deviation
    if predictor in ("useless", "overdispersed"):
        shift = 0.0 if training is None else (Y[:, training] - score[:, training]).mean(axis=1, keepdims=True)
        return np.clip(score + shift, *world.bounds)
    if training is None:
        line = level + RELIABILITY * (score - level)
    else:
        line = _line(Y[:, training], score[:, training], score)
    if predictor == "biased":
        line = level + deviation + 0.5 * (line - level)
    return np.clip(line, *world.bounds)


def _line(Y: np.ndarray, g: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Least squares of Y on g (S, t), at ``score`` (S, N); a simulation whose answers do not vary gets their mean."""
    off = g - g.mean(axis=1, keepdims=True)
    slope = (off * Y).sum(axis=1) / (off * off).sum(axis=1)
    return np.asarray(Y.mean(axis=1)[:, None] + slope[:, None] * (score - g.mean(axis=1)[:, None]))


def _fitted_guesses(
    predictor: str, shares: np.ndarray, Y: np.ndarray, score: np.ndarray, training: Training
) -> np.ndarray:
    width = len(shares)
    if training is not None:
        seen = Y[:, training, None] == np.arange(width)
        score = score + (seen - score[:, training]).mean(axis=1)[:, None]
        score = np.maximum(score, 0.0)
        score = score / score.sum(axis=-1, keepdims=True)
    return 0.5 * score + 0.5 * np.eye(width)[-1] if predictor == "biased" else score
