"""Chat templates: Jinja programs inside GGUF files, rendered in a sandbox as transformers does."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from frspec_cpp import _core
from frspec_cpp.chat_messages import Message, MessageForm, check_messages, plain_data

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Behind the text that is to be continued. The space tells whether the template trims what it is given.
_MARK = "FRSPEC_CONTINUES_HERE "


class TemplateOptions(TypedDict, total=False):
    """Keyword arguments of :meth:`LLM.chat` and :meth:`LLM.chat_prompt`.

    Attributes:
        tools: Functions that the model may call, as OpenAI describes them. A file that has a template named
            ``tool_use`` is read with that one then. Default None.
        tool_choice: For the template, which may mention it; no call is forced. ``"none"``: the template is not told of
            the tools. Default None.
        chat_template: Another template: a Jinja program, a file with one, or the name of one in the model's file.
            Default None: the model's own.
        chat_template_kwargs: Any further variables of the template. Default None.
        enable_thinking: One of them, which templates of many reasoning models know. Default None: not given.
        reasoning_effort: Another one, ``"low"``, ``"medium"`` or ``"high"``. Default None: not given.
        continue_final_message: Go on with the last message's text instead of answering it. What is generated does not
            repeat what stood there. Default False.
    """

    tools: Sequence[Any] | None
    tool_choice: Any
    chat_template: str | os.PathLike[str] | None
    chat_template_kwargs: Mapping[str, Any] | None
    enable_thinking: bool | None
    reasoning_effort: str | None
    continue_final_message: bool


TEMPLATE_DEFAULTS = TemplateOptions(
    tools=None,
    tool_choice=None,
    chat_template=None,
    chat_template_kwargs=None,
    enable_thinking=None,
    reasoning_effort=None,
    continue_final_message=False,
)


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


def _check_tools(tools: object) -> list[Any]:
    """The tools as plain data; ValueError where they are no list: a template would go through a dictionary's keys."""
    data = plain_data(tools, "tools")
    if not isinstance(data, list):
        raise ValueError(f"tools: found {type(tools).__name__}, expected a list of functions, as OpenAI describes them")
    for i, tool in enumerate(data):
        if not isinstance(tool, dict):
            raise ValueError(f"tools[{i}]: found {type(tool).__name__}, expected a function, as OpenAI describes it")
    return data


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@functools.cache
def _check_sandbox() -> None:
    """ImportError where a template could leave the sandbox, as that of jinja2 before 3.1.6 (CVE-2025-27516)."""
    try:
        _environment().from_string("{{ ('{0.__class__.__mro__}' | attr('format'))(0) }}").render()
    except jinja2.exceptions.SecurityError:
        return
    raise ImportError(
        f"jinja2: the sandbox of the version in {Path(jinja2.__file__).parent} lets templates out, which are programs "
        "of strangers; expected 3.1.6 or newer"
    )


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: The Jinja program.
        name: Where it comes from, for messages: a file, perhaps with the key in it.
        bos_token: The text of the beginning-of-sequence token; empty where there is none.
        eos_token: The same of the end-of-sequence token.

    Raises:
        ValueError: It is not a valid Jinja program.
        ImportError: The jinja2 that is installed is not safe.
    """

    def __init__(self, source: str, name: str, bos_token: str, eos_token: str) -> None:
        _check_sandbox()
        self._name = name
        self._constants = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"{name}: line {error.lineno} of the chat template: {error.message}") from error
        self._form = MessageForm(source, self._render)
        self._mentions_tools = "tools" in source

    def render(
        self,
        messages: object,
        *,
        tools: object = None,
        variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt for `messages`, up to where the assistant's answer begins.

        Args:
            messages: See :meth:`LLM.chat`.
            tools: What the assistant may call; None: nothing.
            variables: Any other variables of the template.
            continue_final_message: The prompt ends with the last message's text, which is to be continued.

        Raises:
            ValueError: The messages are malformed, or the template does not accept them; its words are in the message.
        """
        checked = check_messages(messages)
        values = {} if variables is None else dict(plain_data(variables, "chat_template_kwargs"))
        if "messages" in values:
            raise ValueError("chat_template_kwargs: found 'messages', expected variables beside them")
        if tools is not None:
            values["tools"] = _check_tools(tools)
            if not self._mentions_tools:
                warnings.warn(f"{self._name}: the chat template does not tell the model of tools", stacklevel=4)
        if not continue_final_message:
            return self._render(self._form.fit(checked), values)
        values["add_generation_prompt"] = False
        return self._cut(*self._mark(self._form.fit(checked)), values)

    def _render(self, messages: list[Message], variables: Mapping[str, Any] = {}) -> str:
        values = {"tools": None, "documents": None, "add_generation_prompt": True, **self._constants, **variables}
        try:
            return self._template.render(values, messages=messages)
        except Exception as error:  # a template is a foreign program: anything may go wrong in it
            raise ValueError(f"{self._name}: the chat template fails on these messages: {error}") from error

    def _mark(self, messages: list[Message]) -> tuple[list[Message], str]:
        """The messages with a mark at the end of the last one's text, and that text."""
        content = messages[-1].get("content")
        if isinstance(content, str):
            return [*messages[:-1], {**messages[-1], "content": content + _MARK}], content
        if isinstance(content, list) and content:
            text = content[-1]["text"]
            parts = [*content[:-1], {**content[-1], "text": text + _MARK}]
            return [*messages[:-1], {**messages[-1], "content": parts}], text
        raise ValueError("continue_final_message: found no text in the last message, expected one to continue")

    def _cut(self, messages: list[Message], final: str, variables: Mapping[str, Any]) -> str:
        """The prompt up to the mark, as transformers cuts it: with the spaces there where the template keeps them."""
        text = self._render(messages, variables)
        at = text.rfind(_MARK.strip())
        if at < 0 or final.strip() not in text:
            raise ValueError(f"{self._name}: continue_final_message: the chat template does not spell the last message")
        return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()


