"""Which labels each pilot trains on and which measure it: four schemes, one draw.

``shared``: a fixed set V measures every pilot. A second set has as many labels as the largest pilot; each repetition
draws one order of it, and the pilot of size s takes the first s: N_1 ⊂ N_2 ⊂ … .

``ramp-up`` (FTR EC.2): V fixed, and one order of the rest for all repetitions, so that stopping after size s has spent
V and N_s and no other label. Repetitions differ in which of the s labels choose the epoch, and in the fit's own seed.

``cross-validated`` ("to save samples", FTR EC.2): no V. The s labels of N_s are cut into folds, and each fold is
measured by a model of the others. The law sees s (folds − 1)/folds, the labels of one such model. Each repetition
draws its order from the whole budget: more rows measure, and fewer are left for a split that the pilots would size.

``cross-fitted``: the whole budget is cut into folds once a repetition. For each fold one order of the labels outside it
is drawn; the pilot of size s takes the first s, and the fold measures it. So every size is measured on every label,
once, and sizes differ by what was learned and not by what measured it. Cross-fitting loses no label by it.

Under the first two all other labels stay untouched, so that a split may still rectify with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.estimators.folds import draw_folds

Scheme = Literal["shared", "ramp-up", "cross-validated", "cross-fitted"]

#: Labels of a fold that measures a pilot.
FEWEST_IN_FOLD = 2
#: Schemes that measure each pilot in folds, and hold no label back for it.
FOLDED: frozenset[Scheme] = frozenset({"cross-validated", "cross-fitted"})


@dataclass(frozen=True, eq=False)
class PilotDraw:
    """The labels of one pilot, as positions in the budget.

    Attributes
    ----------
    name : str
        ``pilot-s50-r0``; one of several folds adds its fold: ``pilot-s50-r0-f3``.
    size : int
        Labels of N_s, the nested set; of ``own`` where cross-fitted.
    repetition : int
    own : ndarray (s,) of int
        Labels that the pilot's fine-tune consumes, those that choose its epoch included.
    measure : ndarray (v,) of int
        Labels that measure it; none of ``own``, and none of their clusters.
    """

    name: str
    size: int
    repetition: int
    own: np.ndarray
    measure: np.ndarray


def pilot_draws(
    n: int,
    sizes: Sequence[int],
    seeds: int,
    scheme: Scheme,
    validation: int,
    folds: int,
    seed: int,
    clusters: np.ndarray | None = None,
) -> list[PilotDraw]:
    """The pilots of one model: sizes within repetitions, folds within sizes.

    A plan with more repetitions or sizes contains the smaller plan, draw for draw; under ``shared``, as long as the
    largest size stays.

    Parameters
    ----------
    n : int
        Labels of the budget.
    sizes : sequence of int
        Increasing.
    seeds : int
        Repetitions of each size.
    validation : int
        Labels of V; without meaning in folds.
    folds : int
        Of ``cross-validated`` and ``cross-fitted``; without meaning elsewhere.
    seed : int
        Of every draw.
    clusters : array (n,), optional
        Sampling units of several rows: none both trains and measures a pilot.

    Raises
    ------
    InputError
        An unknown scheme, or more labels than there are (after whole clusters were kept out of V).
    """
    if scheme not in get_args(Scheme):
        raise InputError(f"unknown pilot scheme {scheme!r}", mend=near_match(scheme, get_args(Scheme)))
    measure, pool = _validation(n, max(sizes), 0 if scheme in FOLDED else validation, seed, clusters)
    draws = []
    for repetition in range(seeds):
        if scheme == "cross-fitted":
            draws += _cross_fitted(n, sizes, repetition, folds, seed, clusters)
            continue
        rng = np.random.default_rng([seed, 22, repetition])
        if scheme == "cross-validated":
            nested = shuffled(n, rng, clusters)
        else:
            nested = rng.permutation(pool[: max(sizes)]) if scheme == "shared" else pool
        for size in sizes:
            name, own = f"pilot-s{size}-r{repetition}", nested[:size]
            if scheme == "cross-validated":
                draws += _cross_validated(name, size, repetition, own, folds, seed, clusters)
            else:
                own = own if scheme == "shared" else np.random.default_rng([seed, 23, repetition]).permutation(own)
                draws.append(PilotDraw(name, size, repetition, own, measure))
    return draws


def largest_size(n: int, scheme: Scheme, validation: int, folds: int) -> int:
    """Most labels that a pilot can have in a budget of ``n``, where no cluster takes more with it."""
    if scheme == "cross-fitted":
        return n - -(-n // folds)
    return n if scheme == "cross-validated" else n - validation


def shuffled(n: int, rng: np.random.Generator, clusters: np.ndarray | None = None) -> np.ndarray:
    """The positions 0 … n − 1 in random order (n,), those of one cluster side by side."""
    order = rng.permutation(n)
    if clusters is None:
        return order
    _, cluster = np.unique(clusters[order], return_inverse=True)
    rank = rng.permutation(cluster.max() + 1)
    return order[np.argsort(rank[cluster], kind="stable")]


def _validation(
    n: int, largest: int, validation: int, seed: int, clusters: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """V, and the other labels in the order of the draw, without rows of a cluster that V has cut."""
    order = shuffled(n, np.random.default_rng([seed, 21]), clusters)
    measure, rest = order[:validation], order[validation:]
    if clusters is not None and validation:
        rest = rest[~np.isin(clusters[rest], clusters[measure])]
    if largest > len(rest):
        beside = f"; {len(rest)} are left beside {validation} validation rows" if validation else ""
        raise InputError(
            f"the largest pilot asks for {largest} of {n} labels{beside}",
            where="pilots.sizes",
            mend="lower pilots.sizes" + (" or pilots.validation" if validation else "") + ", or raise labels",
        )
    return measure, rest


def _cross_validated(
    name: str,
    size: int,
    repetition: int,
    nested: np.ndarray,
    folds: int,
    seed: int,
    clusters: np.ndarray | None,
) -> list[PilotDraw]:
    fold = _folds(
        nested if clusters is None else clusters[nested],
        clusters is not None,
        folds,
        [seed, 24, repetition, size],
        "raise the smallest of pilots.sizes",
    )
    return [PilotDraw(f"{name}-f{k}", size, repetition, nested[fold != k], nested[fold == k]) for k in range(folds)]


def _cross_fitted(
    n: int, sizes: Sequence[int], repetition: int, folds: int, seed: int, clusters: np.ndarray | None
) -> list[PilotDraw]:
    """Sizes, folds within sizes."""
    units = np.arange(n) if clusters is None else clusters
    fold = _folds(units, clusters is not None, folds, [seed, 25, repetition], "raise 'labels'")
    outside = [
        np.random.default_rng([seed, 26, repetition, k]).permutation(np.flatnonzero(fold != k)) for k in range(folds)
    ]
    left = min(map(len, outside))
    if max(sizes) > left:
        raise InputError(
            f"the largest pilot asks for {max(sizes)} of {n} labels; outside one of {folds} folds there are {left}",
            where="pilots.sizes",
            mend="lower pilots.sizes, or raise pilots.folds or labels",
        )
    return [
        PilotDraw(f"pilot-s{size}-r{repetition}-f{k}", size, repetition, outside[k][:size], np.flatnonzero(fold == k))
        for size in sizes
        for k in range(folds)
    ]


def _folds(units: np.ndarray, clustered: bool, folds: int, seed: list[int], remedy: str) -> np.ndarray:
    """The fold of each row (n,), rows of one unit together; a variance is measured in each, of two rows at least."""
    there = len(np.unique(units))
    of = f" of {there} clusters" if clustered else ""
    fold = draw_folds(len(units), folds, seed, clusters=units) if there >= folds else np.empty(0, dtype=np.intp)
    if np.bincount(fold, minlength=folds).min() < FEWEST_IN_FOLD:
        raise InputError(
            f"{len(units)} labels{of} are too few for {folds} folds of {FEWEST_IN_FOLD}",
            where="pilots.folds",
            mend=f"lower pilots.folds, or {remedy}",
        )
    return fold
