"""Bootstrap intervals: the estimate is made again, λ tuned anew, on samples like the one at hand.

Studentised intervals (Efron & Tibshirani 1993, ch. 12; Hall 1992, §3.5) take the quantiles of (θ* − θ̂)/se*. Percentile
intervals take those of θ* itself, which spreads too little by √((n − 1)/n): heed this where strata hold few units.
Both follow from one pivot, whose order statistics also give the p-value: with R replicates it is (1 + how many are as
extreme)/(R + 1), which is below alpha exactly where the interval leaves the null out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.blocks import InMemory
from ftrect_ray.estimators.diagnostics import NUMBERS, checks_of, document, notes_of
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.replicates import FromPopulation, WithReplacement
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Bootstrap, Settings

UNUSABLE_SHARE = 0.05
"""With more replicates than this that have no estimate, or no standard error, there is no interval."""

Core = Callable[[Labeled, InMemory, Settings], Estimate]


def estimated(core: Core, labeled: Labeled, unlabeled: InMemory, settings: Settings) -> Estimate:
    """``core``'s estimate, with the bootstrap's interval and p-value where ``settings`` ask for one.

    Raises
    ------
    InputError
        Too few replications for ``alpha``; simultaneous percentile intervals.
    StatisticalRefusal
        More than 5 % of the replicates have no estimate, or no standard error.
    """
    if settings.bootstrap is None:
        return core(labeled, unlabeled, settings)
    if settings.simultaneous and settings.bootstrap.kind == "percentile":
        raise InputError("'simultaneous' goes with the studentised bootstrap, not with 'percentile'.")
    plain = replace(settings, bootstrap=None)
    estimate = core(labeled, unlabeled, plain)
    value, error = (np.atleast_1d(part) for part in (estimate.value, estimate.std_error))
    pivots, refused = _pivots(core, labeled, unlabeled, plain, settings.bootstrap, value, error)
    scale = error if settings.bootstrap.kind == "studentised" else np.ones_like(error)
    low, high, p_value = _inverted(pivots, value, scale, settings)
    ends: list[Any] = [low, high, p_value]
    if estimate.names is None:
        ends = [float(part[0]) for part in ends]
    diagnostics = _diagnostics(estimate, settings.bootstrap, refused)
    return replace(estimate, interval=(ends[0], ends[1]), p_value=ends[2], df=None, diagnostics=diagnostics)


def _pivots(
    core: Core,
    labeled: Labeled,
    unlabeled: InMemory,
    settings: Settings,
    bootstrap: Bootstrap,
    value: np.ndarray,
    error: np.ndarray,
) -> tuple[np.ndarray, int]:
    """(θ* − θ)/se*, or θ − θ* under percentile, of the usable replicates (r, d); how many were not usable."""
    rng = np.random.default_rng(bootstrap.seed)
    centre = value
    draws: WithReplacement | FromPopulation
    if labeled.finite:
        draws = FromPopulation.of(labeled, unlabeled, rng)
        centre = np.atleast_1d(core(*draws.itself(), replace(settings, lam=0.0)).value)
    else:
        draws = WithReplacement.of(labeled, unlabeled)
    found = []
    for _ in range(bootstrap.replications):
        try:
            replicate = core(*draws.draw(rng), settings)
        except StatisticalRefusal:
            continue
        off = np.atleast_1d(replicate.value) - centre
        if bootstrap.kind == "percentile":
            found.append(-off)
            continue
        spread = np.atleast_1d(replicate.std_error)
        if (spread[error > 0] > 0).all():
            found.append(np.divide(off, spread, out=np.zeros_like(off), where=error > 0))
    refused = bootstrap.replications - len(found)
    if refused > UNUSABLE_SHARE * bootstrap.replications:
        raise StatisticalRefusal(
            f"{refused} of {bootstrap.replications} bootstrap replicates have no standard error or no estimate",
            mend="label more rows, or take the t interval: drop 'bootstrap'",
        )
    return np.array(found), refused


def _inverted(
    pivots: np.ndarray, value: np.ndarray, scale: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower ends, upper ends and p-values (d,) from pivots (r, d) in units of ``scale`` (d,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(value == settings.null, 0.0, (value - settings.null) / scale)
    above, below = pivots, -pivots
    doubled = 2 if settings.alternative == "two-sided" else 1
    if settings.simultaneous and len(value) > 1:  # the largest of all coordinates stands for each
        if doubled == 2:
            above, below, doubled = np.abs(pivots), np.abs(pivots), 1
        above, below = (np.broadcast_to(tail.max(axis=1)[:, None], pivots.shape) for tail in (above, below))
    r = len(pivots)
    extreme = int(np.count_nonzero(doubled * (np.arange(r) + 1) / (r + 1) < settings.alpha))
    if extreme == 0:
        least = int(np.ceil(doubled / settings.alpha * (1 + UNUSABLE_SHARE)))
        raise InputError(f"'bootstrap.replications' must be at least {least} for alpha {settings.alpha:g}; got {r}.")
    low = value - scale * np.sort(above, axis=0)[r - extreme]
    high = value + scale * np.sort(below, axis=0)[r - extreme]
    p_above = (1 + np.count_nonzero(above >= score, axis=0)) / (r + 1)
    p_below = (1 + np.count_nonzero(below >= -score, axis=0)) / (r + 1)
    open_end = np.full_like(value, np.inf)
    if settings.alternative == "larger":
        return low, open_end, p_above
    if settings.alternative == "smaller":
        return -open_end, high, p_below
    return low, high, np.minimum(doubled * np.minimum(p_above, p_below), 1.0)


def _diagnostics(estimate: Estimate, bootstrap: Bootstrap, refused: int) -> dict[str, Any]:
    """Without the check of the t interval's coverage, which a studentised one does not share."""
    known = estimate.diagnostics
    checks = [check for check in checks_of(known) if check.name != "coverage" or bootstrap.kind == "percentile"]
    notes = notes_of(known)
    if refused:
        notes.append(f"{refused} of {bootstrap.replications} bootstrap replicates were not usable and are left out")
    return document(checks, notes, [known[name] for name in NUMBERS])