class ChatPrompts:
    """The prompts of a model's chats.

    Args:
        tokenizer: The model's.
        path: Its file, for messages.
    """

    def __init__(self, tokenizer: _core.Tokenizer, path: str) -> None:
        self._tokenizer = tokenizer
        self._path = path
        self._compiled: dict[str, ChatTemplate] = {}  # by their source

    def tokens(self, messages: Sequence[Any], **options: Unpack[TemplateOptions]) -> list[int]:
        """Token ids of the prompt; see :meth:`LLM.chat_prompt`."""
        return self.encode(self.text(messages, **options))

    def encode(self, text: str) -> list[int]:
        """Token ids of what a template has spelled."""
        ids = list(self._tokenizer.encode(text, add_special=False, parse_special=True))
        bos = self._tokenizer.bos_id
        if self._tokenizer.adds_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def text(self, messages: Sequence[Any], **options: Unpack[TemplateOptions]) -> str:
        """The prompt as the template spells it; raises as :meth:`LLM.chat`."""
        choice = options.get("tool_choice")
        tools = None if choice == "none" else options.get("tools")
        named = {name: options.get(name) for name in ("tool_choice", "enable_thinking", "reasoning_effort")}
        variables = {name: value for name, value in named.items() if value is not None}
        variables.update(options.get("chat_template_kwargs") or {})
        return self._template(options.get("chat_template"), with_tools=tools is not None).render(
            messages,
            tools=tools,
            variables=variables,
            continue_final_message=options.get("continue_final_message", False),
        )

    def program(self, choice: str | os.PathLike[str] | None = None, with_tools: bool = False) -> str:
        """The Jinja program of a template, which `choice` names as :class:`TemplateOptions` say.

        Raises:
            ValueError: There is no chat template.
            FileNotFoundError: There is no such file with one.
        """
        return self._source(choice, with_tools)[1]

    def _template(self, choice: str | os.PathLike[str] | None, with_tools: bool) -> ChatTemplate:
        """The template of the file, or the one that `choice` names, is, or is the file of."""
        name, source = self._source(choice, with_tools)
        if source not in self._compiled:
            bos, eos = (
                "" if token is None else self._tokenizer.token_text(token)
                for token in (self._tokenizer.bos_id, self._tokenizer.eos_id)
            )
            self._compiled[source] = ChatTemplate(source, name, bos, eos)
        return self._compiled[source]

    def _source(self, choice: str | os.PathLike[str] | None, with_tools: bool) -> tuple[str, str]:
        """Where the template comes from, and its program."""
        known = self._tokenizer.chat_templates
        if choice is None:
            choice = "tool_use" if with_tools and "tool_use" in known else ""
            if choice not in known:
                others = f" but {', '.join(map(repr, known))} (chat_template=NAME takes one)" if known else ""
                raise ValueError(
                    f"{self._path}: found no key 'tokenizer.chat_template'{others}: the model has no chat template"
                )
        if isinstance(choice, str):
            if choice in known:
                return f"{self._path}: key 'tokenizer.chat_template{'.' + choice if choice else ''}'", known[choice]
            if "{" in choice or "\n" in choice:
                return "chat_template", choice
        try:
            return os.fspath(choice), Path(choice).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise FileNotFoundError(
                f"chat_template: found {os.fspath(choice)!r}, expected a Jinja program, a file with one, or one of the "
                f"model's templates: {', '.join(map(repr, known)) or 'it has none'}"
            ) from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(choice)}: byte {error.start}: not valid UTF-8 ({error.reason})") from None
