"""The files of a run's predictions: which rows of which model one holds, and whether it is still right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ftrect_ray.errors import InputError
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import digest

#: Files of a model's folder in which models with one frozen backbone differ.
READOUT_FILES = ("head.safetensors", "readout.json", "fit.json")

#: Raised by one when shards of an older program must not be reused.
FORMAT = 1
KEY, FACTS = b"ftrect.key", b"ftrect.facts"


@dataclass(frozen=True)
class Shard:
    """One shard of one model.

    Attributes
    ----------
    model : str
    index : int
        Position of the shard in the table.
    key : str
        Hash of the shard's rows, of the model's files and of the precision.
    """

    model: str
    index: int
    key: str

    @property
    def path(self) -> tuple[str, str, str]:
        """Where the file is in the run."""
        return "predictions", self.model, f"shard-{self.index:05d}.parquet"


def plan_shards(
    parts: Sequence[pa.Table], models: Sequence[str], storage: RunStorage, precision: str
) -> Iterator[Shard]:
    """All (model, shard) pairs, a model's shards together: an actor then seldom changes its model."""
    rows = [digest([part["id"].to_pylist(), part["text"].to_pylist()]) for part in parts]
    for model in models:
        weights = folder_key(storage, "model", model)
        for index, content in enumerate(rows):
            yield Shard(model, index, digest([FORMAT, content, weights, precision]))


def backbone_key(storage: RunStorage, model: str) -> str:
    """Equal for models that read out the same frozen features; the model's own name where it has a backbone of its own.

    The name too where ``readout.json`` cannot be read: loading the model says why.
    """
    try:
        readout = storage.read_json("model", model, "readout.json")
        settings, base_digest = readout["model"], readout["base_digest"]
        if settings["adapter"] != "head":
            return model
    except (InputError, KeyError, TypeError):
        return model
    return digest([settings, base_digest, folder_key(storage, "model", model, without=READOUT_FILES)])


def folder_key(storage: RunStorage, *parts: str, without: Sequence[str] = ()) -> str:
    """Hash of the names and contents of a folder's files, but for those ``without``."""
    root = storage.path(*parts)
    total = hashlib.sha256()
    files = storage.filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    for info in sorted(files, key=lambda info: info.path):
        if info.type == pafs.FileType.File and info.base_name not in without:
            total.update(info.path[len(root) :].encode() + b"\0" + str(info.size).encode() + b"\0")
            with storage.filesystem.open_input_stream(info.path, compression=None) as stream:
                while block := stream.read(1 << 22):
                    total.update(block)
    return total.hexdigest()


def write_shard(
    storage: RunStorage,
    shard: Shard,
    ids: pa.ChunkedArray,
    values: np.ndarray,
    errors: Sequence[str | None],
    facts: dict[str, Any],
    probabilities: np.ndarray | None = None,
) -> None:
    """Write a shard whole: columns ``id``, ``prediction`` (null for NaN) and ``error``, key and facts beside.

    Where there are ``probabilities`` (n, K) of answer options, also a column of them, lists of float32.
    """
    columns = {
        "id": ids,
        "prediction": pa.array(values, pa.float64(), mask=np.isnan(values)),
        "error": pa.array(errors, pa.string()),
    }
    if probabilities is not None:
        known = np.isfinite(probabilities).all(1)
        lists = [row if fine else None for row, fine in zip(probabilities.astype(np.float32), known, strict=True)]
        columns["probabilities"] = pa.array(lists, pa.list_(pa.float32()))
    table = pa.table(columns).replace_schema_metadata({KEY: shard.key, FACTS: json.dumps(facts)})
    storage.write_table(table, *shard.path)


def read_facts(storage: RunStorage, shard: Shard) -> dict[str, Any] | None:
    """The facts of a finished shard with the right key, else None."""
    if not storage.exists(*shard.path):
        return None
    try:
        with storage.filesystem.open_input_file(storage.path(*shard.path)) as file:
            metadata = pq.read_metadata(file).metadata or {}
        return dict(json.loads(metadata[FACTS])) if metadata.get(KEY) == shard.key.encode() else None
    except (pa.ArrowInvalid, KeyError, ValueError):
        return None


def sweep(storage: RunStorage, shards: Sequence[Shard]) -> None:
    """Remove what no reader may see: files half written by a killed run, and shards beyond the last."""
    wanted = {shard.path for shard in shards}
    for model in dict.fromkeys(shard.model for shard in shards):
        for name in storage.list("predictions", model):
            if ("predictions", model, name) not in wanted:
                storage.delete("predictions", model, name)
