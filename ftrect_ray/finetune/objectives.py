"""What the fine-tune minimises, on the global batch.

Every objective is a function of the influence residuals u_i = w_i (y_i − f(x_i)) ∈ R^d of the N rows of one optimiser
step, whichever rank and micro-batch computes them. For the mean d = 1 and w = 1; for coefficients see
``finetune.influence``. With ū their mean and Σ their covariance (divided by N):

    variance, coefficient   (1/N) Σ_i (u_i − ū)²            Wang, Ye & Zhao, arXiv 2511.19486
    trace                   tr Σ                            (same, section 5)
    determinant             det(Σ)^(1/d)                    (same)
    mse                     (1/N) Σ_i |u_i|²

Each is a quadratic form around a centre, L = (1/N) Σ_i (u_i − c)ᵀ A (u_i − c), in which c and A are functions of the
step's moments alone. **Held constant in differentiation, they leave value and gradient exact.** For c = ū because
Σ (u_i − ū) = 0, so the derivative with respect to the centre vanishes. For the determinant, A = (L/d) Σ⁻¹ because
dL = (L/d) tr(Σ⁻¹ dΣ), and tr(A Σ) = L. So a rank that knows N, Σ u and Σ uuᵀ of the whole step can do its backward
pass one micro-batch at a time, and the sum of what the ranks and micro-batches contribute is the gradient of L. The
mean of a rank's or a micro-batch's own rows would make another objective, identically zero for one row.

Rows of ``weight`` 0 are padding and count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: Share of the mean variance that the determinant adds to each: a step of d rows or fewer has no inverse otherwise.
RIDGE = 1e-6


# ------------------------------------------------------------------------------- plain functions of all rows


def total_variance(u: Tensor) -> Tensor:
    """tr Σ of ``u`` (n, d): for d = 1 the variance, divided by n."""
    return (u - u.mean(0)).square().sum(1).mean()


def mean_square(u: Tensor) -> Tensor:
    """The mean of |u_i|² over the rows of ``u`` (n, d)."""
    return u.square().sum(1).mean()


def generalised_variance(u: Tensor) -> Tensor:
    """det(Σ + ε I tr(Σ)/d)^(1/d) of ``u`` (n, d), ε = ``RIDGE``."""
    centred = u - u.mean(0)
    return _root_determinant(_ridged(centred.T @ centred / len(u)))


OBJECTIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "variance": total_variance,
    "mse": mean_square,
    "coefficient": total_variance,
    "trace": total_variance,
    "determinant": generalised_variance,
}


def metric(objective: str, u: Tensor) -> float:
    """The objective on a whole set of influence residuals (n, d), in float64: what chooses the epoch.

    >>> u = torch.tensor([[1.0], [3.0]])
    >>> metric("variance", u), metric("mse", u)
    (1.0, 5.0)
    """
    return float(OBJECTIVES[objective](u.double()))


def _ridged(covariance: Tensor) -> Tensor:
    d = len(covariance)
    level = RIDGE * covariance.diagonal().sum() / d + torch.finfo(covariance.dtype).tiny
    return covariance + level * torch.eye(d, dtype=covariance.dtype, device=covariance.device)


def _root_determinant(covariance: Tensor) -> Tensor:
    return torch.exp(torch.linalg.slogdet(covariance)[1] / len(covariance))


# --------------------------------------------------------------------- the same, a share of the rows at a time


def sums(u: Tensor, weight: Tensor) -> Tensor:
    """N, Σ u and Σ uuᵀ of some rows, one float64 vector (1 + d + d²,): those of several parts add up.

    Parameters
    ----------
    u : Tensor (n, d)
    weight : Tensor (n,)
        1 for rows and 0 for padding.
    """
    u, weight = u.detach().double(), weight.double()
    weighted = u * weight[:, None]
    return torch.cat([weight.sum()[None], weighted.sum(0), (weighted.T @ u).flatten()])


class Form(NamedTuple):
    """The quadratic form that an objective is on one step: ``centre`` (d,), ``metric`` (d, d), float64, and N."""

    centre: Tensor
    metric: Tensor
    rows: Tensor

    @classmethod
    def of(cls, objective: str, total: Tensor) -> Form:
        """From the :func:`sums` of all rows of the step."""
        d = _dimension(total)
        rows, first, second = total[0], total[1 : 1 + d], total[1 + d :].reshape(d, d)
        mean, identity = first / rows, torch.eye(d, dtype=total.dtype, device=total.device)
        if objective == "mse":
            return cls(torch.zeros_like(mean), identity, rows)
        if objective == "determinant":
            covariance = _ridged(second / rows - torch.outer(mean, mean))
            inverse = torch.linalg.inv(covariance)
            slope = inverse + RIDGE / d * inverse.diagonal().sum() * identity
            return cls(mean, _root_determinant(covariance) / d * slope, rows)
        return cls(mean, identity, rows)

    def value(self, total: Tensor) -> float:
        """L, from the :func:`sums` of all rows."""
        d, rows = len(self.centre), self.rows
        first, second = total[1 : 1 + d] / rows, total[1 + d :].reshape(d, d) / rows
        spread = second - torch.outer(first, self.centre) - torch.outer(self.centre, first - self.centre)
        return float((self.metric * spread).sum())

    def share(self, u: Tensor, weight: Tensor, world: int) -> Tensor:
        """What some rows contribute to L, times ``world``.

        DeepSpeed averages the gradients of ``world`` ranks with equal weights, whatever their numbers of rows, and
        adds those of micro-batches. The shares of all ranks and micro-batches, so averaged and added, are L.

        Parameters
        ----------
        u : Tensor (n, d)
            With the graph to differentiate.
        weight : Tensor (n,)
        """
        deviation = u - self.centre.to(u.dtype)
        terms = ((deviation @ self.metric.to(u.dtype)) * deviation).sum(1)
        return (terms * weight).sum() * (world / self.rows.to(u.dtype))


def _dimension(total: Tensor) -> int:
    """d, from the length 1 + d + d² of :func:`sums`."""
    return round(((4 * len(total) - 3) ** 0.5 - 1) / 2)
