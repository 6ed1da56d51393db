"""DeepSpeed around a predictor: one optimiser step, the full fp32 weights, the state to resume from.

No DeepSpeed operator is compiled: the optimiser is torch's AdamW, and the shared-memory collective of its
CPU backend, which would be built by the first ``initialize``, is declared absent. A slim image without a
compiler therefore suffices.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ftrect_ray.predictor import Predictor
from ftrect_ray.study import Training

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read once, when deepspeed is imported
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of setuptools and triton: nothing that a user could mend
    import deepspeed

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

BUCKET = 50_000_000  # numbers in one reduction; DeepSpeed's own default would hold 2 GB a process
TAG = "engine"


def join_alone(device: torch.device) -> None:
    """A process group of this process only, unless it is in one already; it lasts as long as the process.

    DeepSpeed keeps the first group that it meets, so it is not taken down between fits.
    """
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


class Engine:
    """A :class:`Predictor` under ZeRO. Every method is collective: all ranks call it, in the same order."""

    def __init__(self, predictor: Predictor, training: Training, dtype: torch.dtype) -> None:
        groups = _groups(predictor, training)
        self.learning_rates = [group["lr"] for group in groups]
        self.predictor, self.stage = predictor, training.zero_stage
        self._engine, *_ = deepspeed.initialize(
            model=predictor,
            optimizer=torch.optim.AdamW(groups),
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,  # nominal: batches differ between ranks, see objectives.py
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,  # micro-batches of a step are as many as its rows need
                "gradient_clipping": training.clip,
                "zero_optimization": {
                    "stage": training.zero_stage,
                    "reduce_bucket_size": BUCKET,
                    "allgather_bucket_size": BUCKET,
                },
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": dtype == torch.bfloat16},
                "steps_per_print": 2**31,
            },
        )

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        self._engine.train(mode)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As :meth:`Predictor.forward`."""
        return self._engine(input_ids, attention_mask)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's share, averaged over the ranks."""
        self._engine.backward(loss)

    def step(self, rate: float) -> float:
        """Clip the gradient and move by AdamW at ``rate`` times the learning rates; the norm before clipping."""
        for group, learning_rate in zip(self._engine.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = rate * learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Each of the predictor's ``tensors``, one at a time, whole, as computed with: what ZeRO-3 cut is gathered.

        They are good until the next one: keep copies.
        """
        for name, tensor in tensors.items():
            with self._gathered(tensor):
                yield name, tensor.detach()

    def weights(self) -> dict[str, Tensor]:
        """The trained parameters, whole, on the CPU: rank 0 gets them, the others an empty dict."""
        own = self.whole(self.predictor.trainable())
        return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in own if dist.get_rank() == 0}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Compute with ``weights``, which rank 0 has, from now on. The optimiser does not follow: training is over."""
        for name, parameter in self.predictor.trainable().items():
            with torch.no_grad(), self._gathered(parameter, modifier_rank=0):
                if dist.get_rank() == 0:
                    parameter.copy_(weights[name])
                if self.stage < 3:
                    dist.broadcast(parameter.data, 0)

    def _gathered(self, tensor: Tensor, modifier_rank: int | None = None) -> AbstractContextManager[Any]:
        return deepspeed.zero.GatheredParameters(tensor, modifier_rank=modifier_rank, enabled=hasattr(tensor, "ds_id"))

    def save(self, folder: Path) -> None:
        """Write the optimiser's and the trained weights' shards of this rank below ``folder``."""
        self._engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote; the frozen weights are those of the base model."""
        path, _ = self._engine.load_checkpoint(
            str(folder), tag=TAG, load_module_strict=False, load_lr_scheduler_states=False
        )
        if path is None:
            raise RuntimeError(f"no training state in {folder}")

    def close(self) -> None:
        """Let go of the weights and the optimiser's state, which DeepSpeed's hooks would keep alive."""
        self._engine.destroy()


def _groups(predictor: Predictor, training: Training) -> list[dict[str, Any]]:
    """Matrices decay, vectors (biases, norms) do not; the readout has its own learning rate and does not decay."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, parameter in predictor.trainable().items():
        (head if name.startswith("head.") else matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "lr": training.learning_rate, "weight_decay": training.weight_decay},
        {"params": vectors, "lr": training.learning_rate, "weight_decay": 0.0},
        {"params": head, "lr": training.head_learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
