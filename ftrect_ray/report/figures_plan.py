"""The pilots' law, the designs that were considered, and what a bigger budget would buy."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ftrect_ray.report import words
from ftrect_ray.report.budget import Budget, answer_variance, planned_curve
from ftrect_ray.report.drawing import CLASSICAL, FAINT, INK, MEASURE, NARROW, RECTIFIED, SOFT
from ftrect_ray.report.figures_labels import consumed_by_final
from ftrect_ray.report.inputs import Json, ReportInputs
from ftrect_ray.report.marks import DASHED, DOTTED, chart, count_ticks, dot, heading, panel, remark, round_ticks

#: Folds of the cross-fitted designs that are shown beside the chosen one: the others lie between them.
SHOWN_FOLDS = (2, 3, 5, 10)


def has_pilots(inputs: ReportInputs) -> bool:
    """Whether any pilot measured anything."""
    return any(words.is_number(row.get("residual_variance")) for row in inputs.pilots)


def law(inputs: ReportInputs, width: float) -> Figure:
    """Pilots as points, the curve that the plan rests on with its band, and where the final fine-tunes came out."""
    measured = {name: _points(given) for name, given in inputs.laws.items()} or {"": _without_law(inputs)}
    untrained = [
        (0.0, float(row["residual_variance"]))
        for row in inputs.pilots
        if row["size"] == 0 and (row.get("candidate") or "") == inputs.candidate
        if words.is_number(row.get("residual_variance"))
    ]
    final, ceiling = _final(inputs), answer_variance(inputs)
    every = [point for points in measured.values() for point in points]
    right = 1.1 * max(size for size, _ in [*every, *final])
    tops = [variance for _, variance in [*every, *final, *untrained]] + ([ceiling] if ceiling else [])
    up = words.criterion(inputs.study) if inputs.is_targeted else "residual variance, Var(answer − prediction)"
    figure, axes = chart(width, 3.3, across="labels that one fine-tune consumes", up=up)
    for rank, (name, points) in reversed(list(enumerate(measured.items()))):
        tops += _curve(axes, inputs.laws.get(name) or {}, points, right, max(tops), chosen=rank == 0)
    if ceiling:
        axes.axhline(ceiling, color=CLASSICAL, linewidth=1, linestyle=DASHED)
        alone = "human answers alone" if inputs.is_targeted else "variance of the answers, no model"
        remark(axes, alone, (right, ceiling), shift=(0, 7), colour=CLASSICAL, side="right")
    for rank, (name, points) in reversed(list(enumerate(measured.items()))):
        colour = MEASURE if rank == 0 else SOFT
        for size, variance in points:
            dot(axes, size, variance, colour, 6.5 if rank == 0 else 4.5)
        if points:
            first = min(size for size, _ in points)
            highest = max(variance for size, variance in points if size == first)
            remark(axes, words.plain(name) or "pilots", (first, highest), shift=(8, 5), colour=colour)
    for size, variance in untrained:
        dot(axes, size, variance, MEASURE, 6.5, marker="s")
        remark(axes, "untrained", (size, variance), shift=(8, -8), colour=MEASURE)
    for size, variance in final:
        dot(axes, size, variance, INK, 6.5, marker="D")
        remark(axes, "final fine-tunes, on unseen answers", (size, variance), shift=(4, -13), side="right")
    axes.set_xlim(-0.015 * right if untrained else 0, right)
    axes.set_ylim(0, 1.12 * max(tops))
    count_ticks(axes.xaxis)
    round_ticks(axes.yaxis)
    return figure


def _points(given: Json) -> list[tuple[float, float]]:
    """(labels, residual variance) of the pilots that a law was fitted to."""
    return [(float(size), float(v)) for size, v in zip(given["sizes"], given["variances"], strict=True)]


def _without_law(inputs: ReportInputs) -> list[tuple[float, float]]:
    return [
        (float(row["size"]), float(row["residual_variance"]))
        for row in inputs.pilots
        if words.is_number(row.get("residual_variance"))
    ]


def _curve(
    axes: Axes, given: Json, points: list[tuple[float, float]], right: float, top: float, *, chosen: bool
) -> list[float]:
    """Draw what the plan rests on; how high it goes."""
    fitted = planned_curve(given)
    if fitted is None or not points:
        return []
    sizes = np.linspace(max(min(size for size, _ in points), fitted.smallest), right, 200)
    predicted = fitted.variance(sizes)
    axes.plot(sizes, predicted, color=RECTIFIED if chosen else FAINT, linewidth=1.8 if chosen else 1.4)
    highest = float(np.max(predicted))
    if chosen and (band := given.get("band")):
        sizes, low, high = (np.array(band[key], dtype=float) for key in ("sizes", "low", "high"))
        axes.fill_between(sizes, low, high, color=RECTIFIED, alpha=0.14, linewidth=0)
        highest = max(highest, *high[sizes <= right])
    return [min(highest, 1.4 * top)]


def _final(inputs: ReportInputs) -> list[tuple[float, float]]:
    """(labels that a final fine-tune consumed, residual variance on answers that it never saw), or nothing.

    Nothing beside pilots that measured it weighted for coefficients: the estimate knows it unweighted.
    """
    if inputs.is_targeted:
        return []
    size, variance = consumed_by_final(inputs), (inputs.estimate.get("diagnostics") or {}).get("residual_variance")
    return [(size, float(variance))] if size and variance is not None and words.is_number(variance) else []


def available_designs(inputs: ReportInputs) -> list[Json]:
    """The designs with a prediction, the shortest interval first; of many numbers of folds, some."""
    given = inputs.allocation or {}
    possible = [row for row in given.get("designs") or () if words.is_number(row.get("interval_length"))]
    shown = [row for row in possible if _is_shown(str(row["name"])) or row["name"] == given.get("chosen")]
    return sorted(shown, key=lambda row: float(row["interval_length"]))


def _is_shown(name: str) -> bool:
    return not name.startswith("crossfit-") or int(name.removeprefix("crossfit-")) in SHOWN_FOLDS


def designs(inputs: ReportInputs, width: float) -> Figure:
    """Predicted length of the interval under every design that was considered, shortest first, with its doubt."""
    rows = available_designs(inputs)
    row_height, foot = 0.42, 0.45
    figure = Figure(figsize=(width, 0.05 + row_height * len(rows) + foot))
    axes = panel(figure, left=0.16, right=0.12, bottom=foot, top=0.05)
    axes.set_xlim(0, 1.16 * max([rows[-1]["interval_length"], *(high for _, high in map(_doubt, rows))]))
    axes.set_ylim(-len(rows), 0)
    axes.set_yticks([])
    axes.set_xlabel("predicted length of the interval", loc="right")
    round_ticks(axes.xaxis)
    decimals = words.decimals_for(rows[0]["interval_length"] / 4)
    for i, row in enumerate(rows):
        chosen = row["name"] == (inputs.allocation or {}).get("chosen")
        colour, length = RECTIFIED if chosen else SOFT, float(row["interval_length"])
        title = words.plain(words.design(str(row["name"]))) + (" (chosen)" if chosen else "")
        heading(axes, title, -i - 0.33, colour=colour, bold=chosen)
        axes.plot([0, length], [-i - 0.72] * 2, color=RECTIFIED if chosen else FAINT, linewidth=2.2, zorder=1)
        low, high = _doubt(row)
        axes.plot([low, high], [-i - 0.72] * 2, color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt", zorder=2)
        dot(axes, length, -i - 0.72, colour, 8)
        said, place = words.fixed(length, decimals), (max(length, high), -i - 0.72)
        remark(axes, said, place, shift=(8, 0), colour=colour, bold=chosen)
    return figure


def _doubt(row: Json) -> tuple[float, float]:
    """The 95 % range of a design's length; the length itself where the doubt is not known."""
    length = float(row["interval_length"])
    low, high = row.get("interval_length_range") or (length, length)
    return float(low), float(high)


