"""Calls in the form of Qwen3-Coder, whose arguments stand between marks as they are, so that they may hold the marks.

An argument ends at a mark behind which the form goes on; what looks like a whole call inside it is a part of it. Marks
that a model forgets now and then are done without where nothing else can be meant, as in vLLM and SGLang.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

from frspec_cpp.server.argument_types import read_argument

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION = "<function="
_FUNCTION_END, _PARAMETER, _PARAMETER_END = "</function>", "<parameter=", "</parameter>"
_HEAD = re.compile(r"<function=([^>\n]+)>")
_PARAMETER_HEAD = re.compile(r"<parameter=([^>\n]+)>")
# What a value may hold that is to be looked at.
_IN_VALUE = re.compile(
    r"(?P<end></parameter>)\s*(?=<parameter=|</function>)"
    r"|(?P<opens><tool_call>)\s*<function="
    r"|</function>\s*(?P<closes></tool_call>)"
    r"|\n<parameter=(?P<next>[^>\n]+)>"
)
# What may become one of these.
_UNCERTAIN = re.compile(r"(?:</parameter>|<tool_call>|</function>)\s*(?:<[^<>\n]{0,20})?\Z|\n?<[^<>\n]{0,200}\Z|\n\Z")
_ANOTHER = re.compile(r"<tool_call>|(?<![^\s>])<function=")
# The end of a value whose own mark is missing, or stands before one that is.
_LOOSE_END = re.compile(
    r"</parameter>\s*(?=<parameter=|</function>|</tool_call>)|\n(?=<parameter=)|\s*(?=</function>\s*(?:</tool_call>|\Z))"
)

State = Literal["more", "done", "broken"]


class Spelled(NamedTuple):
    """A call, as it was spelled."""

    name: str
    arguments: dict[str, Any]


class TaggedCalls:
    """Follows a text that begins with a call, while it comes.

    Args:
        names: Of the tools.
        schemas: Of their arguments, by their names.

    Attributes:
        calls: That are whole, of this unit: a model may put several between one pair of marks.
        at: How far the text was read; where it is done, its end.
    """

    def __init__(self, names: Collection[str], schemas: Mapping[str, Any]) -> None:
        self._names = names
        self._schemas = schemas
        self.calls: list[Spelled] = []
        self.at = 0
        self._part = "open"
        self._marked = False
        self._name = ""
        self._key = ""
        self._value = 0  # where it begins
        self._depth = 0  # calls inside it
        self._arguments: dict[str, Any] = {}

    def read(self, text: str, is_all: bool = False) -> State:
        """Reads on; the text begins with what it was given before. With `is_all` there is nothing more to come."""
        readers: dict[str, Callable[[str, bool], State | None]] = {
            "open": self._read_open,
            "head": self._read_head,
            "body": self._read_body,
            "value": self._read_value,
            "tail": self._read_tail,
        }
        while (state := readers[self._part](text, is_all)) is None:
            pass
        return state

    def _read_open(self, text: str, _: bool) -> State | None:
        self._marked = text.startswith(OPEN)
        self.at = len(OPEN) if self._marked else 0
        self._part = "head"
        return None

    def _read_head(self, text: str, is_all: bool) -> State | None:
        self.at = _behind_spaces(text, self.at)
        head = _HEAD.match(text, self.at)
        if head is None:
            rest = text[self.at :]
            grows = "\n" not in rest and (FUNCTION.startswith(rest) or rest.startswith(FUNCTION))
            return "more" if grows and not is_all else "broken"
        self._name, self._arguments = head[1].strip(), {}
        if self._name not in self._names:
            return "broken"
        self.at = head.end()
        self._part = "body"
        return None

    def _read_body(self, text: str, is_all: bool) -> State | None:
        """What follows the name, or an argument."""
        self.at = _behind_spaces(text, self.at)
        if text.startswith(_FUNCTION_END, self.at):
            self.calls.append(Spelled(self._name, self._arguments))
            self.at += len(_FUNCTION_END)
            self._part = "tail"
            return None
        head = _PARAMETER_HEAD.match(text, self.at)
        if head is None:
            rest = text[self.at :]
            names = rest.startswith(_PARAMETER) and "\n" not in rest
            grows = names or _PARAMETER.startswith(rest) or _FUNCTION_END.startswith(rest)
            return "more" if grows and not is_all else "broken"
        self._key = head[1].strip()
        self._value = self.at = head.end()
        self._depth = 0
        self._part = "value"
        return None

    def _read_value(self, text: str, is_all: bool) -> State | None:
        while (found := _IN_VALUE.search(text, self.at)) is not None:
            self.at = found.end()
            if found["opens"]:
                self._depth += 1
            elif found["closes"]:
                self._depth = max(0, self._depth - 1)
            elif found["end"] and self._depth == 0:
                self._take(text[self._value : found.start()])
                return None
            elif found["next"] and self._depth == 0 and self._is_another(found["next"].strip()):
                self.at = found.start()
                self._take(text[self._value : found.start()])
                return None
        uncertain = _UNCERTAIN.search(text, self.at)
        self.at = len(text) if uncertain is None else uncertain.start()
        return "broken" if is_all else "more"

    def _take(self, value: str) -> None:
        self._arguments[self._key] = read_argument(value, self._schemas.get(self._name), self._key)
        self._part = "body"

    def _is_another(self, key: str) -> bool:
        """Whether a line that looks like the beginning of an argument is one: one of the tool's, and a new one."""
        schema = self._schemas.get(self._name)
        known = schema.get("properties") if isinstance(schema, Mapping) else None
        return key != self._key and key not in self._arguments and (not isinstance(known, Mapping) or key in known)

    def _read_tail(self, text: str, is_all: bool) -> State | None:
        """What follows a function."""
        at = _behind_spaces(text, self.at)
        if text.startswith(CLOSE, at):
            self.at = at + len(CLOSE)
            return "done"
        rest = text[at:]
        if (CLOSE.startswith(rest) or (self._marked and FUNCTION.startswith(rest))) and not is_all:
            return "more"
        if self._marked and text.startswith(FUNCTION, at):
            self.at = at
            self._part = "head"
            return None
        return "done" if not self._marked or not rest else "broken"


def next_call(text: str) -> int:
    """Where another call begins, or may do so; -1: nowhere."""
    own = len(OPEN) if text.startswith(OPEN) else 0
    begin = _HEAD.match(text, _behind_spaces(text, own))
    found = _ANOTHER.search(text, begin.end() if begin else max(own, 1))
    return found.start() if found else -1


def loose_call(text: str, names: Collection[str], schemas: Mapping[str, Any]) -> Spelled | None:
    """The call that `text` is but for marks that are missing; None where it is none, or was cut short."""
    head = _HEAD.match(text, _behind_spaces(text, len(OPEN) if text.startswith(OPEN) else 0))
    if head is None or head[1].strip() not in names:
        return None
    name, at = head[1].strip(), head.end()
    arguments: dict[str, Any] = {}
    while parameter := _PARAMETER_HEAD.match(text, at := _behind_spaces(text, at)):
        key = parameter[1].strip()
        end = _LOOSE_END.search(text, parameter.end())
        if end is None:
            return None
        arguments[key] = read_argument(text[parameter.end() : end.start()], schemas.get(name), key)
        at = end.end()
    closed = at
    for mark in (_FUNCTION_END, CLOSE):
        if text.startswith(mark, _behind_spaces(text, at)):
            at = _behind_spaces(text, at) + len(mark)
    return Spelled(name, arguments) if at > closed and not text[at:].strip() else None


def _behind_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
