"""What one fine-tune is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftrect_ray.study import Model, Training, digest


@dataclass(frozen=True)
class Rows:
    """Labelled rows: ``ids`` and ``texts`` of length n, ``answers`` float64 (n,) in the answer's own unit.

    ``clusters`` (n,): the sampling unit of each row; None where every row is one.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    answers: np.ndarray
    clusters: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.texts) == len(self.answers):
            raise ValueError("ids, texts and answers differ in length")
        if self.clusters is not None and len(self.clusters) != len(self.ids):
            raise ValueError("ids and clusters differ in length")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Rows:
        """The rows at integer positions ``rows`` (r,)."""
        return Rows(
            tuple(self.ids[i] for i in rows),
            tuple(self.texts[i] for i in rows),
            self.answers[rows],
            None if self.clusters is None else self.clusters[rows],
        )

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """The positions (n,) in random order, those of one cluster side by side."""
        order = rng.permutation(len(self))
        if self.clusters is None:
            return order
        _, cluster = np.unique(self.clusters[order], return_inverse=True)
        rank = rng.permutation(cluster.max() + 1)
        return order[np.argsort(rank[cluster], kind="stable")]


@dataclass(frozen=True)
class FitSpec:
    """One fine-tune: ``train`` moves the weights, ``stop`` chooses the epoch; nothing else is ever seen.

    Attributes
    ----------
    name : str
        The model's name in the run, for example ``fold-0``.
    train, stop : Rows
        Disjoint labelled rows.
    objective : {"variance", "mse"}
        See ``finetune.objectives``; the epoch is chosen by the same quantity.
    seed : int
        Initialisation of the readout, order of the rows, dropout.
    """

    name: str
    train: Rows
    stop: Rows
    model: Model
    training: Training
    objective: str
    seed: int

    @property
    def key(self) -> str:
        """Names the fine-tune by its content: equal inputs, equal key."""
        rows = [[rows.ids, rows.texts, rows.answers.tolist()] for rows in (self.train, self.stop)]
        settings = [self.model.model_dump(), self.training.model_dump(exclude={"max_failures"})]
        return digest([self.name, rows, settings, self.objective, self.seed])


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve: the objective's metric on the inner rows after ``epoch`` epochs."""

    epoch: int
    train_loss: float
    stop_metric: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """What a fine-tune leaves behind, beside the model's folder.

    Attributes
    ----------
    name : str
    curve : tuple of Epoch
    best_epoch : int
        The epoch whose weights were kept (1-based).
    model_seconds : float
        Wall seconds that the training loop itself computed (all epochs, without start-up).
    """

    name: str
    curve: tuple[Epoch, ...]
    best_epoch: int
    model_seconds: float
