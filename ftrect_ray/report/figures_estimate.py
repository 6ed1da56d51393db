"""The estimate beside what the same answers and the model say alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ftrect_ray.report import words
from ftrect_ray.report.drawing import CLASSICAL, FAINT, INK, MODEL, RECTIFIED
from ftrect_ray.report.inputs import Interval, ReportInputs
from ftrect_ray.report.marks import dot, heading, panel, remark, round_ticks

#: Components of a vector target that the figure shows; the table holds all.
MOST_PANELS = 12

ROW, FOOT = 0.5, 0.36  # inches


@dataclass(frozen=True)
class _Row:
    title: str
    colour: str
    interval: Interval


def intervals(inputs: ReportInputs, width: float) -> Figure:
    """One panel a component, one row an estimate, and the truth as a mark on every row where it is known."""
    names = inputs.names[:MOST_PANELS]
    panels = [_rows(inputs, j) for j in range(len(names))]
    head = 0.16 + 0.2 * inputs.is_vector + 0.12 * (inputs.truth is not None)
    heights = [head + ROW * len(rows) + FOOT for rows in panels]
    total = sum(heights) + 0.05
    figure, top = Figure(figsize=(width, total)), 0.05
    for name, rows, truth, height in zip(names, panels, inputs.truths, heights, strict=False):
        axes = panel(figure, left=0.08, right=0.12, bottom=total - top - height + FOOT, top=top)
        _draw(axes, words.plain(name), rows, truth, above=head / ROW)
        top += height
    return figure


def _rows(inputs: ReportInputs, component: int) -> list[_Row]:
    own, classical, naive = inputs.intervals(), inputs.intervals("classical"), inputs.intervals("naive")
    if inputs.design == "classical":
        listed = [("Human answers alone", CLASSICAL, own)]
    else:
        listed = [
            ("Rectified", RECTIFIED, own),
            ("Human answers alone", CLASSICAL, classical),
            ("Model alone, unchecked", MODEL, naive),
        ]
    return [_Row(title, colour, part[component]) for title, colour, part in listed if part]


def _draw(axes: Axes, name: str, rows: Sequence[_Row], truth: float | None, above: float) -> None:
    """``above``: room over the first row, in rows."""
    low, high = _limits(rows, truth)
    axes.set_xlim(low, high)
    axes.set_ylim(0.15 - len(rows), above)
    axes.set_yticks([])
    round_ticks(axes.xaxis)
    if name:
        heading(axes, name, above - 0.2, bold=True)
    decimals = words.decimals_for(rows[0].interval.std_error)
    for i, row in enumerate(rows):
        value, ends = row.interval.value, (row.interval.low, row.interval.high)
        numbers = f"{words.fixed(value, decimals)}   {words.bracketed(row.interval, decimals)}"
        heading(axes, row.title, -i - 0.2, colour=row.colour, bold=i == 0)
        heading(axes, numbers, -i - 0.2, colour=row.colour, bold=i == 0, side="right")
        if name and low < 0 < high:
            axes.plot([0, 0], [-i - 0.72, -i - 0.34], color=FAINT, linewidth=1.2, zorder=1)
        axes.plot(ends, [-i - 0.5] * 2, color=row.colour, linewidth=4.5 if i == 0 else 3, zorder=2)
        dot(axes, value, -i - 0.5, row.colour, 9 if i == 0 else 7)
    if truth is not None and words.is_number(truth):
        _draw_truth(axes, truth, len(rows), decimals)


def _draw_truth(axes: Axes, truth: float, rows: int, decimals: int) -> None:
    for i in range(rows):
        axes.plot([truth, truth], [-i - 0.66, -i - 0.34], color=INK, linewidth=1.4, zorder=5)
    axes.plot([truth], [0.1], "v", color=INK, markersize=4.5)
    right = truth > sum(axes.get_xlim()) / 2
    label = f"all answers: {words.fixed(truth, decimals)}"
    remark(axes, label, (truth, 0.1), shift=(-6 if right else 6, 0), side="right" if right else "left")


def _limits(rows: Sequence[_Row], truth: float | None) -> tuple[float, float]:
    ends = [x for row in rows for x in (row.interval.low, row.interval.high, row.interval.value)]
    known = [x for x in [*ends, truth] if x is not None and words.is_number(x)] or [0.0]
    pad = 0.06 * (max(known) - min(known)) or 0.5
    return min(known) - pad, max(known) + pad
