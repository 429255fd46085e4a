"""Chat templates: Jinja programs inside GGUF files, rendered in a sandbox as transformers does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %} ... {% endgeneration %}`` marks the assistant's words, for training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The nodes between the tags: they are rendered as if the tags were not there."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which is not what a model has been trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def check_messages(messages: object) -> list[dict[str, str]]:
    """The messages as plain dictionaries.

    Raises:
        ValueError: They are not a list of at least one dictionary with the strings ``role`` and ``content``.
    """
    expected = "expected a list of dictionaries with 'role' and 'content'"
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise ValueError(f"messages: found {type(messages).__name__}, {expected}")
    if not messages:
        raise ValueError(f"messages: found none, {expected}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"messages[{i}]: found {type(message).__name__}, {expected}")
        for key in ("role", "content"):
            if key not in message:
                raise ValueError(f"messages[{i}]: found no '{key}', {expected}")
            if not isinstance(message[key], str):
                raise ValueError(f"messages[{i}]['{key}']: found {type(message[key]).__name__}, expected str")
    return [dict(message) for message in messages]


class ChatTemplate:
    """The compiled chat template of a model.

    Args:
        source: The Jinja program.
        name: The file it comes from, for messages.
        bos_token: The text of the beginning-of-sequence token; empty where there is none.
        eos_token: The same of the end-of-sequence token.

    Raises:
        ValueError: It is not a valid Jinja program.
    """

    def __init__(self, source: str, name: str, bos_token: str, eos_token: str) -> None:
        self._name = name
        self._constants = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"{name}: key 'tokenizer.chat_template': {error}") from error

    def render(self, messages: object) -> str:
        """The prompt for ``messages``, up to where the assistant's answer begins.

        Raises:
            ValueError: The messages are malformed, or the template does not accept them.
        """
        checked = check_messages(messages)
        try:
            return self._template.render(
                messages=checked, tools=None, documents=None, add_generation_prompt=True, **self._constants
            )
        except Exception as error:  # a template is a foreign program: anything may go wrong in it
            raise ValueError(f"{self._name}: the chat template fails on these messages: {error}") from error
