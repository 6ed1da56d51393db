"""The few marks that all figures are made of: a panel, a dot, a remark, ticks."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from ftrect_ray.report.drawing import INK, PAPER, SOFT

DASHED, DOTTED = (0, (4, 2)), (0, (2, 2))


def panel(figure: Figure, *, left: float, right: float, bottom: float, top: float) -> Axes:
    """Axes with margins in inches, so that both widths of a figure keep the same air around them."""
    width, height = figure.get_size_inches()
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return figure.add_axes(box)


def chart(width: float, height: float, *, across: str, up: str, right: float = 0.12) -> tuple[Figure, Axes]:
    """A figure in inches with one panel, a horizontal grid and the names of its axes: ``up`` stands above it."""
    figure = Figure(figsize=(width, height))
    axes = panel(figure, left=0.5, right=right, bottom=0.48, top=0.3)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel(across, loc="right")
    figure.text(0.06 / width, 1 - 0.12 / height, up, va="center", color=SOFT, fontsize=9)
    return figure, axes


def dot(axes: Axes, x: float, y: float, colour: str, size: float = 7, marker: str = "o") -> None:
    """A mark with a thin rim in the colour of the paper, above the lines."""
    axes.plot([x], [y], marker, color=colour, markersize=size, markeredgecolor=PAPER, markeredgewidth=1.2, zorder=4)


def remark(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    *,
    shift: tuple[float, float] = (0, 0),
    colour: str = INK,
    side: str = "left",
    bold: bool = False,
) -> None:
    """Words beside a data point, moved by ``shift`` typographic points; ``side`` is what the point is on."""
    axes.annotate(
        text,
        point,
        xytext=shift,
        textcoords="offset points",
        ha=side,
        va="center",
        color=colour,
        fontsize=8.5,
        weight="bold" if bold else "normal",
        annotation_clip=False,
    )


def heading(axes: Axes, text: str, y: float, *, colour: str = INK, side: str = "left", bold: bool = False) -> None:
    """Words at the left or right edge of a panel, at the height ``y`` of the data."""
    axes.text(
        0 if side == "left" else 1,
        y,
        text,
        transform=axes.get_yaxis_transform(),
        ha=side,
        va="center",
        color=colour,
        fontsize=9.2,
        weight="bold" if bold else "normal",
    )


def round_ticks(axis: Axis, most: int = 6) -> None:
    """At most ``most`` ticks at multiples of 1, 2 or 5, all with the same decimals."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(ScalarFormatter())


def count_ticks(axis: Axis, most: int = 6) -> None:
    """Ticks for whole numbers, with thousands separators."""
    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def spread(positions: list[float], gap: float) -> list[float]:
    """Positions moved apart to at least ``gap``, in their order and near where they were.

    >>> spread([1.0, 1.1, 5.0], 0.5)
    [0.8, 1.3, 5.0]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    moved = [positions[i] for i in order]
    for _ in range(100):
        tight = [i for i in range(len(moved) - 1) if moved[i + 1] - moved[i] < gap * 0.999]
        if not tight:
            break
        for i in tight:
            shift = (gap - (moved[i + 1] - moved[i])) / 2
            moved[i], moved[i + 1] = moved[i] - shift, moved[i + 1] + shift
    placed = [0.0] * len(positions)
    for rank, i in enumerate(order):
        placed[i] = round(moved[rank], 9)
    return placed
