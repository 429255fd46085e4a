"""The report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .charts import Chart
from .records import Manifest
from .summary import Summary
from .tables import Table
from .text import printable

DEFINITIONS = {
    "step": "A pass of the target after the prompt, with drafts to verify or without.",
    "speedup": (
        "As Spec-Bench has it: a question's tokens over its seconds, all turns together and prompts included; the mean "
        "over questions (and repeats), over plain decoding's mean on the same ones."
    ),
    "ratio per question": (
        "Tokens per second over plain decoding's on the same question in the same repeat; methods take turns prompt by "
        "prompt, so that drift of the machine hits all alike."
    ),
    "tokens per step": (
        "Tokens that the steps gave to the texts, over all steps, with drafts or without: accepted drafts and the "
        "target's own. Of a text's last step only those count that fitted into the text, with the token that ended "
        "it. 1: plain decoding. Known of timed texts, too."
    ),
    "mean accepted tokens": (
        "As Spec-Bench has it: accepted drafts + 1, the mean over all steps. A text's last step counts whole. Of the "
        "traced texts."
    ),
    "percent of steps": "Of the traced steps with drafts, in all charts and tables of them.",
    "without prompts": "Tokens after the first of each text, over the time after the prompt.",
    "traced text": (
        "The first text of every method and prompt that is kept. Its steps are traced where the engine tells of them, "
        "its speed does not count. What --warmup asks for comes before, and is thrown away."
    ),
    "texts without a token": "Have no speed: their prompts are left out of all speeds, and named in a remark.",
    "absent numbers": "A dash: the engine does not say, or nothing was timed.",
}


def facts(manifest: Manifest, summary: Summary) -> dict[str, str]:
    """What was run, and on what."""
    machine = dict(manifest.machine)
    cores, memory = machine.pop("cores", None), machine.pop("memory_gib", None)
    parts = [str(machine.pop("cpu", "")), f"{cores} cores" if cores else "", f"{_plain(memory)} GiB" if memory else ""]
    parts += [f"{key} {_plain(value)}" for key, value in machine.items() if value]
    expected = "" if summary.expected_texts in (None, summary.texts) else f" of {summary.expected_texts}"
    return {
        "target": manifest.target,
        "command": manifest.command,
        "machine": ", ".join(part for part in parts if part),
        "settings": ", ".join(f"{key}={_plain(value)}" for key, value in manifest.settings.items()),
        "prompts": f"{summary.prompts} in {len(summary.categories)} categories, {summary.texts}{expected} texts",
        "begun": manifest.created,
        "frspec_cpp": manifest.version,
    }


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_markdown(manifest: Manifest, summary: Summary, tables: Sequence[Table], charts: Sequence[Chart]) -> str:
    """The text of report.md."""
    told = facts(manifest, summary)
    command = told.pop("command")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    lines = [f"# frspec-eval: {escape(manifest.target)}", ""]
    lines += [fence, printable(command), fence, ""]
    lines += [f"- {name}: {escape(value)}" for name, value in told.items() if value]
    for remark in summary.remarks:
        lines += ["", f"> {escape(remark)}"]
    pictures = {chart.name: chart for chart in charts}
    for table in tables:
        lines += ["", f"## {table.title}", "", table.note, "", *_table(table)]
        for name in _BELOW.get(table.name, ()):
            lines += _picture(pictures.pop(name, None))
    if pictures:
        lines += ["", "## More charts"]
        for chart in pictures.values():
            lines += _picture(chart)
    lines += ["", "## Definitions", ""]
    lines += [f"- **{name}**: {text}" for name, text in DEFINITIONS.items()]
    return "\n".join(lines) + "\n"


# Charts below the table of the same numbers.
_BELOW = {
    "overview": ("speed-and-length", "accepted-length-by-rows"),
    "speedup-by-category": ("speedup",),
    "time-per-step": ("time-per-step",),
    "acceptance-by-depth": ("acceptance-by-depth",),
    "accepted-drafts": ("accepted-drafts",),
    "misses": ("misses",),
}


def _picture(chart: Chart | None) -> list[str]:
    if chart is None:
        return []
    if chart.wide is None:
        return ["", f"{chart.title}: no chart. {chart.absent}"]
    return ["", f"![{chart.title}](charts/{chart.name}.svg)", "", f"*{chart.title}.* {chart.caption}"]


def _table(table: Table) -> list[str]:
    rows = [table.header, ["---", *["---" if table.words else "---:"] * (len(table.header) - 1)], *table.rows]
    return ["| " + " | ".join(cell if row is rows[1] else escape(cell) for cell in row) + " |" for row in rows]


def escape(text: str) -> str:
    """`text` as Markdown that shows it, on one line."""
    text = printable(text).replace("](", "] (")  # no link
    for character in "\\`*|~":
        text = text.replace(character, "\\" + character)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split())
