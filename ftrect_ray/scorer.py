"""One shard of one model: what an actor of the prediction pool computes and writes."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import ray
import torch

from ftrect_ray.errors import FtrectError
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.precision import resolve_precision
from ftrect_ray.shards import Shard, write_shard
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Inference


class Scorer:
    """Predicts one shard a call and writes it; keeps its model until another is asked for.

    Parameters
    ----------
    shards : sequence of Shard
        A call names one by its position.
    parts : mapping of int to ObjectRef
        Columns ``id`` and ``text`` of the table's shards, by ``Shard.index``.
    uri : str
        The run.
    inference : Inference
    """

    def __init__(self, shards: Sequence[Shard], parts: Mapping[int, Any], uri: str, inference: Inference) -> None:
        torch.set_num_threads(1)  # actors share a machine; two threads each were slower than one
        self.shards, self.parts, self.batch_tokens = shards, parts, inference.batch_tokens
        self.storage = RunStorage.open(uri)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = resolve_precision(inference.precision, self.device)
        self.model = ""
        self.predictor: Predictor | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """The shard's facts as JSON. An error with a remedy is one of them: Ray would hand on its text alone."""
        position = int(batch["position"][0])
        try:
            facts = self._write(self.shards[position])
        except FtrectError as error:
            facts = {"refusal": [type(error).__name__, error.what, error.where, error.mend]}
        return {"position": [position], "facts": [json.dumps(facts)]}

    def _write(self, shard: Shard) -> dict[str, Any]:
        part = ray.get(self.parts[shard.index])
        predictor = self._load(shard.model)
        texts = part["text"].to_pylist()
        started = time.monotonic()
        values, errors = predictor.predict(texts, self.batch_tokens)
        facts = {
            "errors": Counter(error for error in errors if error is not None),
            "cut": predictor.encode(texts).cut,
            "seconds": time.monotonic() - started,
            "actor": ray.get_runtime_context().get_actor_id(),
        }
        write_shard(self.storage, shard, part["id"], values, errors, facts)
        return facts

    def _load(self, model: str) -> Predictor:
        """The model of that name; from behind a URI it is downloaded into a temporary folder first."""
        if self.predictor is None or model != self.model:
            self.model, self.predictor = "", None
            with _local_copy(self.storage, "model", model) as folder:
                self.predictor = Predictor.load(folder, self.dtype).to(self.device)
            self.model = model
        return self.predictor


@contextmanager
def _local_copy(storage: RunStorage, *parts: str) -> Iterator[str]:
    """A folder of the run itself where that is local, else a copy for as long as the block lasts."""
    if storage.is_local:
        yield storage.path(*parts)
        return
    with tempfile.TemporaryDirectory(prefix="ftrect-model-") as copy:
        pafs.copy_files(
            storage.path(*parts),
            copy,
            source_filesystem=storage.filesystem,
            destination_filesystem=pafs.LocalFileSystem(),
        )
        yield copy
