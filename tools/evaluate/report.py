"""Writes the report of an evaluation: Markdown, JSON, one HTML page, and the charts as files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..atomic import atomic_output
from .charts import draw_charts
from .markdown import write_markdown
from .page import write_page
from .records import Manifest
from .storage import read_failure, read_manifest, read_runs
from .summary import Summary, summarise
from .tables import Table, make_tables

JSON_FORMAT = "frspec-eval report"
JSON_VERSION = 1  # goes up where a key changes its meaning or goes away; new keys may come


def write_report(folder: Path) -> list[Table]:
    """Writes report.md, report.json, report.html and charts/*.svg from the folder's run.json and results.jsonl.

    Works at any time: what an unfinished run cannot tell yet is named as absent. Files of an earlier report are
    replaced, each by a complete one.

    Args:
        folder: Of an evaluation.

    Returns:
        The tables of the report, in its order.

    Raises:
        FileNotFoundError: The folder holds no evaluation.
        ValueError: Its files are malformed.
        MissingPackage: Matplotlib is not installed.
        OSError: A file cannot be written.
    """
    manifest, runs = read_manifest(folder), read_runs(folder)
    summary = summarise(manifest, runs)
    failure = read_failure(folder)
    if failure is not None:
        remark = f"NOT LOSSLESS, the run ended: {failure.message}"
        summary = replace(summary, remarks=[remark, *summary.remarks])
    tables, charts = make_tables(manifest, summary), draw_charts(summary)
    (folder / "charts").mkdir(exist_ok=True)
    for chart in charts:
        path = folder / "charts" / f"{chart.name}.svg"
        if chart.wide is None:
            path.unlink(missing_ok=True)  # of an earlier report
        else:
            _write(path, '<?xml version="1.0" encoding="utf-8"?>\n' + chart.wide)
    _write(folder / "report.json", json.dumps(to_json(manifest, summary), indent=1, allow_nan=False) + "\n")
    _write(folder / "report.md", write_markdown(manifest, summary, tables, charts))
    _write(folder / "report.html", write_page(manifest, summary, tables, charts, runs))
    return tables


def to_json(manifest: Manifest, summary: Summary) -> dict[str, Any]:
    """The content of report.json; docs/formats.md describes it."""
    run = asdict(manifest)
    for key in ("identity", "methods", "prompts"):
        del run[key]
    return {
        "format": JSON_FORMAT,
        "version": JSON_VERSION,
        "run": run,
        "prompts": summary.prompts,
        "texts": summary.texts,
        "expected_texts": summary.expected_texts,
        "remarks": summary.remarks,
        "categories": summary.categories,
        "methods": [
            {**asdict(one.method), "overall": asdict(one.overall), "categories": _each(one.categories)}
            for one in summary.methods
        ],
    }


def _each(categories: dict[str, Any]) -> dict[str, Any]:
    return {name: asdict(numbers) for name, numbers in categories.items()}


def _write(path: Path, text: str) -> None:
    with atomic_output(path) as temporary:
        # Pieces of a text may end inside a character; lone surrogates are no UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="replace")
