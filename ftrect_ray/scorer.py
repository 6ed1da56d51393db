"""One shard, for one model or all that share its frozen backbone: what an actor computes and writes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch

from ftrect_ray.errors import FtrectError
from ftrect_ray.predictor import Predictor, Scores, folder
from ftrect_ray.predictor.precision import own_device, resolve_precision
from ftrect_ray.shards import Shard, write_shard
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Inference


class Scorer:
    """Does one task a call and writes its shards; keeps its models until others are asked for.

    Parameters
    ----------
    tasks : sequence of tuples of Shard
        A call names one by its position. Shards of one task are of the same rows, and of models with one backbone.
    parts : mapping of int to ObjectRef
        Columns ``id`` and ``text`` of the table's shards, by ``Shard.index``.
    uri : str
        The run.
    inference : Inference
    """

    def __init__(
        self, tasks: Sequence[tuple[Shard, ...]], parts: Mapping[int, Any], uri: str, inference: Inference
    ) -> None:
        torch.set_num_threads(1)  # actors share a machine; two threads each were slower than one
        self.tasks, self.parts, self.batch_tokens = tasks, parts, inference.batch_tokens
        self.storage = RunStorage.open(uri)
        self.device = own_device()
        self.dtype = resolve_precision(inference.precision, self.device)
        self.predictors: dict[str, Predictor] = {}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """The shards' facts as JSON. An error with a remedy is one of them: Ray would hand on its text alone."""
        position = int(batch["position"][0])
        try:
            facts: dict[str, Any] = {"shards": self._write(self.tasks[position])}
        except FtrectError as error:
            facts = {"refusal": [type(error).__name__, error.what, error.where, error.mend]}
        return {"position": [position], "facts": [json.dumps(facts)]}

    def _write(self, task: tuple[Shard, ...]) -> list[dict[str, Any]]:
        part = ray.get(self.parts[task[0].index])
        predictors = self._load([shard.model for shard in task])
        started = time.monotonic()
        found = self._score(predictors, part["text"].to_pylist())
        seconds = (time.monotonic() - started) / len(task)
        facts = []
        for shard, scores in zip(task, found, strict=True):
            told = {
                "errors": Counter(error for error in scores.errors if error is not None),
                "cut": scores.cut,
                "seconds": seconds,
                "actor": ray.get_runtime_context().get_actor_id(),
            }
            write_shard(self.storage, shard, part["id"], scores.values, scores.errors, told, scores.probabilities)
            facts.append(told)
        return facts

    def _score(self, predictors: Sequence[Predictor], texts: Sequence[str | None]) -> list[Scores]:
        """What each model says; several share one pass of their backbone."""
        if len(predictors) == 1:
            return [predictors[0].score(texts, self.batch_tokens)]
        encoded = predictors[0].encode(texts)
        features = predictors[0].features(encoded.tokens, self.batch_tokens)
        return [predictor.score_features(features, encoded) for predictor in predictors]

    def _load(self, models: Sequence[str]) -> list[Predictor]:
        """The models of one task; from behind a URI each is downloaded into a temporary folder first."""
        if not any(model in self.predictors for model in models):
            self.predictors = {}
        for model in models:
            if model not in self.predictors:
                base = next(iter(self.predictors.values()), None)
                with self.storage.local_copy("model", model) as home:
                    if base is None:
                        self.predictors[model] = Predictor.load(home, self.dtype).to(self.device)
                    else:
                        self.predictors[model] = folder.load_readout(base, home)
        return [self.predictors[model] for model in models]
