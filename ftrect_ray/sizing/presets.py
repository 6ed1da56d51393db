"""Models whose configuration is built in: three sizes to plan with, and the named ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A model to plan with where nothing can be downloaded.

    Attributes
    ----------
    model : str
        What ``model.name`` would be: an example, to be edited.
    config : dict
        What matters of its config.json.
    settings : dict
        Of a study with such a model, by the key of the study: where to start from.
    """

    model: str
    config: dict[str, Any]
    settings: dict[str, Any]


def _causal(kind: str, **sizes: Any) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [f"{kind.capitalize()}ForCausalLM"], **sizes}


PRESETS: dict[str, Preset] = {
    "0.5b": Preset(
        "Qwen/Qwen2.5-0.5B",
        _causal(
            "qwen2",
            vocab_size=151_936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
        ),
        {
            "model": {"name": "Qwen/Qwen2.5-0.5B", "adapter": "full", "pooling": "last", "max_tokens": 512},
            "training": {"workers": 1, "zero_stage": 2, "precision": "bf16", "learning_rate": 2e-5},
            "inference": {"batch_tokens": 32_768, "precision": "bf16"},
        },
    ),
    "7b": Preset(
        "mistralai/Mistral-7B-v0.3",
        _causal(
            "mistral",
            vocab_size=32_768,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=32_768,
            sliding_window=None,
            tie_word_embeddings=False,
        ),
        {
            "model": {
                "name": "mistralai/Mistral-7B-v0.3",
                "adapter": "lora",
                "lora": {"rank": 16, "alpha": 32},
                "pooling": "last",
                "max_tokens": 512,
            },
            "training": {"workers": 1, "zero_stage": 2, "micro_batch_size": 4, "precision": "bf16"},
            "inference": {"batch_tokens": 16_384, "precision": "bf16"},
        },
    ),
    "70b": Preset(
        "meta-llama/Llama-3.1-70B",
        _causal(
            "llama",
            vocab_size=128_256,
            hidden_size=8192,
            intermediate_size=28_672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            max_position_embeddings=131_072,
            tie_word_embeddings=False,
        ),
        {
            "model": {
                "name": "meta-llama/Llama-3.1-70B",
                "adapter": "lora",
                "lora": {"rank": 16, "alpha": 32},
                "pooling": "last",
                "max_tokens": 512,
            },
            "training": {
                "workers": 8,
                "zero_stage": 3,
                "gradient_checkpointing": True,
                "micro_batch_size": 1,
                "precision": "bf16",
            },
            "inference": {"batch_tokens": 4096, "precision": "bf16"},
            "design": "crossfit",
            "pilots": None,  # a pilot trains on one GPU
        },
    ),
    "minilm": Preset(
        "minilm",
        {
            "model_type": "bert",
            "architectures": ["BertModel"],
            "vocab_size": 30_522,
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "max_position_embeddings": 512,
        },
        {},
    ),
    "smollm2": Preset(
        "smollm2",
        _causal(
            "llama",
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
        {},
    ),
}
