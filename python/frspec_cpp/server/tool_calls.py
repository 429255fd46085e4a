"""Finding tool calls in what a model writes: as Hermes and Qwen, Qwen3-Coder, Llama 3 and Mistral spell them.

What is no call stays content: a call must have the form, and the name of a tool that was given.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from frspec_cpp.server.markers import certain
from frspec_cpp.server.tagged_calls import CLOSE, FUNCTION, OPEN, Spelled, State, TaggedCalls, loose_call, next_call

Format = Literal["hermes", "qwen3_coder", "llama3", "mistral"]

_MARKS: dict[Format, tuple[str, ...]] = {
    "hermes": (OPEN,),
    "qwen3_coder": (OPEN, FUNCTION),  # the first of which the models forget now and then
    "mistral": ("[TOOL_CALLS]",),
    "llama3": ("<|python_tag|>",),
}
_ID_LETTERS = string.ascii_letters + string.digits


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_json)


@dataclass(frozen=True)
class ToolCall:
    """A call of a function.

    Attributes:
        name: The function's.
        arguments: A JSON object, as text.
    """

    name: str
    arguments: str

    def as_openai(self) -> dict[str, Any]:
        """The object of an answer. Mistral's templates want ids of 9 letters and digits."""
        number = "".join(secrets.choice(_ID_LETTERS) for _ in range(9))
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": number, "type": "function", "function": function}


def format_of(program: str) -> Format | None:
    """How a chat template teaches a model to call tools; None: in no form that is known here."""
    if OPEN in program and FUNCTION in program and "<parameter=" in program:
        return "qwen3_coder"
    if OPEN in program:
        return "hermes"
    if "[TOOL_CALLS]" in program:
        return "mistral"
    if "<|python_tag|>" in program or "ipython" in program:
        return "llama3"
    return None


class _JsonCalls:
    """Follows a call that is JSON between marks, which may be words in its texts, too.

    Attributes:
        at: Where it ends.
    """

    _THINGS = re.compile(r'\\.|"|</tool_call>', re.DOTALL)

    def __init__(self) -> None:
        self.at = 0
        self._in_text = False

    def read(self, text: str, is_all: bool) -> State:
        """Reads on; the text begins with what it was given before. With `is_all` there is nothing more to come."""
        while (found := self._THINGS.search(text, self.at)) is not None:
            self.at = found.end()
            if found[0] == '"':
                self._in_text = not self._in_text
            elif found[0] == CLOSE and not self._in_text:
                return "done"
        if is_all:
            self.at = len(text)
            return "done"
        self.at = max(self.at, len(text) - len(CLOSE) + 1)  # what may still become such a thing
        return "more"


