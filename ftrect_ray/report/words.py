"""Numbers and names as a reader wants them: one way of writing each, everywhere in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeGuard

from ftrect_ray.report.inputs import Interval

ABSENT = "–"

DESIGNS = {
    "classical": "human answers alone",
    "rectify-only": "rectify given predictions",
    "zero-shot": "rectify a model as it is, untrained",
    "split": "one fine-tune, the rest rectify",
    "split-after-pilots": "one fine-tune, pilots’ labels in it",
    "recycle": "one fine-tune, its labels recycled",
    "sequential": "fine-tunes on ever more labels, in turn",
}

REGRESSIONS = {"ols": "linear", "logistic": "logistic", "poisson": "Poisson"}

USES = {
    "finetune": "trains",
    "early_stop": "chooses the epoch",
    "measure": "measures the pilot",
    "rectify": "rectifies",
    "classical": "is averaged",
}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def fixed(value: Any, decimals: int) -> str:
    """``value`` with so many decimals, a true minus sign and thousands separators; a dash where there is none.

    >>> fixed(-1234.567, 2)
    '−1,234.57'
    >>> fixed(float("nan"), 2)
    '–'
    """
    if not is_number(value):
        return ABSENT
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def decimals_for(std_error: Any) -> int:
    """Decimals that show two digits of a standard error; the value and its interval take the same.

    >>> decimals_for(0.0477), decimals_for(12.0), decimals_for(0.0)
    (3, 0, 3)
    """
    if not is_number(std_error) or std_error <= 0:
        return 3
    return min(max(1 - math.floor(math.log10(std_error)), 0), 8)


def bracketed(interval: Interval, decimals: int) -> str:
    """``[0.445, 0.630]``."""
    return f"[{fixed(interval.low, decimals)}, {fixed(interval.high, decimals)}]"


def count(value: Any) -> str:
    """A whole number: ``23,703``."""
    return fixed(value, 0)


def short(value: Any) -> str:
    """Three digits of a number whose unit does not matter much.

    >>> short(1.32749), short(16.86), short(0.000123)
    ('1.33', '16.9', '0.000123')
    """
    if not is_number(value):
        return ABSENT
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    return fixed(value, 0 if value == 0 else max(2 - math.floor(math.log10(abs(value))), 0))


def percent(share: Any, decimals: int = 0) -> str:
    """A share as a percentage; tiny ones are not rounded to nothing.

    >>> percent(0.288), percent(0.0004), percent(0.975, 1)
    ('29%', '<1%', '97.5%')
    """
    if not is_number(share):
        return ABSENT
    if 0 < share < 0.5 * 10 ** -(decimals + 2):
        return f"<{10**-decimals:g}%"
    return fixed(100 * share, decimals) + "%"


def level(alpha: float) -> str:
    """The confidence level of an interval.

    >>> level(0.05), level(0.025)
    ('95%', '97.5%')
    """
    return f"{100 * (1 - alpha):.4g}%"


def duration(seconds: Any) -> str:
    """Seconds as a person says them.

    >>> duration(0.4), duration(48.2), duration(190), duration(7260)
    ('0.4 s', '48 s', '3 min 10 s', '2 h 1 min')
    """
    if not is_number(seconds):
        return ABSENT
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def design(name: str) -> str:
    """A design in plain words.

    >>> design("crossfit-2")
    'cross-fitting, 2 folds'
    """
    if name.startswith("crossfit"):
        folds = name.removeprefix("crossfit").strip("-")
        return f"cross-fitting, {folds} folds" if folds else "cross-fitting"
    return DESIGNS.get(name, name)


def target(kind: Mapping[str, Any], label: str) -> str:
    """What is estimated.

    >>> target({"kind": "quantile", "q": 0.5}, "rating")
    'median rating'
    """
    if kind["kind"] == "quantile":
        return f"median {label}" if kind["q"] == 0.5 else f"{100 * kind['q']:g}% quantile of {label}"
    if kind["kind"] in REGRESSIONS:
        return f"{REGRESSIONS[kind['kind']]} regression of {label} on {', '.join(kind['features'])}"
    return f"mean {label}"


def objective(study: Mapping[str, Any]) -> str:
    """What the fine-tunes minimise.

    >>> objective({"objective": "coefficient", "target": {"coefficient": "age"}})
    'the residual variance weighted for the coefficient of age'
    """
    if study["objective"] == "coefficient":
        return f"the residual variance weighted for the coefficient of {study['target']['coefficient']}"
    return {
        "variance": "the variance of the residual",
        "mse": "the mean squared residual",
        "trace": "the residual variance weighted for all coefficients, summed (trace)",
        "determinant": "the residual variance weighted for all coefficients jointly (determinant)",
    }[study["objective"]]


def criterion(study: Mapping[str, Any]) -> str:
    """The same as an axis names it, with what its unit is.

    >>> criterion({"objective": "variance"})
    'Var(answer − prediction)'
    """
    return {
        "variance": "Var(answer − prediction)",
        "mse": "mean of (answer − prediction)²",
        "coefficient": "variance of the coefficient × labels",
        "trace": "variance of the coefficients, summed, × labels",
        "determinant": "variance of the coefficients, geometric mean, × labels",
    }[study["objective"]]


def sentence(text: Any) -> str:
    """A remark of another room as a sentence of its own.

    >>> sentence("the law is flat")
    'The law is flat.'
    """
    clean = plain(text or "").strip()
    first = clean[:1].upper() if clean[:1].isascii() else clean[:1]  # α stays α
    return first + clean[1:] + ("" if not clean or clean[-1] in ".!?" else ".")


def plain(text: Any) -> str:
    """Text from outside without control characters and lone surrogates, which no XML can hold."""
    clean = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(
        c for c in clean if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f" and c not in "\ufffe\uffff")
    )
