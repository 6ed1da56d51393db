"""Samples like the one at hand, for the bootstrap: sampling units drawn again.

Units (rows, or whole clusters) are drawn with replacement within strata; those that hold labels and those that hold
none are drawn apart, so that every replicate has as many labelled units as the sample. A cluster that both samples
share is drawn for both.

A finite population is drawn from without replacement (Gross 1980; Booth, Butler & Hall 1994, JASA 89): the labelled
rows of each stratum, repeated until they are as many as its rows in the table, stand for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ftrect_ray.estimators.blocks import InMemory
from ftrect_ray.estimators.labeled import Labeled


@dataclass(frozen=True, eq=False)
class WithReplacement:
    """Both samples, their rows (labelled ones first) sorted by unit, the units by group.

    Attributes
    ----------
    labeled, unlabeled : Labeled, InMemory
    rows : ndarray (n + m,)
    start, size : ndarray (u,)
        First place in ``rows`` and number of rows of each unit.
    group_start, group_size : ndarray (u,)
        First unit and number of units of the unit's group: what is drawn in its place comes from there.
    """

    labeled: Labeled
    unlabeled: InMemory
    rows: np.ndarray
    start: np.ndarray
    size: np.ndarray
    group_start: np.ndarray
    group_size: np.ndarray

    @classmethod
    def of(cls, labeled: Labeled, unlabeled: InMemory) -> WithReplacement:
        """Groups are strata × whether a unit holds labels."""
        n, others, side = labeled.n, unlabeled.whole, labeled.drawn
        m = len(others)
        unit = _numbered(side.clusters, np.arange(n), others.clusters, np.arange(m))
        stratum = _numbered(side.strata, np.zeros(n, dtype=np.intp), others.strata, np.zeros(m, dtype=np.intp))
        rows = np.argsort(unit, kind="stable")  # labelled rows come first in their unit
        _, start, size = np.unique(unit[rows], return_index=True, return_counts=True)
        group = 2 * stratum[rows[start]] + (rows[start] < n)
        order = np.argsort(group, kind="stable")
        _, group_start, which, group_size = np.unique(
            group[order], return_index=True, return_inverse=True, return_counts=True
        )
        return cls(labeled, unlabeled, rows, start[order], size[order], group_start[which], group_size[which])

    def draw(self, rng: np.random.Generator) -> tuple[Labeled, InMemory]:
        """A replicate; a cluster that is drawn twice is two clusters."""
        chosen = self.group_start + (rng.random(len(self.start)) * self.group_size).astype(np.intp)
        size = self.size[chosen]
        unit = np.repeat(np.arange(len(size)), size)
        within = np.arange(len(unit)) - np.repeat(np.cumsum(size) - size, size)
        rows = self.rows[self.start[chosen][unit] + within]
        mine = rows < self.labeled.n
        labeled = self.labeled.take(rows[mine])
        block = self.unlabeled.take(rows[~mine] - self.labeled.n).whole
        if labeled.drawn.clusters is not None:
            labeled = replace(labeled, drawn=replace(labeled.drawn, clusters=unit[mine]))
        if block.clusters is not None:
            block = replace(block, clusters=unit[~mine])
        return labeled, InMemory(block)


def _numbered(
    mine: np.ndarray | None, unnamed: np.ndarray, theirs: np.ndarray | None, unnamed_theirs: np.ndarray
) -> np.ndarray:
    """A number for each name over the rows of both samples; names that only one sample has are that sample's own."""
    if mine is not None and theirs is not None:
        return np.unique(np.concatenate([mine, theirs]), return_inverse=True)[1]
    first = unnamed if mine is None else np.unique(mine, return_inverse=True)[1]
    second = unnamed_theirs if theirs is None else np.unique(theirs, return_inverse=True)[1]
    return np.concatenate([first, second + first.max() + 1])


@dataclass(frozen=True, eq=False)
class FromPopulation:
    """A finite population made of the labelled rows.

    Attributes
    ----------
    labeled : Labeled
    population : ndarray (N,)
        The labelled row that stands at each place; sorted by stratum.
    stratum : ndarray (N,)
    size : ndarray (N,) of int
        How many labels the stratum has.
    """

    labeled: Labeled
    population: np.ndarray
    stratum: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, labeled: Labeled, unlabeled: InMemory, rng: np.random.Generator) -> FromPopulation:
        """Rows of a stratum are repeated N_h/n_h times; who is repeated once more is drawn by lot."""
        others, strata = unlabeled.whole, labeled.drawn.strata
        mine = np.zeros(labeled.n, dtype=np.intp) if strata is None else np.unique(strata, return_inverse=True)[1]
        rest = np.array([len(others)]) if strata is None else _counted(others.strata, np.unique(strata))
        population = []
        for code, extra in enumerate(rest):
            rows = np.flatnonzero(mine == code)
            population.append(np.resize(rng.permutation(rows), len(rows) + extra))
        stratum = np.repeat(np.arange(len(rest)), [len(part) for part in population])
        return cls(labeled, np.concatenate(population), stratum, np.bincount(mine)[stratum])

    def itself(self) -> tuple[Labeled, InMemory]:
        """The population with all labels."""
        everyone = self.labeled.take(self.population)
        census = replace(everyone, drawn=replace(everyone.drawn, probabilities=None))
        return census, InMemory(everyone.as_block().rows(slice(0, 0)))

    def draw(self, rng: np.random.Generator) -> tuple[Labeled, InMemory]:
        """n_h labels from each stratum, without replacement; the others are unlabelled."""
        order = np.lexsort((rng.random(len(self.population)), self.stratum))
        place = np.arange(len(order)) - np.searchsorted(self.stratum, self.stratum)
        chosen = place < self.size
        return (
            self.labeled.take(self.population[order[chosen]]),
            InMemory(self.labeled.take(self.population[order[~chosen]]).as_block()),
        )


def _counted(strata: np.ndarray | None, names: np.ndarray) -> np.ndarray:
    """Rows of each named stratum; every row is in one."""
    if strata is None or not len(strata):
        return np.zeros(len(names), dtype=np.intp)
    return np.bincount(np.searchsorted(names, strata), minlength=len(names))
