"""The charts of the report, drawn with Matplotlib from a Summary, wide for a page and narrow for a telephone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .canvas import FEWEST, Canvas
from .charts_drafts import depth, lengths, misses, subset
from .charts_speed import speed_and_length, speedup, step_time
from .picture import NARROW, WIDE, inline, style, to_svg
from .summary import Summary


@dataclass(frozen=True)
class Chart:
    """A chart of the report.

    Attributes:
        name: Of its file, without the suffix.
        title: What it shows.
        caption: How to read it.
        wide: Standalone SVG; None where there is nothing to show.
        narrow: The same for a telephone.
        absent: Why there is nothing to show.
    """

    name: str
    title: str
    caption: str
    wide: str | None
    narrow: str | None
    absent: str

    def inline(self, narrow: bool) -> str:
        """As part of the page."""
        svg = self.narrow if narrow else self.wide
        assert svg is not None
        return inline(svg, f"{self.name}-{'narrow' if narrow else 'wide'}", f"Chart: {self.title}. {self.caption}")


def draw_charts(summary: Summary) -> list[Chart]:
    """All charts of the report, in its order; those without data say so.

    Raises:
        MissingPackage: Matplotlib is not installed.
    """
    charts = []
    with style() as module:
        for name, title, caption, absent, draw in _CHARTS:
            pictures: list[str | None] = []
            for shape in (WIDE, NARROW):
                figure = draw(summary, Canvas(module, shape))
                pictures.append(None if figure is None else to_svg(figure, f"{name} {shape.width}"))
            charts.append(Chart(name, title, caption, pictures[0], pictures[1], absent))
    return charts


_Draw = Callable[[Summary, Canvas], Any]
_UNTRACED = "No method has told of its steps yet."
_CHARTS: list[tuple[str, str, str, str, _Draw]] = [
    (
        "speedup",
        "Speedup by category and method",
        "Bars: mean tokens per second over plain decoding's mean, prompts included. Thin lines: the middle half of the "
        "ratios of single questions. Dashed: plain decoding.",
        "No method has been timed beside plain decoding yet.",
        speedup,
    ),
    (
        "accepted-length-by-rows",
        "Tokens per step against the size of the draft head",
        "A point for each head whose rows are known, a line for each kind of head. Dashed, with a cross at its size: "
        "the full head. Second panel: how often a step ended because its next token was not in the subset, of the "
        "traced steps with drafts.",
        "No kind of head was run with two sizes that are known.",
        subset,
    ),
    (
        "time-per-step",
        "Time per step by part",
        "Mean of the steps of the traced texts, as measured: tracing times every part and so costs a little itself. "
        "Diamonds: a mean step of the timed texts, untraced.",
        _UNTRACED,
        step_time,
    ),
    (
        "acceptance-by-depth",
        "Acceptance by draft depth",
        "Of the steps that accepted everything above a depth and had drafts there, the share that accepted one more. "
        f"Depths that fewer than {FEWEST} steps reached are left out here (report.json has them).",
        "No method has drafted yet, or none tells of its steps.",
        depth,
    ),
    (
        "accepted-drafts",
        "Distribution of accepted drafts",
        "How many drafts a step accepted; steps without drafts are not counted. The target's own token comes on top. "
        f"Methods with fewer than {FEWEST} such steps are left out here.",
        "No method has drafted yet, or none tells of its steps.",
        lengths,
    ),
    (
        "misses",
        "Why acceptance ended",
        "Of the traced steps with drafts. Outside the subset: the head could not have offered the target's token. "
        "Another draft preferred: it could, and did not. No fixed subset: nobody can tell, since the head chooses its "
        "subset anew for every state, or the drafts are n-grams or from another vocabulary. Tree ended: every draft "
        "on the path was right. Text ended: so it was, and the text ended among them. "
        f"Methods with fewer than {FEWEST} such steps are left out here.",
        "No method has drafted yet, or none tells of its steps.",
        misses,
    ),
    (
        "speed-and-length",
        "Speedup against tokens per step",
        "Drafts are worth what they cost: a method above another with as many tokens per step drafts more cheaply. "
        "Thin lines: the middle half of the ratios of single questions. Points that lie together are rings around "
        "each other.",
        "Fewer than two methods have both numbers.",
        speed_and_length,
    ),
]
