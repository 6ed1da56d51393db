"""Which labels train which model: folds of whole clusters, and rotations of several folds (FTR §1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.moments import ClusterTotals
from ftrect_ray.estimators.samples import row_names
from ftrect_ray.estimators.validation import finite


def draw_folds(
    n: int, folds: int, seed: int | Sequence[int], *, clusters: ArrayLike | None = None, strata: ArrayLike | None = None
) -> np.ndarray:
    """A random fold for each of n labels, whole clusters together.

    Within each stratum the sampling units, in random order and the largest first, go one by one to the fold that has
    the fewest rows there (of equal ones, to that with the fewest overall). Without clusters, sizes therefore differ
    by at most 1, in every stratum and overall; with clusters, by at most the largest cluster of the stratum.

    Parameters
    ----------
    n : int
        Labels.
    folds : int
        At least 2, at most the number of sampling units.
    seed : int or sequence of int
        Same seed, same folds.
    clusters, strata : array (n,), optional
        Names; a cluster lies within one stratum.

    Returns
    -------
    ndarray (n,) of int
        0..folds − 1, each of them used.

    Raises
    ------
    InputError
        Too few or too many folds.
    StatisticalRefusal
        A cluster in more than one stratum.

    Examples
    --------
    >>> fold = draw_folds(6, 2, seed=0, clusters=["a", "a", "b", "b", "c", "d"])
    >>> bool(fold[0] == fold[1] and fold[2] == fold[3]), np.bincount(fold).tolist()
    (True, [3, 3])
    """
    named = row_names(clusters, "clusters", n)
    units = ClusterTotals.of(np.ones((n, 1)), np.arange(n) if named is None else named, row_names(strata, "strata", n))
    if not 2 <= folds <= len(units.clusters):
        raise InputError(
            f"'folds' must be at least 2 and at most the number of sampling units ({len(units.clusters)}); got {folds}."
        )
    sizes = units.totals[:, 0]
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of_unit = np.empty(len(sizes), dtype=np.int64)
    overall = [0.0] * folds
    for stratum in np.unique(units.strata):
        fewest = [(0.0, overall[k], k) for k in range(folds)]
        heapify(fewest)
        for unit in order[units.strata[order] == stratum]:
            rows, _, k = fewest[0]
            overall[k] += sizes[unit]
            heapreplace(fewest, (rows + sizes[unit], overall[k], k))
            fold_of_unit[unit] = k
    return fold_of_unit if named is None else fold_of_unit[np.searchsorted(units.clusters, named)]


def rotation(fold: ArrayLike, train: int) -> np.ndarray:
    """Which models did not see which rows, where each of q models trains on some consecutive folds (FTR §1.2).

    Model r = 0..q − 1 trains on the folds r, …, r + train − 1 (mod q) and rectifies the other ones. As ``folds=`` of
    an estimator, the mask averages the q rotated splits: a row's prediction is the mean over the models that did not
    see it. ``train`` = q − 1 is cross-fitting, with fold r − 1 rectifying model r.

    Parameters
    ----------
    fold : array (n,) of int
        0..q − 1, as :func:`draw_folds` gives them.
    train : int
        Folds that one model trains on, 1 to q − 1.

    Returns
    -------
    ndarray (n, q) of bool
        True where model r did not see the row.

    Examples
    --------
    >>> rotation([0, 1, 2], train=1).astype(int).tolist()
    [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    """
    index = whole_numbers("fold", fold)
    q = int(index.max()) + 1
    if not 1 <= train <= q - 1:
        raise InputError(f"'train' must be at least 1 and less than the number of folds ({q}); got {train}.")
    return (index[:, None] - np.arange(q)) % q >= train


def whole_numbers(name: str, values: ArrayLike) -> np.ndarray:
    """``values`` (n,) as int, each of 0..max used.

    Raises
    ------
    InputError
        Other numbers, or one that is left out.
    """
    given = finite(name, values, (1,))
    index = given.astype(np.intp)
    used = np.unique(index)
    if len(given) == 0 or (index != given).any() or not np.array_equal(used, np.arange(len(used))):
        raise InputError(f"'{name}' must hold each of 0, 1, … up to the largest; got {np.unique(given)[:10].tolist()}.")
    return index
