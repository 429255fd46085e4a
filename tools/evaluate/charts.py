"""The charts of the report, drawn with Matplotlib from a Summary, wide for a page and narrow for a telephone."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .picture import GRID, HATCHES, INK, MARKERS, NARROW, PAPER, PARTS, SERIES, WIDE, Shape, inline, style, to_svg
from .steps import OTHER, OUTSIDE, TREE_ENDED, UNKNOWN, Traced
from .summary import MethodSummary, Numbers, Summary

_FEWEST = 10  # steps behind a point of the acceptance by depth: fewer say nothing


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


@dataclass(frozen=True)
class _Look:
    """How a method looks in every chart."""

    color: str
    marker: str
    hatch: str


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
                figure = draw(summary, _Canvas(module, shape))
                pictures.append(None if figure is None else to_svg(figure, f"{name} {shape.width}"))
            charts.append(Chart(name, title, caption, pictures[0], pictures[1], absent))
    return charts


class _Canvas:
    """Figures of a shape."""

    def __init__(self, module: Any, shape: Shape) -> None:
        self.module = module
        self.shape = shape

    def axes(self, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
        """A figure `height` points high with panels side by side, or one above the other where it is narrow."""
        stacked = self.shape.narrow
        size = (self.shape.width / 72, height * (panels if stacked else 1) / 72)
        figure = self.module.Figure(figsize=size, layout="constrained")
        grid = (panels, 1) if stacked else (1, panels)
        return figure, list(figure.subplots(*grid, squeeze=False).flat)

    def legend(self, figure: Any, entries: dict[str, Any]) -> None:
        """Below the axes, where it hides nothing; the figure grows by its height."""
        names = [self.shape.wrap(name) for name in entries]
        longest = max((len(line) for name in names for line in name.split("\n")), default=1)
        columns = max(1, min(4, int(self.shape.width / (longest * 5.4 + 38))))
        rows = -(-len(names) // columns) * max((1 + name.count("\n") for name in names), default=0)
        figure.set_figheight(figure.get_figheight() + 13.0 * rows / 72)
        figure.legend(list(entries.values()), names, loc="outside lower center", ncols=columns)


def _looks(summary: Summary) -> dict[str, _Look]:
    looks = {}
    others = 0
    for one in summary.methods:
        if one.method.kind == "plain" and one.method.exact:
            looks[one.method.name] = _Look(SERIES[0][0], MARKERS[0], HATCHES[0])
            continue
        colors = len(SERIES) - 1
        color = SERIES[1 + others % colors][0]
        looks[one.method.name] = _Look(color, MARKERS[(1 + others) % 8], HATCHES[others // colors % 4])
        others += 1
    return looks


def _speedup(summary: Summary, canvas: _Canvas) -> Any:
    shown = [one for one in summary.methods if one.overall.speedup is not None and one.method.kind != "plain"]
    if not shown:
        return None
    looks = _looks(summary)
    single = len(summary.categories) == 1
    groups: list[tuple[str, Callable[[MethodSummary], Numbers]]] = [] if single else [("all", lambda one: one.overall)]
    groups += [(name, lambda one, name=name: one.categories[name]) for name in summary.categories]  # type: ignore[misc]
    bars = len(groups) * len(shown)
    flat = canvas.shape.narrow  # lying bars have room for their names
    figure, (axes,) = canvas.axes(max(110.0, 8.5 * bars + 14.0 * len(groups) + 50.0) if flat else 270.0)
    thick = 0.84 / len(shown)
    entries: dict[str, Any] = {}
    for place, (_, numbers) in enumerate(groups):
        for number, one in enumerate(shown):
            found, look = numbers(one), looks[one.method.name]
            at = place - 0.42 + thick * (number + 0.5)
            if found.speedup is None:
                continue
            draw = axes.barh if flat else axes.bar
            kind = {"color": look.color, "edgecolor": PAPER[0], "hatch": look.hatch, "linewidth": 0.4}
            entries.setdefault(one.method.name, draw(at, found.speedup, thick, **kind)[0])
            if found.ratios is not None and found.ratios.count > 1:
                line = axes.hlines if flat else axes.vlines
                for color, width in ((PAPER[0], 2.8), (INK[0], 1.1)):  # to be seen on every colour
                    line(at, found.ratios.lower_quartile, found.ratios.upper_quartile, color=color, linewidth=width)
    (axes.axvline if flat else axes.axhline)(1.0, color=INK[0], linewidth=0.9, linestyle=(0, (4, 2)))
    names = [
        canvas.shape.wrap(name.replace("_", " "), 14 if flat else max(13, 84 // len(groups))) for name, _ in groups
    ]
    title = "speedup over plain decoding (×)"
    if flat:
        axes.set_yticks(range(len(groups)), names)
        axes.set_ylim(len(groups) - 0.5, -0.5)  # the first on top
        axes.set_xlabel(title)
        axes.set_ylabel("category")
        axes.grid(visible=False, axis="y")
    else:
        axes.set_xticks(range(len(groups)), names)
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_ylabel(title)
        axes.set_xlabel("category")
        axes.grid(visible=False, axis="x")
    canvas.legend(figure, entries)
    return figure


def _outside_share(numbers: Numbers) -> float | None:
    """Percent of the steps with drafts that ended at a token outside the subset."""
    misses = numbers.traced.misses if numbers.traced else {}
    known = sum(misses.get(name, 0) for name in (OUTSIDE, OTHER, TREE_ENDED))
    return 100.0 * misses[OUTSIDE] / known if known and not misses[UNKNOWN] else None


def _subset(summary: Summary, canvas: _Canvas) -> Any:
    lines: dict[tuple[str, str, str], list[MethodSummary]] = defaultdict(list)
    full: dict[tuple[str, str], MethodSummary] = {}
    for one in summary.methods:
        method = one.method
        if method.rows is None or method.head is None or one.overall.accepted_length is None:
            continue
        drafter, family = method.drafter or "", re.sub(r":\d+", "", method.head)
        others = {key: value for key, value in method.settings.items() if key not in ("head", "ranks", "sketch")}
        settings = json.dumps(others, sort_keys=True, default=str) if others else ""
        if family == "full":
            full[drafter, settings] = one
        else:
            lines[drafter, family, settings].append(one)
    if not lines:
        return None
    drafters = {key[0] for key in lines}
    full = {key: one for key, one in full.items() if key[0] in drafters}
    entries: dict[str, Any] = {}
    misses = any(_outside_share(one.overall) is not None for some in lines.values() for one in some)
    figure, panels = canvas.axes(265.0 if not canvas.shape.narrow else 190.0, 2 if misses else 1)
    upper, lower = panels[0], panels[-1]
    rows: set[int] = set()
    for number, ((drafter, family, settings), some) in enumerate(lines.items()):
        some.sort(key=lambda one: one.method.rows or 0)
        several = sum(key[:2] == (drafter, family) for key in lines) > 1
        name = f"{family}, {drafter}" if len(drafters) > 1 else family
        name += f" ({settings})" if several and settings else ""
        look = {"color": PARTS[number % 4][0], "marker": MARKERS[number % 8], "markersize": 5, "linewidth": 1.6}
        look |= {"clip_on": False, "zorder": 3}
        sizes = [one.method.rows or 0 for one in some]
        rows.update(sizes)
        (entries[name],) = upper.plot(sizes, [one.overall.accepted_length for one in some], **look)
        shares = [(size, _outside_share(one.overall)) for size, one in zip(sizes, some, strict=True)]
        if misses:
            known = [(size, share) for size, share in shares if share is not None]
            lower.plot([size for size, _ in known], [share for _, share in known], **look)
    for number, ((drafter, _), one) in enumerate(full.items()):
        name = "full head" + (f", {drafter}" if len(drafters) > 1 or len(full) > 1 else "")
        dashes = (0, (5, 2)) if number == 0 else (0, (2, 1 + number))
        entries.setdefault(
            name, upper.axhline(one.overall.accepted_length, color=INK[0], linewidth=1, linestyle=dashes)
        )
        upper.plot([one.method.rows], [one.overall.accepted_length], color=INK[0], marker="x", markersize=6)
        rows.add(one.method.rows or 0)
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(rows) / 1.4, max(rows) * 1.4)
        ticks = sorted(rows)
        kept = [size for i, size in enumerate(ticks) if i == 0 or size / ticks[i - 1] > 1.35 or len(ticks) < 4]
        axes.set_xticks(kept, [_thousands(size) for size in kept])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("rows of the draft head (tokens, log scale)")
    upper.set_ylabel("mean accepted tokens per step")
    if misses:
        lower.set_ylabel("steps that end outside\nthe subset (% of drafted)")
        _from_zero(lower)
    canvas.legend(figure, entries)
    return figure


def _from_zero(axes: Any) -> None:
    """The vertical axis from 0 to a little above the highest point, so that no marker is cut."""
    highest = max((max(line.get_ydata(), default=0.0) for line in axes.get_lines()), default=0.0)
    axes.set_ylim(0.0, 1.08 * highest or 1.0)


def _thousands(size: int) -> str:
    return f"{size // 1024}k" if size % 1024 == 0 else f"{size:,}" if size < 10000 else f"{size / 1024:.1f}k"


def _lying_bars(canvas: _Canvas, shown: list[MethodSummary]) -> tuple[Any, Any]:
    """A figure with a place for a lying bar for each method, the first on top."""
    narrow = canvas.shape.narrow
    figure, (axes,) = canvas.axes((34.0 if narrow else 25.0) * len(shown) + 45.0)
    axes.set_yticks(range(len(shown)), [canvas.shape.wrap(one.method.name, 15 if narrow else 34) for one in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure, axes


def _step_time(summary: Summary, canvas: _Canvas) -> Any:
    shown = [one for one in summary.methods if one.overall.traced is not None]
    if not shown:
        return None
    figure, axes = _lying_bars(canvas, shown)
    splits = [one.overall.traced.split for one in shown if one.overall.traced is not None]
    lefts = [0.0] * len(shown)
    entries: dict[str, Any] = {}
    parts = ("draft transformer", "draft head", "verification", "other")
    fields = ("transformer_ms", "head_ms", "verify_ms", "other_ms")
    for name, field, color in zip(parts, fields, PARTS, strict=True):
        widths = [getattr(split, field) for split in splits]
        kind = {"left": lefts, "color": color[0], "edgecolor": PAPER[0], "linewidth": 0.5}
        entries[name] = axes.barh(range(len(shown)), widths, 0.66, **kind)[0]
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    timed = [(one.overall.step_times.total_ms, place) for place, one in enumerate(shown) if one.overall.step_times]
    if timed:
        look = {"linestyle": "none", "marker": "D", "markersize": 6, "color": INK[0], "markeredgecolor": PAPER[0]}
        (entries["all of it, untraced"],) = axes.plot([t for t, _ in timed], [p for _, p in timed], **look)
    axes.set_xlabel("time per step (ms)")
    canvas.legend(figure, entries)
    return figure


def _misses(summary: Summary, canvas: _Canvas) -> Any:
    shown = [one for one in summary.methods if one.overall.traced is not None and one.overall.traced.lengths]
    if not shown:
        return None
    figure, axes = _lying_bars(canvas, shown)
    lefts = [0.0] * len(shown)
    entries: dict[str, Any] = {}
    reasons = {"outside the subset": OUTSIDE, "another draft preferred": OTHER, "tree ended": TREE_ENDED}
    if any(_known(one).misses[UNKNOWN] for one in shown):
        reasons["subset unknown"] = UNKNOWN
    colors = (PARTS[1], PARTS[0], PARTS[2], PARTS[3])
    for (name, reason), color in zip(reasons.items(), colors, strict=False):
        misses = [_known(one).misses for one in shown]
        totals = [max(1, sum(some[key] for key in reasons.values())) for some in misses]
        widths = [100.0 * some[reason] / total for some, total in zip(misses, totals, strict=True)]
        kind = {"left": lefts, "color": color[0], "edgecolor": PAPER[0], "linewidth": 0.5}
        entries[name] = axes.barh(range(len(shown)), widths, 0.66, **kind)[0]
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("steps with drafts (%)")
    canvas.legend(figure, entries)
    return figure


def _known(one: MethodSummary) -> Traced:
    assert one.overall.traced is not None
    return one.overall.traced


def _lines(
    summary: Summary, canvas: _Canvas, points: Callable[[Traced], list[tuple[int, float]]], x: str, y: str
) -> Any:
    """A line for each method that has points."""
    looks = _looks(summary)
    figure, (axes,) = canvas.axes(270.0 if not canvas.shape.narrow else 225.0)
    entries: dict[str, Any] = {}
    for one in summary.methods:
        found = points(one.overall.traced) if one.overall.traced is not None else []
        if not found:
            continue
        look = looks[one.method.name]
        dashed = (0, (4, 1.5)) if look.hatch else "-"
        kind = {"color": look.color, "marker": look.marker, "markersize": 5, "linewidth": 1.5, "linestyle": dashed}
        kind |= {"clip_on": False, "zorder": 3}
        (entries[one.method.name],) = axes.plot([a for a, _ in found], [b for _, b in found], **kind)
    if not entries:
        return None
    _from_zero(axes)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    canvas.legend(figure, entries)
    return figure


def _depth(summary: Summary, canvas: _Canvas) -> Any:
    def points(found: Traced) -> list[tuple[int, float]]:
        return [(one.depth, 100.0 * one.rate) for one in found.depths if one.tried >= _FEWEST]

    return _lines(
        summary, canvas, points, "depth in the draft tree (tokens)", "accepted of the steps that got there (%)"
    )


def _lengths(summary: Summary, canvas: _Canvas) -> Any:
    def points(found: Traced) -> list[tuple[int, float]]:
        return [(length, 100.0 * steps / sum(found.lengths)) for length, steps in enumerate(found.lengths)]

    return _lines(summary, canvas, points, "accepted drafts in a step (tokens)", "steps with drafts (%)")


def _scatter(summary: Summary, canvas: _Canvas) -> Any:
    shown = [one for one in summary.methods if None not in (one.overall.speedup, one.overall.accepted_length)]
    if len(shown) < 2:
        return None
    looks = _looks(summary)
    figure, (axes,) = canvas.axes(270.0 if not canvas.shape.narrow else 225.0)
    entries: dict[str, Any] = {}
    for one in shown:
        look, ratios = looks[one.method.name], one.overall.ratios
        if ratios is not None and ratios.count > 1:
            ends = (ratios.lower_quartile, ratios.upper_quartile)
            axes.vlines(one.overall.accepted_length, *ends, color=look.color, linewidth=1.2, alpha=0.6)
        kind = {"color": look.color, "marker": look.marker, "markersize": 8, "linestyle": "none"}
        kind |= {"markeredgecolor": INK[0] if look.hatch else look.color}
        (entries[one.method.name],) = axes.plot([one.overall.accepted_length], [one.overall.speedup], **kind)
    axes.axhline(1.0, color=GRID[0], linewidth=1.5, zorder=0)
    axes.set_xlabel("mean accepted tokens per step")
    axes.set_ylabel("speedup over plain decoding (×)")
    canvas.legend(figure, entries)
    return figure


_Draw = Callable[[Summary, _Canvas], Any]
_UNTRACED = "No method has told of its steps yet."
_CHARTS: list[tuple[str, str, str, str, _Draw]] = [
    (
        "speedup",
        "Speedup by category and method",
        "Bars: mean tokens per second over plain decoding's mean, prompts included. Thin lines: the middle half of the "
        "ratios of single questions. Dashed: plain decoding.",
        "No method has been timed beside plain decoding yet.",
        _speedup,
    ),
    (
        "accepted-length-by-rows",
        "Accepted length against the size of the draft head",
        "A point for each head whose rows are known, a line for each kind of head. Dashed, with a cross at its size: "
        "the full head. Second panel: how often a step ended because its next token was not in the subset.",
        "No method drafts with a part of the head whose size is known.",
        _subset,
    ),
    (
        "time-per-step",
        "Time per step by part",
        "Mean of the traced steps of the warm-up, as measured: tracing times every part and so costs a little itself. "
        "Diamonds: a mean step of the timed texts, untraced.",
        _UNTRACED,
        _step_time,
    ),
    (
        "acceptance-by-depth",
        "Acceptance by draft depth",
        "Of the steps that accepted everything above a depth and had drafts there, the share that accepted one more. "
        f"Depths that fewer than {_FEWEST} steps reached are left out here (report.json has them).",
        "No method has drafted yet, or none tells of its steps.",
        _depth,
    ),
    (
        "accepted-drafts",
        "Distribution of accepted lengths",
        "How many drafts a step accepted; steps without drafts are not counted. The target's own token comes on top.",
        "No method has drafted yet, or none tells of its steps.",
        _lengths,
    ),
    (
        "misses",
        "Why acceptance ended",
        "Outside the subset: the head could not have offered the target's token. Another draft preferred: it could, "
        "and did not. Tree ended: every draft on the path was right.",
        "No method has drafted yet, or none tells of its steps.",
        _misses,
    ),
    (
        "speed-and-length",
        "Speedup against accepted length",
        "Accepted tokens are worth what they cost: a method above another of the same length drafts more cheaply. Thin "
        "lines: the middle half of the ratios of single questions.",
        "Fewer than two methods have both numbers.",
        _scatter,
    ),
]
