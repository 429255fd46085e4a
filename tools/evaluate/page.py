"""The report as one HTML page that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from .charts import Chart
from .generations import DEEPEST, EXPLANATIONS, MARKS, TOKENS, choose
from .markdown import DEFINITIONS, facts
from .picture import theme
from .records import Manifest, Run
from .steps import REASONS
from .summary import Summary
from .tables import Table
from .text import printable

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(
    manifest: Manifest, summary: Summary, tables: Sequence[Table], charts: Sequence[Chart], runs: Sequence[Run]
) -> str:
    """The text of report.html. Everything from outside is escaped: texts of models may hold anything."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    # The charts are our own markup; Matplotlib escapes the names in them.
    pictures = [
        {
            "chart": chart,
            "wide": Markup(chart.inline(narrow=False)) if chart.wide else "",
            "narrow": Markup(chart.inline(narrow=True)) if chart.narrow else "",
        }
        for chart in charts
    ]
    shown = choose(manifest, runs)
    return environment.get_template("report.html").render(
        manifest=manifest,
        facts=facts(manifest, summary),
        summary=summary,
        tables=tables,
        pictures=pictures,
        shown=shown,
        shown_methods=list(dict.fromkeys(text.method for one in shown for text in one.texts)),
        token_limit=TOKENS,
        deepest=DEEPEST,
        marks=[(mark, REASONS[key], EXPLANATIONS[key]) for key, mark in MARKS.items()],
        definitions=DEFINITIONS,
        light=theme(dark=False),
        dark=theme(dark=True),
    )


def _printable(value: Any) -> Any:
    """Applied to everything that the template shows."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value
