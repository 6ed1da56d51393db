"""The pilots' measurements, checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import shown


@dataclass(frozen=True, eq=False)
class Measured:
    """p pilots.

    Attributes
    ----------
    sizes, variances : ndarray (p,)
    weights : ndarray (p,)
        Of the squared errors; they add to 1.
    named : bool
        Whether the caller has named them.
    counts : ndarray (p,) or None
        Rows that each variance was measured on.
    replicates : ndarray (B, p)
        Bootstrap versions of ``variances``; B may be 0.
    """

    sizes: np.ndarray
    variances: np.ndarray
    weights: np.ndarray
    named: bool
    counts: np.ndarray | None
    replicates: np.ndarray = field(repr=False)

    def weighted(self, fitted: np.ndarray) -> Measured:
        """With one over the variance of a variance as weights, (n − 1)/v², v from ``fitted`` (p,)."""
        assert self.counts is not None
        weights = (self.counts - 1) / fitted**2
        return replace(self, weights=weights / weights.sum())

    def relative_noise(self, fitted: np.ndarray) -> np.ndarray:
        """Standard deviation of v̂/v (p,), v from ``fitted`` (p,): sqrt(2/(n − 1)) of a normal residual.

        Without counts a mere scale: as named weights say it, one over their root; else the same for all.
        """
        if self.counts is not None:
            return np.asarray(np.sqrt(2 / (self.counts - 1)))
        return 1 / (np.sqrt(self.weights) * fitted) if self.named else np.ones(len(self.sizes))


def measurements(
    sizes: ArrayLike,
    variances: ArrayLike,
    counts: ArrayLike | None,
    replicates: ArrayLike | None,
    weights: ArrayLike | None,
) -> Measured:
    """Check the arguments of :func:`~ftrect_ray.allocation.fitting.fit_scaling_law`.

    Raises
    ------
    InputError
        No pilots, lengths that differ, numbers that are not finite or outside their range.
    """
    if counts is not None and weights is not None:
        raise InputError("'counts' and 'weights' cannot both be given: the counts make the weights.")
    s, v = _vector("sizes", sizes), _vector("variances", variances)
    n = None if counts is None else _vector("counts", counts)
    w = np.ones(len(s)) if weights is None else _vector("weights", weights)
    if not len(s) == len(v) == len(w):
        raise InputError(f"'sizes', 'variances' and 'weights' must have one length; got {len(s)}, {len(v)}, {len(w)}.")
    if n is not None and len(n) != len(s):
        raise InputError(f"'counts' must have one entry a pilot ({len(s)}); got {len(n)}.")
    if len(s) == 0:
        raise InputError("'sizes' must have at least one pilot; got 0.", mend="run a pilot, or give the law")
    _within("sizes", s, s > 0, "> 0")
    _within("weights", w, w > 0, "> 0")
    _within("variances", v, v >= 0, "≥ 0")
    if n is not None:
        _within("counts", n, n >= 2, "≥ 2")
        w = n - 1
    if not v.any():
        raise InputError("'variances' must not all be 0.", mend="a model without residuals needs no law")
    return Measured(s, v, w / w.sum(), weights is not None, n, _replicates(replicates, len(s)))


def _replicates(given: ArrayLike | None, p: int) -> np.ndarray:
    if given is None:
        return np.empty((0, p))
    array = _finite("replicates", given)
    if array.ndim != 2 or array.shape[1] != p or len(array) < 2:
        raise InputError(f"'replicates' must have shape (B, {p}) with B ≥ 2; got {array.shape}.")
    _within("replicates", array, array >= 0, "≥ 0")
    return array


def _within(name: str, array: np.ndarray, good: np.ndarray, rule: str) -> None:
    if not good.all():
        place = np.unravel_index(int(np.argmin(good)), array.shape)
        at = int(place[0]) if array.ndim == 1 else tuple(int(index) for index in place)
        raise InputError(f"'{name}' must be {rule}; got {shown(array[place])} at position {at}.")


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    array = _finite(name, values)
    if array.ndim != 1:
        raise InputError(f"'{name}' must have 1 dimension; got shape {array.shape}.")
    return array


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"'{name}' must hold numbers only.") from None
    bad = ~np.isfinite(array)
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), array.shape)
        at = int(place[0]) if array.ndim == 1 else tuple(int(index) for index in place)
        raise InputError(
            f"'{name}' must be finite; got {array[place]} at position {at}.", mend="leave out the pilots that failed"
        )
    return array
