"""Which device computes, and in which number format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ftrect_ray.predictor.predictor import Predictor

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 AVX-512, x86 AMX, Arm


def own_device() -> torch.device:
    """The GPU of this process if it has one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(setting: str, device: torch.device) -> torch.dtype:
    """``bf16`` and ``fp32`` as they say; ``auto`` is bf16 where the device has instructions for it.

    On a processor without them bf16 is emulated, and several times slower than fp32.
    """
    if setting != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[setting]
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else bool(BF16_FLAGS & _processor_flags())
    return torch.bfloat16 if fast else torch.float32


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Weights to ``dtype``. Buffers stay: rotary frequencies in bf16 would move the later positions of a text."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def for_prediction(predictor: Predictor, device: torch.device, precision: str) -> Predictor:
    """``predictor`` on ``device``, its backbone's weights in the format that ``precision`` asks for there."""
    cast(predictor.backbone, resolve_precision(precision, device))
    return predictor.to(device)


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return set(flags.partition(":")[2].split())
