"""What the charts share: colours of two themes, and Matplotlib's SVG made fit for a page of its own or of ours."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..console import require
from .text import wrap

# Okabe and Ito's palette without its yellow, which no white page can show; darkened for light pages where needed, so
# that every colour has a contrast of 3 or more on its page. The first is plain decoding's.
SERIES = (
    ("#6b7280", "#9aa3af"),
    ("#0067a5", "#4ca3dd"),
    ("#d55e00", "#f08040"),
    ("#00875f", "#1fb58a"),
    ("#b85591", "#dc94c0"),
    ("#a87000", "#e6a417"),
    ("#3593cf", "#9bd3f5"),
    ("#33373e", "#d5d9e0"),
)
# Draft transformer, draft head, verification, other: no method's colours.
PARTS = (("#2f8f86", "#55c2b6"), ("#c05468", "#e58a9b"), ("#5b52b5", "#9d96ea"), ("#8b8f96", "#7f858e"))
INK = ("#1d2127", "#e4e7eb")
GRID = ("#d9dce1", "#3a4048")
PAPER = ("#ffffff", "#15181c")

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "\\\\\\\\", "xxxx")  # of lines: dots would make megabytes


def theme(dark: bool) -> dict[str, str]:
    """CSS variables of the theme, as name to colour."""
    return {name: pair[dark] for name, pair in _VARIABLES.items()}


_VARIABLES: dict[str, tuple[str, str]] = {
    **{f"--series-{i}": pair for i, pair in enumerate(SERIES)},
    **{f"--part-{i}": pair for i, pair in enumerate(PARTS)},
    "--ink": INK,
    "--grid": GRID,
    "--paper": PAPER,
}
_NAMES = {light: name for name, (light, _) in _VARIABLES.items()}


@dataclass(frozen=True)
class Shape:
    """The size of a picture.

    Attributes:
        width: In points of 1/72 inch: 3/4 of CSS pixels.
        narrow: Whether it is for a telephone.
    """

    width: float
    narrow: bool

    def wrap(self, text: str, columns: int = 0) -> str:
        """`text` broken into lines that fit a legend; hostile leading underscores would hide it."""
        lines = "\n".join(wrap(text, columns or (34 if self.narrow else 48)))
        return f"\u200b{lines}" if lines.startswith("_") else lines


WIDE = Shape(570.0, False)
NARROW = Shape(268.0, True)


@contextmanager
def style() -> Iterator[Any]:
    """Matplotlib's settings for the charts; yields the module `matplotlib.figure`."""
    matplotlib = require("matplotlib", "the report", "frspec_cpp[eval]")
    figure = require("matplotlib.figure", "the report", "frspec_cpp[eval]")
    settings = {
        "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
        "text.parse_math": False,  # names of methods may hold dollars
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "axes.titlesize": 9.5,
        "axes.edgecolor": INK[0],
        "axes.labelcolor": INK[0],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.linewidth": 0.8,
        "grid.color": GRID[0],
        "grid.linewidth": 0.7,
        "text.color": INK[0],
        "xtick.color": INK[0],
        "ytick.color": INK[0],
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "figure.facecolor": PAPER[0],
        "axes.facecolor": "none",
        "hatch.linewidth": 0.8,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names in scripts that the font lacks: the reader's has them
        yield figure


def to_svg(figure: Any, name: str) -> str:
    """The figure as a standalone SVG with an opaque background; the same records give the same bytes."""
    matplotlib = require("matplotlib", "the report", "frspec_cpp[eval]")
    out = io.StringIO()
    # Dates and the program's address would make every file differ, and link outside.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=metadata)
    text = re.sub(r"<\?xml[^>]*>\s*|<!DOCTYPE[^>]*>\s*", "", out.getvalue())
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # What the reader's system has, where Matplotlib's own font is absent.
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', system-ui, sans-serif")


def inline(svg: str, name: str, label: str) -> str:
    """A standalone SVG as part of a page: colours by CSS variables, names of its own, no background.

    Args:
        svg: What `to_svg` gave.
        name: Unique in the page: letters, digits and hyphens.
        label: What it shows, for screen readers.
    """
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the figure's background
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)  # would hold for the whole page; the page has it
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r' fill="(#[0-9a-fA-F]{6})"', r' style="fill: \1"', svg)  # an attribute cannot hold a variable
    svg = re.sub(r' style="[^"]*"', lambda match: _themed(match.group()), svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)  # the page says how wide
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _themed(style: str) -> str:
    """A style attribute with variables in place of the light theme's colours, and without a font."""
    style = re.sub(r"#[0-9a-f]{6}", lambda match: f"var({_NAMES.get(match.group(), '--ink')})", style.lower())
    return style.replace("'dejavu sans', ", "")
