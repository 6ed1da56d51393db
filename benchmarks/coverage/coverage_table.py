"""From the sums of all chunks to coverage.json and coverage.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from cells import GRID, LEFT_OUT, LEVEL, Cell
from designs import M
from scipy.special import ndtri
from worlds import OUTCOMES, world

JUDGED_FROM = 200
"""At fewer labels nothing is promised."""


def merged(lines: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sums of each cell over its chunks, and its last fault."""
    sums: dict[str, dict[str, Any]] = {}
    for line in sorted(lines, key=lambda line: (line["cell"], line["chunk"])):
        numbers = {key: np.asarray(value) for key, value in line.items() if key not in ("cell", "chunk", "fault")}
        before = sums.get(line["cell"])
        fault = line["fault"] or (before["fault"] if before else "")
        summed = numbers if before is None else {key: before[key] + numbers[key] for key in numbers}
        sums[line["cell"]] = {**summed, "fault": fault}
    return sums


def document(cells: list[Cell], sums: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Everything that the table shows, for JSON; cells that were not reached are named."""
    reached = [cell for cell in cells if cell.name in sums and cell.classical.name in sums]
    return {
        "level": LEVEL,
        "unlabelled": M,
        "cells": [_summary(cell, sums[cell.name], sums[cell.classical.name]) for cell in reached],
        "not_reached": [cell.name for cell in cells if cell not in reached],
        "milliseconds": _milliseconds(cells, sums),
    }


def _summary(cell: Cell, own: dict[str, Any], classical: dict[str, Any]) -> dict[str, Any]:
    coverage, z, bar = _judged(own)
    worst = int(np.argmax(np.abs(z))) if len(z) else 0
    classical_coverage, classical_z, _ = _judged(classical)
    runs, tried = int(own["runs"]), _tried(own)
    shown = runs > 0 and int(classical["runs"]) > 0
    mean_length = own["length"] / max(runs, 1)
    return {
        "cell": cell.name,
        "target": cell.target,
        "design": cell.design,
        "n": cell.n,
        "predictor": cell.predictor,
        "outcome": cell.outcome,
        "simulations": tried,
        "coverage": float(coverage[worst]) if shown else None,
        "error": float(np.sqrt(LEVEL * (1 - LEVEL) / runs)) if shown else None,
        "z": float(z[worst]) if shown else None,
        "bar": bar,
        "outside": bool(shown and abs(z[worst]) > bar),
        "coverages": coverage.tolist(),
        "too_low": (own["too_low"] / max(runs, 1)).tolist(),
        "too_high": (own["too_high"] / max(runs, 1)).tolist(),
        "length_ratio": float(np.mean(mean_length / (classical["length"] / classical["runs"]))) if shown else None,
        "classical_coverage": float(classical_coverage[worst]) if shown else None,
        "classical_z": float(classical_z[worst]) if shown else None,
        "warned": float(own["warn"] / runs) if shown else None,
        "refused": float(own["refuse"] / runs) if shown else None,
        "foreseen": float(own["foreseen"] / runs) if shown else None,
        "no_interval": float(own["refused"] / tried) if tried else None,
        "failed": int(own["failed"]),
        "fault": own["fault"],
        "expected_coverage": float(own["expected"] / own["expected_runs"]) if own["expected_runs"] else None,
    }


def _tried(sums: dict[str, Any]) -> int:
    return int(sums["runs"] + sums["refused"] + sums["failed"])


def _judged(sums: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
    """Coverage and z of every coordinate (d,), and the |z| beyond which a cell of d coordinates is outside.

    Three Monte-Carlo errors for one coordinate, the same chance of a false alarm (Bonferroni) for several.
    """
    runs = max(int(sums["runs"]), 1)
    coverage = 1 - (sums["too_low"] + sums["too_high"]) / runs
    z = (coverage - LEVEL) / np.sqrt(LEVEL * (1 - LEVEL) / runs)
    return coverage, z, float(-ndtri(0.00134989803 / len(coverage)))


def _milliseconds(cells: list[Cell], sums: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of one simulation with its draws, for each target."""
    found: dict[str, float] = {}
    for target in dict.fromkeys(cell.target for cell in cells):
        mine = [sums[cell.name] for cell in cells if cell.target == target and cell.name in sums]
        tried = sum(map(_tried, mine))
        if tried:
            found[target] = 1000 * sum(float(one["seconds"]) for one in mine) / tried
    return found


def explained(cell: dict[str, Any]) -> str:
    """Why a cell is outside, as far as the simulations themselves tell."""
    if cell["design"] == "control":
        return "negative control: must cover too little" + ("" if cell["z"] < 0 else ", and does not")
    reasons = []
    if cell["z"] > 0:
        reasons.append("covers more than it says")
    if (
        cell["classical_z"] is not None
        and cell["classical_z"] * cell["z"] > 0
        and abs(cell["classical_z"]) > cell["bar"]
    ):
        reasons.append("the classical interval misses as well")
    if cell["z"] < 0:
        reasons.append(f"the library warned of it in {100 * cell['foreseen']:.0f} % of the runs")
    if cell["no_interval"]:
        reasons.append(f"{100 * cell['no_interval']:.1f} % gave no interval")
    return "; ".join(reasons)


def table(found: dict[str, Any]) -> str:
    """``document`` as Markdown."""
    cells = found["cells"]
    lines = [
        "# Coverage of 95 % intervals",
        "",
        "Command: `python benchmarks/coverage/run.py --output benchmarks/results`",
        f"{len(cells)} cells, {_range(cells, 'simulations')} simulations each, {found['unlabelled']} unlabelled rows. "
        "Defaults of every estimator: λ tuned, t intervals.",
        "",
        "A cell is outside where the coverage of one of its coordinates is further from 95 % than three Monte-Carlo "
        "errors (two-sided; Bonferroni over the coordinates); it shows the coordinate that is furthest. Intervals that "
        "could not be given count neither way. Answers are the same for all designs and predictors of one target, n "
        "and outcome, so the classical interval is compared on the very same ones.",
        "",
        *_overview(cells),
        *_outside(cells),
        *_control(cells),
        *_details(cells),
        *_notes(cells, found),
    ]
    return "\n".join(lines) + "\n"


def _range(cells: list[dict[str, Any]], key: str) -> str:
    values = [cell[key] for cell in cells]
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is_judged(cell: dict[str, Any]) -> bool:
    return cell["n"] >= JUDGED_FROM and cell["design"] != "control" and cell["z"] is not None


def _overview(cells: list[dict[str, Any]]) -> list[str]:
    judged = [
        cell for cell in cells if cell["n"] >= JUDGED_FROM and cell["design"] != "control" and cell["z"] is not None
    ]
    inside = sum(not cell["outside"] for cell in judged)
    silent = [cell for cell in judged if cell["outside"] and cell["z"] < 0 and cell["foreseen"] < 0.5]
    lines = [
        f"Inside at n ≥ {JUDGED_FROM}: {inside} of {len(judged)} cells. Covering too little, and the library "
        f"warned in fewer than half of the runs: {len(silent)}.",
        "",
        f"| target | design | cells, n ≥ {JUDGED_FROM} | inside | lowest | highest | length / classical, good |",
        "|" + "---|" * 7,
    ]
    for target in dict.fromkeys(cell["target"] for cell in judged):
        for design in GRID:
            mine = [cell for cell in judged if (cell["target"], cell["design"]) == (target, design)]
            if mine:
                ratios = [cell["length_ratio"] for cell in mine if cell["predictor"] == "good"]
                ratio = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
                coverages = [100 * cell["coverage"] for cell in mine]
                lines.append(
                    f"| {target} | {design} | {len(mine)} | {sum(not cell['outside'] for cell in mine)} | "
                    f"{min(coverages):.1f} | {max(coverages):.1f} | {ratio} |"
                )
    return [*lines, ""]


def _outside(cells: list[dict[str, Any]]) -> list[str]:
    outside = [cell for cell in cells if _is_judged(cell) and cell["outside"]]
    lines = [
        f"## Outside at n ≥ {JUDGED_FROM}",
        "",
        "| cell | coverage ± error | z | classical | library expects | length ratio | WARN | REFUSE | explanation |",
        "|" + "---|" * 9,
    ]
    for cell in sorted(outside, key=lambda cell: cell["z"]):
        expected = "" if cell["expected_coverage"] is None else f"{100 * cell['expected_coverage']:.1f}"
        lines.append(
            f"| {cell['cell']} | {100 * cell['coverage']:.2f} ± {100 * cell['error']:.2f} | {cell['z']:+.1f} | "
            f"{100 * cell['classical_coverage']:.2f} | {expected} | {cell['length_ratio']:.2f} | "
            f"{100 * cell['warned']:.0f} % | {100 * cell['refused']:.0f} % | {explained(cell)} |"
        )
    return [*lines, ""] if outside else [lines[0], "", "None.", ""]


def _control(cells: list[dict[str, Any]]) -> list[str]:
    control = [cell for cell in cells if cell["design"] == "control" and cell["z"] is not None]
    if not control:
        return []
    lines = [
        "## Negative control",
        "",
        "Ten folds of an interpolating learner (1-nearest-neighbour), λ = 1: not stable, so it must cover too little.",
        "",
        "| n | coverage ± error | z | covers too little |",
        "|---|---|---|---|",
    ]
    for cell in control:
        lines.append(
            f"| {cell['n']} | {100 * cell['coverage']:.2f} ± {100 * cell['error']:.2f} | {cell['z']:+.1f} | "
            f"{'yes' if cell['z'] < -3 else '**no**'} |"
        )
    return [*lines, ""]


def _details(cells: list[dict[str, Any]]) -> list[str]:
    """One table for each target × design; a predictor a column."""
    lines = [
        "## All cells",
        "",
        "Coverage in %, length / classical, share of the runs in which the library warned of it; bold: outside.",
        "",
    ]
    for target in dict.fromkeys(cell["target"] for cell in cells):
        for design in GRID:
            mine = [cell for cell in cells if (cell["target"], cell["design"]) == (target, design)]
            if not mine:
                continue
            predictors = list(dict.fromkeys(cell["predictor"] for cell in mine))
            lines += [f"### {target}, {design}", "", f"| outcome | n | classical | {' | '.join(predictors)} |"]
            lines.append("|" + "---|" * (3 + len(predictors)))
            for outcome, n in dict.fromkeys((cell["outcome"], cell["n"]) for cell in mine):
                row = {cell["predictor"]: cell for cell in mine if (cell["outcome"], cell["n"]) == (outcome, n)}
                classical = next((cell["classical_coverage"] for cell in row.values()), None)
                shown = "" if classical is None else f"{100 * classical:.1f}"
                parts = " | ".join(_short(row[name]) if name in row else "" for name in predictors)
                lines.append(f"| {outcome} | {n} | {shown} | {parts} |")
            lines.append("")
    return lines


def _short(cell: dict[str, Any]) -> str:
    if cell["coverage"] is None:
        return "no interval"
    number = f"{100 * cell['coverage']:.1f}"
    shown = f"**{number}**" if cell["outside"] else number
    return f"{shown} · {cell['length_ratio']:.2f} · {100 * cell['foreseen']:.0f} %"


def _notes(cells: list[dict[str, Any]], found: dict[str, Any]) -> list[str]:
    lines = ["## Notes", ""]
    present = dict.fromkeys(cell["target"] for cell in cells)
    for target in present:
        notes = dict.fromkeys(world(target, outcome).note for outcome in OUTCOMES)
        lines += [f"- {target}, {note}." for note in notes if note]
        lines += [f"- {target}, {design}: left out, {why}." for (t, design), why in LEFT_OUT.items() if t == target]
        if target in found["milliseconds"]:
            lines.append(f"- {target}: {found['milliseconds'][target]:.2f} ms a simulation, draws included.")
    for cell in cells:
        if cell["failed"]:
            lines.append(f"- **Defect** in {cell['cell']}, {cell['failed']} simulations: {cell['fault']}.")
    if found["not_reached"]:
        lines.append(f"- Not reached in the time given: {len(found['not_reached'])} cells.")
    return lines
