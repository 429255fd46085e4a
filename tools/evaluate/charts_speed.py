"""Charts of speed: speedup, time per step, and what accepted tokens are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .canvas import Canvas, looks, lying_bars
from .picture import GRID, INK, PAPER, PARTS
from .summary import MethodSummary, Numbers, Summary

_BAR = 0.74  # of the room of a method


def speedup(summary: Summary, canvas: Canvas) -> Any:
    """A panel for each category, in which every method has a bar that is named."""
    shown = [one for one in summary.methods if one.overall.speedup is not None and one.method.kind != "plain"]
    if not shown:
        return None
    parts: list[tuple[str, Callable[[MethodSummary], Numbers]]] = []
    if len(summary.categories) > 1:
        parts.append(("all", lambda one: one.overall))
    parts += [(name, lambda one, name=name: one.categories[name]) for name in summary.categories]  # type: ignore[misc]
    narrow = canvas.shape.narrow
    columns = 1 if narrow else 2 if len(parts) in (2, 4) else min(3, len(parts))
    names = [canvas.shape.wrap(one.method.name, 20 if narrow else 24) for one in shown]
    room = max(13.0, 4.0 + 10.0 * max(1 + name.count("\n") for name in names))
    figure, panels = canvas.grid(room * len(shown) + 32.0, columns, len(parts), shared=True)
    figure.get_layout_engine().set(wspace=0.04)
    styles = looks(summary)
    for panel, (axes, (part, numbers)) in enumerate(zip(panels, parts, strict=True)):
        for place, one in enumerate(shown):
            found, look = numbers(one), styles[one.method.name]
            if found.speedup is None:
                continue
            kind = {"color": look.color, "edgecolor": PAPER[0], "hatch": look.hatch, "linewidth": 0.4}
            axes.barh(place, found.speedup, _BAR, **kind)
            if found.ratios is not None and found.ratios.count > 1:
                for color, width in ((PAPER[0], 2.4), (INK[0], 1.1)):  # to be seen on every colour; a bar is 9 or more
                    axes.hlines(
                        place, found.ratios.lower_quartile, found.ratios.upper_quartile, color=color, linewidth=width
                    )
        axes.axvline(1.0, color=INK[0], linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set_title(canvas.shape.wrap(part.replace("_", " "), 40 if columns == 1 else 26), loc="left")
        axes.set_yticks(range(len(shown)), names, fontsize=8.0)
        axes.set_ylim(len(shown) - 0.5, -0.5)  # the first on top
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="x", labelbottom=True, labelsize=8.0)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="y", left=False, labelleft=panel % columns == 0)
    figure.supxlabel("speedup over plain decoding (×)", fontsize=9.0)
    return figure


def step_time(summary: Summary, canvas: Canvas) -> Any:
    """A bar of parts for each method that told of its steps."""
    shown = [one for one in summary.methods if one.overall.traced is not None]
    if not shown:
        return None
    figure, axes = lying_bars(canvas, shown)
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


def speed_and_length(summary: Summary, canvas: Canvas) -> Any:
    """A point for each method; points that lie on each other are rings around each other."""
    shown = [one for one in summary.methods if None not in (one.overall.speedup, one.overall.accepted_length)]
    if len(shown) < 2:
        return None
    styles = looks(summary)
    figure, (axes,) = canvas.axes(270.0 if not canvas.shape.narrow else 225.0)
    entries: dict[str, Any] = {}
    before: list[tuple[float, float]] = []
    wide = _range([one.overall.accepted_length or 0.0 for one in shown])
    high = _range([one.overall.speedup or 0.0 for one in shown])
    for one in shown:
        look, ratios = styles[one.method.name], one.overall.ratios
        if ratios is not None and ratios.count > 1:
            ends = (ratios.lower_quartile, ratios.upper_quartile)
            axes.vlines(one.overall.accepted_length, *ends, color=look.color, linewidth=1.2, alpha=0.6)
        at = (one.overall.accepted_length, one.overall.speedup)
        assert at[0] is not None
        assert at[1] is not None
        under = sum(abs(at[0] - x) < 0.03 * wide and abs(at[1] - y) < 0.04 * high for x, y in before)
        before.append((at[0], at[1]))
        kind = {"color": look.color, "marker": look.marker, "markersize": 7 + 4.5 * under, "linestyle": "none"}
        kind |= {"markerfacecolor": "none", "markeredgewidth": 1.6}
        if look.hatch:
            kind["markeredgewidth"] = 2.6  # a colour and a shape that came before
        axes.plot([at[0]], [at[1]], **kind)
        (entries[one.method.name],) = axes.plot([], [], **{**kind, "markersize": 7})
    axes.axhline(1.0, color=GRID[0], linewidth=1.5, zorder=0)
    axes.margins(0.08)
    axes.set_xlabel("tokens per step")
    axes.set_ylabel("speedup over plain decoding (×)")
    canvas.legend(figure, entries)
    return figure


def _range(values: list[float]) -> float:
    return max(values) - min(values) or 1.0
