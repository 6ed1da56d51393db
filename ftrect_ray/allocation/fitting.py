"""From pilots to a scaling law, and how much of it the pilots really say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.allocation.checks import count
from ftrect_ray.allocation.curves import NO_DRAWS, Curve, DrawnLaw, measured_curve
from ftrect_ray.allocation.least_squares import FEW_REFINEMENTS, REFINEMENTS, SMALLEST_A, fit, fit_given_alpha
from ftrect_ray.allocation.measurements import Measured, measurements
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import s_stars
from ftrect_ray.allocation.verdict import Interval, Status, identification, percentiles, without_decrease
from ftrect_ray.errors import InputError

ALPHA_RANGE = (0.05, 2.0)
FIXED_ALPHA = 0.5
REWEIGHTINGS = 4
"""Fits with the weights of the fit before; the law no longer changes in its fourth digit."""


@dataclass(frozen=True, eq=False)
class LawFit:
    """A fitted law.

    Attributes
    ----------
    law : ScalingLaw
        The fit; for ``flat`` and ``rising`` a constant law (a as good as 0), which never makes a longer
        fine-tune look useful.
    curve : Curve
        What a plan may trust: the law with its draws where it is ``identified``; else the measured levels
        (:class:`~ftrect_ray.allocation.curves.MeasuredCurve`), which extrapolate nothing.
    r2 : float or None
        Weighted R² of ``law``; None where all variances are equal.
    intervals : dict
        ``a``, ``alpha``, ``b`` to (low, high), 95 %; each None where nothing tells the noise.
    status : {"identified", "flat", "rising", "unidentified"}
    reason : str
        One sentence for ``status``.
    sizes, variances : ndarray (p,)
        The pilots.
    draws : ndarray (B, 3)
        (a, α, b) of the bootstrap; no rows where there are no intervals.
    """

    law: ScalingLaw
    curve: Curve = field(repr=False)
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
    counts: ArrayLike | None = None,
    replicates: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    alpha_range: tuple[float, float] = ALPHA_RANGE,
    bootstrap: int = 400,
    seed: int = 0,
) -> LawFit:
    """Weighted least squares of v(s) = a·s^(−α) + b with a > 0, b ≥ 0 and α in ``alpha_range``.

    With ``counts`` the weights are one over the variance of a variance, 2v²/(n − 1) of a normal residual, with v from
    the fit itself: w ∝ (n − 1)/v̂², fitted again until it settles. Kurtosis that all sizes share cancels.

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

    Intervals: the law fitted to each of ``replicates``; without these, to the fit times resampled relative residuals,
    scaled by sqrt(p/(p − parameters)) because the fit has used some of them up, and in each resample by
    sqrt(d/χ²_d), d = p − parameters, because their scale is no better known than that; with as many parameters as
    pilots, to normal errors of variance 2v²/(n − 1) if ``counts`` are known, else there are none.

    Parameters
    ----------
    sizes : array (p,)
        Labels of each pilot, > 0; repeated sizes are repetitions.
    variances : array (p,)
        Residual variances measured, ≥ 0 and not all 0.
    counts : array (p,), optional
        Rows that each variance was measured on, ≥ 2; not together with ``weights``.
    replicates : array (B, p), optional
        Bootstrap versions of ``variances``, B ≥ 2. Pilots that were measured on the same rows err together: resample
        these rows for all pilots at once, and the repetitions of each size.
    weights : array (p,), optional
        Relative weights > 0 of the squared errors, such as 1/Var(v̂); default equal.
    bootstrap : int
        Resamples of residuals; 0 for none. Without meaning where ``replicates`` are given.
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
    pilots = measurements(sizes, variances, counts, replicates, weights)
    _check_range(alpha_range)
    count("bootstrap", bootstrap, 0)
    s, v, w = pilots.sizes, pilots.variances, pilots.weights
    distinct = len(np.unique(s))
    verdict = without_decrease(s, v, w, pilots.replicates) if distinct > 1 else None
    rng = np.random.default_rng(seed)
    if distinct == 1 or verdict is not None:
        reason = f"all pilots have {s[0]:g} labels; how the variance falls with more of them is unknown"
        status, reason, level = verdict or ("unidentified", reason, float(w @ v))
        levels = _levels(pilots, status)
        redrawn = _redrawn(pilots, levels, len(np.unique(levels)), bootstrap, rng)
        return _assemble(_constant(level), pilots, NO_DRAWS, status, reason, redrawn)

    bounds = alpha_range if distinct > 2 else (FIXED_ALPHA, FIXED_ALPHA)
    parameters, weighted = _reweighted(pilots, bounds)
    fitted = ScalingLaw(*parameters.tolist()).variance(s)
    free = 3 if distinct > 2 else 2
    redrawn = _redrawn(weighted, fitted, free, bootstrap, rng)
    draws = _fit(weighted, redrawn, bounds, FEW_REFINEMENTS) if len(redrawn) else NO_DRAWS
    if distinct == 2:
        reason = f"two sizes cannot tell three parameters; α is fixed at {FIXED_ALPHA:g}"
        return _assemble(parameters, weighted, draws, "unidentified", reason, redrawn)
    status, reason = identification(float(parameters[1]), draws, alpha_range, s)
    return _assemble(parameters, weighted, draws, status, reason, redrawn)


