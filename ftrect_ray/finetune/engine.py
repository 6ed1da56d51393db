"""DeepSpeed around a predictor: one optimiser step, the full weights, the state to resume from.

What a rank of N holds of a model of P weights, T of them trained (bf16; fp32 in brackets):

    zero_stage   weights (bytes)   gradients       master weights and moments
    1            2P (4P)           2T (4T)         12T/N
    2            2P (4P)           2T/N (4T/N)     12T/N
    3            2P/N (4P/N)       2T/N (4T/N)     12T/N

plus, at stage 3, the layer in use and parameters of fewer than 10⁵ numbers whole. ``offload`` moves the last two
columns, and ``parameters`` the first too, to the host's memory. ``ftrect_ray.sizing`` counts this for a given model.

**Nothing is compiled unless asked.** The optimiser is torch's fused AdamW, on the host as well as on a GPU (a tenth of
the time of its plain loop), and DeepSpeed is told that none of its operators can be built here, so that it neither
looks for a compiler nor builds the shared-memory collective of its CPU backend. A slim image suffices.
``optimizer: deepspeed`` builds DeepSpeed's own AdamW at the first use.

**Number formats.** In bf16 weights and activations are bf16, master weights and AdamW's moments fp32. Buffers stay
as they were made: rotary frequencies rounded to bf16 would move the later positions of a text.

**The same result twice.** On CPUs one worker gives the same bits each time. Two workers, another stage, offload: the
same up to the order of sums. Predictions after whole fine-tunes in fp32 without dropout differ by less than 10⁻⁵
standard deviations of the answers (measured: 4·10⁻⁶); dropout is drawn by each rank, so with it they are two draws of
one training. On GPUs, ``use_deterministic_algorithms`` is left to the environment: it costs speed, needs
CUBLAS_WORKSPACE_CONFIG before the process starts, and not every model's operators have a deterministic form.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.pretrained import checkpoint_activations, first_line
from ftrect_ray.study import Training

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read once, when deepspeed is imported
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of setuptools and triton: nothing that a user could mend
    import deepspeed
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # of names that DeepSpeed uses
deepspeed.ops.__compatible_ops__ = defaultdict(bool)  # else it compiles a program for each to find out

BUCKET = 50_000_000  # numbers in one reduction; DeepSpeed's own default would hold 2 GB a process
TAG = "engine"
LINEAR = functional.linear
#: What DeepSpeed stores beside tensors and plain containers.
STORED = [LossScaler, ZeroStageEnum, fragment_address]


def join_alone(device: torch.device) -> None:
    """A process group of this process only, unless it is in one already; it lasts as long as the process.

    DeepSpeed keeps the first group that it meets, so it is not taken down between fits.
    """
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


@contextmanager
def loading(training: Training, dtype: torch.dtype) -> Iterator[None]:
    """Inside, at ZeRO stage 3, ``from_pretrained`` leaves each rank its part of every parameter and no more.

    Rank 0 alone reads the weights, from mapped files; a tensor at a time is sent to the others, who keep their parts
    (with ``offload: parameters`` on the host). The peak of a rank is its share of the model and the largest layer.
    Collective: all ranks load the same model.
    """
    if training.zero_stage < 3:
        yield
        return
    deepspeed.init_distributed(dist_init_required=False)
    config = HfDeepSpeedConfig(_config(training, dtype))  # transformers asks for it through a weak reference
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


class Engine:
    """A :class:`Predictor` under ZeRO. Every method is collective: all ranks call it, in the same order.

    At stage 3 the predictor may have been made inside :func:`loading`.

    Raises
    ------
    EnvironmentFault
        ``optimizer: deepspeed``, and it cannot be compiled here.
    InputError
        ``gradient_checkpointing`` of a model that cannot.
    """

    def __init__(self, predictor: Predictor, training: Training, dtype: torch.dtype, device: torch.device) -> None:
        if training.gradient_checkpointing and predictor.model.adapter != "head":  # a frozen backbone keeps nothing
            checkpoint_activations(predictor.backbone)
        groups = _groups(predictor, training)
        self.learning_rates = [group["lr"] for group in groups]
        self.predictor, self.stage = predictor, training.zero_stage
        buffers = dict(predictor.named_buffers())
        self._engine, *_ = deepspeed.initialize(
            model=predictor.to(dtype).to(device),  # a GPU never has it in fp32
            optimizer=_optimizer(groups, training),
            dist_init_required=False,
            config=_config(training, dtype),
        )
        self._engine.checkpoint_engine.load = _read
        for name, buffer in predictor.named_buffers():
            buffer.data = buffers[name].to(device)

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
        """Write below ``folder`` this rank's shard of the optimiser's state and of the trained weights.

        DeepSpeed's files are pickles. :meth:`load` takes nothing from them but tensors, plain containers and three
        classes of DeepSpeed's; they are still made to stay in the run's own storage.
        """
        self._engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote; the frozen weights are those of the base model.

        Raises
        ------
        EnvironmentFault
            ``folder`` has no state, or that of another number of workers.
        """
        shards, workers = len(list((folder / TAG).glob("*_optim_states.pt"))), dist.get_world_size()
        if shards != workers:
            raise EnvironmentFault(
                f"the checkpoint is of {shards} workers, the run has {workers}",
                where=str(folder),
                mend=f"set training.workers: {shards}, or start the fine-tune anew",
            )
        self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False, load_lr_scheduler_states=False)

    def close(self) -> None:
        """Let go of the weights and the optimiser's state; the predictor is no longer of use.

        DeepSpeed's caches of stage 3 know its modules for ever, so these are emptied. And stage 3 replaces torch's
        ``linear`` in the whole process: it is put back.
        """
        self._engine.destroy()
        functional.linear = LINEAR
        for part in (self._engine.optimizer, self._engine):
            vars(part).clear()
        for parameter in self.predictor.parameters():
            vars(parameter).clear()
            parameter.data, parameter.grad = parameter.data.new_empty(0), None


