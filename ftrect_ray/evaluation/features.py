"""What a frozen model says of every text, once an evaluation: features for the fast lane, and untrained answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from ftrect_ray.finetune.untrained import opened
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model, digest

if TYPE_CHECKING:
    from ftrect_ray.predictor import Predictor

#: Texts of one file: what a killed run computes again, at most, for each worker.
SHARD = 512


@dataclass(frozen=True)
class Pass:
    """One pass of a model over all texts.

    Attributes
    ----------
    kind : {"features", "answers"}
        The frozen backbone's features, float32 (N, p), or the untrained model's answers to its prompt, (N, 1) in the
        unit of the answers.
    precision : str
        As in ``Training``.
    """

    kind: Literal["features", "answers"]
    model: Model
    precision: str

    def folder(self, texts: Sequence[str]) -> str:
        """Names the pass over ``texts`` by its content."""
        return digest([self.kind, self.model.model_dump(), self.precision, SHARD, digest(texts)])


def compute(pass_: Pass, texts: Sequence[str]) -> np.ndarray:
    """``pass_`` over some texts, in this process; NaN where a text that cannot be read would have features."""
    from ftrect_ray.finetune.frozen import backbone, tokens_at_once
    from ftrect_ray.predictor.precision import own_device

    device, model = own_device(), pass_.model.model_dump_json()
    if pass_.kind == "answers":
        predictor = _untrained(model, pass_.precision)
        return predictor.scale.filled(predictor.predict(texts)[0])[:, None]
    predictor = backbone(model, device, pass_.precision)
    found: np.ndarray = predictor.features(predictor.encode(texts).tokens, tokens_at_once(device)).numpy()
    return found


class Shards:
    """The files of one pass in a folder: written by whoever computes them, whole or not at all.

    Parameters
    ----------
    storage : RunStorage
        Of the folder of all passes.
    """

    def __init__(self, storage: RunStorage, pass_: Pass, texts: Sequence[str]) -> None:
        self.storage, self.pass_, self.texts, self.folder = storage, pass_, texts, pass_.folder(texts)

    def missing(self) -> Iterator[tuple[str, list[str]]]:
        """Name and texts of each file that is not there yet."""
        there = set(self.storage.list(self.folder))
        for first in range(0, len(self.texts), SHARD):
            name = f"{first:08d}.npy"
            if name not in there:
                yield name, list(self.texts[first : first + SHARD])

    def keep(self, name: str, array: np.ndarray) -> None:
        """Write the file ``name``."""
        self.storage.write_array(array, self.folder, name)

    def read(self) -> np.ndarray:
        """All rows (N, p), once nothing is missing."""
        names = sorted(name for name in self.storage.list(self.folder) if name.endswith(".npy"))
        return np.concatenate([self.storage.read_array(self.folder, name) for name in names])


@lru_cache(maxsize=1)
def _untrained(model: str, precision: str) -> Predictor:
    """The model (its settings as JSON), read once a process."""
    return opened(Model.model_validate_json(model), precision)
