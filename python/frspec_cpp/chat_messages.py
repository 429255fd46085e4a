"""Messages as OpenAI's clients write them, in the form that a chat template reads.

Templates differ in what they take: some read a content in parts, most read a string only; some want the arguments of a
tool call as an object, some as JSON text. A template is asked once, with a message that holds a known word, and then
gets what it reads. What it reads anyway is handed on as it is.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Message = dict[str, Any]
Renderer = Callable[[list[Message]], str]  # raises ValueError where the template does not take the messages

# What a part of a content is called, in chat completions and in responses, and the key of its text.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
# Names under which a message carries its reasoning; templates read the first, gpt-oss's the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_WORD = "frspecprobe"


def plain_data(value: Any, where: str) -> Any:
    """`value` as JSON has it: a template must not meet objects whose methods could do anything.

    Raises:
        ValueError: It holds something that is neither JSON nor a dataclass nor a pydantic model.
    """
    if value is None or isinstance(value, bool):
        return value
    # Of a subclass (a member of an enumeration) what it stands for.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif callable(getattr(value, "model_dump", None)):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {str(key): plain_data(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain_data(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ValueError(f"{where}: found {type(value).__name__}, expected text, numbers, lists or dictionaries")


def check_messages(messages: object) -> list[Message]:
    """The messages as plain dictionaries, without what is None.

    Raises:
        ValueError: They are not a list of at least one dictionary, dataclass or pydantic model with a ``role``.
    """
    expected = "expected a list of dictionaries with 'role' and 'content'"
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise ValueError(f"messages: found {type(messages).__name__}, {expected}")
    if not messages:
        raise ValueError(f"messages: found none, {expected}")
    checked = []
    for i, message in enumerate(messages):
        data = None if isinstance(message, (str, list, tuple)) else plain_data(message, f"messages[{i}]")
        if not isinstance(data, dict):
            raise ValueError(f"messages[{i}]: found {type(message).__name__}, {expected}")
        if "role" not in data:
            raise ValueError(f"messages[{i}]: found no 'role', {expected}")
        if not isinstance(data["role"], str):
            raise ValueError(f"messages[{i}]['role']: found {type(data['role']).__name__}, expected str")
        # Clients fill unused keys with None, which templates would spell out.
        checked.append({key: value for key, value in data.items() if value is not None})
    return checked


class MessageForm:
    """What a template reads, found out where it matters.

    Args:
        source: The template.
        render: Renders messages with it.
    """

    def __init__(self, source: str, render: Renderer) -> None:
        self._render = render
        self._reads_none = re.search(r"\b[nN]one\b", source) is not None
        self._knows_developer = "developer" in source
        self._parts: dict[str, bool] = {}
        self._arguments: tuple[bool, bool] | None = None

    def fit(self, messages: list[Message]) -> list[Message]:
        """The messages of `check_messages` as the template reads them.

        Raises:
            ValueError: A content has a part that is not text.
        """
        return [self._fit_one(message, f"messages[{i}]") for i, message in enumerate(messages)]

    def _fit_one(self, message: Message, where: str) -> Message:
        message = dict(message)
        if message["role"] == "developer" and not self._knows_developer:
            message["role"] = "system"  # what it was called before; a template that does not know it would drop it
        reasoning = next((message[key] for key in _REASONING if key in message), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        content = message.get("content")
        if isinstance(content, list):
            parts = [_text_part(part, f"{where}['content'][{i}]") for i, part in enumerate(content)]
            reads_parts = self._reads_parts(message["role"])
            message["content"] = parts if reads_parts else "\n".join(part["text"] for part in parts)
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            message["tool_calls"] = [self._fit_call(call) for call in calls]
            if content is None and self._reads_none:
                message["content"] = None
        return message

    def _fit_call(self, call: Any) -> Any:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("arguments"), (str, dict)):
            return call
        return {**call, "function": {**function, "arguments": self._fit_arguments(function["arguments"])}}

    def _fit_arguments(self, arguments: str | dict[str, Any]) -> str | dict[str, Any]:
        if self._arguments is None:
            self._arguments = self._takes_arguments({_WORD: "x"}), self._takes_arguments(f'{{"{_WORD}": "x"}}')
        takes_object, takes_text = self._arguments
        if isinstance(arguments, dict):
            return json.dumps(arguments, ensure_ascii=False) if takes_text and not takes_object else arguments
        if takes_text or not takes_object:
            return arguments
        try:
            found = json.loads(arguments)
        except ValueError:
            return arguments
        return found if isinstance(found, dict) else arguments

    def _reads_parts(self, role: str) -> bool:
        """Whether the template spells the text of a content in parts, rather than the list."""
        if role not in self._parts:
            user: Message = {"role": "user", "content": "x"}
            probe: Message = {"role": role, "content": [{"type": "text", "text": _WORD}]}
            chats = {
                "user": [probe],
                "system": [probe, user],
                "developer": [probe, user],
                "assistant": [user, probe, user],
            }
            text = self._try(chats.get(role, [user, _call({_WORD: "x"}), {**probe, "tool_call_id": "call00000"}]))
            # Spelled as it is, and not as a list of Python's or of JSON.
            self._parts[role] = _WORD in text and not re.search(rf"""['"]text['"]: ?['"]{_WORD}['"]""", text)
        return self._parts[role]

    def _takes_arguments(self, arguments: str | dict[str, Any]) -> bool:
        """Whether a tool call comes out right: as JSON, or taken apart, but neither quoted twice nor as Python's."""
        user: Message = {"role": "user", "content": "x"}
        answer: Message = {"role": "tool", "tool_call_id": "call00000", "name": _WORD, "content": "x"}
        text = self._try([user, _call(arguments), answer])
        if isinstance(arguments, str):
            return arguments in text
        return _WORD in text.replace(f"'{_WORD}'", "")

    def _try(self, messages: list[Message]) -> str:
        try:
            return self._render(messages)
        except ValueError:
            return ""


def _call(arguments: str | dict[str, Any]) -> Message:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "call00000", "type": "function", "function": function}]}


def _text_part(part: Any, where: str) -> Message:
    """A part of a content as ``{"type": "text", "text": ...}``; ValueError where it is no text."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    key = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if key is None or not isinstance(part, dict) or not isinstance(part.get(key), str):
        raise ValueError(f"{where}: found a part of type {kind!r}, expected text: the model reads nothing else")
    return part if part.get("type") == "text" else {"type": "text", "text": part[key]}