class ToolParser:
    """Takes the text of an answer as it comes, and gives content that is certain to be no call, and calls.

    Args:
        kind: The form of calls.
        names: Of the tools.
        schemas: Of their arguments, by their names: what tells numbers from texts, where the form does not.
    """

    def __init__(self, kind: Format, names: Collection[str], schemas: Mapping[str, Any] | None = None) -> None:
        self._kind = kind
        self._names = names
        self._schemas = schemas or {}
        self._held = ""
        self._inside = False  # a call
        self._gap = ""  # the spaces before it, which the template spells where it is one
        self._content_began = False
        self._called = False
        self._marks = _MARKS[kind]
        self._marker = self._marks[0]
        self._reader: TaggedCalls | _JsonCalls | None = None  # of the call that it is inside

    def feed(self, text: str) -> list[str | ToolCall]:
        """What is known now: pieces of content, and calls."""
        self._held += text
        found: list[str | ToolCall] = []
        while self._advance(found):
            pass
        return found

    def finish(self) -> list[str | ToolCall]:
        """What was held back until the end."""
        found: list[str | ToolCall] = []
        while self._held and self._kind in ("hermes", "qwen3_coder"):
            if not (self._advance_call(found, True) if self._inside else self._advance(found)):
                break
        held, self._held = self._held, ""
        if self._inside or not self._content_began:
            calls = self._calls(held.lstrip().removeprefix(self._marker))
            if calls:
                return [*found, *calls]
        held = self._gap + held
        return [*found, held] if held.strip() or (held and not self._called) else found

    def _advance(self, found: list[str | ToolCall]) -> bool:
        """One thing more, if it is certain."""
        if self._kind == "llama3":
            return self._advance_whole(found)
        if not self._inside:
            at = min((at for mark in self._marks if (at := self._held.find(mark)) >= 0), default=-1)
            # Small models forget the mark: an answer that is nothing but a call is one.
            if at < 0 and self._kind == "hermes" and not self._content_began and self._held.lstrip()[:1] in ("", "{"):
                return False
            known = at if at >= 0 else min(certain(self._held, mark) for mark in self._marks)
            before = self._held[:known]
            self._held = self._held[at:] if at >= 0 else self._held[len(before) :]
            self._inside = at >= 0
            content = before.rstrip() if at >= 0 else before
            self._gap = before[len(content) :]
            if content:
                self._content_began = True
                found.append(content)
            return at >= 0
        if self._kind == "mistral":
            return False  # calls go on to the end
        return self._advance_call(found, False)

    def _advance_call(self, found: list[str | ToolCall], is_all: bool) -> bool:
        """The call that it is inside, if it has ended; where it is none, what is certain to be none. `is_all`: it must.

        What is broken ends where another call begins, so that one is found.
        """
        held = self._held
        if self._reader is None:
            begin = held.removeprefix(OPEN).lstrip()
            may_be_tagged = self._kind == "qwen3_coder" and FUNCTION.startswith(begin[: len(FUNCTION)])
            if may_be_tagged and len(begin) < len(FUNCTION) and not is_all:
                return False
            self._reader = TaggedCalls(self._names, self._schemas) if may_be_tagged else _JsonCalls()
        state = self._reader.read(held, is_all)
        if state == "more":
            return False
        end, calls = self._reader.at, []
        if state == "done" and isinstance(self._reader, TaggedCalls):
            calls = self._known(self._reader.calls)
        elif isinstance(self._reader, _JsonCalls):
            calls = self._calls(held[:end].removeprefix(OPEN).removesuffix(CLOSE))
        if not calls:
            end = self._end_of_broken(is_all)
            if end < 0:
                return False
            spelled = loose_call(held[:end], self._names, self._schemas) if self._kind == "qwen3_coder" else None
            calls = self._known([] if spelled is None else [spelled])
        if not calls:
            end = len(held[:end].rstrip())  # the spaces may stand before a call
        self._held = held[end:]
        self._inside, self._reader = False, None
        self._called = self._called or bool(calls)
        self._content_began = True
        found += calls or [self._gap + held[:end]]
        self._gap = ""
        return True

    def _end_of_broken(self, is_all: bool) -> int:
        """Where what is held is no call any more, or another one may begin; -1: that is still to come."""
        held = self._held
        if not held.startswith(OPEN) and not is_all:
            return len(FUNCTION)
        another, close = next_call(held), held.find(CLOSE)
        ends = [end for end in (another, close + len(CLOSE) if close >= 0 else -1) if end >= 0]
        return min(ends, default=len(held) if is_all else -1)

    def _known(self, calls: list[Spelled]) -> list[ToolCall]:
        """All of them; none where one cannot be told."""
        found = [self._call({"name": call.name, "arguments": call.arguments}) for call in calls]
        known = [call for call in found if call is not None]
        return known if len(known) == len(found) else []

    def _advance_whole(self, found: list[str | ToolCall]) -> bool:
        """Llama 3: the whole answer is a call, or none of it."""
        begin = self._held.lstrip()
        may_call = not begin or begin[0] == "{" or self._marker.startswith(begin[: len(self._marker)])
        if may_call and not self._content_began:
            return False
        self._content_began = True
        if self._held:
            found.append(self._held)
        self._held = ""
        return False

    def _calls(self, text: str) -> list[ToolCall]:
        """The calls that `text` consists of; none where it does not."""
        found: list[ToolCall] = []
        at = 0
        while True:
            at = re.compile(r"[\s;]*").match(text, at).end()  # type: ignore[union-attr]
            if at == len(text):
                return found
            name = re.compile(r"([\w.-]+)(?:\[ARGS\])?\s*(?=\{)").match(text, at)  # Mistral's newer form
            try:
                value, at = _decoder.raw_decode(text, name.end() if name else at)
            except (ValueError, RecursionError):
                return []
            values = [{"name": name[1], "arguments": value}] if name else value if isinstance(value, list) else [value]
            calls = [self._call(value) for value in values]
            known = [call for call in calls if call is not None]
            if len(known) < len(calls) or not calls:
                return []
            found += known

    def _call(self, value: Any) -> ToolCall | None:
        if not isinstance(value, dict):
            return None
        value = value.get("function") if isinstance(value.get("function"), dict) else value
        name = value.get("name")
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):  # JSON as text
            try:
                arguments = _decoder.decode(arguments)
            except (ValueError, RecursionError):
                return None
        if name not in self._names or not isinstance(arguments, dict):
            return None
        try:
            return ToolCall(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False))
        except ValueError:  # numbers beyond those that JSON can say
            return None
