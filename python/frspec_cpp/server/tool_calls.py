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

from frspec_cpp.server.argument_types import read_argument
from frspec_cpp.server.markers import certain

Format = Literal["hermes", "qwen3_coder", "llama3", "mistral"]

_END = "</tool_call>"
_FUNCTION, _FUNCTION_END, _PARAMETER_END = "<function=", "</function>", "</parameter>"
_FUNCTION_HEAD = re.compile(r"\s*<function=([^>\n]+)>\s*")
# A value ends where another thing follows: it may hold the mark of its end.
_PARAMETER = re.compile(
    r"<parameter=([^>\n]+)>((?:(?!\n<parameter=).)*?)</parameter>\s*(?=<parameter=|</function>)", re.DOTALL
)
_MARKS: dict[Format, tuple[str, ...]] = {
    "hermes": ("<tool_call>",),
    "qwen3_coder": ("<tool_call>", _FUNCTION),  # the first of which the models forget now and then
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
    if "<tool_call>" in program and _FUNCTION in program and "<parameter=" in program:
        return "qwen3_coder"
    if "<tool_call>" in program:
        return "hermes"
    if "[TOOL_CALLS]" in program:
        return "mistral"
    if "<|python_tag|>" in program or "ipython" in program:
        return "llama3"
    return None


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
        self._seen = 0  # of what is held: there the call does not end

    def feed(self, text: str) -> list[str | ToolCall]:
        """What is known now: pieces of content, and calls."""
        self._held += text
        found: list[str | ToolCall] = []
        while self._advance(found):
            pass
        return found

    def finish(self) -> list[str | ToolCall]:
        """What was held back until the end."""
        held, self._held = self._held, ""
        if self._inside or not self._content_began:
            calls = self._calls(held.lstrip().removeprefix(self._marker))
            if calls:
                return list(calls)
        held = self._gap + held
        return [held] if held.strip() or (held and not self._called) else []

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
        end = self._end()
        if end < 0:
            return False
        whole, self._held = self._held[:end], self._held[end:]
        calls = self._calls(whole.removeprefix(self._marker).removesuffix(_END))
        self._inside, self._seen = False, 0
        self._called = self._called or bool(calls)
        self._content_began = True
        found += calls or [self._gap + whole]
        self._gap = ""
        return True

    def _end(self) -> int:
        """Where the call ends that is held; -1: that is still to come."""
        held = self._held
        if not held.startswith(self._marker):  # it was forgotten, and its other half perhaps, too
            at = held.find(_FUNCTION_END, self._seen)
            self._seen = max(0, len(held) - len(_FUNCTION_END)) if at < 0 else at
            rest = held[at + len(_FUNCTION_END) :].lstrip()
            if at < 0 or (len(rest) < len(_END) and _END.startswith(rest)):
                return -1
            return len(held) - len(rest) + len(_END) if rest.startswith(_END) else at + len(_FUNCTION_END)
        while (at := held.find(_END, self._seen)) >= 0:
            before = held[:at].rstrip()
            is_text = before.removeprefix(self._marker).lstrip().startswith(_FUNCTION)
            if self._kind == "hermes" or not is_text or before.endswith((_FUNCTION_END, _PARAMETER_END)):
                return at + len(_END)
            self._seen = at + len(_END)  # a value has it
        self._seen = max(self._seen, len(held) - len(_END))
        return -1

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
        if self._kind == "qwen3_coder" and text.lstrip().startswith(_FUNCTION):
            return self._tagged_calls(text)
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

    def _tagged_calls(self, text: str) -> list[ToolCall]:
        """The same in the form of Qwen3-Coder, where each argument stands between marks, as it is."""
        found: list[ToolCall] = []
        at = 0
        while head := _FUNCTION_HEAD.match(text, at):
            name, at = head[1].strip(), head.end()
            arguments: dict[str, Any] = {}
            while parameter := _PARAMETER.match(text, at):
                key, at = parameter[1].strip(), parameter.end()
                arguments[key] = read_argument(parameter[2], self._schemas.get(name), key)
            call = self._call({"name": name, "arguments": arguments})
            if call is None or not text.startswith(_FUNCTION_END, at):
                return []
            found.append(call)
            at += len(_FUNCTION_END)
        return [] if text[at:].strip() else found

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
