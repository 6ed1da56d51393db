"""Which labels to buy next: unequal, known probabilities, large where the model is likely to be far off.

The rectified mean with labels of known probabilities π_i has variance Σ_i (1/π_i − 1)·(Y_i − f_i − c)²/N² and a term
that π does not change, c the mean residual. With Σπ = n given, it is least for π_i ∝ sqrt(E[(Y_i − f_i − c)² | X_i])
(Neyman 1934; "active statistical inference", Zrnic & Candès 2024, section 3). This spread is learned from residuals
that exist, as a function of the prediction. Where it is the same everywhere, this is simple random sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.allocation.checks import count
from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.validation import answers, finite, shown

Earlier = Literal["fixed", "random"]
FLOOR = 0.25
BIN_ROWS = 25
MAXIMUM_BINS = 12
LEAST_LABELS = 10


@dataclass(frozen=True, eq=False)
class ResidualSpread:
    """The residual's root mean square as a function of the prediction: straight between bins, constant outside.

    Attributes
    ----------
    centers : ndarray (b,)
        Mean prediction of each bin, rising.
    spreads : ndarray (b,)
        Root mean square residual about the mean residual, after shrinkage; 0 only in bins without any residual.
    """

    centers: np.ndarray
    spreads: np.ndarray

    def at(self, predictions: ArrayLike) -> np.ndarray:
        """(m,) at ``predictions`` (m,)."""
        return np.interp(finite("predictions", predictions, (1,)), self.centers, self.spreads)


def residual_spread(Y: ArrayLike, Yhat: ArrayLike) -> ResidualSpread:
    """How far off predictions are, as a function of the prediction, from n labelled rows.

    Quantile bins of at least 25 rows, at most 12 bins. No shape is assumed: errors may be large in the middle of a
    scale, or at one end. Each bin's mean square residual (about the mean of *all* residuals: a bias of one bin must be
    rectified there as well) is pulled towards the mean of all by empirical Bayes,

        ŝ_b² = s² + τ²/(τ² + e_b²)·(s_b² − s²),   e_b² the sampling variance of s_b², τ² = Var(s_b²) − mean e_b² ≥ 0,

    so that bins that differ by no more than chance give one number, and the sample a simple random one.

    Parameters
    ----------
    Y, Yhat : array (n,)
        Answers and predictions of models that did not see them, n ≥ 10.

    Raises
    ------
    InputError
        Lengths that differ, or numbers that are not finite.
    StatisticalRefusal
        Fewer than 10 rows, or no residual at all.
    """
    if (n := np.size(Y)) < LEAST_LABELS:
        raise StatisticalRefusal(
            f"{n} labelled rows with a prediction cannot tell where the model is far off; {LEAST_LABELS} can",
            mend="label a simple random sample first",
        )
    labels, predicted = answers(Y), finite("Yhat", Yhat, (1,))
    if n != len(predicted):
        raise InputError(f"'Yhat' must have as many rows as 'Y' ({n}); got {len(predicted)}.")
    residual = labels - predicted
    squares = (residual - residual.mean()) ** 2
    overall = float(squares.mean())
    if overall == 0:
        raise StatisticalRefusal(
            "all residuals are equal, which cannot tell where the model is far off",
            mend="if it was trained on these labels, give predictions of one that was not",
        )
    order = np.argsort(predicted, kind="stable")
    bins = np.array_split(order, int(np.clip(n // BIN_ROWS, 1, MAXIMUM_BINS)))
    centers = np.array([predicted[rows].mean() for rows in bins])
    means = np.array([squares[rows].mean() for rows in bins])
    shrunk = np.full(len(bins), overall)
    if len(bins) > 1:
        errors = np.array([squares[rows].var(ddof=1) / len(rows) for rows in bins])
        between = max(float(means.var(ddof=1) - errors.mean()), 0.0)
        if between > 0:
            shrunk = overall + between / (between + errors) * (means - overall)
    centers, place = np.unique(centers, return_inverse=True)  # predictions of few values share centres
    return ResidualSpread(centers, np.sqrt(np.bincount(place, shrunk) / np.bincount(place)))


def inclusion_probabilities(residual_sd: ArrayLike, n: int, floor: float = FLOOR) -> np.ndarray:
    """π (N,) of a sample of ``n`` out of N rows: π_i ∝ (1 − floor)·sd_i + floor·(mean of sd), at most 1, Σπ = n.

    Mixed with equal probabilities (Zrnic & Candès 2024): none is below floor·n/N, no label counts more than
    1/floor times what it would in a simple random sample, and a wrong ``residual_sd`` costs no more than that.
    Rows whose share exceeds 1 are taken for certain, and the others share the rest, until none exceeds it.

    Parameters
    ----------
    residual_sd : array (N,)
        Predicted residual spread, ≥ 0; only ratios matter. All 0 counts as all equal.
    n : int
        Labels to buy, 1 to N.
    floor : float
        In (0, 1]; 1 is simple random sampling.

    Raises
    ------
    InputError
        An argument outside its range.

    Examples
    --------
    >>> inclusion_probabilities([1.0, 1.0, 2.0, 4.0], 2, floor=1e-9).round(3).tolist()
    [0.25, 0.25, 0.5, 1.0]
    >>> inclusion_probabilities([1.0, 1.0, 2.0, 4.0], 2, floor=1.0).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    spread = finite("residual_sd", residual_sd, (1,))
    if (spread < 0).any():
        raise InputError(f"'residual_sd' must be ≥ 0; got {shown(spread[spread < 0][0])}.")
    n = count("n", n, 1)
    if n > len(spread):
        raise InputError(
            f"{n} labels cannot be bought: {len(spread)} rows have none.", mend=f"ask for {len(spread)} at most"
        )
    if not 0 < floor <= 1:
        raise InputError(f"'floor' must be in (0, 1]; got {shown(floor)}.")
    return _shares(spread, spread, n, floor)


