"""The options that every estimator understands, and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.validation import finite, is_number, open_unit, shown

Lam = float | Sequence[float] | np.ndarray | Literal["tuned", "per-coordinate", "crossfit"]
Alternative = Literal["two-sided", "larger", "smaller"]


@dataclass(frozen=True)
class Bootstrap:
    """Intervals from resampled units instead of a t quantile, for small or skewed samples.

    Attributes
    ----------
    kind : {"studentised", "percentile"}
        Studentised: quantiles of (θ* − θ̂)/se*, second-order accurate; percentile: quantiles of θ*.
    replications : int
        Resamples, at least 99.
    seed : int
        Same seed, same interval.
    """

    kind: Literal["studentised", "percentile"] = "studentised"
    replications: int = 1999
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("studentised", "percentile"):
            raise InputError(f"'bootstrap.kind' must be 'studentised' or 'percentile'; got {self.kind!r}.")
        if not isinstance(self.replications, int) or self.replications < 99:
            raise InputError(f"'bootstrap.replications' must be at least 99; got {self.replications!r}.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"'bootstrap.seed' must be a whole number, at least 0; got {self.seed!r}.")


class Options(TypedDict, total=False):
    """Keyword options of every estimator.

    alpha : float, default 0.05
        The interval has level 1 − alpha.
    lam : float, sequence of float, "tuned", "per-coordinate" or "crossfit", default "tuned"
        Weight λ of the predictions: 0 is the classical estimate, 1 is PPI. ``"tuned"``: the one λ that minimises the
        sum of the variances (PPI++), but lengthens no coordinate's interval by more than 2 %; four labels at least.
        ``"per-coordinate"``: a λ for each. ``"crossfit"``: each part of the labels is weighted by a λ that was tuned
        on the other parts; for small samples. A λ that saves nothing becomes 0, the classical estimate.
    lam_range : (float, float), default (0, 1)
        Tuned λ are clipped to it.
    folds : array (n,) of int, or (n, K) of bool, optional
        Cross-fitting: the column of ``Yhat_unlabeled`` whose model did not see the row; or, where several models
        did not (rotation), a mask of them.
    alternative : {"two-sided", "larger", "smaller"}
        Of the test of ``null`` and of the interval, which is its inversion: "larger" bounds the value from below.
    null : float or array (d,), default 0
        Value under the null hypothesis of ``p_value``.
    coefficients : sequence of str or int, optional
        Vector targets: report (and tune λ for) these alone.
    simultaneous : bool, default False
        Vector targets: all intervals hold together with probability 1 − alpha.
    sample, sample_unlabeled : Sample, optional
        Weights, strata, clusters, selection probabilities; default simple random samples.
    population : {"infinite", "finite"}
        Finite: the target is the table at hand, labelled and unlabelled rows together; labels were drawn from it
        without replacement.
    quantiles : {"t", "normal"}
        Reference distribution of interval and test; t has the degrees of freedom that the estimate states.
    bootstrap : Bootstrap, optional
    """

    alpha: float
    lam: Lam
    lam_range: tuple[float, float]
    folds: ArrayLike
    alternative: Alternative
    null: ArrayLike
    coefficients: Sequence[str | int]
    simultaneous: bool
    sample: Sample
    sample_unlabeled: Sample
    population: Literal["infinite", "finite"]
    quantiles: Literal["t", "normal"]
    bootstrap: Bootstrap


@dataclass(frozen=True, eq=False)
class Settings:
    """Checked :class:`Options`."""

    alpha: float = 0.05
    lam: Any = "tuned"
    lam_range: tuple[float, float] = (0.0, 1.0)
    folds: Any = None
    alternative: Alternative = "two-sided"
    null: Any = 0.0
    coefficients: tuple[str | int, ...] | None = None
    simultaneous: bool = False
    sample: Sample | None = None
    sample_unlabeled: Sample | None = None
    population: Literal["infinite", "finite"] = "infinite"
    quantiles: Literal["t", "normal"] = "t"
    bootstrap: Bootstrap | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Check options; None stands for the default, save for ``alpha`` and ``lam``.

        Raises
        ------
        InputError
            An unknown option (with the nearest known one), or a value outside its range.
        """
        for name in options:
            if name not in cls.__dataclass_fields__:
                raise InputError(f"there is no option {name!r}.", mend=near_match(name, cls.__dataclass_fields__))
        given = {name: value for name, value in options.items() if value is not None}
        if "alpha" in options:
            given["alpha"] = open_unit("alpha", options["alpha"])
        if "lam" in options:
            given["lam"] = _lam(options["lam"])
        if "lam_range" in given:
            given["lam_range"] = _range(given["lam_range"])
        if "null" in given:
            null = finite("null", given["null"], (0, 1))
            given["null"] = float(null) if null.ndim == 0 else null
        if "coefficients" in given:
            given["coefficients"] = _coefficients(given["coefficients"])
        for name, allowed in (
            ("alternative", ("two-sided", "larger", "smaller")),
            ("population", ("infinite", "finite")),
            ("quantiles", ("t", "normal")),
            ("simultaneous", (True, False)),
        ):
            if name in given and given[name] not in allowed:
                choices = " or ".join(repr(choice) for choice in allowed)
                raise InputError(f"'{name}' must be {choices}; got {given[name]!r}.")
        if "bootstrap" in given and not isinstance(given["bootstrap"], Bootstrap):
            raise InputError(f"'bootstrap' must be a Bootstrap; got {given['bootstrap']!r}.", mend="write Bootstrap()")
        return cls(**given)

    @property
    def tunes(self) -> bool:
        """Whether λ is to be found."""
        return isinstance(self.lam, str)

    @property
    def crossfits(self) -> bool:
        """Whether each part of the labels gets a λ from the others."""
        return isinstance(self.lam, str) and self.lam == "crossfit"


def _lam(lam: Any) -> Any:
    if isinstance(lam, str) and lam in ("tuned", "per-coordinate", "crossfit"):
        return lam
    rule = "'lam' must be 'tuned', 'per-coordinate', 'crossfit' or a number in [0, 1]"
    if is_number(lam):
        if not 0 <= lam <= 1:
            raise InputError(f"{rule}; got {shown(lam)}.")
        return float(lam)
    if isinstance(lam, (list, tuple, np.ndarray)) and len(np.shape(lam)) == 1:
        array = finite("lam", lam, (1,))
        if len(array) and (array >= 0).all() and (array <= 1).all():
            return array
    raise InputError(f"{rule}; got {shown(lam)}.")


def _coefficients(chosen: Any) -> tuple[str | int, ...]:
    wished = tuple(np.ravel(np.array(chosen, dtype=object)))
    fit = all(isinstance(each, (str, int, np.integer)) and not isinstance(each, bool) for each in wished)
    if not wished or not fit or len(set(wished)) < len(wished):
        raise InputError(f"'coefficients' must be names or positions, each once; got {chosen!r}.")
    return tuple(each if isinstance(each, str) else int(each) for each in wished)


def _range(bounds: Any) -> tuple[float, float]:
    array = finite("lam_range", bounds, (1,))
    if len(array) != 2 or not 0 <= array[0] <= array[1]:
        raise InputError(f"'lam_range' must be (low, high) with 0 <= low <= high; got {bounds!r}.")
    return float(array[0]), float(array[1])
