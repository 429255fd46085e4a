"""Calls and thoughts are found wherever the text is cut, and what is none stays content."""

from __future__ import annotations

import itertools
import json
import random

import pytest

pytest.importorskip("fastapi")

from frspec_cpp.server.reasoning import ThoughtParser, begins_in_thought
from frspec_cpp.server.tool_calls import Format, ToolCall, ToolParser, format_of

NAMES = {"weather", "time.now"}
OSLO = ("weather", {"city": 'Oslo </x> "é"'})
NOW = ("time.now", {})


def spelled(name: str, arguments: dict[str, str], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments})


# Form, text, content, calls.
CASES: list[tuple[Format, str, str, list[tuple[str, dict[str, str]]]]] = [
    ("hermes", f"<tool_call>\n{spelled(*OSLO)}\n</tool_call>", "", [OSLO]),
    (
        "hermes",
        f"Let me see.\n\n<tool_call>{spelled(*OSLO)}</tool_call>\n<tool_call>\n{spelled(*NOW)}\n</tool_call>\n",
        "Let me see.",
        [OSLO, NOW],
    ),
    ("hermes", f"<tool_call>\n{spelled(*OSLO)}", "", [OSLO]),  # ended without the closing mark
    ("hermes", f" {spelled(*OSLO)}", "", [OSLO]),  # without any mark
    ("hermes", '{"a": 1} is JSON', '{"a": 1} is JSON', []),
    ("hermes", f"Call: {spelled(*OSLO)}", f"Call: {spelled(*OSLO)}", []),
    ("hermes", f"<tool_call>{spelled(*OSLO)}</tool_call> {spelled(*NOW)}", f" {spelled(*NOW)}", [OSLO]),
    ("hermes", "{ <tool_call>x</tool_call>", "{ <tool_call>x</tool_call>", []),
    ("hermes", "1 < 2, <tool> and <tool_call", "1 < 2, <tool> and <tool_call", []),
    ("hermes", "<tool_call>not JSON</tool_call> x", "<tool_call>not JSON</tool_call> x", []),
    ("hermes", "<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", []),
    (
        "hermes",
        f"<tool_call>{spelled('unknown', {})}</tool_call>",
        f"<tool_call>{spelled('unknown', {})}</tool_call>",
        [],
    ),
    ("hermes", "  spaces stay  \n", "  spaces stay  \n", []),
    ("hermes", '<tool_call>{"name": "weather", "arguments": NaN}</tool_call>', None, []),  # type: ignore[list-item]
    ("llama3", spelled(*OSLO, key="parameters"), "", [OSLO]),
    ("llama3", f"<|python_tag|>{spelled(*OSLO)}; {spelled(*NOW)}", "", [OSLO, NOW]),
    ("llama3", '{"name": "weather"', '{"name": "weather"', []),
    ("llama3", '{"a": 1} is JSON', '{"a": 1} is JSON', []),
    ("llama3", f"Call: {spelled(*OSLO)}", f"Call: {spelled(*OSLO)}", []),
    ("mistral", f"[TOOL_CALLS] [{spelled(*OSLO)}, {spelled(*NOW)}]", "", [OSLO, NOW]),
    ("mistral", f"[TOOL_CALLS]weather[ARGS]{json.dumps(OSLO[1])}", "", [OSLO]),
    ("mistral", f"See: [TOOL_CALLS]weather{json.dumps(OSLO[1])}", "See:", [OSLO]),
    ("mistral", "a [list] and [TOOL", "a [list] and [TOOL", []),
    ("mistral", "[TOOL_CALLS] nothing", "[TOOL_CALLS] nothing", []),
    ("mistral", "[TOOL_CALLS] []", "[TOOL_CALLS] []", []),
]


def pieces(text: str, cuts: random.Random) -> list[str]:
    places = sorted({0, len(text), *(cuts.randrange(len(text) + 1) for _ in range(cuts.randrange(6)))})
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


@pytest.mark.parametrize(("kind", "text", "content", "calls"), CASES)
def test_calls(kind: Format, text: str, content: str | None, calls: list[tuple[str, dict[str, str]]]) -> None:
    cuts = random.Random(7)
    ways = [[text], list(text), *(pieces(text, cuts) for _ in range(20))]
    for way in ways:
        parser = ToolParser(kind, NAMES)
        found = [thing for piece in way for thing in parser.feed(piece)] + parser.finish()
        assert "".join(thing for thing in found if isinstance(thing, str)) == (text if content is None else content)
        heard = [(call.name, json.loads(call.arguments)) for call in found if isinstance(call, ToolCall)]
        assert heard == calls


def test_an_id_is_one_for_mistral() -> None:
    ids = {ToolCall("f", "{}").as_openai()["id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(len(number) == 9 and number.isalnum() for number in ids)


def test_deep_arguments_are_no_call() -> None:
    text = '<tool_call>{"name": "weather", "arguments": ' + "[" * 100_000
    parser = ToolParser("hermes", NAMES)
    assert "".join(str(thing) for thing in parser.feed(text) + parser.finish()) == text


def test_forms() -> None:
    assert format_of("{{ '<tool_call>' }}") == "hermes"
    assert format_of("[AVAILABLE_TOOLS] [TOOL_CALLS]") == "mistral"
    assert format_of("Environment: ipython") == "llama3"
    assert format_of("{{ tools }}") is None


@pytest.mark.parametrize(
    ("inside", "text", "thought", "content"),
    [
        (False, "<think>\nHm. a < b\n</think>\n\nYes.", "Hm. a < b", "Yes."),
        (True, "\nHm.\n</think>\n\nYes.\n", "Hm.", "Yes.\n"),
        (True, "never ends </thin", "never ends </thin", ""),
        (False, "  No thought <think> here", "", "  No thought <think> here"),
        (False, "<thin", "", "<thin"),
        (False, "<think></think>Yes", "", "Yes"),
        (False, "", "", ""),
    ],
)
def test_thoughts(inside: bool, text: str, thought: str, content: str) -> None:
    cuts = random.Random(7)
    for way in [[text], list(text), *(pieces(text, cuts) for _ in range(20))]:
        parser = ThoughtParser(inside)
        parts = [part for piece in way for part in parser.feed(piece)] + parser.finish()
        assert "".join(part.text for part in parts if part.is_thought) == thought
        assert "".join(part.text for part in parts if not part.is_thought) == content


def test_prompts_that_open_a_thought() -> None:
    assert begins_in_thought("<|im_start|>assistant\n<think>\n")
    assert not begins_in_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n")
