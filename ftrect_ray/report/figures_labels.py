"""Where the labels went: one bar a model."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ftrect_ray.report import words
from ftrect_ray.report.drawing import (
    CLASSICAL,
    FAINT,
    MEASURE,
    NARROW,
    ON_BRIGHT,
    ON_DEEP,
    PAPER,
    RECTIFY,
    STOP,
    TRAIN,
)
from ftrect_ray.report.inputs import ReportInputs
from ftrect_ray.report.marks import count_ticks, heading, panel

#: Use of a label to the colours of its bar and of the number on it, in the order in which they are drawn.
COLOURS = {
    "finetune": (TRAIN, ON_DEEP),
    "early_stop": (STOP, ON_BRIGHT),
    "measure": (MEASURE, ON_DEEP),
    "rectify": (RECTIFY, ON_BRIGHT),
    "classical": (CLASSICAL, ON_DEEP),
}

ROW, LINE, FOOT = 0.5, 0.22, 0.42  # inches


def label_rows(inputs: ReportInputs) -> list[tuple[str, dict[str, int]]]:
    """What every model used the labels for: (name, {use: labels}); like pilots share a row.

    Uses that repeat a label within one model (``select``, ``classical`` beside a fine-tune) are the caption's.
    """
    models: dict[str, dict[str, int]] = {}
    for entry in inputs.ledger_counts:
        use = {"pilot_train": "finetune", "pilot_stop": "early_stop", "pilot_measure": "measure"}.get(
            entry["use"], entry["use"]
        )
        if use in COLOURS:
            models.setdefault(str(entry["model"]), {})[use] = int(entry["count"])
    for uses in models.values():
        if "finetune" in uses:
            uses.pop("classical", None)
    pilots = Counter(tuple(uses.items()) for uses in models.values() if "measure" in uses)
    rows = []
    for pattern, repeats in sorted(pilots.items(), key=lambda item: dict(item[0]).get("finetune", 0)):
        size = sum(number for use, number in pattern if use != "measure")
        what = f"pilot of {words.count(size)}" if size else "untrained pilot"
        rows.append((what + (f", {repeats} times" if repeats > 1 else ""), dict(pattern)))
    names = {"none": "no model", "given": "given predictions", "zero-shot": "model as it is"}
    rows += [(names.get(name, f"model {name}"), uses) for name, uses in models.items() if "measure" not in uses]
    return rows


def has_models(inputs: ReportInputs) -> bool:
    """Whether the labels did more than being averaged."""
    return any(set(uses) != {"classical"} for _, uses in label_rows(inputs))


def consumed_by_final(inputs: ReportInputs) -> float | None:
    """Labels that a final fine-tune consumed, on average; None where there was none."""
    finals = [uses for _, uses in label_rows(inputs) if "measure" not in uses and "finetune" in uses]
    return float(np.mean([uses["finetune"] + uses.get("early_stop", 0) for uses in finals])) if finals else None


def labels(inputs: ReportInputs, width: float) -> Figure:
    """Every bar is as long as the budget; its colours say what the model used the labels for."""
    rows = label_rows(inputs)
    present = [use for use in COLOURS if any(use in uses for _, uses in rows)]
    columns = len(present) if width > NARROW else 2
    head = 0.1 + LINE * -(-len(present) // columns)
    height = head + ROW * len(rows) + FOOT
    figure = Figure(figsize=(width, height))
    _key(figure, present, columns)
    axes = panel(figure, left=0.08, right=0.12, bottom=FOOT, top=head)
    axes.set_xlim(0, inputs.labels)
    axes.set_ylim(-len(rows), 0)
    axes.set_yticks([])
    axes.set_xlabel("human answers", loc="right")
    count_ticks(axes.xaxis)
    for i, (name, uses) in enumerate(rows):
        y, start = -i - 0.66, 0
        heading(axes, words.plain(name), -i - 0.24)
        axes.barh(y, inputs.labels, height=0.36, color=FAINT, alpha=0.55, zorder=1)
        for use in present:
            number, (fill, on) = uses.get(use, 0), COLOURS[use]
            axes.barh(y, number, left=start, height=0.36, color=fill, edgecolor=PAPER, linewidth=0.8, zorder=2)
            if number / inputs.labels * width > 0.33:
                middle = (start + number / 2, y - 0.01)
                axes.text(*middle, words.count(number), ha="center", va="center", color=on, fontsize=8.5, zorder=3)
            start += number
    return figure


def _key(figure: Figure, present: list[str], columns: int) -> None:
    """Coloured squares with their words, above the bars."""
    width, height = figure.get_size_inches()
    lengths = [0.42 + 0.062 * len(words.USES[use]) for use in present]
    for i, use in enumerate(present):
        x = 0.08 + (sum(lengths[:i]) if columns > 2 else 1.7 * (i % columns))
        y = height - 0.14 - LINE * (i // columns)
        square = Rectangle((x / width, (y - 0.055) / height), 0.11 / width, 0.11 / height, color=COLOURS[use][0])
        square.set_transform(figure.transFigure)
        figure.add_artist(square)
        figure.text((x + 0.16) / width, y / height, words.USES[use], va="center", fontsize=9)
