"""The one type that every estimator returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri

Number = float | np.ndarray


def normal_quantile(alpha: float) -> float:
    """z of the two-sided level 1 − alpha.

    >>> round(normal_quantile(0.05), 4)
    1.96
    """
    return float(-ndtri(alpha / 2))


def reported(names: tuple[str, ...] | None, *parts: np.ndarray) -> tuple[Number, ...]:
    """Each part (d,) as an :class:`Estimate` holds it: an array under ``names``, a float without."""
    return parts if names is not None else tuple(float(part[0]) for part in parts)


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimate and how sure one may be.

    Attributes
    ----------
    value, std_error : float or ndarray (d,)
        In the unit of the answer (of the coefficient, for a regression).
    interval : tuple
        (lower, upper), each a float or an ndarray (d,); level 1 − alpha. One-sided ones have an infinite end.
    lam : float, ndarray (d,) or None
        Weight of the predictions: 0 is the classical estimate, 1 is PPI; None where the notion is void. A
        cross-fitted λ is given by its mean.
    n, m : int
        Labelled rows that rectify, unlabelled rows.
    effective_n : float, ndarray (d,) or None
        Labels that the classical estimate would need for the same variance; None for the naive estimate.
    names : tuple of str or None
        One name a coefficient; None for a scalar.
    target : str
        ``"mean"``, ``"quantile 0.5"``, ``"ols"``.
    diagnostics : dict
        ``calibration_slope`` Cov(Y, f)/Var f, ``r2`` 1 − Var(Y − f)/Var Y, ``variance_prediction`` Var f,
        ``residual_variance`` Var(Y − f), each a float or None; ``checks``, a list of dicts (name, state, value,
        margin, text, remedy); ``state``, the worst of PASS, WARN, REFUSE; ``warnings``, the texts that do not pass.
    p_value : float, ndarray (d,) or None
        Of ``null`` against ``alternative``; below alpha exactly where the interval leaves ``null`` out.
    df : float, ndarray (d,) or None
        Degrees of freedom of the t quantile; infinite for normal quantiles; None where the interval has none.
    """

    value: Number
    std_error: Number
    interval: tuple[Number, Number]
    alpha: float
    lam: Number | None
    n: int
    m: int
    effective_n: Number | None
    names: tuple[str, ...] | None = None
    target: str = "mean"
    diagnostics: dict[str, Any] = field(default_factory=lambda: {"warnings": []})
    p_value: Number | None = None
    df: Number | None = None
    alternative: str = "two-sided"
    null: Number = 0.0

    def __post_init__(self) -> None:
        parts = [self.value, self.std_error, *self.interval]
        shape = () if self.names is None else (len(self.names),)
        if any(np.shape(part) != shape for part in parts):
            raise ValueError(f"value, std_error and interval must have shape {shape}")

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before using the number."""
        return list(self.diagnostics.get("warnings", []))

    @property
    def state(self) -> str:
        """PASS, WARN or REFUSE: the worst of the checks."""
        return str(self.diagnostics.get("state", "PASS"))

    @property
    def length(self) -> Number:
        """Upper minus lower end of the interval."""
        return self.interval[1] - self.interval[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite (an open end) becomes None; arrays become lists."""
        return {
            "target": self.target,
            "names": None if self.names is None else list(self.names),
            "value": _plain(self.value),
            "std_error": _plain(self.std_error),
            "interval": [_plain(self.interval[0]), _plain(self.interval[1])],
            "alpha": self.alpha,
            "alternative": self.alternative,
            "null": _plain(self.null),
            "p_value": _plain(self.p_value),
            "df": _plain(self.df),
            "lam": _plain(self.lam),
            "n": self.n,
            "m": self.m,
            "effective_n": _plain(self.effective_n),
            "diagnostics": {key: _plain(value) for key, value in self.diagnostics.items()},
        }

    def __str__(self) -> str:
        level = f"{100 * (1 - self.alpha):g} % interval"
        names = (self.target,) if self.names is None else self.names
        rows = zip(names, *(np.atleast_1d(part) for part in (self.value, *self.interval, self.std_error)), strict=True)
        lines = [
            f"{name}: {v:.6g} ({level} {lo:.6g} to {hi:.6g}, standard error {se:.4g})" for name, v, lo, hi, se in rows
        ]
        base = f"{self.n} labelled and {self.m} unlabelled rows"
        if self.lam is not None:
            base += ", λ = " + ", ".join(f"{x:.3g}" for x in np.atleast_1d(self.lam))
        if self.effective_n is not None:
            worth = ", ".join(f"{x:.0f}" for x in np.atleast_1d(self.effective_n))
            base += f"; worth {worth} labels without a model"
        return "\n".join([*lines, base, *(f"warning: {text}" for text in self.warnings)])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(x) for x in value.tolist()]
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
