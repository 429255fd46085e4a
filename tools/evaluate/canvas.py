"""What the charts are drawn on, and what a method looks like in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .picture import HATCHES, MARKERS, SERIES, Shape
from .summary import MethodSummary, Summary

FEWEST = 10  # steps behind a share that is drawn: fewer say nothing


@dataclass(frozen=True)
class Look:
    """A method in every chart."""

    color: str
    marker: str
    hatch: str


class Canvas:
    """Figures of a shape."""

    def __init__(self, module: Any, shape: Shape) -> None:
        self.module = module
        self.shape = shape

    def axes(self, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
        """A figure with panels `height` points high side by side, or one above the other where it is narrow."""
        return self.grid(height, 1 if self.shape.narrow else panels, panels)

    def grid(self, height: float, columns: int, panels: int, shared: bool = False) -> tuple[Any, list[Any]]:
        """A figure with panels `height` points high, in rows of `columns`; `shared`: over the same horizontal axis."""
        rows = -(-panels // columns)
        figure = self.module.Figure(figsize=(self.shape.width / 72, height * rows / 72), layout="constrained")
        found = list(figure.subplots(rows, columns, squeeze=False, sharex=shared).flat)
        for rest in found[panels:]:
            rest.set_visible(False)
        return figure, found[:panels]

    def legend(self, figure: Any, entries: dict[str, Any]) -> None:
        """Outside the axes, where it hides nothing: below them, or above where a page is read from top to bottom.

        The figure grows by its height.
        """
        names = [self.shape.wrap(name) for name in entries]
        longest = max((len(line) for name in names for line in name.split("\n")), default=1)
        columns = max(1, min(4, int(self.shape.width / (longest * 5.4 + 38))))
        rows = -(-len(names) // columns) * max((1 + name.count("\n") for name in names), default=0)
        figure.set_figheight(figure.get_figheight() + 13.0 * rows / 72)
        where = "outside upper center" if self.shape.narrow else "outside lower center"
        figure.legend(list(entries.values()), names, loc=where, ncols=columns)


def looks(summary: Summary) -> dict[str, Look]:
    """How the methods look, by name."""
    found = {}
    others = 0
    for one in summary.methods:
        if one.method.kind == "plain" and one.method.exact:
            found[one.method.name] = Look(SERIES[0][0], MARKERS[0], HATCHES[0])
            continue
        colors = len(SERIES) - 1
        color = SERIES[1 + others % colors][0]
        found[one.method.name] = Look(color, MARKERS[(1 + others) % 8], HATCHES[others // colors % 4])
        others += 1
    return found


def lying_bars(canvas: Canvas, shown: list[MethodSummary]) -> tuple[Any, Any]:
    """A figure with a place for a lying bar for each method, the first on top."""
    narrow = canvas.shape.narrow
    names = [canvas.shape.wrap(one.method.name, 20 if narrow else 34) for one in shown]
    room = max(25.0, 6.0 + 10.5 * max(1 + name.count("\n") for name in names))
    figure, (axes,) = canvas.axes(room * len(shown) + 45.0)
    axes.set_yticks(range(len(shown)), names, fontsize=8.0 if narrow else 9.0)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure, axes


def from_zero(axes: Any) -> None:
    """The vertical axis from 0 to a little above the highest point, so that no marker is cut."""
    highest = max((max(line.get_ydata(), default=0.0) for line in axes.get_lines()), default=0.0)
    axes.set_ylim(0.0, 1.08 * highest or 1.0)
