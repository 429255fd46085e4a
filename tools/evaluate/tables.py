"""The tables of the report, as text cells; Markdown and HTML show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .records import Manifest
from .steps import REASONS, Traced
from .summary import MethodSummary, Numbers, Spread, Summary
from .text import printable

ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """A table that stands alone.

    Attributes:
        name: Letters and hyphens, unique in the report.
        title: What it shows.
        note: Units and definitions that it needs.
        header: Of its columns; the first one is the method.
        rows: As long as the header.
        words: Whether its cells are words: not aligned as numbers are.
    """

    name: str
    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    words: bool = False


def make_tables(manifest: Manifest, summary: Summary) -> list[Table]:
    """All tables that have a row, in the order of the report."""
    several = len(summary.categories) > 1
    tables = [
        _methods(summary),
        _overview(summary),
        _decoding(summary),
        _by_category(
            summary, "speedup-by-category", "Speedup by category (×)", _SPEEDUP_NOTE, lambda n: number(n.speedup, 2)
        ),
        _by_category(
            summary,
            "accepted-by-category",
            "Tokens per step by category",
            "Tokens that the steps gave to the texts over steps: accepted drafts and the target's own. 1: no draft was "
            "accepted.",
            lambda n: number(n.accepted_length, 2),
        )
        if several
        else None,
        _by_category(
            summary,
            "speed-by-category",
            "Tokens per second by category",
            "Prompts included: median over questions and repeats, quartiles in brackets.",
            lambda n: quartiles(n.tokens_per_second, 1),
        )
        if several
        else None,
        _steps(summary),
        _step_times(summary),
        _depths(summary),
        _lengths(summary),
        _misses(summary),
        _agreement(summary),
        _pairs("skipped", "Methods not run", "Asked for, and left out.", ["method", "why"], manifest.skipped),
        _pairs("left-out", "Prompts left out", "They have no texts.", ["prompt", "why"], manifest.left_out),
    ]
    return [_printable(table) for table in tables if table is not None and table.rows]


def _printable(table: Table) -> Table:
    """Cells without what a page cannot hold or a terminal would obey."""
    header, *rows = ([printable(cell) for cell in row] for row in (table.header, *table.rows))
    return replace(table, header=header, rows=rows)


def for_terminal(table: Table) -> str:
    """The table as text, its columns aligned: names to the left, numbers to the right."""
    rows = [table.header, *table.rows]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def number(value: float | None, digits: int) -> str:
    """A number with `digits` behind the point; a dash where it is absent."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def quartiles(found: Spread | None, digits: int) -> str:
    """Median and quartiles: ``61.2 [58.0, 63.3]``."""
    if found is None:
        return ABSENT
    median = number(found.median, digits)
    if found.count == 1:
        return median
    return f"{median} [{found.lower_quartile:.{digits}f}, {found.upper_quartile:.{digits}f}]"


_SPEEDUP_NOTE = (
    "Spec-Bench's definition: mean over questions of tokens per second (prompts included), over plain decoding's mean."
)


def _methods(summary: Summary) -> Table:
    rows = []
    for one in summary.methods:
        method = one.method
        settings = ", ".join(f"{key}={value}" for key, value in method.settings.items())
        rows.append(
            [
                method.name,
                method.engine,
                method.drafter or ABSENT,
                method.head or ABSENT,
                ABSENT if method.rows is None else f"{method.rows:,}",
                settings or ABSENT,
                "yes" if method.exact else "not expected",
            ]
        )
    header = ["method", "engine", "drafter", "draft head", "rows of the head", "settings", "same text as plain"]
    note = "Rows: of the LM head, as many as a level of drafting reads."
    return Table("methods", "Methods", note, header, rows, words=True)


def _overview(summary: Summary) -> Table:
    rows = []
    for one in summary.methods:
        found = one.overall
        share = None if found.drafted_share is None else 100 * found.drafted_share
        rows.append(
            [
                one.method.name,
                number(found.speedup, 2),
                quartiles(found.ratios, 2),
                number(found.tokens_per_second.mean if found.tokens_per_second else None, 1),
                quartiles(found.tokens_per_second, 1),
                number(found.accepted_length, 2),
                number(share, 0),
                str(found.questions),
                str(found.samples),
            ]
        )
    header = [
        "method",
        "speedup (×)",
        "ratio per question (×)",
        "tokens/s",
        "tokens/s, median",
        "tokens per step",
        "steps with drafts (%)",
        "questions",
        "timings",
    ]
    note = (
        f"{_SPEEDUP_NOTE} Ratio per question: to plain decoding's tokens per second on the same question in the same "
        "repeat. Medians stand with their quartiles in brackets, other values are means. "
        "Timings: of these questions, all repeats that there are."
    )
    return Table("overview", "All prompts", note, header, rows)


def _decoding(summary: Summary) -> Table:
    rows = []
    for one in summary.methods:
        found = one.overall.decode_tokens_per_second
        if found is not None:
            speedup = number(one.overall.decode_speedup, 2)
            rows.append([one.method.name, speedup, number(found.mean, 1), quartiles(found, 1)])
    header = ["method", "speedup (×)", "tokens/s", "tokens/s, median"]
    note = "Tokens after the first of each text over the time after the prompt; otherwise as above."
    return Table("without-prompts", "All prompts, without the time for the prompt", note, header, rows)