def budget(inputs: ReportInputs, width: float) -> Figure:
    """Predicted half-width of the interval against the number of labels, with the model and without."""
    fitted = Budget.of(inputs)
    assert fitted is not None  # the page asks for this figure only where there is a law
    most = inputs.labels * 4 if fitted.rows is None else min(inputs.labels * 4, fitted.rows - 1)
    n = np.unique(np.geomspace(max(20, inputs.labels / 6), most, 50).round())
    with_model, without = fitted.half_width(n), fitted.classical_half_width(n)
    here = float(fitted.half_width(np.array([inputs.labels]))[0])
    confidence = words.level(float(inputs.estimate["alpha"]))
    figure, axes = chart(width, 3.2, across="human answers", up=f"half-width of the {confidence} interval")
    axes.set_xlim(0, 1.02 * n[-1])
    axes.set_ylim(0, float(fitted.classical_half_width(np.array([0.4 * inputs.labels]))[0]))
    count_ticks(axes.xaxis, 6 if width > NARROW else 4)
    round_ticks(axes.yaxis)
    axes.plot(n, without, color=CLASSICAL, linewidth=1.8)
    axes.plot(n, with_model, color=RECTIFIED, linewidth=2.2)
    title = "human answers alone"
    begins = n[-1] * (1 - 0.068 * len(title) / (width - 0.62))  # the curve is highest where the words begin
    above = float(fitted.classical_half_width(np.array([begins]))[0])
    remark(axes, title, (n[-1], above), shift=(0, 7), colour=CLASSICAL, side="right")
    below = (float(n[-1]), float(with_model[-1]))
    remark(axes, words.design(fitted.design), below, shift=(0, -11), colour=RECTIFIED, side="right", bold=True)
    axes.plot([inputs.labels] * 2, [0, here], color=INK, linewidth=0.9, linestyle=DOTTED, zorder=1)
    remark(axes, "this study", (inputs.labels, 0), shift=(5, 10))
    dot(axes, inputs.labels, here, RECTIFIED, 8)
    equal = fitted.classical_labels_for(here)
    if equal < n[-1]:
        axes.plot([inputs.labels, equal], [here, here], color=INK, linewidth=0.9, linestyle=DOTTED, zorder=1)
        dot(axes, equal, here, CLASSICAL)
        if width > NARROW:
            remark(axes, f"{words.count(round(equal))} answers", (equal, here), shift=(7, 8), colour=CLASSICAL)
    return figure
