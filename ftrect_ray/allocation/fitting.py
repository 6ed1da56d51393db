"""From pilots to a scaling law, and how much of it the pilots really say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.allocation.checks import count
from ftrect_ray.allocation.least_squares import SMALLEST_A, fit, fit_given_alpha
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import s_star
from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import shown

ALPHA_RANGE = (0.05, 2.0)
FIXED_ALPHA = 0.5
SMALLEST_CHANGE = 0.02
NOISE = 2.0
Status = Literal["identified", "flat", "rising", "unidentified"]
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class LawFit:
    """A fitted law.

    Attributes
    ----------
    law : ScalingLaw
        The fit; for ``flat`` and ``rising`` a constant law (a as good as 0), which never makes a longer
        fine-tune look useful.
    r2 : float or None
        Weighted R² of ``law``; None where all variances are equal.
    intervals : dict
        ``a``, ``alpha``, ``b`` to (low, high), 95 %; each None where there are no spare points to tell the noise.
    status : {"identified", "flat", "rising", "unidentified"}
    reason : str
        One sentence for ``status``.
    sizes, variances : ndarray (p,)
        The pilots.
    draws : ndarray (B, 3)
        (a, α, b) of the bootstrap; no rows where there are no intervals.
    """

    law: ScalingLaw
    r2: float | None
    intervals: dict[str, Interval | None]
    status: Status
    reason: str
    sizes: np.ndarray
    variances: np.ndarray
    draws: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the draws."""
        return {
            "law": self.law.to_dict(),
            "r2": self.r2,
            "intervals": {name: None if ends is None else list(ends) for name, ends in self.intervals.items()},
            "status": self.status,
            "reason": self.reason,
            "sizes": self.sizes.tolist(),
            "variances": self.variances.tolist(),
        }

    def __str__(self) -> str:
        r2 = "" if self.r2 is None else f", R² = {self.r2:.3f}"
        return f"{self.law}{r2} ({self.status}: {self.reason})"


def fit_scaling_law(
    sizes: ArrayLike,
    variances: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    alpha_range: tuple[float, float] = ALPHA_RANGE,
    bootstrap: int = 400,
    seed: int = 0,
) -> LawFit:
    """Weighted least squares of v(s) = a·s^(−α) + b with a > 0, b ≥ 0 and α in ``alpha_range``.

    How few pilots are handled:

    * one size: the constant law at its mean variance, ``unidentified``;
    * two sizes: α is fixed at 0.5, in the middle of published laws (0.2 to 0.6), ``unidentified``. Fixing
      b = 0 instead would promise that enough labels remove all residual variance;
    * three sizes or more: all three parameters; ``unidentified`` where α ends at a bound of its range, or
      its interval covers the range, so that the law holds between the pilots and not beyond.

    ``flat`` and ``rising`` come first, from the regression of the variance on log s: ``rising`` where it
    rises, ``flat`` where its change over the pilots is below 2 % of the level, or below two standard errors
    (unless the means of four sizes or more fall one after the other).
    The law is then constant: for ``flat`` at the mean variance, for ``rising`` at that of the largest size.

    Intervals: bootstrap of relative residuals, scaled by sqrt(p/(p − parameters)) because the fit has used
    some of them up.

    Parameters
    ----------
    sizes : array (p,)
        Labels of each pilot, > 0; repeated sizes are repetitions.
    variances : array (p,)
        Residual variances measured, ≥ 0 and not all 0.
    weights : array (p,), optional
        Relative weights > 0 of the squared errors, such as 1/Var(v̂); default equal.
    bootstrap : int
        Resamples; 0 for none.
    seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        An argument outside its range, or lengths that differ.

    Examples
    --------
    >>> fit = fit_scaling_law([50, 100, 200, 400], [4.69, 4.07, 3.65, 3.37])
    >>> fit.status, round(fit.law.alpha, 2)
    ('identified', 0.57)
    """
    s, v, w = _pilots(sizes, variances, weights)
    _check_range(alpha_range)
    count("bootstrap", bootstrap, 0)
    distinct = len(np.unique(s))
    verdict = _without_decrease(s, v, w) if distinct > 1 else None
    if verdict is not None:
        status, reason, level = verdict
        return _assemble(_constant(level), s, v, w, np.empty((0, 3)), status, reason)
    if distinct == 1:
        reason = f"all pilots have {s[0]:g} labels; how the variance falls with more of them is unknown"
        return _assemble(_constant(float(w @ v / w.sum())), s, v, w, np.empty((0, 3)), "unidentified", reason)

    bounds = alpha_range if distinct > 2 else (FIXED_ALPHA, FIXED_ALPHA)
    parameters = _fit(s, v[None], w, bounds)[0]
    draws = _bootstrap(s, v, w, parameters, bounds, bootstrap, seed)
    if distinct == 2:
        reason = f"two sizes cannot tell three parameters; α is fixed at {FIXED_ALPHA:g}"
        return _assemble(parameters, s, v, w, draws, "unidentified", reason)
    status, reason = _identification(parameters[1], draws, alpha_range, s)
    return _assemble(parameters, s, v, w, draws, status, reason)