def _shares(wanted: np.ndarray, spread: np.ndarray, n: int, floor: float) -> np.ndarray:
    """The rule that gives rows of ``spread`` (N,) probabilities that add to ``n``, at rows of spread ``wanted``."""
    mean = spread.mean()
    if mean == 0:
        spread, wanted, mean = np.ones_like(spread), np.ones_like(wanted), 1.0
    size = (1 - floor) * spread + floor * mean
    certain = np.zeros(len(size), dtype=bool)
    factor = n / size.sum()
    while (over := ~certain & (factor * size >= 1)).any():
        certain |= over
        rest = size[~certain].sum()
        factor = (n - certain.sum()) / rest if rest > 0 else np.inf
    return np.asarray(np.minimum(factor * ((1 - floor) * wanted + floor * mean), 1.0))


def draw(probabilities: ArrayLike, seed: int | np.random.Generator) -> np.ndarray:
    """Positions (n,), rising, of a sample with exactly the given inclusion probabilities and exactly n = Σπ rows.

    Systematic sampling of rows in random order (Madow 1949): the rows lie one after the other on a line, row i
    taking π_i of it, and the points u, u + 1, …, u + n − 1 choose, u uniform on (0, 1). As no row is longer than 1,
    each is chosen once at most, and with probability π_i. The random order makes joint probabilities those of a
    nearly independent (rejective) draw, which is what the estimators' variances take them for.

    Parameters
    ----------
    probabilities : array (N,)
        In [0, 1], with a whole sum (to 1e-6).
    seed : int or Generator

    Raises
    ------
    InputError
        Probabilities outside their range, or with a sum that is not whole.

    Examples
    --------
    >>> draw([0.5, 0.5, 1.0, 0.5, 0.5], seed=0).tolist()
    [1, 2, 3]
    """
    chance = finite("probabilities", probabilities, (1,))
    if ((chance < 0) | (chance > 1)).any():
        raise InputError(f"'probabilities' must be in [0, 1]; got {shown(chance[(chance < 0) | (chance > 1)][0])}.")
    total = float(chance.sum())
    n = round(total)
    if abs(total - n) > 1e-6 * max(n, 1):
        raise InputError(f"'probabilities' must add to a whole number of labels; got {shown(total)}.")
    rng = np.random.default_rng(seed)
    certain = np.flatnonzero(chance >= 1)
    others = rng.permutation(np.flatnonzero((chance > 0) & (chance < 1)))
    points = rng.random() + np.arange(n - len(certain))
    ends = np.cumsum(chance[others])
    if len(ends):
        ends *= (n - len(certain)) / ends[-1]
    chosen = others[np.searchsorted(ends, points, side="right")]
    return np.sort(np.concatenate([certain, chosen]))


