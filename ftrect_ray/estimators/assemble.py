"""From a value and a standard error to an :class:`Estimate`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ftrect_ray.estimators.result import Estimate, Number, normal_quantile


def worth(n: int, classical_variance: Number, variance: Number) -> Number:
    """Labels that the classical estimate would need: n · Var_classical / Var; n where both are 0."""
    classical, rectified = np.asarray(classical_variance, dtype=float), np.asarray(variance, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.where((classical == 0) & (rectified == 0), float(n), n * classical / rectified)
    return float(count) if count.ndim == 0 else count


def with_normal_interval(
    value: Number,
    variance: Number,
    *,
    alpha: float,
    lam: float | None,
    n: int,
    m: int,
    effective_n: Number | None,
    target: str,
    diagnostics: dict[str, Any],
    names: tuple[str, ...] | None = None,
) -> Estimate:
    """value ± z·sqrt(variance) (FTR eq. 2)."""
    std_error: Number = np.sqrt(variance) if isinstance(variance, np.ndarray) else float(np.sqrt(variance))
    reach = normal_quantile(alpha) * std_error
    return Estimate(
        value=value,
        std_error=std_error,
        interval=(value - reach, value + reach),
        alpha=alpha,
        lam=lam,
        n=n,
        m=m,
        effective_n=effective_n,
        names=names,
        target=target,
        diagnostics=diagnostics,
    )
