"""A picture of `frspec bench -o json` reports: time of a pass by its rows, and the floor below it.

Usage:
    frspec bench -m MODEL.gguf -o json > model.json
    python bench/plot_passes.py model.json... -o passes.svg

Both axes are logarithmic. Solid: measured; dashed: the larger of bytes / bandwidth and multiply-adds / peak.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 24, 48
COLORS = ["#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df"]


class Axis:
    """A logarithmic scale from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._span = math.log2(low), math.log2(high / low)
        self._start, self._length = start, end - start

    def __call__(self, value: float) -> float:
        """The pixel of `value`."""
        return self._start + self._length * (math.log2(value) - self._low) / self._span


def line(points: list[tuple[float, float]], color: str, dashed: bool) -> str:
    """A polyline; measured ones have dots."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4" opacity="0.7"' if dashed else ""
    dots = "" if dashed else "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>{dots}'


def text(x: float, y: float, what: str, anchor: str = "middle", more: str = "") -> str:
    """A label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(what)}</text>'


def draw(reports: list[dict[str, Any]]) -> str:
    """The picture as SVG."""
    passes = [[row for row in report["rows"] if row["test"].startswith("verify ")] for report in reports]
    rows = sorted({row["rows"] for report in passes for row in report})
    times = [row[key] for report in passes for row in report for key in ("ms", "floor_ms")]
    x = Axis(rows[0], rows[-1], LEFT, WIDTH - RIGHT)
    y = Axis(min(times) / 1.15, max(times) * 1.15, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for count in rows:
        parts.append(f'<path d="M{x(count):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(text(x(count), HEIGHT - BOTTOM + 16, str(count)))
    for power in range(-4, 14):
        value = 2.0**power
        if min(times) / 1.15 <= value <= max(times) * 1.15:
            parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            parts.append(text(LEFT - 6, y(value) + 4, f"{value:g}", "end"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "rows of a pass (nodes of the tree)"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(text(16, middle, "ms", "middle"))
    for index, (report, found) in enumerate(zip(reports, passes, strict=True)):
        color = COLORS[index % len(COLORS)]
        parts.append(line([(x(row["rows"]), y(row["floor_ms"])) for row in found], color, True))
        parts.append(line([(x(row["rows"]), y(row["ms"])) for row in found], color, False))
        at = TOP + 14 + 18 * index
        parts.append(text(WIDTH - RIGHT + 12, at, report["types"].replace(" 100 %", ""), "start", f' fill="{color}"'))
    parts.append(text(WIDTH - RIGHT + 12, TOP + 14 + 18 * len(reports), "dashed: floor", "start"))
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Writes the picture; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.reports]
    arguments.output.write_text(draw(reports), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