@dataclass(frozen=True, eq=False)
class NextLabels:
    """Rows to label next.

    Attributes
    ----------
    chosen : ndarray (n,)
        Positions, rising.
    probabilities : ndarray (N,)
        Of every row, with which an estimate counts its label once it has one.
    worth : float
        Labels drawn with equal probabilities that would leave the same variance, if the predicted spread is right.
    """

    chosen: np.ndarray
    probabilities: np.ndarray
    worth: float


def next_labels(
    residual_sd: ArrayLike,
    labelled: ArrayLike,
    n: int,
    *,
    earlier: Earlier = "fixed",
    floor: float = FLOOR,
    seed: int | np.random.Generator = 0,
) -> NextLabels:
    """Choose ``n`` of the rows without a label, and say how each row of the table was, or will have been, chosen.

    Rows that have a label already count as

    * ``fixed``: there from the start, with probability 1. Valid however they were chosen, and even if the model was
      trained on them, since with probability 1 the prediction cancels in Ŷ = f + (Y − f)/1. But then they speak
      for themselves alone: of N rows, n_0 weigh n_0/N.
    * ``random``: a simple random sample of the table, by a model that did not see them. Row i had then the chance
      n_0/N to be among them, and otherwise q_i to be chosen now: π_i = n_0/N + (1 − n_0/N)·q_i. They speak for the
      others, as they do in any estimate. q_i of a row that has its label already is what its prediction would have
      given it. That the spread was learned from the same labels leaves a bias of second order.

    Parameters
    ----------
    residual_sd : array (N,)
        Of every row of the table, ≥ 0.
    labelled : array (N,) of bool
    n : int
        Labels to buy, at most the rows without one.
    earlier : {"fixed", "random"}
    floor : float
        See :func:`inclusion_probabilities`.
    seed : int or Generator

    Raises
    ------
    InputError
        An argument outside its range.
    """
    spread, known = finite("residual_sd", residual_sd, (1,)), np.asarray(labelled, dtype=bool)
    if known.shape != spread.shape:
        raise InputError(f"'labelled' must have one entry a row ({len(spread)}); got shape {known.shape}.")
    if earlier not in get_args(Earlier):
        raise InputError(f"'earlier' must be 'fixed' or 'random'; got {earlier!r}.")
    candidates = np.flatnonzero(~known)
    chance = inclusion_probabilities(spread[candidates], n, floor)
    chosen = candidates[draw(chance, seed)]
    probabilities = np.ones(len(spread))
    probabilities[candidates] = chance
    if earlier == "random":
        probabilities[known] = _shares(spread[known], spread[candidates], n, floor)
        share = float(known.mean())
        probabilities = share + (1 - share) * probabilities
    return NextLabels(chosen, probabilities, _worth(spread[candidates], chance))


def _worth(spread: np.ndarray, chance: np.ndarray) -> float:
    """N·Σs²/Σ(s²/π): the n' with Σs²·N/n' = Σs²/π; Σπ where there is no spread."""
    squares = spread**2
    return float(len(spread) * squares.sum() / (squares / chance).sum()) if squares.any() else float(chance.sum())
