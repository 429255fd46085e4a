"""Calls and thoughts are found wherever the text is cut, and what is none stays content."""

from __future__ import annotations

import itertools
import json
import random

import pytest

pytest.importorskip("fastapi")

from frspec_cpp.server.argument_types import read_argument
from frspec_cpp.server.reasoning import ThoughtParser, begins_in_thought
from frspec_cpp.server.tool_calls import Format, ToolCall, ToolParser, format_of

NAMES = {"weather", "time.now"}
OSLO = ("weather", {"city": 'Oslo </x> "é"'})
NOW: tuple[str, dict[str, str]] = ("time.now", {})


def spelled(name: str, arguments: dict[str, str], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments})


MARK = "<tool_call>\n"
HARD = "a </parameter> b\n</tool_call> <tool_call> c"


def tagged(name: str, arguments: dict[str, str]) -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"{MARK}<function={name}>\n{inner}</function>\n</tool_call>"


FUNCTION_END, PARAMETER_END = "</function>", "</parameter>"
ENDS = f"a {FUNCTION_END} b"
UNKNOWN = tagged("unknown", {})
HALF = '<tool_call>{"name": "wea'
SPELLED = f"It is\n{tagged('weather', {'city': 'Bergen'})}\nor\n{tagged('unknown', {})}"
CUT = f"{MARK}<function=weather>\n<parameter=city>\nOs"
UNCLOSED = f"{MARK}<function=weather>\n<parameter=city>\nOslo\n</function>\n</tool_call>"

# Form, text, content, calls.
CASES: list[tuple[Format, str, str | None, list[tuple[str, dict[str, str]]]]] = [
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
    ("hermes", '<tool_call>{"name": "weather", "arguments": NaN}</tool_call>', None, []),
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
    ("qwen3_coder", tagged(*OSLO), "", [OSLO]),
    ("qwen3_coder", f"Let me see.\n\n{tagged(*OSLO)}\n{tagged(*NOW)}\n", "Let me see.", [OSLO, NOW]),
    ("qwen3_coder", tagged(*OSLO).removesuffix("</tool_call>"), "", [OSLO]),
    ("qwen3_coder", tagged(*OSLO).removesuffix("\n</function>\n</tool_call>"), None, []),  # cut short
    ("qwen3_coder", f"See:\n{tagged(*OSLO).removeprefix(MARK)}\n{tagged(*NOW)} x", "See: x", [OSLO, NOW]),
    ("qwen3_coder", f"{tagged(*OSLO)[len(MARK) : -len('</tool_call>')]}then", "\nthen", [OSLO]),  # without any mark
    ("qwen3_coder", tagged("weather", {"city": HARD}), "", [("weather", {"city": HARD})]),
    ("qwen3_coder", tagged("weather", {"city": ""}), "", [("weather", {"city": ""})]),
    ("qwen3_coder", tagged("weather", {"city": "\n 12 \n\n"}), "", [("weather", {"city": "\n 12 \n\n"})]),
    ("qwen3_coder", f"<tool_call>\n{spelled(*OSLO)}\n</tool_call>", "", [OSLO]),  # as their older kin
    ("qwen3_coder", tagged("unknown", {}), None, []),
    ("qwen3_coder", f"{UNCLOSED} {tagged(*NOW)}", "", [("weather", {"city": "Oslo"}), NOW]),
    ("qwen3_coder", f"{UNCLOSED.replace(FUNCTION_END, PARAMETER_END)} x", " x", [("weather", {"city": "Oslo"})]),
    ("qwen3_coder", f"{CUT}\n{tagged(*OSLO)} x", f"{CUT} x", [OSLO]),  # what is broken takes nobody along
    ("qwen3_coder", f"{CUT}\n{UNKNOWN}\n{tagged(*OSLO)}{tagged(*NOW)}", f"{CUT}\n{UNKNOWN}", [OSLO, NOW]),
    ("qwen3_coder", f"{MARK}<function weather>\n{tagged(*NOW)}", f"{MARK}<function weather>", [NOW]),
    ("qwen3_coder", tagged("weather", {"city": SPELLED}), "", [("weather", {"city": SPELLED})]),
    ("qwen3_coder", tagged("weather", {"city": SPELLED})[len(MARK) :], "", [("weather", {"city": SPELLED})]),
    ("qwen3_coder", tagged("weather", {"city": ENDS})[len(MARK) :], "", [("weather", {"city": ENDS})]),
    ("qwen3_coder", tagged(*OSLO).removesuffix("</tool_call>") + tagged(*NOW)[len(MARK) :], "", [OSLO, NOW]),
    ("qwen3_coder", f"{tagged(*NOW)[:-12]} x </tool_call> y", None, []),
    ("qwen3_coder", "1 < 2, <function> and <function", None, []),
    ("qwen3_coder", "<function=x> is how", None, []),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=a>\nb\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        "",
        [("weather", {"a": "b", "city": "Oslo"})],
    ),
    ("hermes", f"<tool_call>{spelled('weather', {'city': HARD})}</tool_call> x", " x", [("weather", {"city": HARD})]),
    ("hermes", f"{HALF}\n<tool_call>{spelled(*OSLO)}</tool_call>", HALF, [OSLO]),
    ("hermes", f"{HALF}</tool_call>\n<tool_call>{spelled(*OSLO)}</tool_call>", f"{HALF}</tool_call>", [OSLO]),
    ("hermes", f"{HALF}\"</tool_call>\n<tool_call>{spelled(*OSLO)}</tool_call>", f"{HALF}\"</tool_call>", [OSLO]),
]  # fmt: skip


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


