"""What is made of rows: labelled ones, which are few and kept, and blocks of unlabelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ftrect_ray.estimators.blocks import Block

Key = tuple[str, ...]
"""The values of the columns that split a table into samples; () where nothing splits it."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Labelled rows.

    Attributes
    ----------
    row : ndarray (n,)
        Place in the table, from 0.
    Y : ndarray (n, c)
        The answers as they stand: numbers, or words as objects; c = 2 under a paired difference.
    Yhat : ndarray (n,)
        Predictions by the row's own model; differences under a paired difference.
    X, fold, weights, probabilities, strata, clusters : ndarray (n, …) or None
    """

    row: np.ndarray
    Y: np.ndarray
    Yhat: np.ndarray
    X: np.ndarray | None = None
    fold: np.ndarray | None = None
    weights: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    strata: np.ndarray | None = None
    clusters: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.Y)

    @staticmethod
    def joined(parts: Sequence[Answers]) -> Answers:
        """All rows of all parts, of which there is at least one."""
        columns = [[getattr(part, field.name) for part in parts] for field in fields(Answers)]
        return Answers(*(None if column[0] is None else np.concatenate(column) for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Rows:
    """What a batch holds of one sample.

    Attributes
    ----------
    answers : Answers
    block : Block
        Unlabelled rows.
    gaps : int
        Rows without a prediction, which are in neither.
    """

    answers: Answers
    block: Block
    gaps: int