def s_star_interval(fit: LawFit, n: int) -> Interval | None:
    """95 % interval of s* with ``n`` labels and endless texts; None where the fit has no draws."""
    n = count("n", n, 3)
    if len(fit.draws) == 0:
        return None
    return _percentiles(np.array([s_star(ScalingLaw(*draw), n) for draw in fit.draws.tolist()]))


def _pilots(
    sizes: ArrayLike, variances: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    s, v = _vector("sizes", sizes), _vector("variances", variances)
    w = np.ones(len(s)) if weights is None else _vector("weights", weights)
    if not len(s) == len(v) == len(w):
        raise InputError(f"'sizes', 'variances' and 'weights' must have one length; got {len(s)}, {len(v)}, {len(w)}.")
    if len(s) == 0:
        raise InputError("'sizes' must have at least one pilot; got 0.", mend="run a pilot, or give the law")
    for name, array, bad in (("sizes", s, s <= 0), ("weights", w, w <= 0), ("variances", v, v < 0)):
        if bad.any():
            rule = "≥ 0" if name == "variances" else "> 0"
            raise InputError(f"'{name}' must be {rule}; got {shown(array[bad][0])} at position {int(np.argmax(bad))}.")
    if not v.any():
        raise InputError("'variances' must not all be 0.", mend="a model without residuals needs no law")
    return s, v, w / w.sum()


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"'{name}' must hold numbers only.") from None
    if array.ndim != 1:
        raise InputError(f"'{name}' must have 1 dimension; got shape {array.shape}.")
    bad = ~np.isfinite(array)
    if bad.any():
        position = int(np.argmax(bad))
        raise InputError(
            f"'{name}' must be finite; got {array[position]} at position {position}.",
            mend="leave out the pilots that failed",
        )
    return array


def _check_range(alpha_range: Sequence[float]) -> None:
    low, high = alpha_range
    if not 0 < low < high < np.inf:
        raise InputError(f"'alpha_range' must be (low, high) with 0 < low < high; got {tuple(alpha_range)}.")


def _fit(s: np.ndarray, v: np.ndarray, w: np.ndarray, bounds: Interval) -> np.ndarray:
    if bounds[0] == bounds[1]:
        alpha = np.full(len(v), bounds[0])
        a, b, _ = fit_given_alpha(s, v, w, alpha)
        return np.stack([a, alpha, b], axis=1)
    return fit(s, v, w, bounds)


def _constant(level: float) -> np.ndarray:
    return np.array([SMALLEST_A * level, FIXED_ALPHA, level])