PIECES = [
    "<tool_call>", "</tool_call>", "\n", " x ", "<function=weather>", "<function=unknown>", "</function>",
    "<parameter=city>", "</parameter>", "Oslo", "<", '{"name": "weather", "arguments": {}}', '"', "\\",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["hermes", "qwen3_coder"])
def test_it_does_not_matter_where_a_text_is_cut(kind: Format) -> None:
    """Whatever it is. What is no call is content, to the letter, but for spaces."""
    chance = random.Random(5)
    called = 0
    for _ in range(800):
        text = "".join(chance.choices(PIECES, k=chance.randrange(1, 14)))
        results = []
        for way in ([text], list(text), pieces(text, chance)):
            parser = ToolParser(kind, NAMES)
            found = [thing for piece in way for thing in parser.feed(piece)] + parser.finish()
            content = "".join(thing for thing in found if isinstance(thing, str))
            results.append((content, [thing.arguments for thing in found if isinstance(thing, ToolCall)]))
        assert results[0] == results[1] == results[2], text
        content, calls = results[0]
        called += bool(calls)
        assert calls or content == text
    assert called > 4


def test_what_looks_like_an_argument_may_be_a_value() -> None:
    """A line is one of the tool's arguments, or a part of the value in which it stands."""
    schema = {"weather": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}
    for city, days in (("a\n<parameter=x>\nb", 3), ("a\n<parameter=city>", 3)):
        parser = ToolParser("qwen3_coder", NAMES, schema)
        (call,) = parser.feed(tagged("weather", {"city": city, "days": str(days)}))
        assert isinstance(call, ToolCall)
        assert json.loads(call.arguments) == {"city": city, "days": days}
    # The same where its end was forgotten.
    parser = ToolParser("qwen3_coder", NAMES, schema)
    (call,) = parser.feed(tagged("weather", {"city": "a", "days": "3"}).replace("a\n</parameter>", "a"))
    assert isinstance(call, ToolCall)
    assert json.loads(call.arguments) == {"city": "a", "days": 3}


