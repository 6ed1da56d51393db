"""The pilots' law, the designs that were considered, and what a bigger budget would buy."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ftrect_ray.report import words
from ftrect_ray.report.budget import Budget, answer_variance, fitted_law
from ftrect_ray.report.drawing import CLASSICAL, FAINT, INK, MEASURE, NARROW, RECTIFIED, SOFT
from ftrect_ray.report.figures_labels import consumed_by_final
from ftrect_ray.report.inputs import Json, ReportInputs
from ftrect_ray.report.marks import DASHED, DOTTED, chart, count_ticks, dot, heading, panel, remark, round_ticks


def has_pilots(inputs: ReportInputs) -> bool:
    """Whether any pilot measured anything."""
    return any(words.is_number(row.get("residual_variance")) for row in inputs.pilots)


def law(inputs: ReportInputs, width: float) -> Figure:
    """Pilots as points, the fitted curve with its band, and where the final fine-tunes came out."""
    points = [
        (float(row["size"]), float(row["residual_variance"]))
        for row in inputs.pilots
        if words.is_number(row.get("residual_variance"))
    ]
    final, ceiling = _final(inputs), answer_variance(inputs)
    first, right = min(size for size, _ in points), 1.1 * max(size for size, _ in [*points, *final])
    tops = [variance for _, variance in [*points, *final]] + ([ceiling] if ceiling else [])
    up = words.criterion(inputs.study) if inputs.is_targeted else "residual variance, Var(answer − prediction)"
    figure, axes = chart(width, 3.3, across="labels that one fine-tune consumes", up=up)
    if (fitted := fitted_law(inputs)) is not None:
        curve = np.linspace(first, right, 200)
        predicted = fitted.variance(curve)
        axes.plot(curve, predicted, color=RECTIFIED, linewidth=1.8)
        highest = float(np.max(predicted))
        if band := (inputs.law or {}).get("band"):
            sizes, low, high = (np.array(band[key], dtype=float) for key in ("sizes", "low", "high"))
            axes.fill_between(sizes, low, high, color=RECTIFIED, alpha=0.14, linewidth=0)
            highest = max(highest, *high[sizes <= right])
        tops.append(min(highest, 1.4 * max(tops)))
    if ceiling:
        axes.axhline(ceiling, color=CLASSICAL, linewidth=1, linestyle=DASHED)
        alone = "human answers alone" if inputs.is_targeted else "variance of the answers, no model"
        remark(axes, alone, (right, ceiling), shift=(0, 7), colour=CLASSICAL, side="right")
    for size, variance in points:
        dot(axes, size, variance, MEASURE, 6.5)
    highest_first = max(variance for size, variance in points if size == first)
    remark(axes, "pilots", (first, highest_first), shift=(8, 5), colour=MEASURE)
    for size, variance in final:
        dot(axes, size, variance, INK, 6.5, marker="D")
        remark(axes, "final fine-tunes, on unseen answers", (size, variance), shift=(4, -13), side="right")
    axes.set_xlim(0, right)
    axes.set_ylim(0, 1.12 * max(tops))
    count_ticks(axes.xaxis)
    round_ticks(axes.yaxis)
    return figure


def _final(inputs: ReportInputs) -> list[tuple[float, float]]:
    """(labels that a final fine-tune consumed, residual variance on answers that it never saw), or nothing.

    Nothing beside pilots that measured it weighted for coefficients: the estimate knows it unweighted.
    """
    if inputs.is_targeted:
        return []
    size, variance = consumed_by_final(inputs), (inputs.estimate.get("diagnostics") or {}).get("residual_variance")
    return [(size, float(variance))] if size and variance is not None and words.is_number(variance) else []


def available_designs(inputs: ReportInputs) -> list[Json]:
    """The designs with a prediction, the shortest interval first."""
    listed = (inputs.allocation or {}).get("designs") or ()
    possible = [row for row in listed if words.is_number(row.get("interval_length"))]
    return sorted(possible, key=lambda row: float(row["interval_length"]))


def designs(inputs: ReportInputs, width: float) -> Figure:
    """Predicted length of the interval under every design that was considered, shortest first."""
    rows = available_designs(inputs)
    row_height, foot = 0.42, 0.45
    figure = Figure(figsize=(width, 0.05 + row_height * len(rows) + foot))
    axes = panel(figure, left=0.16, right=0.12, bottom=foot, top=0.05)
    axes.set_xlim(0, 1.16 * rows[-1]["interval_length"])
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
        dot(axes, length, -i - 0.72, colour, 8)
        remark(axes, words.fixed(length, decimals), (length, -i - 0.72), shift=(8, 0), colour=colour, bold=chosen)
    return figure


def budget(inputs: ReportInputs, width: float) -> Figure:
    """Predicted half-width of the interval against the number of labels, with the model and without."""
    fitted = Budget.of(inputs)
    assert fitted is not None  # the page asks for this figure only where there is a law
    n = np.unique(np.geomspace(max(20, inputs.labels / 6), inputs.labels * 4, 50).round())
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
