"""What was wished, what was measured, and the tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from cases import FLOOR, OURS, OURS_GIVEN, PEER, PEER_GIVEN, quick

Measured = dict[str, Any]

MEGABYTE = 1e6


@dataclass(frozen=True)
class Goal:
    """What was wished of a case: ``measured`` at most (or, with ``least``, at least) ``bound``."""

    what: str
    case: str
    measured: Callable[[Measured], float]
    bound: float
    least: bool = False
    unit: str = "×"


def _seconds(measured: Measured, side: str) -> float:
    return median(measured["seconds"][side])


def _longer(side: str, floor: str) -> Callable[[Measured], float]:
    """How many times as long ``side`` takes."""
    return lambda measured: _seconds(measured, side) / _seconds(measured, floor)


def _held(measured: Measured, side: str) -> float:
    """Peak memory with the input, over the input."""
    return 1 + float(measured["peak"][side]["beyond_input"]) / float(measured["input_bytes"])


def _peak(measured: Measured) -> float:
    return _held(measured, OURS)


def _resident(measured: Measured) -> float:
    return float(measured["peak"][OURS]["resident"]) / MEGABYTE


GOALS = (
    Goal("mean, tuned, to numpy's mean and var", "mean 10^7", _longer(OURS, FLOOR["mean"]), 1.5),
    Goal("mean, λ given, to numpy's mean and var", "mean 10^7", _longer(OURS_GIVEN, FLOOR["mean"]), 1.5),
    Goal("OLS, tuned, faster than ppi_py", "ols 10^6", _longer(PEER, OURS), 10, least=True),
    Goal("OLS, λ given, faster than ppi_py", "ols 10^6", _longer(PEER_GIVEN, OURS_GIVEN), 10, least=True),
    Goal("logistic, tuned, faster than ppi_py", "logistic 10^6", _longer(PEER, OURS), 5, least=True),
    Goal("logistic, λ given, faster than ppi_py", "logistic 10^6", _longer(PEER_GIVEN, OURS_GIVEN), 5, least=True),
    Goal("quantile, λ given, faster than ppi_py", "quantile 10^5", _longer(PEER_GIVEN, OURS_GIVEN), 200, least=True),
    Goal("quantile, tuned, to one sort", "quantile 10^7", _longer(OURS, FLOOR["quantile"]), 3),
    *(
        Goal("peak memory to the input, tuned", case, _peak, 1.5)
        for case in ("mean 10^7", "mean 10^8", "quantile 10^7", "ols 10^6", "logistic 10^6", "poisson 10^6")
    ),
    Goal("streamed mean, resident memory", "stream 10^8", _resident, 400, unit=" MB"),
    Goal("streamed mean, rate to reading alone", "stream 10^8", _longer(FLOOR["stream"], OURS), 0.6, least=True),
)


def document(found: dict[str, Measured], smaller: bool) -> dict[str, Any]:
    """Everything measured, and each goal whose case was; ``smaller``: at a hundredth of the rows."""
    goals: list[dict[str, Any]] = []
    for goal in GOALS:
        case = quick(goal.case) if smaller else goal.case
        if case in found:
            measured = goal.measured(found[case])
            met = measured >= goal.bound if goal.least else measured <= goal.bound
            bound = f"{'≥' if goal.least else '≤'} {goal.bound:g}{goal.unit}"
            goals.append(
                {"goal": goal.what, "case": case, "bound": bound, "measured": f"{measured:.3g}{goal.unit}", "met": met}
            )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"quick": smaller, "machine": machine, "goals": goals, "cases": found}


def table(result: dict[str, Any]) -> str:
    """``document`` as Markdown."""
    found = result["cases"]
    lines = [
        "# Speed and memory of the estimators",
        "",
        "Command: `python benchmarks/estimators/side_by_side.py --output benchmarks/results"
        f"{' --quick' if result['quick'] else ''}`",
        f"Medians on {result['machine']}; one core is used."
        f"{' Smaller tables: the bounds are meant for a hundred times the rows.' if result['quick'] else ''}",
        "",
        "| goal | case | bound | measured | |",
        "|---|---|---|---|---|",
    ]
    for goal in result["goals"]:
        met = "met" if goal["met"] else "**missed**"
        lines.append(f"| {goal['goal']} | {goal['case']} | {goal['bound']} | {goal['measured']} | {met} |")
    lines += [
        "",
        "## Growth",
        "",
        "Seconds (median), and peak memory with the input over the input; for the stream, resident megabytes in all.",
        "",
    ]
    for target in dict.fromkeys(case.split()[0] for case in found):
        cases = [case for case in found if case.split()[0] == target]
        sides = list(dict.fromkeys(side for case in cases for side in found[case]["seconds"]))
        lines += [f"| {target} | input, MB | {' | '.join(sides)} |", "|" + "---|" * (2 + len(sides))]
        for case in cases:
            cells = " | ".join(_cell(case, found[case], side) for side in sides)
            lines.append(f"| {case.split()[1]} | {found[case]['input_bytes'] / MEGABYTE:.1f} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def _cell(case: str, measured: Measured, side: str) -> str:
    if side not in measured["seconds"]:
        return ""
    seconds = f"{_seconds(measured, side):.3g} s"
    if case.startswith("stream"):
        return f"{seconds}, {measured['peak'][side]['resident'] / MEGABYTE:.0f} MB"
    return f"{seconds}, {_held(measured, side):.2f}×"
