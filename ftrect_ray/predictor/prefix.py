"""The tokens that every prompt begins with, computed once for all rows of a batch.

In a causal model no token sees those behind it, so a beginning that all rows share has the same keys and values in
all of them. It goes through the model alone, as one row; the rest of every row then attends to its keys and values.
The gradient flows through both passes: this is the plain pass, with the same sums in another order. (With dropout
the rows share the beginning's draw too.)

Rows lie as beginning | padding | rest, and positions do not count the padding. That is exact where attention is a
function of mask and positions alone, see :func:`can_share`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ftrect_ray.predictor.tokens import NO_TOKENS, collate

Batch: TypeAlias = tuple[Tensor, Tensor]

#: Tokens below which a second pass costs more than it saves.
LEAST = 16
#: What a row still costs for each shared token, in tokens computed: its keys and values are copied and attended to.
ATTENDED = 1 / 16


class Prefix:
    """The shared beginning: its tokens, and how batches and passes are cut behind it. With no tokens, all is plain.

    Parameters
    ----------
    tokens : ndarray, int64 (c,)
    """

    def __init__(self, tokens: np.ndarray = NO_TOKENS) -> None:
        self.tokens = torch.from_numpy(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def collate(
        self, rows: Sequence[np.ndarray], pad: int, collate_own: Callable[[Sequence[np.ndarray], int], Batch]
    ) -> Batch:
        """``input_ids`` and ``attention_mask``: c columns of beginnings, then what ``collate_own`` makes of the rest.

        Rows that begin otherwise are cut at the same place, or before their last token.
        """
        if not len(self):
            return collate_own(rows, pad)
        rows = rows or [np.append(self.tokens.numpy(), pad)]
        cuts = [min(len(self), len(row) - 1) for row in rows]
        first = collate([row[:cut] for row, cut in zip(rows, cuts, strict=True)], pad, width=len(self), left=True)
        own = collate_own([row[cut:] for row, cut in zip(rows, cuts, strict=True)], pad)
        times = len(own[0]) // len(rows)
        ids, mask = (torch.cat([a.repeat_interleave(times, 0), b], 1) for a, b in zip(first, own, strict=True))
        return ids, mask

    def costs(self, lengths: np.ndarray) -> np.ndarray:
        """What rows of ``lengths`` (n,) tokens cost in a pass, in tokens computed, int64 (n,); 0 stays 0."""
        own = np.maximum(lengths - len(self), 1) + int(ATTENDED * len(self))
        return np.where(lengths > 0, own, 0)

    def begins(self, ids: Tensor, mask: Tensor) -> bool:
        """Whether all rows of a batch begin with it."""
        first = ids[:, : len(self)] == self.tokens.to(ids.device)
        return bool((first & (mask[:, : len(self)] == 1)).all())


def can_share(base: PreTrainedModel, takes: Collection[str], max_tokens: int) -> bool:
    """Whether a pass of ``base`` over rows of up to ``max_tokens`` tokens can be cut in two after their beginning.

    Its ``forward`` must take (``takes``) keys and values of earlier tokens, and positions; what a layer remembers of
    those tokens must be all their keys and values: no running state, no window shorter than a row.
    """
    if not {"past_key_values", "use_cache", "position_ids", "attention_mask"} <= set(takes):
        return False
    try:
        layers = DynamicCache(config=base.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # a kind of layer that transformers has no cache for
        return False
    whole = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in whole and not 0 <= layer.get_max_length() < max_tokens for layer in layers)


def recomputes(base: PreTrainedModel) -> bool:
    """Whether layers compute their activations again in the backward pass; its name in transformers changes."""
    return any(getattr(module, "gradient_checkpointing", False) for module in base.modules())


def behind(beginning: DynamicCache) -> DynamicCache:
    """The keys and values of ``beginning`` for passes over rows that go on from it, which leave nothing in it."""
    cache = DynamicCache()
    cache.layers = [_Behind(layer) for layer in beginning.layers if isinstance(layer, DynamicLayer)]
    return cache


class _Behind(DynamicLayer):
    """One layer's keys and values of a beginning, (1 or n, heads, tokens, width), that n rows go on from.

    It does not grow: keys and values of the rows live no longer than their layer needs them.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = layer.keys, layer.values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Batch:
        assert self.keys is not None
        assert self.values is not None
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(past: Tensor, own: Tensor) -> Tensor:
    return torch.cat([past.expand(len(own), -1, -1, -1), own], dim=-2)
