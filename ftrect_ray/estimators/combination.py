"""Two independent estimates made into one: variances add, degrees of freedom follow Satterthwaite (1946)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ftrect_ray.estimators.checks import Check
from ftrect_ray.estimators.conclusion import effective_labels, interval_and_test, satterthwaite
from ftrect_ray.estimators.diagnostics import checks_of, document, notes_of
from ftrect_ray.estimators.result import Estimate, Number, reported
from ftrect_ray.estimators.settings import Settings


def combined(
    parts: Mapping[str, Estimate],
    factors: tuple[Number, Number],
    settings: Settings,
    *,
    target: str,
    lam: Number | None,
    classical_variance: np.ndarray,
    notes: tuple[str, ...] = (),
    numbers: tuple[float | None, ...] = (None, None, None, None),
) -> Estimate:
    """c₁·θ̂₁ + c₂·θ̂₂ of two independent estimates, coordinate by coordinate.

    Variance c₁²·V₁ + c₂²·V₂; degrees of freedom over all samples of both, as those of each are Satterthwaite's too.

    Parameters
    ----------
    parts : mapping of str to Estimate
        Two, by the names that stand before the texts of their checks.
    factors : (c₁, c₂)
        Each a float or an ndarray (d,).
    settings : Settings
        ``alpha``, ``alternative`` and ``null`` are used.
    classical_variance : ndarray (d,)
        What all labels together would give without a model.
    notes, numbers
        See :func:`~ftrect_ray.estimators.diagnostics.document`.
    """
    one, two = parts.values()
    first, second = (np.atleast_1d(c) ** 2 * variance(part) for c, part in zip(factors, (one, two), strict=True))
    value = np.atleast_1d(factors[0] * one.value + factors[1] * two.value)
    error = np.sqrt(first + second)
    df = satterthwaite(first, second, _array(one.df), _array(two.df))
    low, high, p_value = interval_and_test(value, error, df, settings)
    n = one.n + two.n
    worth = effective_labels(n, classical_variance, error**2)
    told = reported(one.names, value, error, low, high, worth, df, p_value)
    checks = [_named(name, check) for name, part in parts.items() for check in checks_of(part.diagnostics)]
    remarks = [f"{name}: {note}" for name, part in parts.items() for note in notes_of(part.diagnostics)]
    return Estimate(
        value=told[0],
        std_error=told[1],
        interval=(told[2], told[3]),
        alpha=settings.alpha,
        lam=lam,
        n=n,
        m=one.m + two.m,
        effective_n=told[4],
        names=one.names,
        target=target,
        diagnostics=document(checks, [*notes, *remarks], numbers),
        df=told[5],
        p_value=told[6],
        alternative=settings.alternative,
        null=settings.null,
    )


def variance(estimate: Estimate) -> np.ndarray:
    """Squared standard errors (d,)."""
    return np.square(_array(estimate.std_error))


def variance_without_model(estimate: Estimate) -> np.ndarray:
    """What its labels alone would give (d,): n_effective · Var / n; 0 where the estimate has no variance."""
    own = variance(estimate)
    return np.multiply(_array(estimate.effective_n), own / estimate.n, out=np.zeros_like(own), where=own > 0)


def _array(number: Number | None) -> np.ndarray:
    return np.atleast_1d(np.asarray(number, dtype=float))


def _named(name: str, check: Check) -> Check:
    return replace(check, text=f"{name}: {check.text}")
