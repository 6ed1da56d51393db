"""From the inputs to the page: its figures, and the template filled in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ftrect_ray.report import (
    diagnostics,
    figures_estimate,
    figures_labels,
    figures_model,
    figures_plan,
    methods,
    sections,
    words,
)
from ftrect_ray.report.budget import Budget
from ftrect_ray.report.drawing import Picture, picture
from ftrect_ray.report.inputs import ReportInputs


@dataclass(frozen=True)
class _Figure:
    """How a figure is drawn, when, and what it says to who cannot see it."""

    draw: Callable[[ReportInputs, float], Figure]
    wanted: Callable[[ReportInputs], bool]
    alt: str
    half: bool = False


FIGURES = {
    "intervals": _Figure(figures_estimate.intervals, lambda inputs: True, ""),
    "labels": _Figure(
        figures_labels.labels, figures_labels.has_models, "One bar a model: which human answers it used for what."
    ),
    "law": _Figure(
        figures_plan.law,
        figures_plan.has_pilots,
        "Residual variance of the pilots against their number of labels, with the fitted law.",
    ),
    "designs": _Figure(
        figures_plan.designs,
        lambda inputs: bool(figures_plan.available_designs(inputs)),
        "Predicted interval length of every design; the numbers are in the table.",
    ),
    "budget": _Figure(
        figures_plan.budget,
        lambda inputs: Budget.of(inputs) is not None,
        "Predicted half-width of the interval against the number of labels.",
    ),
    "curves": _Figure(
        figures_model.curves,
        figures_model.has_curves,
        "What each fine-tune minimises, on its held-out labels after every epoch.",
    ),
    "calibration": _Figure(
        figures_model.calibration,
        figures_model.has_pairs,
        "Human answers against predictions of models that had not seen them.",
        half=True,
    ),
    "residuals": _Figure(
        figures_model.residuals, figures_model.has_pairs, "Histogram of answer minus prediction.", half=True
    ),
}


def build_report(inputs: ReportInputs) -> tuple[str, dict[str, bytes]]:
    """Write the report of a run.

    Parameters
    ----------
    inputs : ReportInputs
        What the run left behind.

    Returns
    -------
    html : str
        One page with its styles and figures inside; it loads nothing and runs no script.
    pngs : dict of str to bytes
        The figures at 200 dpi by name: ``intervals``, ``labels``, ``law``, ….
    """
    pictures = {name: _draw(name, figure, inputs) for name, figure in FIGURES.items() if figure.wanted(inputs)}
    template = environment().get_template("template.html.j2")
    html = template.render(
        study=inputs.study["study"],
        label=inputs.label,
        target=words.target(inputs.study["target"], inputs.label),
        design=words.design(sections.design_name(inputs)),
        level=words.level(inputs.estimate["alpha"]),
        labels=words.count(inputs.labels),
        texts=words.count(inputs.texts),
        is_vector=inputs.is_vector,
        uses_model=inputs.design != "classical",
        rows=sections.estimates(inputs),
        facts=sections.facts(inputs),
        worth=sections.worth(inputs),
        pictures={name: Inline(pictures[name]) if name in pictures else None for name in FIGURES},
        law=sections.law(inputs),
        pilots=sections.pilots(inputs),
        allocation=sections.allocation(inputs),
        budget=sections.budget(inputs),
        curves=sections.curves(inputs),
        checks=diagnostics.checks(inputs),
        texts_cut=sections.diagnostic(inputs, "texts_cut"),
        recycled=inputs.design == "recycle",
        crossfit=inputs.design == "crossfit",
        methods=methods.paragraph(inputs),
        references=methods.references(inputs),
        stages=sections.stages(inputs),
        run=sections.run_facts(inputs),
        yaml=words.plain(inputs.study_yaml),
    )
    return html, {name: drawn.png for name, drawn in pictures.items()}


@dataclass(frozen=True)
class Inline:
    """A picture as the template takes it: its SVGs are our own markup, everything else is escaped."""

    picture: Picture

    def __html__(self) -> Markup:
        one = Markup('<div class="{}">{}</div>')
        if self.picture.narrow is None:
            return one.format("drawing", Markup(self.picture.wide))
        return one.format("drawing wide", Markup(self.picture.wide)) + one.format(
            "drawing narrow", Markup(self.picture.narrow)
        )


def environment(*folders: Path) -> Environment:
    """Templates of ``folders``, and of this one: what is put into them is escaped, and nothing may be missing."""
    return Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else words.plain(value),
    )


def _draw(name: str, figure: _Figure, inputs: ReportInputs) -> Picture:
    alt = figure.alt or _intervals_alt(inputs)
    return picture(name, alt, lambda width: figure.draw(inputs, width), half=figure.half)


def _intervals_alt(inputs: ReportInputs) -> str:
    return "; ".join(
        f"{words.plain(row['name'])} {row['value']}, interval {row['low']} to {row['high']}".strip()
        for row in sections.estimates(inputs)
    )
