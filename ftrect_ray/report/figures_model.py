"""The figures about the fine-tuned models: learning curves, calibration, residuals."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from ftrect_ray.report import words
from ftrect_ray.report.drawing import FAINT, MODEL, PAPER, RECTIFIED, SOFT
from ftrect_ray.report.inputs import ReportInputs
from ftrect_ray.report.marks import DASHED, chart, count_ticks, dot, remark, round_ticks, spread

#: Points that the scatter draws; more only make it black. The means of groups use all.
MOST_POINTS = 1200
MOST_LABELLED_CURVES = 6


def has_curves(inputs: ReportInputs) -> bool:
    """Whether any fine-tune left a learning curve."""
    return bool(_lines(inputs))


def has_pairs(inputs: ReportInputs) -> bool:
    """Whether there are enough answers with a prediction to draw."""
    return inputs.answers is not None and inputs.predictions is not None and len(_pairs(inputs)[0]) >= 3


def curves(inputs: ReportInputs, width: float) -> Figure:
    """The objective on the labels that choose the epoch, after every epoch; one line a model, the kept one marked."""
    lines = _lines(inputs)
    labelled = len(lines) <= MOST_LABELLED_CURVES
    figure, axes = chart(width, 2.8, across="epoch", up=words.criterion(inputs.study), right=0.75 if labelled else 0.12)
    top = 1.1 * max(points[:, 1].max() for points in lines.values())
    heights = spread([float(points[-1, 1]) for points in lines.values()], gap=0.085 * top)
    for (name, points), height in zip(lines.items(), heights, strict=True):
        axes.plot(points[:, 0], points[:, 1], color=RECTIFIED, linewidth=1.6, alpha=0.9 if labelled else 0.45)
        for epoch, metric in points[points[:, 0] == inputs.best_epochs.get(name, -1)]:
            dot(axes, epoch, metric, RECTIFIED, 7.5)
        if labelled:
            remark(axes, words.plain(name), (points[-1, 0], height), shift=(7, 0), colour=RECTIFIED)
    axes.set_xlim(0.8, max(points[-1, 0] for points in lines.values()) + 0.1)
    axes.set_ylim(0, top)
    count_ticks(axes.xaxis, 10)
    round_ticks(axes.yaxis)
    return figure


def calibration(inputs: ReportInputs, width: float) -> Figure:
    """Answers against predictions of models that never saw them, with means of ten equal groups."""
    answers, predictions = _pairs(inputs)
    figure, axes = chart(width, 0.92 * width, across="prediction", up="human answer")
    low, high = min(answers.min(), predictions.min()), max(answers.max(), predictions.max())
    pad = 0.04 * (high - low) or 0.5
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
    axes.plot([low, high], [low, high], color=SOFT, linewidth=1, linestyle=DASHED, zorder=1)
    keep = np.unique(np.linspace(0, len(answers) - 1, min(MOST_POINTS, len(answers))).astype(int))
    axes.add_patch(_specks(predictions[keep], answers[keep], 1e-4 * (high - low)))
    groups = min(10, len(answers) // 8)
    for group in np.array_split(np.argsort(predictions, kind="stable"), groups) if groups > 1 else []:
        center, mean = float(predictions[group].mean()), float(answers[group].mean())
        reach = 1.96 * float(answers[group].std(ddof=1)) / np.sqrt(len(group))
        axes.plot([center, center], [mean - reach, mean + reach], color=RECTIFIED, linewidth=1.6, zorder=3)
        dot(axes, center, mean, RECTIFIED, 6.5)
    axes.grid(axis="x")
    round_ticks(axes.xaxis)
    round_ticks(axes.yaxis)
    return figure


def residuals(inputs: ReportInputs, width: float) -> Figure:
    """How far the answers are from the predictions; the mean is what rectification adds."""
    answers, predictions = _pairs(inputs)
    residual = answers - predictions
    figure, axes = chart(width, 0.92 * width, across="answer − prediction", up="labels")
    number, edges = np.histogram(residual, bins=min(30, max(8, int(np.sqrt(len(residual))))))
    widths, top = np.diff(edges), float(number.max())
    axes.bar(edges[:-1], number, widths, align="edge", color=MODEL, alpha=0.55, edgecolor=PAPER, linewidth=0.6)
    axes.axvline(0, color=FAINT, linewidth=1, zorder=0.5)
    mean = float(residual.mean())
    axes.plot([mean, mean], [0, 1.06 * top], color=RECTIFIED, linewidth=1.8, zorder=3)
    left = mean > float(edges[0] + edges[-1]) / 2
    decimals = words.decimals_for(float(residual.std(ddof=1)) / np.sqrt(len(residual)))
    remark(
        axes,
        f"mean {words.fixed(mean, decimals)}",
        (mean, 1.06 * top),
        shift=(-6 if left else 6, 0),
        side="right" if left else "left",
        colour=RECTIFIED,
        bold=True,
    )
    axes.set_ylim(0, 1.16 * top)
    round_ticks(axes.xaxis)
    count_ticks(axes.yaxis)
    return figure


def _lines(inputs: ReportInputs) -> dict[str, np.ndarray]:
    """Model name to its (epoch, stopping metric) points, (epochs, 2)."""
    lines = {}
    for name, curve in inputs.curves.items():
        points = [(p["epoch"], p["stop_metric"]) for p in curve if words.is_number(p.get("stop_metric"))]
        if points:
            lines[name] = np.array(points, dtype=float)
    return lines


def _pairs(inputs: ReportInputs) -> tuple[np.ndarray, np.ndarray]:
    answers, predictions = (np.asarray(values, dtype=float) for values in (inputs.answers, inputs.predictions))
    known = np.isfinite(answers) & np.isfinite(predictions)
    return answers[known], predictions[known]


def _specks(x: np.ndarray, y: np.ndarray, length: float) -> PathPatch:
    """All points as one path of round-capped specks: a fraction of the size of as many SVG markers."""
    vertices = np.column_stack([x, y, x + length, y]).reshape(-1, 2)
    path = Path(vertices, np.tile([Path.MOVETO, Path.LINETO], len(x)))
    path.should_simplify = False
    return PathPatch(path, fill=False, edgecolor=MODEL, alpha=0.5, linewidth=3.2, capstyle="round", zorder=2)
