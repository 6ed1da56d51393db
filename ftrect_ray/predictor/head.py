"""The regression readout: hidden states pooled to one vector a text, one linear layer on top.

It is a plain module outside PEFT: ZeRO-3 makes empty tensors of PEFT's ``modules_to_save``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Head(nn.Linear):
    """The linear readout; it computes in fp32 whatever precision its weights are stored in."""

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` (n, hidden) to (n,)."""
        return functional.linear(pooled.float(), self.weight.float(), self.bias.float()).squeeze(-1)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Hidden states (n, tokens, hidden) to one fp32 vector a row (n, hidden).

    ``mean``: over the attended tokens. ``last``: the last attended token, the only one of a causal model that
    has seen the whole text.
    """
    if pooling == "last":
        last = (attention_mask * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    mask = attention_mask.unsqueeze(-1).float()
    return (hidden.float() * mask).sum(1) / mask.sum(1)
