"""Activations: a training step walked on the ``meta`` device, counting the bytes that are alive at each operation.

The closed formulas of the literature hold for one architecture in one implementation: Korthikanti et al. (2022,
'Reducing activation recomputation in large transformer models', eq. 2) count 34·s·b·h + 5·a·s²·b bytes for a layer of
GPT. Attention in blocks drops the second term; transformers' Llama keeps 20·h + 4·k + 8·f bytes a token and layer
instead of the first (k: width of the keys, f: of the feed-forward layer; its norms compute in fp32), adapters and
padding add to it. The walk runs the model's own operations instead, forward and backward, with shapes and no numbers.
What it finds for Llama is that formula, and a test says so.

A GPU differs from the ``meta`` device in two operations, for which it has kernels of its own, and they are put in
their place: attention (in blocks, keeping no s·s matrix for each head) and dropout (one byte a number).
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftrect_ray.errors import InputError
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.pretrained import first_line, quiet


@dataclass(frozen=True)
class Walk:
    """Bytes that one forward and backward pass needs beside the weights and their gradients.

    Attributes
    ----------
    kept : int
        At the end of the forward pass, waiting for the backward pass.
    peak : int
        The most at any operation.
    """

    kept: int
    peak: int


class Activations:
    """The bytes of a micro-batch of any number of texts, from the walks of the first three.

    From the second text on, each needs as much as the one before. The first is alone without padding, and attention
    keeps less without a mask.
    """

    def __init__(self, walks: Sequence[Walk]) -> None:
        self.alone, self.two, self.three = walks

    @classmethod
    def of(
        cls, predictor: Predictor, tokens: int, dtype: torch.dtype, checkpointing: bool, *, padded: bool = True
    ) -> Activations:
        """Walk ``predictor`` with 1, 2 and 3 texts of at most ``tokens`` tokens, ``padded`` if not all are as long."""
        walks = (walk(predictor, n, tokens, dtype, checkpointing, padded=padded and n > 1) for n in (1, 2, 3))
        return cls(list(walks))

    def at(self, rows: int) -> Walk:
        """What a micro-batch of ``rows`` texts needs."""
        if rows == 1:
            return self.alone
        kept, peak = self.three.kept - self.two.kept, self.three.peak - self.two.peak
        return Walk(self.two.kept + (rows - 2) * kept, self.two.peak + (rows - 2) * peak)


def walk(
    predictor: Predictor, rows: int, tokens: int, dtype: torch.dtype, checkpointing: bool, *, padded: bool = False
) -> Walk:
    """One step of a predictor on the ``meta`` device.

    Parameters
    ----------
    rows, tokens : int
        Shape of the micro-batch.
    checkpointing : bool
        Activations of each layer are computed again in the backward pass.
    padded : bool
        Some tokens are padding: attention gets a mask.

    Raises
    ------
    InputError
        The model's operations depend on its numbers (a mixture of experts, say).
    """
    predictor = predictor.to(dtype).train()
    trains = predictor.model.adapter != "head"
    try:
        with quiet(), _checkpointed(predictor, checkpointing, padded), _gradients_dropped(predictor):
            alive = _Alive([*predictor.parameters(), *predictor.buffers()])
            ids = torch.zeros((rows, tokens), dtype=torch.long, device="meta")
            with alive, _OnGpu(padded), torch.set_grad_enabled(trains):
                predicted = predictor(ids, torch.ones_like(ids))
            kept = alive.now
            if trains:
                with alive:
                    predicted.sum().backward()
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"the memory of {predictor.model.name!r} cannot be forecast from its configuration: {first_line(error)}",
            where="--model",
            mend="plan with a dense model of the same size",
        ) from None
    return Walk(kept if trains else 0, alive.peak)


@contextmanager
def _checkpointed(predictor: Predictor, on: bool, padded: bool) -> Iterator[None]:
    """Gradient checkpointing as ``checkpoint_activations`` turns it on; the recomputation, too, runs as on a GPU."""
    if not on:
        yield
        return
    base, contexts = predictor.base, {"context_fn": lambda: (nullcontext(), _OnGpu(padded))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a name that transformers 6 will change
        base.gradient_checkpointing_enable({"use_reentrant": False, **contexts})
        base.disable_input_require_grads()  # newer versions enable it themselves: one hook, not two
        base.enable_input_require_grads()
        try:
            yield
        finally:
            base.disable_input_require_grads()
            base.gradient_checkpointing_disable()


@contextmanager
def _gradients_dropped(predictor: Predictor) -> Iterator[None]:
    """A parameter's gradient goes as soon as it is there: how long DeepSpeed keeps it is said in ``states``."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [parameter.register_post_accumulate_grad_hook(drop) for parameter in predictor.trainable().values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Alive(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still referred to: ``now``, and at the ``peak``."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in given}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def _meet(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._part, storage._cdata)

    def _part(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class _OnGpu(TorchFunctionMode):
    """Attention and dropout as CUDA computes them; and whether a token is padding, which shapes cannot say."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded = padded

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.__bool__ and args[0].is_meta:
            return not self.padded  # transformers asks whether the mask is all ones
        if function is functional.dropout:
            return _dropout(*args, **kwargs)
        if function is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return function(*args, **kwargs)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Keeps a mask of one byte a number."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """CUDA's fused kernels, which keep q, k, v, the output and one fp32 a query and head.

    Without a mask, and in 16 bits, that is FlashAttention. With one it is the memory-efficient kernel, for which
    the mask becomes a bias of the queries' format, (n, 1, s, s), anew in each layer.
    """
    if attn_mask is None and query.element_size() == 2:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).expand(-1, query.shape[1], -1, -1)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]
