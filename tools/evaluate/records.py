"""What a run of the evaluation leaves behind: ``run.json`` says what was run, ``results.jsonl`` what came out.

The second is a line for each text, written whole or not at all, so that a run may be interrupted and go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from frspec_cpp import Step

FORMAT = 2  # of run.json and results.jsonl; goes up where an earlier version could not read them any more


@dataclass(frozen=True)
class Method:
    """One way to generate: a row of the tables.

    Attributes:
        name: Unique in the run: ``"plain"``, ``"frspec ranked:8192"``, ``"llama.cpp lookup"``.
        kind: What ``--methods`` calls it: ``"frspec"``.
        engine: Who generates: ``"frspec_cpp"``, ``"llama-cpp-python 0.3.16"``, ``"transformers 5.23.0"``.
        drafter: File name of the drafter; None without.
        head: Head policy of the drafter; None without.
        rows: Rows of the LM head that a draft level reads (all of them for ``"full"``); None where that is not one
            number, or nothing is read.
        settings: Whatever else tells it from others, for the report.
        exact: Whether its text must be plain decoding's; peers compute otherwise, theirs may differ.
    """

    name: str
    kind: str
    engine: str = "frspec_cpp"
    drafter: str | None = None
    head: str | None = None
    rows: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    exact: bool = True


@dataclass(frozen=True)
class Prompt:
    """A prompt of the run: one turn of one question.

    Attributes:
        index: Its number in the run, from 0.
        name: Where it stands: ``"spec_bench.jsonl:81"``, with ``" turn 2"`` behind it from the second on; unique in
            the run. For people: what belongs together is told by `question` and `turn`.
        category: ``"math_reasoning"``, ``"mt_bench"`` ...
        tokens: Tokens of the prompt, template and earlier turns included; 0 where that is not known yet: a later turn
            holds an answer that is still to be written.
        question: The number of its question among all that were asked, from 0; those that were left out count, too.
        turn: Of this question, from 1. The turns of a question follow each other.
        text: What the user says in this turn, without the template; of a long one the end, behind an ellipsis.
    """

    index: int
    name: str
    category: str
    tokens: int
    question: int
    turn: int = 1
    text: str = ""


@dataclass(frozen=True)
class Run:
    """A text: one method on one prompt, once.

    Attributes:
        method: The method's name.
        prompt: The prompt's index.
        repeat: 0: the traced text, whose steps are told of; its times do not count. From 1 on: timed.
        generated: Tokens of the text.
        steps: Passes of the target after the prompt; None where the engine does not say.
        step_tokens: Tokens that these passes gave.
        drafted_steps: Passes with drafts.
        prefill_seconds: Prompt and first token; None where the engine does not say.
        draft_seconds: Drafting.
        verify_seconds: Passes of the target.
        total_seconds: All of it.
        finish_reason: ``"stop"`` or ``"length"``.
        tokens: Token ids of the text, where ``repeat`` is 0; None else.
        pieces: What each of them says, as text; joined: the text. None where ``repeat`` is not 0.
        trace: The steps, where ``repeat`` is 0 and the engine is ours; None else.
        said: What the drafts looked like that were offered and not taken: token id (as text) to its text.
    """

    method: str
    prompt: int
    repeat: int
    generated: int
    steps: int | None
    step_tokens: int | None
    drafted_steps: int | None
    prefill_seconds: float | None
    draft_seconds: float | None
    verify_seconds: float | None
    total_seconds: float
    finish_reason: str
    tokens: list[int] | None = None
    pieces: list[str] | None = None
    trace: list[Step] | None = None
    said: dict[str, str] | None = None


@dataclass(frozen=True)
class Manifest:
    """What was run.

    Attributes:
        version: Of frspec_cpp.
        created: When it began: ISO 8601, UTC.
        command: The command line.
        machine: ``cpu``, ``cores``, ``memory_gib``, ``device``, ``python``, ``system``.
        target: File name of the target.
        settings: Options that hold for all methods: ``max_tokens``, ``temperature``, ``seed``, ``repeats``,
            ``ignore_eos``, ``template`` (whether the chat template was applied), ``threads`` ...
        identity: What must not change where a run is continued: settings, files (size and a hash), prompts, methods.
        methods: In the order of the tables, ``plain`` first.
        prompts: In their order.
        skipped: Methods that were asked for and could not be run, by name, with the reason: absent peers.
        left_out: Prompts without tokens, or with too many for the context, by name, with the reason. Such a first
            turn is not among ``prompts``; a later one, which may turn out so during the run, is, and has no runs.
    """

    version: str
    created: str
    command: str
    machine: dict[str, Any]
    target: str
    settings: dict[str, Any]
    identity: dict[str, Any]
    methods: list[Method]
    prompts: list[Prompt]
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """The text that ended a run, since it is not plain decoding's: ``failed.json``.

    Attributes:
        method: The method's name.
        prompt: The prompt's index.
        name: The prompt's name.
        repeat: As in `Run`.
        position: Of the first token that differs, from 0; where only the ends do, the number of tokens.
        expected: Plain decoding's token there; None: its text ends.
        found: The method's; None: its text ends.
        message: All of it for people, with the tokens' text.
    """

    method: str
    prompt: int
    name: str
    repeat: int
    position: int
    expected: int | None
    found: int | None
    message: str
