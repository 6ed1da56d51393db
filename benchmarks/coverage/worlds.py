"""Populations whose truth is known: rows of each target × outcome, drawn for many simulations at once.

Shapes: S simulations of N = n + m rows; the first n rows are the labelled ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtri

Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]]

OUTCOMES = ("normal", "skewed", "rare")
NO_X = np.empty((0, 0, 0))


@dataclass(frozen=True, eq=False)
class World:
    """A population.

    Attributes
    ----------
    draw : callable
        (rng, (S, N)) -> Y (S, N) and X (S, N, p); X is empty where the target has none. Categories are codes.
    truth : ndarray (d,)
    level, deviation : float
        Mean and standard deviation of Y, about: the scale of the predictors.
    bounds : (float, float)
        What a prediction may be: a share lies in [0, 1], a rate is not negative.
    shares : ndarray (c,) or None
        Categories' shares; None for numbers.
    q : float
        Which quantile.
    note : str
        What stands in for an outcome that makes no sense here.
    """

    draw: Draw
    truth: np.ndarray
    level: float
    deviation: float
    bounds: tuple[float, float] = (-np.inf, np.inf)
    shares: np.ndarray | None = None
    q: float = 0.5
    note: str = ""


def world(target: str, outcome: str) -> World:
    """The population of one target × outcome."""
    return _WORLDS[target](outcome)


def _numbers(outcome: str) -> tuple[Draw, float, float, tuple[float, float]]:
    """Y without features, its mean, standard deviation and bounds: normal, exponential, binary with 5 %."""
    if outcome == "normal":
        return lambda rng, shape: (1 + rng.standard_normal(shape), NO_X), 1.0, 1.0, (-np.inf, np.inf)
    if outcome == "skewed":
        return lambda rng, shape: (rng.standard_exponential(shape), NO_X), 1.0, 1.0, (-np.inf, np.inf)
    return lambda rng, shape: ((rng.random(shape) < 0.05).astype(float), NO_X), 0.05, 0.2179, (0.0, 1.0)


def _mean(outcome: str) -> World:
    draw, level, deviation, bounds = _numbers(outcome)
    return World(draw, np.array([level]), level, deviation, bounds)


def _quantile(outcome: str) -> World:
    if outcome == "rare":
        draw, level, deviation, bounds = _numbers("normal")
        truth = np.array([1 - ndtri(0.05)])
        return World(
            draw, truth, level, deviation, bounds, q=0.95, note="rare: the 0.95 quantile of a normal answer, a 5 % tail"
        )
    draw, level, deviation, bounds = _numbers(outcome)
    return World(draw, np.array([1.0 if outcome == "normal" else np.log(2)]), level, deviation, bounds)


def _difference(outcome: str) -> World:
    """Two independent groups (X holds the group), four rows each in turn; half a unit apart, rare ones not at all."""
    draw, level, deviation, bounds = _numbers(outcome)
    apart = 0.0 if outcome == "rare" else 0.5

    def both(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        group = np.broadcast_to(np.arange(shape[1]) // 4 % 2, shape)
        return draw(rng, shape)[0] + apart * group, group[..., None]

    return World(both, np.array([apart]), level + apart / 2, deviation, bounds)


def _proportions(outcome: str) -> World:
    shares = {
        "normal": np.full(4, 0.25),
        "skewed": np.array([0.6, 0.25, 0.1, 0.05]),
        "rare": np.array([0.95, 0.05]),
    }[outcome]
    edges = np.cumsum(shares)[:-1]

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return np.searchsorted(edges, rng.random(shape), side="right"), NO_X

    note = "normal: four categories of 25 %; skewed: 60, 25, 10 and 5 %" if outcome != "rare" else ""
    return World(draw, shares, 0.0, 0.0, shares=shares, note=note)


def _with_intercept(x: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(x), x], axis=-1)


def _ols(outcome: str) -> World:
    """Y = 1 + x/2 + error, its spread growing with |x|; rare: P(Y = 1) = 0.05 + 0.04x."""
    if outcome == "rare":

        def binary(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            x = rng.uniform(-1, 1, shape)
            return (rng.random(shape) < 0.05 + 0.04 * x).astype(float), _with_intercept(x)

        return World(binary, np.array([0.05, 0.04]), 0.05, 0.2179, (0.0, 1.0), note="rare: a linear probability model")

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal(shape)
        error = rng.standard_normal(shape) if outcome == "normal" else rng.standard_exponential(shape) - 1
        return 1 + 0.5 * x + (0.7 + 0.3 * np.abs(x)) * error, _with_intercept(x)

    return World(draw, np.array([1.0, 0.5]), 1.0, 1.1)


def _feature(rng: np.random.Generator, shape: tuple[int, int], outcome: str) -> np.ndarray:
    """Standardised: exponential where the outcome is skewed, else normal."""
    return rng.standard_exponential(shape) - 1 if outcome == "skewed" else rng.standard_normal(shape)


def _logistic(outcome: str) -> World:
    """P(Y = 1) = σ(a + x); rare: 5 %."""
    truth = np.array([-3.4 if outcome == "rare" else 0.0, 1.0])

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        x = _feature(rng, shape, outcome)
        return (rng.random(shape) < expit(truth[0] + truth[1] * x)).astype(float), _with_intercept(x)

    level, deviation = (0.05, 0.2179) if outcome == "rare" else (0.5, 0.5)
    note = "normal and skewed: an even binary answer, with a normal and an exponential feature" if level == 0.5 else ""
    return World(draw, truth, level, deviation, (0.0, 1.0), note=note)


def _poisson(outcome: str) -> World:
    """E Y = exp(a + 0.3x); skewed: the rate times an exponential (geometric counts); rare: 0.05 on average."""
    truth = np.array([{"normal": 1.0, "skewed": 0.5, "rare": -3.05}[outcome], 0.3])

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal(shape)
        rate = np.exp(truth[0] + truth[1] * x)
        if outcome == "skewed":
            rate = rate * rng.standard_exponential(shape)
        return rng.poisson(rate).astype(float), _with_intercept(x)

    level = float(np.exp(truth[0] + 0.045))
    deviation = {"normal": 1.9, "skewed": 2.5, "rare": 0.22}[outcome]
    return World(
        draw, truth, level, deviation, (0.0, np.inf), note="normal: counts of about 3; skewed: geometric counts"
    )


def _multinomial(outcome: str) -> World:
    """Utilities a + bx of the options 1 and 2, 0 of the outside one; rare: option 2 is chosen by 5 %."""
    truth = np.array([0.2, 0.5, -2.6 if outcome == "rare" else 0.0, -0.5])

    def chances(x: np.ndarray) -> np.ndarray:
        utilities = np.stack([np.zeros_like(x), truth[0] + truth[1] * x, truth[2] + truth[3] * x], axis=-1)
        odds = np.exp(utilities)
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        x = _feature(rng, shape, outcome)
        return (rng.random(shape)[..., None] > np.cumsum(chances(x), axis=-1)[..., :-1]).sum(axis=-1), _with_intercept(
            x
        )

    middle = (np.arange(1000) + 0.5) / 1000
    typical = -np.log(middle) - 1 if outcome == "skewed" else ndtri(middle)
    note = "normal and skewed: options of about a third, with a normal and an exponential feature; rare: one of 5 %"
    return World(draw, truth, 0.0, 0.0, shares=chances(typical).mean(axis=0), note=note)


_WORLDS: dict[str, Callable[[str], World]] = {
    "mean": _mean,
    "proportions": _proportions,
    "difference": _difference,
    "quantile": _quantile,
    "ols": _ols,
    "logistic": _logistic,
    "poisson": _poisson,
    "multinomial": _multinomial,
}