def _without_decrease(s: np.ndarray, v: np.ndarray, w: np.ndarray) -> tuple[Status, str, float] | None:
    """``flat`` or ``rising`` with the level of the constant law; None for a curve that falls."""
    x = np.log(s) - w @ np.log(s)
    level = float(w @ v)
    slope = float(w @ (x * v) / (w @ x**2))
    span = float(np.log(s.max() / s.min()))
    change = slope * span / level
    residual = v - level - slope * x
    spare = len(s) - 2
    error = span / level * float(np.sqrt(w @ residual**2 * len(s) / spare / (len(s) * (w @ x**2)))) if spare else 0.0
    if abs(change) <= max(SMALLEST_CHANGE, NOISE * error) and not _falls(s, v, w):
        told = f"{100 * change:+.1f} % from {s.min():g} to {s.max():g} labels"
        return "flat", f"the residual variance changes by {told}, no more than noise", level
    if change > 0:
        largest = float(np.average(v[s == s.max()], weights=w[s == s.max()]))
        return (
            "rising",
            f"the residual variance rises by {100 * change:.1f} % from {s.min():g} to {s.max():g} labels",
            largest,
        )
    return None


def _falls(s: np.ndarray, v: np.ndarray, w: np.ndarray) -> bool:
    """Whether misfit to a line in log s is curvature, not noise: the means of the sizes fall one after the other.

    Asked of four sizes or more (by chance 1 in 24), and of three points in all, where nothing else can be asked.
    """
    means = np.array([np.average(v[s == size], weights=w[s == size]) for size in np.unique(s)])
    in_order = bool(np.all(np.diff(means) < 0)) and 1 - means[-1] / means[0] > SMALLEST_CHANGE
    return in_order and (len(means) >= 4 or len(s) < 4)


def _identification(alpha: float, draws: np.ndarray, alpha_range: Interval, s: np.ndarray) -> tuple[Status, str]:
    low, high = alpha_range
    beyond = f"the law holds from {s.min():g} to {s.max():g} labels and is a guess beyond"
    if alpha <= low * (1 + 1e-6) or alpha >= high * (1 - 1e-6):
        return "unidentified", f"α ends at the bound {alpha:g} of its range; {beyond}"
    if len(draws) == 0:
        return "unidentified", f"as many parameters as pilots, so the noise is unknown; {beyond}"
    ends = _percentiles(draws[:, 1])
    if np.log(ends[1] / ends[0]) >= 0.9 * np.log(high / low):
        return "unidentified", f"α may be anything from {ends[0]:.2g} to {ends[1]:.2g}; {beyond}"
    return "identified", f"α is between {ends[0]:.2g} and {ends[1]:.2g}"


def _bootstrap(
    s: np.ndarray, v: np.ndarray, w: np.ndarray, parameters: np.ndarray, bounds: Interval, resamples: int, seed: int
) -> np.ndarray:
    """(a, α, b) refitted to the fit times resampled relative residuals (B, 3)."""
    spare = len(s) - (2 if bounds[0] == bounds[1] else 3)
    if spare < 1 or resamples == 0:
        return np.empty((0, 3))
    fitted = ScalingLaw(*parameters.tolist()).variance(s)
    relative = (v - fitted) / fitted * np.sqrt(len(s) / spare)
    chosen = np.random.default_rng(seed).choice(relative, size=(resamples, len(s)))
    return _fit(s, np.maximum(fitted * (1 + chosen), 1e-6 * fitted), w, bounds)


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _assemble(
    parameters: np.ndarray, s: np.ndarray, v: np.ndarray, w: np.ndarray, draws: np.ndarray, status: Status, reason: str
) -> LawFit:
    law = ScalingLaw(*parameters.tolist())
    total = float(w @ (v - w @ v) ** 2)
    r2 = 1 - float(w @ (v - law.variance(s)) ** 2) / total if total > 1e-24 * float(w @ v) ** 2 else None
    intervals = {name: _percentiles(draws[:, j]) if len(draws) else None for j, name in enumerate(("a", "alpha", "b"))}
    return LawFit(law, r2, intervals, status, reason, s, v, draws)
