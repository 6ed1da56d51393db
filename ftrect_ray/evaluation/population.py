"""The table that an evaluation draws from: every answer is known, and its mean is the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.study import Data, digest
from ftrect_ray.tables import load_table

#: Streams of random numbers: the target rows, and each replication's labels.
TARGET, LABELS = 61, 62


@dataclass(frozen=True)
class Population:
    """N rows with their answers.

    Attributes
    ----------
    rows : Rows
    zero_shot : np.ndarray or None
        float64 (N,), predictions that the table has of its own; None unless every row has one.
    repeated : int
        Rows that were left out because an earlier one has the same text.
    beyond : int
        Rows that were left out because the target has fewer.
    """

    rows: Rows
    zero_shot: np.ndarray | None
    repeated: int = 0
    beyond: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """Names the population by its content."""
        return digest([self.rows.content, None if self.zero_shot is None else self.zero_shot.tolist()])

    @property
    def truth(self) -> float:
        """The mean of all answers."""
        return float(np.mean(self.rows.answers))

    @property
    def variance(self) -> float:
        """Of the answers, ddof 1."""
        return float(np.var(self.rows.answers, ddof=1))

    @property
    def spread(self) -> float:
        """S/√N: how far the table's mean lies from that of the population it was drawn from, a standard deviation."""
        return math.sqrt(self.variance / len(self))


def load_population(data: Data, seed: int, *, distinct: bool = False, target_rows: int | None = None) -> Population:
    """Read the origin that ``data`` names; every row of it must have an answer.

    Parameters
    ----------
    seed : int
        Of the draw of the target rows.
    distinct : bool
        Keep the first of several rows with the same text.
    target_rows : int, optional
        A simple random sample of so many rows is the population; default all.

    Raises
    ------
    InputError
        Rows are not fully answered, or the table says that they were not drawn alike.
    """
    where = data.source or data.table or data.labeled or "data"
    for role in ("weight", "strata", "cluster"):
        if getattr(data, role) is not None:
            raise InputError(
                f"'data.{role}' is set, and an evaluation draws its labels from rows that are all alike",
                where=where,
                mend=f"leave 'data.{role}' out",
            )
    table = load_table(data, None, seed).table
    if unanswered := table["label"].null_count:
        raise InputError(
            f"{unanswered} of {table.num_rows} rows have no answer; an evaluation must know all of them",
            where=where,
            mend="give a table whose every row is answered, or leave the others out",
        )
    texts = [text or "" for text in table["text"].to_pylist()]
    chosen = np.arange(table.num_rows)
    if distinct:
        first: dict[str, int] = {}
        for row, text in enumerate(texts):
            first.setdefault(text, row)
        chosen = np.array(list(first.values()))
    repeated = table.num_rows - len(chosen)
    beyond = 0 if target_rows is None else max(0, len(chosen) - target_rows)
    if beyond:
        chosen = np.sort(np.random.default_rng([seed, TARGET]).permutation(chosen)[:target_rows])
    ids = table["id"].to_pylist()
    answers = np.asarray(table["label"].to_numpy(), dtype=np.float64)[chosen]
    rows = Rows(tuple(str(ids[i]) for i in chosen), tuple(texts[i] for i in chosen), answers)
    zero_shot = None
    if "prediction" in table.column_names and not pc.any(pc.is_null(table["prediction"])).as_py():
        zero_shot = np.asarray(table["prediction"].to_numpy(), dtype=np.float64)[chosen]
    return Population(rows, zero_shot, repeated, beyond)


def draw(rows: int, labels: int, texts: int | None, seed: int, replication: int) -> tuple[np.ndarray, np.ndarray]:
    """One replication's rows: labels by simple random sampling without replacement, the rest unlabelled.

    Parameters
    ----------
    rows : int
        N, of the population.
    labels : int
        The budget, fewer than N.
    texts : int or None
        So many unlabelled rows, a simple random sample of the rest; None for all.

    Returns
    -------
    kept : ndarray (labels + texts,) of int
        Positions of the replication's rows in the population.
    labeled : ndarray (labels,) of int
        Positions of the labelled ones among ``kept``, in random order.
    """
    order = np.random.default_rng([seed, LABELS, labels, replication]).permutation(rows)
    kept = np.sort(order[: rows if texts is None else labels + texts])
    return kept, np.searchsorted(kept, order[:labels])


def replication_seed(labels: int, seed: int, replication: int) -> int:
    """Of all that the designs draw themselves, below 2³¹."""
    return int(np.random.SeedSequence([seed, LABELS + 1, labels, replication]).generate_state(1)[0] >> 1)
