"""The scaling law of the residual variance (FTR section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from ftrect_ray.allocation.checks import at_most, non_negative, positive

#: Of α; published laws have 0.2 to 0.6.
STEEPEST = 10.0


@dataclass(frozen=True)
class ScalingLaw:
    """v(s) = Var(Y − f^(s)) = a·s^(−α) + b, for a model fine-tuned on s labels.

    Attributes
    ----------
    a : float
        > 0, in squared units of the answer.
    alpha : float
        > 0 and at most 10, the speed of learning.
    b : float
        ≥ 0, the residual variance that no number of labels removes.

    Raises
    ------
    InputError
        A parameter outside its range.

    Examples
    --------
    >>> round(ScalingLaw(10.21, 0.21, 1.98).variance(1000), 3)
    4.373
    """

    a: float
    alpha: float
    b: float

    def __post_init__(self) -> None:
        for name, value in (
            ("a", positive("a", self.a)),
            ("alpha", at_most("alpha", positive("alpha", self.alpha), STEEPEST)),
            ("b", non_negative("b", self.b)),
        ):
            object.__setattr__(self, name, value)

    @overload
    def variance(self, s: float) -> float: ...
    @overload
    def variance(self, s: np.ndarray) -> np.ndarray: ...
    def variance(self, s: Any) -> Any:
        """v(s) at ``s`` labels, a number or an array, s > 0."""
        return (
            self.a * np.asarray(s, dtype=float) ** -self.alpha + self.b
            if np.ndim(s)
            else self.a * float(s) ** -self.alpha + self.b
        )

    def to_dict(self) -> dict[str, float]:
        """The three parameters, for JSON."""
        return {"a": self.a, "alpha": self.alpha, "b": self.b}

    def __str__(self) -> str:
        return f"v(s) = {self.a:.4g}·s^-{self.alpha:.3g} + {self.b:.4g}"
