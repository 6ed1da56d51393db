"""What a study computes of a text once and reads afterwards: its tokens, and a frozen backbone's features.

A folder of the run holds one immutable file for each call that had something new to add, named by the hash of its
content. So workers write side by side without a lock, the worst being the same text twice, and a file that does not
have its own name's content (broken off, altered, another program's) is as good as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from transformers import PreTrainedTokenizerBase

from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.predictor.predictor import Predictor
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import digest

#: Of a folder's files, and of the arrays in one process. Beyond it nothing is kept, and all works but more slowly.
LIMIT_BYTES = 2 * 2**30
#: Raised by one when arrays of an older program must not be read.
FORMAT = 1
SUFFIX = ".arrow"


class TextCache:
    """Arrays of numbers by text, in memory and, where there is a ``storage``, in its folder for other processes.

    Parameters
    ----------
    storage : RunStorage or None
        A folder of caches.
    key : JSON-able
        Whatever the arrays depend on beside the text.
    kind : pyarrow list type
        Of one array.
    """

    def __init__(self, storage: RunStorage | None, key: Any, kind: pa.DataType) -> None:
        self.storage, self.folder = storage, digest([FORMAT, key, str(kind)])
        self.schema = pa.schema([("text", pa.binary(16)), ("array", kind)])
        self._arrays: dict[bytes, np.ndarray] = {}
        self._bytes = 0
        self._seen: set[str] = set()

    def get(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """The array of each text, None where there is none."""
        names = [_name(text) for text in texts]
        if any(name not in self._arrays for name in names):
            self._read()
        return [self._arrays.get(name) for name in names]

    def put(self, texts: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        """Keep the ``arrays`` of ``texts``."""
        names = [_name(text) for text in texts]
        if not names or self._bytes + sum(array.nbytes for array in arrays) > LIMIT_BYTES:
            return
        self._keep(names, arrays)
        if self.storage is None:
            return
        columns = [pa.array(names, self.schema.field(0).type), pa.array(list(arrays), self.schema.field(1).type)]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as writer:
            writer.write_table(pa.table(columns, schema=self.schema))
        content = sink.getvalue().to_pybytes()
        if sum(info.size for info in self._files()) + len(content) <= LIMIT_BYTES:
            self._seen.add(_file(content))
            with suppress(EnvironmentFault):  # a full disk is told by the stage that writes an artifact
                self.storage.write_bytes(content, self.folder, _file(content))

    def _read(self) -> None:
        """Take up what other processes have written since."""
        for info in self._files():
            name = info.base_name
            if self.storage is None or name in self._seen or info.size > LIMIT_BYTES - self._bytes:
                continue
            self._seen.add(name)
            try:
                with self.storage.filesystem.open_input_stream(info.path, compression=None) as stream:
                    content = bytes(stream.read())
                if _file(content) != name:
                    continue
                table = pa.ipc.open_stream(content).read_all()
            except (OSError, pa.ArrowInvalid):
                continue
            if table.schema == self.schema and not any(column.null_count for column in table.columns):
                arrays = [np.asarray(scalar.values) for scalar in table["array"]]
                self._keep(table["text"].to_pylist(), arrays)

    def _keep(self, names: Sequence[bytes], arrays: Sequence[np.ndarray]) -> None:
        for name, array in zip(names, arrays, strict=True):
            if name not in self._arrays:
                self._arrays[name] = array
                self._bytes += array.nbytes

    def _files(self) -> list[pafs.FileInfo]:
        if self.storage is None:
            return []
        with suppress(OSError):
            selector = pafs.FileSelector(self.storage.path(self.folder), allow_not_found=True)
            files = self.storage.filesystem.get_file_info(selector)
            return sorted((info for info in files if info.extension == SUFFIX[1:]), key=lambda info: info.path)
        return []


class CachedTokens:
    """Token ids by text: what ``predictor.encode`` would say, computed once a study."""

    def __init__(self, predictor: Predictor, storage: RunStorage | None) -> None:
        self.predictor = predictor
        self.cache = TextCache(storage, ["tokens", *_reading(predictor)], pa.list_(pa.int32()))

    def __call__(self, texts: Sequence[str | None]) -> list[np.ndarray]:
        """int64 arrays, empty where a text cannot be encoded."""
        written = [text or "" for text in texts]
        known = self.cache.get(written)
        missing = list(dict.fromkeys(text for text, array in zip(written, known, strict=True) if array is None))
        fresh = dict(zip(missing, self.predictor.encode(missing).tokens, strict=True)) if missing else {}
        self.cache.put(missing, [array.astype(np.int32) for array in fresh.values()])
        return [
            fresh[text] if array is None else array.astype(np.int64) for text, array in zip(written, known, strict=True)
        ]


def feature_cache(predictor: Predictor, storage: RunStorage | None) -> TextCache:
    """Of a frozen backbone's pooled hidden states, for its weights as they are: their precision and device included."""
    weights = next(predictor.backbone.parameters())
    settings = [predictor.base_digest, predictor.model.pooling, str(weights.dtype), weights.device.type]
    versions = [version(name) for name in ("torch", "transformers")]
    width = int(predictor.base.config.hidden_size)
    return TextCache(storage, ["features", *_reading(predictor), settings, versions], pa.list_(pa.float32(), width))


def _reading(predictor: Predictor) -> list[Any]:
    """All that the tokens of a text depend on."""
    model = predictor.model
    return [tokenizer_digest(predictor.tokenizer), model.max_tokens, model.options and model.options.model_dump()]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Names a tokenizer by its vocabulary, its rules, its special tokens and its chat template."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # what the last call left behind; each call sets its own
        backend.no_padding()
        rules = backend.to_str()
    else:
        rules = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return digest([type(tokenizer).__name__, rules, tokenizer.special_tokens_map, tokenizer.chat_template])


def _name(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _file(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() + SUFFIX
