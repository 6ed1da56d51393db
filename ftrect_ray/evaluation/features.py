"""What a frozen model says of every text, once an evaluation: features for the fast lane, and untrained answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Lora, Model, digest

#: Texts of one file: what a killed run computes again, at most, for each worker.
SHARD = 512
#: Padded tokens of one forward pass on a GPU; on a processor each text goes alone, which is as fast there.
GPU_TOKENS, CPU_TOKENS = 16_384, 1


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


def as_it_is(model: Model) -> Model:
    """``model`` as it answers its prompt untrained: with an adapter that changes nothing, as in ``rectify-only``."""
    return model.model_copy(update={"adapter": "lora", "lora": Lora(rank=1), "layer": None, "pooling": "auto"})


def compute(pass_: Pass, texts: Sequence[str]) -> np.ndarray:
    """``pass_`` over some texts, in this process; NaN where a text cannot be read."""
    return _opened(pass_.kind, pass_.model.model_dump_json(), pass_.precision)(texts)


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
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        self.storage.write_bytes(content.getvalue(), self.folder, name)

    def read(self) -> np.ndarray:
        """All rows (N, p), once nothing is missing."""
        names = sorted(name for name in self.storage.list(self.folder) if name.endswith(".npy"))
        parts = [np.load(io.BytesIO(self.storage.read_bytes(self.folder, name)), allow_pickle=False) for name in names]
        return np.concatenate(parts)


@lru_cache(maxsize=1)
def _opened(kind: str, model: str, precision: str) -> Callable[[Sequence[str]], np.ndarray]:
    """The model (its settings as JSON), read once a process."""
    from ftrect_ray.predictor import Predictor
    from ftrect_ray.predictor.precision import cast, own_device, resolve_precision

    device = own_device()
    predictor = Predictor.create(Model.model_validate_json(model)).to(device)
    cast(predictor.backbone, resolve_precision(precision, device))
    at_once = GPU_TOKENS if device.type == "cuda" else CPU_TOKENS

    def of(texts: Sequence[str]) -> np.ndarray:
        if kind == "answers":
            return predictor.predict(texts)[0][:, None]
        found: np.ndarray = predictor.features(predictor.encode(texts).tokens, at_once).numpy()
        return found

    return of
