"""What one fine-tune is told, and what it answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ftrect_ray.allocation.pilot_rows import shuffled
from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.study import Model, Regression, Target, Training, digest

RESULT = "fit.json"  # in a model's folder, and last: a folder that has it is whole

#: Settings of ``Training`` that say how hard to try, not what to compute.
EFFORT = ("max_failures", "cpus_per_worker", "checkpoint_seconds", "checkpoint_steps")


@dataclass(frozen=True)
class Rows:
    """Labelled rows: ``ids`` and ``texts`` of length n, ``answers`` float64 (n,) in the answer's own unit.

    ``clusters`` (n,): the sampling unit of each row; None where every row is one. ``features`` (n, p): the design
    matrix of a regression target, its first column ones; None elsewhere.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    answers: np.ndarray
    clusters: np.ndarray | None = None
    features: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.texts) == len(self.answers):
            raise ValueError("ids, texts and answers differ in length")
        if self.clusters is not None and len(self.clusters) != len(self.ids):
            raise ValueError("ids and clusters differ in length")
        if self.features is not None and len(self.features) != len(self.ids):
            raise ValueError("ids and features differ in length")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def content(self) -> list[Any]:
        """What a fine-tune on these rows depends on, JSON-able."""
        features = None if self.features is None else self.features.tolist()
        return [self.ids, self.texts, self.answers.tolist(), features]

    def take(self, rows: np.ndarray) -> Rows:
        """The rows at integer positions ``rows`` (r,)."""
        return Rows(
            tuple(self.ids[i] for i in rows),
            tuple(self.texts[i] for i in rows),
            self.answers[rows],
            None if self.clusters is None else self.clusters[rows],
            None if self.features is None else self.features[rows],
        )

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """The positions (n,) in random order, those of one cluster side by side."""
        return shuffled(len(self), rng, self.clusters)


#: Objectives that are about coefficients, and the links of the regressions that have them.
TARGETED = ("coefficient", "trace", "determinant")
LINKS: dict[str, Literal["identity", "logit", "log"]] = {"ols": "identity", "logistic": "logit", "poisson": "log"}


@dataclass(frozen=True)
class Coefficients:
    """A regression whose coefficients are the target.

    Attributes
    ----------
    link : {"identity", "logit", "log"}
    coordinate : int, optional
        The column of ``Rows.features`` whose coefficient is of interest; None for all.
    names : tuple of str
        Of the columns, for messages.
    """

    link: Literal["identity", "logit", "log"]
    coordinate: int | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, target: Target, objective: str) -> Coefficients | None:
        """What ``objective`` is about; None for the variance and the mean square, which know no regression."""
        if objective not in TARGETED:
            return None
        assert isinstance(target, Regression)  # the study checks it
        names = ("intercept", *target.features)
        of_interest = names.index(str(target.coefficient), 1) if objective == "coefficient" else None
        return cls(LINKS[target.kind], of_interest, names)


@dataclass(frozen=True)
class FitSpec:
    """One fine-tune: ``train`` moves the weights, ``stop`` chooses the epoch; nothing else is ever seen.

    Attributes
    ----------
    name : str
        The model's name in the run, for example ``fold-0``.
    train, stop : Rows
        Disjoint labelled rows.
    objective : {"variance", "mse", "coefficient", "trace", "determinant"}
        See ``finetune.objectives``; the epoch is chosen by the same quantity.
    seed : int
        Initialisation of the readout, order of the rows, dropout.
    coefficients : Coefficients, optional
        What the last three objectives are about.
    cache : str, optional
        Path or URI of a folder where the fits of a study find each other's tokens and frozen features.
    """

    name: str
    train: Rows
    stop: Rows
    model: Model
    training: Training
    objective: str
    seed: int
    coefficients: Coefficients | None = None
    cache: str | None = None

    @property
    def own_texts(self) -> tuple[str, ...]:
        """Of all rows that the fine-tune is charged with."""
        return self.train.texts + self.stop.texts

    @property
    def own_answers(self) -> np.ndarray:
        """Of the same rows, float64."""
        return np.concatenate([self.train.answers, self.stop.answers]).astype(np.float64)

    @property
    def key(self) -> str:
        """Names the fine-tune by its content: equal inputs, equal key."""
        rows = [rows.content for rows in (self.train, self.stop)]
        model = self.model.model_dump(exclude={"layer"} if self.model.layer is None else None)  # as before it existed
        settings = [model, self.training.model_dump(exclude=set(EFFORT))]
        return digest(
            [self.name, rows, settings, self.objective, self.seed, self.coefficients and asdict(self.coefficients)]
        )


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

    @classmethod
    def of(cls, name: str, curve: Sequence[Epoch], best_epoch: int) -> FitResult:
        """With the seconds of all epochs of ``curve``."""
        return cls(name, tuple(curve), best_epoch, sum(epoch.seconds for epoch in curve))

    def write(self, folder: Path, key: str) -> None:
        """Into the model's ``folder``, with the ``key`` of the fine-tune."""
        record = asdict(self) | {"key": key}
        for epoch in record["curve"]:
            if math.isnan(epoch["stop_metric"]):
                epoch["stop_metric"] = None  # JSON has no NaN
        (folder / RESULT).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, key: str) -> FitResult | None:
        """What :meth:`write` wrote; None where it is not there, or another fine-tune's."""
        try:
            record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if record.pop("key", None) != key:
            return None
        for epoch in record["curve"]:
            if epoch["stop_metric"] is None:
                epoch["stop_metric"] = math.nan
        return cls(**record | {"curve": tuple(Epoch(**epoch) for epoch in record["curve"])})


class Diverged(StatisticalRefusal):
    """The loss or its gradient is no longer a number; what it was computed on is named."""

    @classmethod
    def at(cls, spec: FitSpec, epoch: int, step: str, ids: tuple[str, ...], quantity: str = "loss") -> Diverged:
        shown = ", ".join(ids[:8]) + (", …" if len(ids) > 8 else "")
        return cls(
            f"the fine-tune {spec.name!r} diverged: "
            f"the {quantity} is not finite in epoch {epoch}, {step}, rows {shown}",
            where="training.learning_rate",
            mend="lower training.learning_rate or training.head_learning_rate, or set training.precision: fp32",
        )
