"""A model too large for one process: loaded in parts under ZeRO-3 it is the same model."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.study import Model

TEXTS = ["good", "the film was a very good plot", "i hate it"]
OPTIONS = {"prompt": "{text} it was", "answers": {"good": 1, "good plot": 3, "bad": -1}}


@pytest.mark.ray
def test_in_parts_it_is_the_same_model(tiny_bert: Path, tiny_llama: Path, tiny_chat: Path, tmp_path: Path) -> None:
    specs = [
        (Model(name=str(tiny_bert), max_tokens=32, adapter="full"), TEXTS),
        (Model(name=str(tiny_bert), max_tokens=32, adapter="lora"), TEXTS),
        (Model(name=str(tiny_llama), max_tokens=32, adapter="full"), TEXTS),
        (Model(name=str(tiny_llama), max_tokens=32, adapter="full", options=OPTIONS), TEXTS),
        (Model(name=str(tiny_llama), max_tokens=32, adapter="lora", options=OPTIONS), TEXTS),
        (Model(name=str(tiny_chat), max_tokens=120, adapter="full", options=OPTIONS), TEXTS),
        (Model(name=str(tiny_chat), max_tokens=120, adapter="lora", options=OPTIONS), TEXTS),
    ]
    answers = _two_processes(specs, tmp_path)
    for (model, texts), (digest, parted, predictions, gradients) in zip(specs, answers, strict=True):
        whole = Predictor.create(model, seed=3, scale=Scale(1.0, 2.0, 0.0, 1.0))
        ids, mask = whole.collate(whole.encode(texts).tokens)
        read = whole.read(whole(ids, mask))
        read.square().sum().backward()
        assert digest == whole.base_digest
        assert parted
        np.testing.assert_allclose(predictions, read.detach(), atol=1e-6)
        assert gradients.keys() == whole.trainable().keys()
        for name, parameter in whole.trainable().items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            np.testing.assert_allclose(gradients[name], expected.flatten(), atol=1e-5, err_msg=name)


def _two_processes(specs: list[tuple[Model, list[str]]], folder: Path) -> list:
    (folder / "spec").write_bytes(pickle.dumps(specs))
    program, rest = str(Path(__file__).with_name("partitioned.py")), [str(folder / n) for n in ("store", "spec", "out")]
    ranks = [
        subprocess.Popen(
            [sys.executable, program, str(rank), *rest],
            env={**os.environ, "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        output = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], output
    return json.loads((folder / "out").read_text())
