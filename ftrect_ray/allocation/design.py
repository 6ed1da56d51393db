"""One line of a plan, and how lines are printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Range = tuple[float, float]


@dataclass(frozen=True)
class Design:
    """One way to spend the labels.

    Attributes
    ----------
    name : str
        ``classical``, ``rectify-only``, ``split``, ``split-after-pilots`` (where pilots spent labels), ``recycle``,
        ``sequential``, ``crossfit-K`` or ``rotation-p-q``.
    finetunes : int
        Final fine-tunes that it costs.
    n_finetune : int
        Labels that train the largest of them.
    variance, std_error, interval_length : float or None
        Predicted, for the mean; the length at the plan's alpha; None where ``unavailable``.
    interval_length_range, saved_range : (float, float) or None
        95 % of the curve's draws, at the sizes of the point forecast; None where the doubt is not known, or nothing
        of the curve enters. The variance of the answers is taken as known.
    saved : float or None
        Saved labels, 1 − Var/Var_mean; negative where the design loses; None without Var(Y).
    sizes : tuple of int
        Labels that train each model in turn.
    gpu_hours : float or None
        Device-hours of training and predicting; None without ``compute``.
    price : float or None
        Of all labels and device-hours; None without ``prices``.
    unavailable : str
        Why the design cannot be had; empty where it can.
    note : str
        After :meth:`Plan.choose`: why this one.
    """

    name: str
    finetunes: int
    n_finetune: int
    variance: float | None
    std_error: float | None
    interval_length: float | None
    saved: float | None
    interval_length_range: Range | None = None
    saved_range: Range | None = None
    sizes: tuple[int, ...] = ()
    gpu_hours: float | None = None
    price: float | None = None
    unavailable: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


def as_table(designs: Sequence[Design]) -> str:
    """A line for each design; columns that nothing fills are left out."""
    possible = [design for design in designs if design.interval_length is not None]
    columns = [(heading, cell) for heading, cell in _COLUMNS if any(cell(design) for design in possible)]
    rows = [["design", *(heading for heading, _ in columns)]]
    rows += [[design.name, *(cell(design) for _, cell in columns)] for design in possible]
    name_width = max(len(name) for name in ["design", *(design.name for design in designs)])
    widths = [max(len(row[place]) for row in rows) for place in range(1, len(rows[0]))]
    lines = {
        row[0]: "  ".join(
            [row[0].ljust(name_width), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))]
        )
        for row in rows
    }
    told = (lines.get(design.name, f"{design.name:<{name_width}}  — {design.unavailable}") for design in designs)
    return "\n".join([lines["design"], *told])


def _half_width(design: Design) -> str:
    return "" if design.interval_length is None else f"{design.interval_length / 2:.5g}"


def _half_width_range(design: Design) -> str:
    ends = design.interval_length_range
    return "" if ends is None else f"{ends[0] / 2:.4g} to {ends[1] / 2:.4g}"


def _saved(design: Design) -> str:
    return "" if design.saved is None else f"{100 * design.saved:.0f} %"


_COLUMNS: tuple[tuple[str, Callable[[Design], str]], ...] = (
    ("fine-tunes", lambda design: str(design.finetunes)),
    ("labels/fine-tune", lambda design: str(design.n_finetune)),
    ("± half width", _half_width),
    ("95 % range", _half_width_range),
    ("saved", _saved),
    ("device-hours", lambda design: "" if design.gpu_hours is None else f"{design.gpu_hours:.3g}"),
    ("price", lambda design: "" if design.price is None else f"{design.price:.2f}"),
)
