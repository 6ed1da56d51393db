"""From a Matplotlib figure to an inline SVG that follows the page's colours, and to a PNG.

A figure is drawn twice, once for a wide page and once for a phone, so that its letters keep their size.
In the SVG every colour of :data:`PALETTE` becomes a CSS variable (the page defines them for light and
dark), text stays text in the page's own font, and nothing refers to anything outside the page.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

WIDE, NARROW = 7.5, 3.7  # inches: the text column, a phone

INK, SOFT, FAINT, PAPER = "#1c2024", "#5d6873", "#dde1e5", "#ffffff"
RECTIFIED, CLASSICAL, MODEL = "#0072b2", "#c2540a", "#7b828a"
TRAIN, STOP, MEASURE, RECTIFY = "#0073b3", "#93c5e8", "#00836b", "#e3a72f"
ON_DEEP, ON_BRIGHT = "#fefefe", "#1c2025"

PALETTE = {
    INK: "ink",
    SOFT: "soft",
    FAINT: "faint",
    PAPER: "paper",
    RECTIFIED: "rectified",
    CLASSICAL: "classical",
    MODEL: "model",
    TRAIN: "train",
    STOP: "stop",
    MEASURE: "measure",
    RECTIFY: "rectify",
    ON_DEEP: "on-deep",
    ON_BRIGHT: "on-bright",
}

PREFERRED_FONTS = ("Inter", "Helvetica Neue", "Arial", "Liberation Sans", "Noto Sans")


def _style() -> Any:
    available = set(font_manager.get_font_names())
    return {
        "font.family": "sans-serif",
        "font.sans-serif": [*(name for name in PREFERRED_FONTS if name in available), "DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # column names are user text; '$' is a letter like any other
        "axes.edgecolor": FAINT,
        "axes.labelcolor": SOFT,
        "axes.labelsize": 9,
        "axes.linewidth": 0.8,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.unicode_minus": True,
        "axes.formatter.useoffset": False,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": SOFT,
        "ytick.labelcolor": SOFT,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "none",
        "svg.hashsalt": "ftrect_ray",
        "path.simplify": True,
    }


@dataclass(frozen=True)
class Picture:
    """One figure, ready for the page: inline SVGs for both widths (``narrow`` None: one fits both), and a PNG."""

    name: str
    alt: str
    wide: str
    narrow: str | None
    png: bytes


def picture(name: str, alt: str, draw: Callable[[float], Figure], *, half: bool = False) -> Picture:
    """Draw one figure.

    Parameters
    ----------
    name : str
        Letters, digits and hyphens: the PNG's file name and the prefix of the SVG's ids.
    alt : str
        What the figure says, for who cannot see it.
    draw : callable
        From a width in inches to a figure.
    half : bool
        The figure takes half the column on a wide page and all of a phone: one drawing fits both.
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with matplotlib.rc_context(_style()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has its own fonts
        first = draw(NARROW if half else WIDE)
        buffer = io.BytesIO()
        first.savefig(buffer, format="png", dpi=200, facecolor=PAPER, metadata={"Software": None})
        wide = _inline(first, f"{name}-w", alt)
        narrow = None if half else _inline(draw(NARROW), f"{name}-n", alt)
    return Picture(name, alt, wide, narrow, buffer.getvalue())


def _inline(figure: Figure, prefix: str, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    texts = [value for element in root.iter() for value in element.attrib.values()]
    referred = {
        name for value in texts for name in re.findall(r"^#(\S+)$|url\(#([^)]+)\)", value) for name in name if name
    }
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = _attributes(element.attrib, referred, prefix)
    del root.attrib["version"]
    root.attrib.update({"role": "img", "aria-label": alt})
    return ElementTree.tostring(root, encoding="unicode")


def _attributes(given: dict[str, str], referred: set[str], prefix: str) -> dict[str, str]:
    attributes = {}
    for key, value in given.items():
        key = key.rpartition("}")[2]
        if key == "id":
            if value not in referred:
                continue
            value = f"{prefix}-{value}"
        elif key == "href":
            value = f"#{prefix}-{value.removeprefix('#')}"
        elif key == "style":
            value = re.sub(r"font-family:[^;]*;?\s*", "", value)
            value = re.sub(r"#[0-9a-f]{6}", lambda found: _variable(found[0]), value)
        attributes[key] = value.replace("url(#", f"url(#{prefix}-")
    return attributes


def _variable(colour: str) -> str:
    return f"var(--{PALETTE[colour]})" if colour in PALETTE else colour