def _by_category(summary: Summary, name: str, title: str, note: str, value: Callable[[Numbers], str]) -> Table | None:
    rows = [
        [one.method.name, *(value(one.categories[category]) for category in summary.categories), value(one.overall)]
        for one in summary.methods
    ]
    rows = [row for row in rows if set(row[1:]) != {ABSENT}]
    return Table(name, title, note, ["method", *summary.categories, "all"], rows)


def _steps(summary: Summary) -> Table:
    rows = []
    for one in summary.methods:
        found = one.overall.traced
        if found is not None:
            share = 100 * found.drafted / found.steps
            rows.append(
                [
                    one.method.name,
                    str(found.texts),
                    str(found.steps),
                    number(share, 0),
                    number(found.accepted_plus_one, 2),
                ]
            )
    header = ["method", "texts", "steps", "steps with drafts (%)", "mean accepted tokens (Spec-Bench)"]
    note = (
        "Of the traced texts. Mean accepted tokens, as Spec-Bench has it: accepted drafts + 1, over all steps; a "
        "text's last step counts whole, even where the text ended within it, so it is a little more than the tokens "
        "per step."
    )
    return Table("steps", "Steps", note, header, rows)


def _step_times(summary: Summary) -> Table:
    rows = []
    for one in summary.methods:
        split = one.overall.traced.split if one.overall.traced else None
        timed = one.overall.step_times
        if split is None and timed is None:
            continue
        parts = (
            [None] * 5
            if split is None
            else [split.transformer_ms, split.head_ms, split.verify_ms, split.other_ms, split.total_ms]
        )
        times = [None] * 3 if timed is None else [timed.draft_ms, timed.verify_ms, timed.total_ms]
        rows.append([one.method.name, *(number(value, 2) for value in [*parts, *times])])
    header = ["method", "draft transformer", "draft head", "verification", "other", "traced step"]
    header += ["untraced: draft", "untraced: verification", "untraced step"]
    note = (
        "Milliseconds of a mean step. The parts are those of the traced texts, as measured and not scaled: to trace "
        "costs time. Untraced: the timed texts, time after the prompt over steps."
    )
    return Table("time-per-step", "Time per step (ms)", note, header, rows)


def _traced(summary: Summary) -> list[tuple[MethodSummary, Traced]]:
    """The methods that drafted and told of their steps."""
    return [
        (one, one.overall.traced)
        for one in summary.methods
        if one.overall.traced is not None and one.overall.traced.lengths
    ]


def _columns(rows: Sequence[Sequence[str]], missing: str) -> list[list[str]]:
    """Rows made as long as the longest."""
    longest = max(map(len, rows), default=0)
    return [[*row, *[missing] * (longest - len(row))] for row in rows]


def _depths(summary: Summary) -> Table:
    found = [
        [one.method.name, *(f"{100 * depth.rate:.0f} % of {depth.tried}" for depth in traced.depths)]
        for one, traced in _traced(summary)
    ]
    rows = _columns(found, ABSENT)
    header = ["method", *(f"depth {depth}" for depth in range(1, len(rows[0]) if rows else 1))]
    note = (
        "Of the traced steps that accepted every draft above this depth and had drafts here, the share that accepted "
        "one more."
    )
    return Table("acceptance-by-depth", "Acceptance by draft depth", note, header, rows)


def _lengths(summary: Summary) -> Table:
    found = [
        [one.method.name, str(traced.drafted), *(f"{100 * steps / traced.drafted:.1f}" for steps in traced.lengths)]
        for one, traced in _traced(summary)
    ]
    rows = _columns(found, "0.0")
    header = ["method", "steps with drafts", *(str(length) for length in range(len(rows[0]) - 2 if rows else 0))]
    note = "Percent of the traced steps with drafts that accepted so many of them."
    return Table("accepted-drafts", "Distribution of accepted drafts (%)", note, header, rows)


def _misses(summary: Summary) -> Table:
    rows = []
    for one, traced in _traced(summary):
        drafted = traced.drafted
        shares = [
            f"{count} ({100 * count / drafted:.1f} %)" if key != "no_drafts" else str(count)
            for key, count in traced.misses.items()
        ]
        rows.append([one.method.name, str(drafted), *shares])
    note = (
        "Why a traced step accepted no more, as steps and as percent of the steps with drafts. Outside the subset: "
        "the draft head could not have offered the target's token; another draft preferred: it could, and did not; no "
        "fixed subset: the token was not drafted, and nobody can tell whether it could have been, because the head "
        "chooses its subset anew for every state, or the drafts are n-grams or from another vocabulary; tree ended: "
        "every draft on the path was right, there were no deeper ones; text ended: so it was, and the text ended "
        "among them."
    )
    header = ["method", "steps with drafts", *REASONS.values()]
    return Table("misses", "Why acceptance ended", note, header, rows)


def _agreement(summary: Summary) -> Table:
    rows = []
    for one in summary.methods:
        found = one.overall.agreement
        if found is None or (one.method.kind == "plain" and one.method.exact):
            continue
        share = 100 * found.same_tokens / found.tokens if found.tokens else None
        rows.append([one.method.name, f"{found.equal} of {found.texts}", number(share, 1)])
    note = (
        "Traced texts that are token for token plain decoding's, and the share of plain decoding's tokens "
        "before the first difference. Engines that compute with other rounding may differ and still be right."
    )
    return Table(
        "agreement", "Agreement with plain decoding", note, ["method", "equal texts", "tokens before (%)"], rows
    )


def _pairs(name: str, title: str, note: str, header: list[str], found: dict[str, str]) -> Table:
    return Table(name, title, note, header, [[key, value] for key, value in found.items()], words=True)
