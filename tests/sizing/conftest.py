"""Real models of the sizes that the planner counts, with numbers in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, LlamaConfig

from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.head import Head
from ftrect_ray.predictor.pretrained import adapt
from ftrect_ray.study import Lora, Model

SMALL = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "architectures": ["LlamaForCausalLM"],
    "use_cache": False,
}


@pytest.fixture(scope="session")
def small_config() -> LlamaConfig:
    """Four layers, grouped keys, a feed-forward layer four times as wide."""
    return LlamaConfig(**SMALL)


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    """A folder with the configuration, and nothing else."""
    LlamaConfig(**SMALL).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def a_model() -> Callable[..., Model]:
    """``a_model(adapter)``: without dropout, which a processor keeps in another format than a GPU."""

    def make(adapter: str = "full", **fields: Any) -> Model:
        settings = {"name": "small", "max_tokens": 64, "lora": Lora(dropout=0.0), "pooling": "last"} | fields
        return Model(adapter=adapter, **settings)  # type: ignore[arg-type]

    return make


@pytest.fixture
def real(small_config: LlamaConfig) -> Callable[[Model], Predictor]:
    """The predictor of a model with the small configuration, with random numbers, in fp32."""

    def make(model: Model) -> Predictor:
        backbone = AutoModel.from_config(small_config, dtype=torch.float32)
        head = Head(small_config.hidden_size, 1)
        return Predictor(adapt(backbone, model), head, None, model, Scale(), "")  # type: ignore[arg-type]

    return make
