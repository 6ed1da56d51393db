"""The same optimiser step in PyTorch alone: what ours is measured against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.pretrained import checkpoint_activations
from ftrect_ray.study import Training


class Bare:
    """A training loop for the variance on one device, as one would write it without ranks, shards or resumption.

    The arithmetic is the same: in bf16 it keeps fp32 copies of the trained weights for the optimiser, and buffers as
    they are; AdamW is torch's fused one. It neither checks for divergence nor seeds dropout.

    Parameters
    ----------
    predictor : Predictor
        It trains in place, in ``dtype`` on ``device``.
    training : Training
        Learning rates, decay, clipping and checkpointing of activations count; the step is never accumulated.
    """

    def __init__(self, predictor: Predictor, training: Training, dtype: torch.dtype, device: torch.device) -> None:
        self.predictor, self.device, self.clip = predictor.to(device).train(), device, training.clip
        for parameter in predictor.parameters():
            parameter.data = parameter.data.to(dtype)
        if training.gradient_checkpointing:
            checkpoint_activations(predictor.backbone)
        trained = predictor.trainable()
        self.weights = list(trained.values())
        self.masters = self.weights
        if dtype != torch.float32:
            self.masters = [nn.Parameter(weight.detach().float()) for weight in self.weights]
        groups: dict[str, dict[str, Any]] = {
            "matrices": {"lr": training.learning_rate, "weight_decay": training.weight_decay, "params": []},
            "vectors": {"lr": training.learning_rate, "weight_decay": 0.0, "params": []},
            "head": {"lr": training.head_learning_rate, "weight_decay": 0.0, "params": []},
        }
        for name, master in zip(trained, self.masters, strict=True):
            kind = "head" if name.startswith("head.") else "matrices" if master.ndim > 1 else "vectors"
            groups[kind]["params"].append(master)
        self.optimizer = torch.optim.AdamW([g for g in groups.values() if g["params"]], fused=True)
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, rows: Sequence[np.ndarray], targets: Tensor, rate: float) -> float:
        """One step on the tokens of n texts and their standardised targets (n,); the variance of the residuals."""
        pad = self.predictor.tokenizer.pad_token_id
        ids = pad_sequence([torch.from_numpy(tokens) for tokens in rows], batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(tokens) for tokens in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        residual = targets.to(self.device, torch.float32) - self.predictor(ids.to(self.device), mask.to(self.device))
        loss = residual.var(correction=0)
        loss.backward()
        if self.masters is not self.weights:
            for master, weight in zip(self.masters, self.weights, strict=True):
                assert weight.grad is not None
                master.grad, weight.grad = weight.grad.float(), None
        clip_grad_norm_(self.masters, self.clip)
        for group, learning_rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = rate * learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.masters is not self.weights:
            with torch.no_grad():
                for master, weight in zip(self.masters, self.weights, strict=True):
                    weight.copy_(master)
        value = loss.item()
        assert math.isfinite(value)
        return value
