"""What the fine-tune minimises, on the global batch: the residual variance, or the mean square.

With residuals r_i = y_i − f(x_i) of the N rows of a global batch, over all ranks, the variance objective
(Wang, Ye & Zhao, arXiv 2511.19486) is

    L = (1/N) Σ_i (r_i − r̄)²,      r̄ = (1/N) Σ_i r_i .

Held constant in differentiation, r̄ still leaves the gradient exact: dL/dr̄ = −(2/N) Σ_i (r_i − r̄) = 0.
So each rank needs two numbers of the others before its backward pass, Σ r and N. The mean of a rank's own
rows would make another objective, which is identically zero for a rank with one row.

DeepSpeed averages the gradients of W ranks with equal weights, whatever their numbers of rows. The local
loss is therefore (W/N) Σ_{own rows}, so that the average over ranks is L for unequal and for empty ranks.
Rows of ``weight`` 0 are padding and count nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Moments(NamedTuple):
    """Of the residuals of a global batch: their ``mean`` and the number of ``rows``, both 0-d, float64."""

    mean: Tensor
    rows: Tensor


def global_moments(residual: Tensor, weight: Tensor) -> Moments:
    """All-reduce the residuals' sum and number over the default process group.

    Parameters
    ----------
    residual, weight : Tensor (rows of this rank,)
        Weights are 1 for rows and 0 for padding.
    """
    sums = torch.stack([(residual.detach().double() * weight).sum(), weight.double().sum()])
    dist.all_reduce(sums)
    return Moments(sums[0] / sums[1], sums[1])


def variance_loss(residual: Tensor, weight: Tensor, moments: Moments, world: int) -> Tensor:
    """This rank's share of the residual variance, scaled by ``world``: its average over ranks is L."""
    return _local_mean((residual - moments.mean.to(residual.dtype)).square(), weight, moments, world)


def mse_loss(residual: Tensor, weight: Tensor, moments: Moments, world: int) -> Tensor:
    """This rank's share of the mean squared residual, scaled as in :func:`variance_loss`."""
    return _local_mean(residual.square(), weight, moments, world)


def _local_mean(terms: Tensor, weight: Tensor, moments: Moments, world: int) -> Tensor:
    return (terms * weight).sum() * (world / moments.rows.to(terms.dtype))


LOSSES = {"variance": variance_loss, "mse": mse_loss}


def metric(objective: str, residual: Tensor) -> float:
    """The objective on a whole set of residuals (n,): what chooses the epoch.

    >>> metric("variance", torch.tensor([1.0, 3.0])), metric("mse", torch.tensor([1.0, 3.0]))
    (1.0, 5.0)
    """
    residual = residual.double()
    if objective == "variance":
        residual = residual - residual.mean()
    return float(residual.square().mean())