def _read(path: str, map_location: Any = None) -> Any:
    """In place of DeepSpeed's reading of a checkpoint's file, which would run whatever a forged pickle says."""
    with torch.serialization.safe_globals(STORED):
        return torch.load(path, map_location=map_location, weights_only=True)


def _config(training: Training, dtype: torch.dtype) -> dict[str, Any]:
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    zero: dict[str, Any] = {
        "stage": training.zero_stage,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "contiguous_gradients": torch.cuda.is_available(),  # on a processor the copy costs and mends nothing
    }
    if training.offload != "none":
        zero["offload_optimizer"] = host
    if training.offload == "parameters":
        zero["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": 1,  # nominal: batches differ between ranks, see objectives.py
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # micro-batches of a step are as many as its rows need
        "gradient_clipping": training.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 2**31,
    }


def _optimizer(groups: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer:
    """AdamW: torch's own, or DeepSpeed's, which is compiled now."""
    if training.optimizer == "torch":
        return torch.optim.AdamW(groups, fused=True)
    on_host = training.offload != "none" or not torch.cuda.is_available()
    try:
        kind = deepspeed.ops.adam.DeepSpeedCPUAdam if on_host else deepspeed.ops.adam.FusedAdam
        return kind(groups)
    except Exception as error:  # whatever goes wrong in a build
        raise EnvironmentFault(
            f"DeepSpeed's AdamW cannot be compiled here: {first_line(error)}",
            where="training.optimizer",
            mend=f"install {'g++' if on_host else 'the CUDA toolkit, g++'} and ninja, or set training.optimizer: torch",
        ) from error


def _groups(predictor: Predictor, training: Training) -> list[dict[str, Any]]:
    """Matrices decay, vectors (biases, norms) do not; the readout has its own learning rate and does not decay."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, parameter in predictor.trainable().items():
        whole = getattr(parameter, "ds_shape", parameter.shape)  # what ZeRO-3 has cut looks empty
        (head if name.startswith("head.") else matrices if len(whole) > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "lr": training.learning_rate, "weight_decay": training.weight_decay},
        {"params": vectors, "lr": training.learning_rate, "weight_decay": 0.0},
        {"params": head, "lr": training.head_learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
