"""Answers in words: shares of categories that are known only once all rows are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import CELLS, Block, fold
from ftrect_ray.estimators.categories import indicators
from ftrect_ray.estimators.means import MeanSums

MAX_CATEGORIES = 1000
"""A column with more different answers is text, not a categorical answer."""


@dataclass(frozen=True, eq=False)
class ShareSums:
    """Sums of the indicators of the categories seen so far; for a category that was not seen they are 0.

    Attributes
    ----------
    categories : tuple of str
    models : int
        K.
    sums : MeanSums
        Of the K·C indicators, model by model.
    """

    categories: tuple[str, ...]
    models: int
    sums: MeanSums

    @classmethod
    def of(cls, block: Block) -> ShareSums:
        """Of one block whose F (b, K) holds words."""
        words = pa.array(block.F.ravel(), pa.string()).dictionary_encode()
        categories = tuple(words.dictionary.to_pylist())
        refuse_too_many(categories)
        codes = words.indices.to_numpy().reshape(block.F.shape)
        rows = max(1, CELLS // max(1, codes.shape[1] * len(categories)))
        starts = range(0, max(len(block), 1), rows)
        parts = (replace(block.rows(slice(at, at + rows)), F=codes[at : at + rows]) for at in starts)
        return cls(categories, codes.shape[1], fold(parts, partial(_of_codes, width=len(categories))))

    def over(self, categories: tuple[str, ...]) -> MeanSums:
        """The sums for these categories, which hold all of the own ones."""
        if categories == self.categories:
            return self.sums
        place = np.zeros((len(self.categories), len(categories)))
        place[range(len(self.categories)), [categories.index(name) for name in self.categories]] = 1.0
        widen = np.kron(np.eye(self.models), place)
        old = self.sums
        with_weight = np.zeros((len(widen) + 1, widen.shape[1] + 1))
        with_weight[:-1, :-1], with_weight[-1, -1] = widen, 1.0
        totals = old.totals.times(with_weight if len(old.totals.total) > len(old.origin) else widen)
        values = totals if old.values is old.totals else old.values.times(widen)
        return MeanSums(old.rows, old.weight, old.origin @ widen, totals, values)  # type: ignore[arg-type]

    def merge(self, other: ShareSums) -> ShareSums:
        """Of the rows of both."""
        categories = tuple(dict.fromkeys([*self.categories, *other.categories]))
        refuse_too_many(categories)
        return ShareSums(categories, self.models, self.over(categories).merge(other.over(categories)))


def _of_codes(block: Block, width: int) -> MeanSums:
    return MeanSums.of(replace(block, F=indicators(block.F, width)))


def refuse_too_many(categories: tuple[str, ...]) -> None:
    """Raise where there are more than ``MAX_CATEGORIES``."""
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"the answers have more than {MAX_CATEGORIES} different values.", mend="for numbers take the target mean"
        )


def in_order(categories: Iterable[str]) -> tuple[str, ...]:
    """Sorted by number where all are whole numbers, else by text.

    >>> in_order(["10", "9"]), in_order(["10", "9", "none"])
    (('9', '10'), ('10', '9', 'none'))
    """
    names = set(categories)
    numeric = all(re.fullmatch(r"[+-]?\d+", name, re.ASCII) for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if numeric else None))


def encoded(words: np.ndarray, categories: tuple[str, ...]) -> np.ndarray:
    """Indicators (…, C) of the category that each word is."""
    found = {name: place for place, name in enumerate(categories)}
    codes = np.array([found[word] for word in words.ravel()], dtype=np.intp).reshape(words.shape)
    return indicators(codes, len(categories))