def test_an_id_is_one_for_mistral() -> None:
    ids = {ToolCall("f", "{}").as_openai()["id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(len(number) == 9 and number.isalnum() for number in ids)


def test_deep_arguments_are_no_call() -> None:
    text = '<tool_call>{"name": "weather", "arguments": ' + "[" * 100_000
    parser = ToolParser("hermes", NAMES)
    assert "".join(str(thing) for thing in parser.feed(text) + parser.finish()) == text


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "flag": {"type": "boolean"},
        "list": {"type": "array", "items": {"type": "integer"}},
        "place": {"$ref": "#/$defs/place"},
        "perhaps": {"type": ["string", "null"]},
        "optional": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "either": {"oneOf": [{"type": "number"}, {"type": "string"}]},
        "both": {"allOf": [{"description": "x"}, {"type": "integer"}]},
        "one of": {"enum": [1, 2]},
        "word": {"enum": ["1", "2"]},
        "same": {"const": 5},
        "round": {"$ref": "#/properties/round"},
        "rounds": {"anyOf": [{"$ref": "#/properties/rounds"}, {"type": "integer"}]},
        "nowhere": {"$ref": "#/$defs/none"},
        "any": {},
        "wrong": {"type": "integer", "enum": 5},
    },
    "$defs": {"place": {"properties": {"x": {"type": "number"}}}},
}


@pytest.mark.parametrize(
    ("name", "spelled", "value"),
    [
        ("text", "12", "12"),
        ("text", "null", "null"),
        ("count", "12", 12),
        ("count", " 12 ", 12),
        ("count", "a dozen", "a dozen"),
        ("count", "9" * 5000, "9" * 5000),
        ("flag", "true", True),
        ("flag", "True", True),
        ("list", "[1, 2]", [1, 2]),
        ("list", "[NaN]", "[NaN]"),
        ("list", "[" * 100_000, "[" * 100_000),
        ("place", '{"x": 1.5}', {"x": 1.5}),
        ("perhaps", "null", None),
        ("perhaps", "12", "12"),
        ("optional", "None", None),
        ("optional", "1.5", 1.5),
        ("either", "12", "12"),
        ("both", "12", 12),
        ("one of", "2", 2),
        ("word", "2", "2"),
        ("same", "5", 5),
        ("round", "5", "5"),
        ("rounds", "5", 5),
        ("nowhere", "5", "5"),
        ("any", "5", "5"),
        ("wrong", "5", 5),
        ("not there", "5", "5"),
    ],
)
def test_the_schema_tells_texts_from_other_json(name: str, spelled: str, value: object) -> None:
    assert read_argument(f"\n{spelled}\n", SCHEMA, name) == value
    assert read_argument(spelled, {"type": "object"}, name) == read_argument(spelled, None, name) == spelled


def test_schemas_that_go_round_end() -> None:
    """Soon, however many ways there are."""
    ways = [{"$ref": f"#/$defs/{number}"} for number in range(50)]
    schema = {"properties": {"a": ways[0]}, "$defs": {str(number): {"anyOf": ways} for number in range(50)}}
    assert read_argument("5", schema, "a") == "5"


@pytest.mark.parametrize(
    "word", ["</tool_call> ", "</function>\n</tool_call> ", "</parameter> ", "< ", "\n<parameter=", "x"]
)
def test_a_long_argument_is_looked_through_once(word: str) -> None:
    city = word * (250_000 // len(word)) + "."
    for kind, text in (
        ("qwen3_coder", tagged("weather", {"city": city})),
        ("hermes", f"<tool_call>{spelled('weather', {'city': city})}</tool_call>"),
    ):
        parser = ToolParser(kind, NAMES)  # type: ignore[arg-type]
        found = [thing for at in range(0, len(text), 50) for thing in parser.feed(text[at : at + 50])]
        assert [type(thing) for thing in found] == [ToolCall]


def test_forms() -> None:
    assert format_of("{{ '<tool_call>' }}<function={{ name }}><parameter=") == "qwen3_coder"
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
    assert not begins_in_thought("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("before", "continued", "inside"),
    [
        ("", "<think>\nLet me", True),
        ("", "<think>", True),
        ("<think>\n", "Let me", True),
        ("<think>\n", "Let me\n</think>\n\nYes, ", False),
        ("", "<think>\nLet me\n</think>\n\nYes", False),
        ("", "The mark is <think>, which", False),  # it was content when it was said
        ("", "Yes", False),
    ],
)
def test_answers_that_go_on_in_a_thought(before: str, continued: str, inside: bool) -> None:
    for end in ("", " "):
        prompt = f"<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n{before}{continued}"
        assert begins_in_thought(prompt, continued + end) is inside
