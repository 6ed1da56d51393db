"""What the designs saved, how often their intervals held, and what the planner had said: one row a design."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ftrect_ray.evaluation.summary import Row
from ftrect_ray.evaluation.titles import TableRow
from ftrect_ray.report import words
from ftrect_ray.report.drawing import CLASSICAL, FAINT, INK, MODEL, NARROW, RECTIFIED, SOFT
from ftrect_ray.report.marks import dot, heading, panel, round_ticks

#: Inches of a row, and of what stands below and above all rows.
ROW, FOOT, HEAD = 0.36, 0.46, 0.3
#: Inches of a number at the right.
NUMBER = 0.5
#: 95 % of normal Monte-Carlo errors lie within so many standard errors.
WITHIN = 1.96
#: Coverage is judged by so many Monte-Carlo errors, the planner's lengths by this share.
FAR, PLANNED_WITHIN = 3.0, 0.1


@dataclass(frozen=True)
class Scale:
    """The horizontal axis of a figure.

    Attributes
    ----------
    name : str
        Of a number of the summary.
    across : str
        In words.
    low, high : float
        Numbers beyond are drawn at the edge; the words at the right say what they are.
    at : float
        Of the upright line.
    band : tuple of float, optional
        A range that is shaded.
    show : callable
        A number in words.
    """

    name: str
    across: str
    low: float
    high: float
    at: float
    show: Callable[[float], str]
    band: tuple[float, float] | None = None


def saved(rows: Sequence[TableRow], width: float) -> Figure:
    """Labels saved against the sample mean, by estimated variance."""
    rows = [row for row in rows if _values([row], "saved")]
    values = _values(rows, "saved")
    low = max(min([0.0, *values]) - 0.04, -0.6)
    high = max([0.1, *values]) + 0.04
    scale = Scale("saved", "labels saved against the sample mean", low, high, 0.0, lambda x: words.percent(x))
    return _draw(rows, scale, width)


def coverage(rows: Sequence[TableRow], width: float, alpha: float) -> Figure:
    """Coverage of the intervals, with the widest range of an honest one; rectified intervals set the scale."""
    nominal, rectified = 1 - alpha, [row for row in rows if _values([row], "saved")]
    off, values = FAR * max(_values(rectified, "coverage_honest")), _values(rectified, "coverage")
    low = max(min([nominal - 2 * off, *values]) - 0.01, nominal - 0.12)
    high = min(1.0, max([nominal + off, *values]) + 0.01)
    band = (nominal - off, min(nominal + off, 1.0))
    across = f"coverage of the {words.level(alpha)} interval"
    scale = Scale("coverage", across, low, high, nominal, lambda x: words.percent(x, 1), band)
    return _draw(rows, scale, width)


def planned(rows: Sequence[TableRow], width: float) -> Figure:
    """The planner's length of the interval over the one that came out."""
    rows = [row for row in rows if _values([row], "predicted_ratio")]
    values = _values(rows, "predicted_ratio")
    scale = Scale(
        "predicted_ratio", "predicted length / realised length", min([0.85, *values]) - 0.02,
        max([1.15, *values]) + 0.02, 1.0, lambda x: words.fixed(x, 2), (1 - PLANNED_WITHIN, 1 + PLANNED_WITHIN),
    )  # fmt: skip
    return _draw(rows, scale, width)


def _draw(rows: Sequence[TableRow], scale: Scale, width: float) -> Figure:
    """Small dots are small budgets; bars are 95 % of the Monte-Carlo error."""
    total = HEAD + ROW * len(rows) + FOOT
    figure = Figure(figsize=(width, total))
    budgets = sorted({budget for row in rows for budget in row.by_budget})
    beside = width > NARROW
    left, right = (2.35, 0.14 + NUMBER * len(budgets)) if beside else (0.08, 0.12)
    axes = panel(figure, left=left, right=right, bottom=FOOT, top=HEAD)
    axes.set_xlim(scale.low, scale.high)
    axes.set_ylim(-len(rows), 0)
    axes.set_yticks([])
    axes.set_xlabel(scale.across, loc="right")
    round_ticks(axes.xaxis, 5)
    if scale.show(0.5).endswith("%"):
        axes.xaxis.set_major_formatter(lambda x, _: words.percent(x))
    if scale.band is not None:
        axes.axvspan(*scale.band, color=RECTIFIED, alpha=0.12, linewidth=0)
    axes.axvline(scale.at, color=SOFT, linewidth=0.9, zorder=1)
    for i, row in enumerate(rows):
        _row(axes, row, -i - 0.5, scale, budgets, beside=beside)
    if beside:
        for place, budget in enumerate(budgets):
            _number(axes, words.count(budget), 0.28, place, SOFT)
    else:
        heading(
            axes, "labels: " + ", ".join(words.count(budget) for budget in budgets), 0.28, colour=SOFT, side="right"
        )
    return figure


def _row(axes: Axes, row: TableRow, y: float, scale: Scale, budgets: Sequence[int], *, beside: bool) -> None:
    colour = _colour(row)
    bold = row.design == "auto"
    marks = y if beside else y - 0.22
    axes.plot([scale.low, scale.high], [marks, marks], color=FAINT, linewidth=0.6, zorder=0.5)
    shown = []
    for i, budget in enumerate(budgets):
        found: Row = row.by_budget.get(budget, {})
        value, error = found.get(scale.name), found.get(f"{scale.name}_error") or 0.0
        shown.append("–" if value is None else scale.show(value))
        if value is None:
            continue
        inside = min(max(value, scale.low), scale.high)
        if inside == value:
            axes.plot([value - WITHIN * error, value + WITHIN * error], [marks, marks], color=colour, linewidth=1.6)
        marker = "o" if inside == value else "<" if value < inside else ">"
        dot(axes, inside, marks, colour, 4.5 + 3.5 * (i + 1) / len(budgets), marker)
    if beside:
        axes.annotate(
            row.title, (0, y), xycoords=axes.get_yaxis_transform(), xytext=(-8, 0), textcoords="offset points",
            ha="right", va="center", color=colour, fontsize=9, weight="bold" if bold else "normal",
        )  # fmt: skip
        for place, number in enumerate(shown):
            _number(axes, number, y, place, colour, bold=bold)
    else:
        heading(axes, row.title, y + 0.22, colour=colour, bold=bold)
        heading(axes, " · ".join(shown), y + 0.22, colour=colour, bold=bold, side="right")


def _number(axes: Axes, text: str, y: float, place: int, colour: str, *, bold: bool = False) -> None:
    """Words in one of the columns at the right."""
    axes.annotate(
        text, (1, y), xycoords=axes.get_yaxis_transform(), xytext=(72 * NUMBER * (place + 1) + 2, 0),
        textcoords="offset points", ha="right", va="center", color=colour, fontsize=8.5,
        weight="bold" if bold else "normal", annotation_clip=False,
    )  # fmt: skip


def _colour(row: TableRow) -> str:
    if row.design == "auto":
        return RECTIFIED
    if row.design == "mean":
        return CLASSICAL
    return INK if row.deployable else MODEL


def _values(rows: Sequence[TableRow], name: str) -> list[float]:
    return [float(found[name]) for row in rows for found in row.by_budget.values() if words.is_number(found.get(name))]
