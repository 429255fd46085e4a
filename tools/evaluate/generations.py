"""Generations to look at: which tokens were drafted and how deep, and why acceptance ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from frspec_cpp import Step

from .records import Manifest, Method, Prompt, Run
from .steps import OTHER, OUTSIDE, REASONS, TREE_ENDED, UNKNOWN, reason, why_no_subset
from .text import printable

PROMPTS = 12  # that are shown, unless there are more categories
CATEGORIES = 24  # that are shown at most
TOKENS = 256  # of a text that are shown
DEEPEST = 8  # depth that has a colour of its own

MARKS = {OUTSIDE: "◇", OTHER: "✗", UNKNOWN: "?", TREE_ENDED: "▸"}
EXPLANATIONS = {
    OUTSIDE: "The target's token is outside the subset: the draft head could not offer it.",
    OTHER: "The draft head could have offered the target's token, but preferred others.",
    UNKNOWN: "The target's token was not among the drafts.",
    TREE_ENDED: "Every draft on this path was right; the tree had no deeper ones.",
}


@dataclass(frozen=True)
class Miss:
    """Why a step accepted no more.

    Attributes:
        mark: A character that tells reasons apart.
        reason: In two or three words.
        offered: The drafts at that place as visible text, the drafter's favourite first.
        wanted: The target's token.
        explanation: A sentence.
    """

    mark: str
    reason: str
    offered: list[str]
    wanted: str
    explanation: str


@dataclass(frozen=True)
class Token:
    """A token of a text.

    Attributes:
        text: What it says.
        depth: At which it was drafted and accepted; 0: the target's own.
        shade: The depth's colour: 1 to DEEPEST; 0: none.
        miss: What stands before the target's own token; None where there were no drafts.
    """

    text: str
    depth: int
    shade: int
    miss: Miss | None


@dataclass(frozen=True)
class Text:
    """A text of one method.

    Attributes:
        method: Its name.
        tokens: The first ones.
        count: Of all of them.
        note: Steps and accepted tokens; or why there are no depths.
    """

    method: str
    tokens: list[Token]
    count: int
    note: str


@dataclass(frozen=True)
class Shown:
    """A prompt with its texts."""

    prompt: Prompt
    texts: list[Text]


def visible(text: str) -> str:
    """`text` with its white space made visible at the ends, and line breaks everywhere."""
    text = printable(text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍"))
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text) or "(nothing)"
    before = len(text) - len(text.lstrip(" "))
    return "␣" * before + inner + "␣" * (len(text) - before - len(inner))


def choose(manifest: Manifest, runs: Sequence[Run]) -> list[Shown]:
    """The prompts to show: the first ones of each category, in turns, that have a text with tokens."""
    texts: dict[int, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        if run.repeat == 0 and run.pieces is not None:
            texts[run.prompt][run.method] = run
    methods = [method for method in manifest.methods if method.kind != "plain" or not method.exact]
    by_category: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in manifest.prompts:
        if any(method.name in texts.get(prompt.index, {}) for method in methods):
            by_category[prompt.category].append(prompt)
    queues = list(by_category.values())[:CATEGORIES]
    chosen: list[Prompt] = []
    for place in range(max(map(len, queues), default=0)):
        for queue in queues:
            if place < len(queue) and (place == 0 or len(chosen) < PROMPTS):
                chosen.append(queue[place])
    chosen.sort(key=lambda prompt: prompt.index)
    return [_shown(prompt, methods, texts[prompt.index]) for prompt in chosen]


def _shown(prompt: Prompt, methods: list[Method], runs: dict[str, Run]) -> Shown:
    return Shown(prompt, [show(runs[method.name], method) for method in methods if method.name in runs])


def show(run: Run, method: Method | None = None) -> Text:
    """The run's first tokens with their depths and misses; `method` tells why something is not known."""
    pieces = run.pieces or []
    if run.trace is None:
        return Text(run.method, _bare(pieces), len(pieces), "The engine does not tell of its steps.")
    given = sum(len(step.tokens) for step in run.trace)
    first = len(pieces) - given  # tokens of the prompt's own pass
    if not 0 <= first <= 1:
        return Text(run.method, _bare(pieces), len(pieces), f"The steps tell of {given} tokens: no depths are shown.")
    tokens = _bare(pieces[:first])
    at = first
    for step in run.trace:
        tokens += _of_step(step, pieces[at : at + len(step.tokens)], run, method)
        at += len(step.tokens)
    # As in the tables: the token that ended the text, and is no part of it, counts.
    tokens_given = given if run.step_tokens is None else run.step_tokens
    mean = f"{tokens_given / len(run.trace):.2f} tokens per step" if run.trace else "no steps"
    return Text(run.method, tokens[:TOKENS], len(pieces), f"{len(run.trace)} steps, {mean}")


def _bare(pieces: Sequence[str]) -> list[Token]:
    return [Token(piece, 0, 0, None) for piece in pieces[:TOKENS]]


def _of_step(step: Step, pieces: list[str], run: Run, method: Method | None) -> list[Token]:
    tokens = []
    for place, piece in enumerate(pieces):
        if place < step.accepted:
            shown = piece.replace("\n", "↵\n")  # or the colour of a line break would not be seen
            tokens.append(Token(shown, place + 1, min(place + 1, DEEPEST), None))
            continue
        # A token of a part of a character says nothing by itself.
        wanted = visible(piece) if piece else f"#{step.tokens[place]}"
        tokens.append(Token(piece, 0, 0, _miss(step, wanted, run, method)))
    if len(pieces) == step.accepted and step.offered and run.finish_reason == "stop":
        tokens.append(Token("", 0, 0, _miss(step, "(end of the text)", run, method)))
    return tokens


def _miss(step: Step, wanted: str, run: Run, method: Method | None) -> Miss | None:
    why = reason(step)
    if why not in MARKS:
        return None
    said = run.said or {}
    offered = [visible(said[str(one)]) if str(one) in said else f"#{one}" for one in step.offered]
    explanation = EXPLANATIONS[why]
    if why == UNKNOWN:
        explanation += f" Whether it could have been is not known: {why_no_subset(method)}."
    return Miss(MARKS[why], REASONS[why], offered, wanted, explanation)
