"""Passes over a source: the first gathers the labelled rows, and may fold the unlabelled ones at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import Block, InMemory, merged_with
from ftrect_ray.streaming.reader import Reader
from ftrect_ray.streaming.rows import Answers, Key
from ftrect_ray.streaming.sources import Source

S = TypeVar("S")

MAX_LABELS = 50_000_000
MAX_SAMPLES = 10_000
"""Samples that a table may be split into; a column with more values is likely an id."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a first pass keeps of one sample.

    Attributes
    ----------
    answers : tuple of Answers
        Labelled rows in the order of the batches; a single part where there are none.
    labelled, others, gaps : int
        Labelled rows, unlabelled rows, and rows of either kind that have no prediction and are left out.
    weight : float
        Of the unlabelled rows together.
    sums
        Of the unlabelled rows, where the first pass makes any.
    """

    answers: tuple[Answers, ...]
    labelled: int
    others: int
    gaps: int
    weight: float
    sums: Any

    def __post_init__(self) -> None:
        if self.labelled > MAX_LABELS:
            what = f"there are more than {MAX_LABELS} labelled rows, which are held in memory"
            raise InputError(what, mend="with so many labels no predictions are needed; or take a random part of them")

    def merge(self, other: Gathered) -> Gathered:
        """Of the rows of both."""
        parts = self.answers + other.answers
        if not self.labelled or not other.labelled:
            parts = self.answers if self.labelled else other.answers
        sums = None if self.sums is None else merged_with(self.sums, other.sums)
        counts = (self.labelled + other.labelled, self.others + other.others, self.gaps + other.gaps)
        return Gathered(parts, *counts, self.weight + other.weight, sums)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a table by their keys."""

    by_key: dict[Key, Gathered]

    def __post_init__(self) -> None:
        if len(self.by_key) > MAX_SAMPLES:
            raise InputError(
                f"the table falls into more than {MAX_SAMPLES} groups.", mend="name a column with few values"
            )

    def merge(self, other: Samples) -> Samples:
        """Of the rows of both."""
        merged = dict(self.by_key)
        for key, sample in other.by_key.items():
            merged[key] = merged[key].merge(sample) if key in merged else sample
        return Samples(merged)


@dataclass(frozen=True)
class FirstPass:
    """Of a batch: its labelled rows, and ``summarise`` of its unlabelled ones."""

    reader: Reader
    summarise: Callable[[Block], Any] | None

    def __call__(self, batch: pa.RecordBatch, before: int) -> Samples:
        samples = {}
        for key, rows in self.reader.read(batch, before):
            sums = None if self.summarise is None else InMemory(rows.block).fold(self.summarise)
            weight = len(rows.block) if rows.block.weights is None else float(rows.block.weights.sum())
            counts = (len(rows.answers), len(rows.block), rows.gaps)
            samples[key] = Gathered((rows.answers,), *counts, weight, sums)
        return Samples(samples)


@dataclass(frozen=True)
class LaterPass:
    """Of a batch: ``summarise`` of the unlabelled rows of one sample."""

    reader: Reader
    key: Key
    summarise: Callable[[Block], Any]

    def __call__(self, batch: pa.RecordBatch, before: int) -> Any:
        return InMemory(self.reader.read_one(batch, before, self.key)).fold(self.summarise)


@dataclass(frozen=True, eq=False)
class Streamed:
    """The unlabelled rows of one sample, read from the source at every fold but the first pass's own.

    Attributes
    ----------
    source : Source
    reader : Reader
    key : Key
    known : callable or None
        What the first pass folded.
    sums
        And what it found.
    encode : callable or None
        What makes F (b, K, …) of the cells (b, K), where they are no numbers to compute with.
    """

    source: Source
    reader: Reader
    key: Key
    known: Callable[[Block], Any] | None
    sums: Any
    encode: Callable[[np.ndarray], np.ndarray] | None = None

    def fold(self, summarise: Callable[[Block], S]) -> S:
        """See :class:`~ftrect_ray.estimators.blocks.Blocks`."""
        if self.known is not None and summarise == self.known:
            return self.sums
        if self.encode is not None:
            summarise = partial(_encoded, summarise=summarise, encode=self.encode)
        return self.source.fold(LaterPass(self.reader, self.key, summarise))


def _encoded(block: Block, summarise: Callable[[Block], S], encode: Callable[[np.ndarray], np.ndarray]) -> S:
    return summarise(replace(block, F=encode(block.F)))