def s_star_interval(fit: LawFit, n: int) -> Interval | None:
    """95 % interval of s* with ``n`` labels and endless texts; None where the fit has no draws."""
    n = count("n", n, 3)
    return percentiles(s_stars(fit.draws, n)) if len(fit.draws) else None


def _check_range(alpha_range: tuple[float, float]) -> None:
    low, high = alpha_range
    if not 0 < low < high < np.inf:
        raise InputError(f"'alpha_range' must be (low, high) with 0 < low < high; got {tuple(alpha_range)}.")


def _reweighted(pilots: Measured, bounds: Interval) -> tuple[np.ndarray, Measured]:
    """(a, α, b), and the pilots with the weights of this fit."""
    if pilots.counts is not None:
        for _ in range(REWEIGHTINGS):
            roughly = _fit(pilots, pilots.variances[None], bounds, FEW_REFINEMENTS)[0]
            pilots = pilots.weighted(ScalingLaw(*roughly.tolist()).variance(pilots.sizes))
    return _fit(pilots, pilots.variances[None], bounds)[0], pilots


def _fit(pilots: Measured, variances: np.ndarray, bounds: Interval, refinements: int = REFINEMENTS) -> np.ndarray:
    """(a, α, b) for each row of ``variances`` (B, p)."""
    if bounds[0] == bounds[1]:
        alpha = np.full(len(variances), bounds[0])
        a, b, _ = fit_given_alpha(pilots.sizes, variances, pilots.weights, alpha)
        return np.stack([a, alpha, b], axis=1)
    return fit(pilots.sizes, variances, pilots.weights, bounds, refinements)


def _constant(level: float) -> np.ndarray:
    return np.array([SMALLEST_A * level, FIXED_ALPHA, level])


def _levels(pilots: Measured, status: Status) -> np.ndarray:
    """Mean variance of each pilot's size (p,); where nothing rises, sizes in the wrong order share theirs."""
    s, v, w = pilots.sizes, pilots.variances, pilots.weights
    if status == "rising":
        return np.array([np.average(v[s == size], weights=w[s == size]) for size in s])
    return np.asarray(measured_curve(s, v, w, replicates=np.empty((0, len(s)))).variance(s))


def _redrawn(
    pilots: Measured, fitted: np.ndarray, parameters: int, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Versions of the variances (B, p): given ones, else the fit with errors as seen, or as expected."""
    if len(pilots.replicates):
        return pilots.replicates
    p = len(fitted)
    spare, noise = p - parameters, pilots.relative_noise(fitted)
    if resamples == 0 or (spare < 1 and pilots.counts is None):
        return np.empty((0, p))
    if spare < 1:
        errors = rng.normal(size=(resamples, p)) * noise
    else:
        seen = (pilots.variances - fitted) / fitted / noise * np.sqrt(p / spare)
        unsure = np.sqrt(spare / rng.chisquare(spare, size=(resamples, 1)))
        errors = rng.choice(seen, size=(resamples, p)) * noise * unsure
    return np.asarray(np.maximum(fitted * (1 + errors), 1e-6 * fitted))


def _assemble(
    parameters: np.ndarray, pilots: Measured, draws: np.ndarray, status: Status, reason: str, redrawn: np.ndarray
) -> LawFit:
    s, v, w = pilots.sizes, pilots.variances, pilots.weights
    law = ScalingLaw(*parameters.tolist())
    total = float(w @ (v - w @ v) ** 2)
    r2 = 1 - float(w @ (v - law.variance(s)) ** 2) / total if total > 1e-24 * float(w @ v) ** 2 else None
    intervals = {name: percentiles(draws[:, j]) if len(draws) else None for j, name in enumerate(("a", "alpha", "b"))}
    curve: Curve
    if status == "identified":
        curve = DrawnLaw(law, draws)
    else:
        curve = measured_curve(s, v, w, replicates=redrawn, rising=status == "rising")
    return LawFit(law, curve, r2, intervals, status, reason, s, v, draws)
