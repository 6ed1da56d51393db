"""Power tuning: the λ that makes the estimate spread least (PPI++, arXiv 2311.01453, §6)."""

from __future__ import annotations

import numpy as np

from ftrect_ray.estimators.spread import Spread

LONGER = 1.02
"""No coordinate's standard error may grow by more than this factor for the sake of the others."""


def tuned_lam(spread: Spread, bounds: tuple[float, float]) -> float:
    """The one λ in ``bounds`` that minimises the sum of the variances.

    λ̂ = tr Cov(ψ(Y), ψ(f)) / tr Var(control variate). With one common Var f this is Cov(Y, f)/((1 + n/m) Var f). It is
    held below the largest λ at which no coordinate's standard error exceeds ``LONGER`` times the classical one. λ̂ is
    chosen on the rectifying rows themselves: its effect on the estimate is of smaller order than the standard error
    (PPI++ theorem 1), and costs a degree of freedom.
    """
    curvature = spread.labeled + spread.unlabeled
    best = _ratio(float(np.trace(spread.cross)), float(np.trace(curvature)), bounds)
    if best == 0:
        return 0.0
    slope, bend, base = np.diag(spread.cross), np.diag(curvature), np.diag(spread.answers)
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = np.where(bend > 0, (slope + np.sqrt(slope**2 + (LONGER**2 - 1) * base * bend)) / bend, np.inf)
    return max(min(best, float(limit.min())), bounds[0])


def lam_per_coordinate(spread: Spread, bounds: tuple[float, float]) -> np.ndarray:
    """For each coordinate the λ (d,) in ``bounds`` that minimises its variance (PPI++ §6)."""
    bends = np.diag(spread.labeled) + np.diag(spread.unlabeled)
    return np.array([_ratio(c, b, bounds) for c, b in zip(np.diag(spread.cross), bends, strict=True)])


def _ratio(cross: float, curvature: float, bounds: tuple[float, float]) -> float:
    if curvature <= 0:  # constant predictions
        return bounds[0]
    return min(max(cross / curvature, bounds[0]), bounds[1])
