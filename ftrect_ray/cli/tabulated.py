"""Estimates as aligned tables for a reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ftrect_ray.errors import FtrectError
from ftrect_ray.estimators.diagnostics import checks_of, notes_of
from ftrect_ray.estimators.result import Estimate, Number

HEADINGS = ("estimate", "interval", "p", "classical", "interval", "worth", "λ", "df")
DIGITS = 3
"""Digits of the standard error that are shown."""


@dataclass(frozen=True)
class Beside:
    """A rectified estimate and the classical one.

    Attributes
    ----------
    rectified, classical : Estimate
    between : tuple of str or None
        The two groups of a difference; the second is taken from the first.
    """

    rectified: Estimate
    classical: Estimate
    between: tuple[str, str] | None = None


def one(beside: Beside, what: str) -> str:
    """``what`` was estimated, then a line for each coefficient, then the checks that do not pass."""
    estimate = beside.rectified
    rows = [["", *HEADINGS], *([name, *cells] for name, cells in _lines(beside))]
    heading = f"{what}: {_level(estimate)}, {estimate.n} labels, {estimate.m} unlabelled rows"
    remarks = [*_remarks(estimate), f"state: {estimate.state}"]
    return "\n".join([heading, "", aligned(rows), "", _legend(estimate), *remarks])


def several(groups: Mapping[str, Beside | FtrectError], by: str, what: str, note: str) -> str:
    """A line for each group and coefficient, then refusals, and the checks that do not pass."""
    made = {name: beside for name, beside in groups.items() if isinstance(beside, Beside)}
    first = next(iter(made.values())).rectified
    rows = [[by, "", "labels", "rows", *HEADINGS, "state"]]
    for group, beside in made.items():
        estimate = beside.rectified
        counts = [str(estimate.n), str(estimate.m)]
        rows += [[group, name, *counts, *cells, estimate.state] for name, cells in _lines(beside)]
    if first.names is None:
        rows = [[row[0], *row[2:]] for row in rows]
    refused = [f"{name}: no estimate: {error}" for name, error in groups.items() if isinstance(error, FtrectError)]
    remarks = [f"{name}: {text}" for name, beside in made.items() for text in _remarks(beside.rectified)]
    heading = f"{what}, by {by!r}: {_level(first)}"
    return "\n".join([heading, "", aligned(rows), "", _legend(first), note, *refused, *remarks])


def multiplicity(groups: int, alpha: float) -> str:
    """What to heed when many intervals are read at once."""
    return (
        f"{groups} groups, each interval of level {100 * (1 - alpha):g} % by itself: about {groups * alpha:.2g} of "
        f"them miss by chance; with --alpha {alpha / groups:.2g} all hold together (Bonferroni)"
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart: the first to the left, the others to the right.

    >>> print(aligned([["", "n"], ["mean", "12"]]))
           n
    mean  12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def _level(estimate: Estimate) -> str:
    ends = {"two-sided": "intervals", "larger": "lower bounds", "smaller": "upper bounds"}[estimate.alternative]
    return f"{100 * (1 - estimate.alpha):g} % {ends}"


def _lines(beside: Beside) -> list[tuple[str, list[str]]]:
    """The name of each coefficient, and the cells under ``HEADINGS``."""
    estimate, classical = beside.rectified, beside.classical
    names = estimate.names or (" − ".join(beside.between or (estimate.target,)),)
    columns = [estimate.value, *estimate.interval, estimate.p_value, classical.value, *classical.interval]
    columns += [estimate.effective_n, estimate.df, estimate.std_error]
    lams = np.atleast_1d(np.asarray(estimate.lam, dtype=float))
    lines = []
    for place, name in enumerate(names):
        value, low, high, p, alone, alone_low, alone_high, worth, df, error = (_at(column, place) for column in columns)
        show = _shown_like(error)
        own = lams[place : place + 1] if len(lams) == len(names) else lams
        cells = [show(value), _interval(low, high, show), _p_value(p)]
        cells += [show(alone), _interval(alone_low, alone_high, show)]
        cells += [_rounded(worth), ", ".join(f"{lam:.2f}" for lam in own), _rounded(df)]
        lines.append((name, cells))
    return lines


def _at(column: Number | None, place: int) -> float:
    return math.nan if column is None else float(np.atleast_1d(column)[place])


def _shown_like(error: float) -> Callable[[float], str]:
    """How numbers are written whose standard error is ``error``: to its third digit."""
    if not (math.isfinite(error) and error > 0):
        return lambda value: f"{value:.6g}"
    decimals = min(max(DIGITS - 1 - math.floor(math.log10(error)), 0), 12)
    return lambda value: f"{value:.{decimals}f}"


def _interval(low: float, high: float, show: Callable[[float], str]) -> str:
    return f"{'-∞' if math.isinf(low) else show(low)} to {'∞' if math.isinf(high) else show(high)}"


def _p_value(p: float) -> str:
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _rounded(number: float) -> str:
    return "–" if math.isnan(number) else "∞" if math.isinf(number) else f"{number:.0f}"


def _legend(estimate: Estimate) -> str:
    null = ", ".join(f"{value:g}" for value in np.atleast_1d(estimate.null))
    return (
        f"p: that the value is {null} ({estimate.alternative}); worth: labels that would tell as much without a model"
    )


def _remarks(estimate: Estimate) -> list[str]:
    """Notes, and the checks that do not pass with what can be done."""
    checks = [check for check in checks_of(estimate.diagnostics) if check.state != "PASS"]
    found = [f"{check.state} {check.name}: {check.text} — {check.remedy}" for check in checks]
    return [*(f"note: {note}" for note in notes_of(estimate.diagnostics)), *found]
