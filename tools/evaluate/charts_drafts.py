"""Charts of drafts: how many are accepted, at which depth, by heads of which size, and why acceptance ends."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from .canvas import FEWEST, Canvas, from_zero, looks, lying_bars
from .picture import INK, MARKERS, PAPER, PARTS
from .steps import OTHER, OUTSIDE, REASONS, TEXT_ENDED, TREE_ENDED, UNKNOWN, Traced
from .summary import MethodSummary, Numbers, Summary

_SHARE = "share of the steps with drafts (%)"
_COLORS = {OUTSIDE: PARTS[1], OTHER: PARTS[0], UNKNOWN: PARTS[3], TREE_ENDED: PARTS[2], TEXT_ENDED: INK}


def _drafted(summary: Summary) -> list[tuple[MethodSummary, Traced]]:
    """The methods with so many steps with drafts that their shares say something."""
    found = [(one, one.overall.traced) for one in summary.methods]
    return [(one, traced) for one, traced in found if traced is not None and traced.drafted >= FEWEST]


def outside_share(numbers: Numbers) -> float | None:
    """Percent of the steps with drafts that ended at a token outside the subset."""
    found = numbers.traced
    if found is None or found.drafted < FEWEST or found.misses[UNKNOWN]:
        return None
    return 100.0 * found.misses[OUTSIDE] / found.drafted


def subset(summary: Summary, canvas: Canvas) -> Any:
    """A line for each kind of head, over its sizes; None where no kind has two."""
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
    if all(len({one.method.rows for one in some}) < 2 for some in lines.values()):
        return None
    drafters = {key[0] for key in lines}
    full = {key: one for key, one in full.items() if key[0] in drafters}
    entries: dict[str, Any] = {}
    misses = any(outside_share(one.overall) is not None for some in lines.values() for one in some)
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
        shares = [(size, outside_share(one.overall)) for size, one in zip(sizes, some, strict=True)]
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
    upper.set_ylabel("tokens per step")
    if misses:
        lower.set_ylabel("ended outside the subset\n(% of the steps with drafts)")
        from_zero(lower)
    canvas.legend(figure, entries)
    return figure


def _thousands(size: int) -> str:
    return f"{size // 1024}k" if size % 1024 == 0 else f"{size:,}" if size < 10000 else f"{size / 1024:.1f}k"


def misses(summary: Summary, canvas: Canvas) -> Any:
    """A bar of reasons for each method."""
    shown = _drafted(summary)
    if not shown:
        return None
    figure, axes = lying_bars(canvas, [one for one, _ in shown])
    lefts = [0.0] * len(shown)
    entries: dict[str, Any] = {}
    for reason, color in _COLORS.items():
        widths = [100.0 * traced.misses[reason] / traced.drafted for _, traced in shown]
        if not any(widths):
            continue
        kind = {"left": lefts, "color": color[0], "edgecolor": PAPER[0], "linewidth": 0.5}
        entries[REASONS[reason]] = axes.barh(range(len(shown)), widths, 0.66, **kind)[0]
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel(_SHARE)
    canvas.legend(figure, entries)
    return figure


def _lines(
    summary: Summary, canvas: Canvas, points: Callable[[Traced], list[tuple[int, float]]], x: str, y: str
) -> Any:
    """A line for each method that has points."""
    styles = looks(summary)
    figure, (axes,) = canvas.axes(270.0 if not canvas.shape.narrow else 225.0)
    entries: dict[str, Any] = {}
    for one in summary.methods:
        found = points(one.overall.traced) if one.overall.traced is not None else []
        if not found:
            continue
        look = styles[one.method.name]
        dashed = (0, (4, 1.5)) if look.hatch else "-"
        kind = {"color": look.color, "marker": look.marker, "markersize": 5, "linewidth": 1.5, "linestyle": dashed}
        kind |= {"clip_on": False, "zorder": 3}
        (entries[one.method.name],) = axes.plot([a for a, _ in found], [b for _, b in found], **kind)
    if not entries:
        return None
    from_zero(axes)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    canvas.legend(figure, entries)
    return figure


def depth(summary: Summary, canvas: Canvas) -> Any:
    """Of the steps that got to a depth, how many accepted a draft there."""

    def points(found: Traced) -> list[tuple[int, float]]:
        return [(one.depth, 100.0 * one.rate) for one in found.depths if one.tried >= FEWEST]

    return _lines(
        summary, canvas, points, "depth in the draft tree (tokens)", "accepted of the steps that got there (%)"
    )


def lengths(summary: Summary, canvas: Canvas) -> Any:
    """How many drafts steps accepted."""

    def points(found: Traced) -> list[tuple[int, float]]:
        if found.drafted < FEWEST:
            return []
        return [(length, 100.0 * steps / found.drafted) for length, steps in enumerate(found.lengths)]

    return _lines(summary, canvas, points, "accepted drafts in a step (tokens)", _SHARE)
