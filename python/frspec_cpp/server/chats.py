"""POST /v1/chat/completions, and /apply-template."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from frspec_cpp import _core
from frspec_cpp.server.asking import answered, checked, form_of, guided, options_of, predicted, prepared, submitted
from frspec_cpp.server.choices import ChatChoice, Choice
from frspec_cpp.server.errors import ApiError, refused
from frspec_cpp.server.fields import ChatFields, TemplateFields
from frspec_cpp.server.forced_calls import call_grammar, forced_names
from frspec_cpp.server.reasoning import ThoughtParser, begins_in_thought
from frspec_cpp.server.service import Service
from frspec_cpp.server.tool_calls import Format, ToolParser, format_of

# What an answer may hold besides words, which vocabularies may have as control tokens, whose text is not given out.
_MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>")


async def chat(service: Service, request: Request, fields: ChatFields) -> Response:
    """Answers the messages of a request."""
    ignored = checked(service, fields)
    if fields.modalities and fields.modalities != ["text"]:
        raise refused("modalities", f"found {fields.modalities}, expected ['text']")
    if fields.top_logprobs is not None and not fields.logprobs:
        raise ApiError(400, "top_logprobs: found no logprobs, expected both", "top_logprobs", "invalid_value")
    names = tool_names(fields.tools)
    callable_names = forced_names(fields.tool_choice, names)
    options = options_of(request, service, fields, (fields.top_logprobs or 0) if fields.logprobs else None)

    def read() -> tuple[str, list[int], str]:
        prompt = rendered(service, fields)
        return prompt, service.llm.chat_prompts.encode(prompt), program_of(service, bool(names))

    prompt, tokens, program = await prepared(service, read, "messages")
    prediction = await prepared(service, lambda: predicted(service, fields, ignored), "prediction")
    call = call_grammar(fields.tools or [], callable_names) if callable_names else None
    calls = bool(names) and fields.tool_choice != "none"
    options = {**await guided(service, fields, options, call, calls), "prediction": prediction}
    if call is None and any(tool["function"].get("strict") for tool in fields.tools or []):
        ignored.append("tools.function.strict")  # only the grammar of a forced call sees to it
    # Where a call is forced, it is all that there is.
    kind: Format | None = "llama3" if call is not None else format_of(program) if calls else None
    texts = submitted(request, service, fields, [tokens], options)
    tokenizer = service.llm.tokenizer
    markers = control_markers(tokenizer)
    # What follows a grammar holds no thought, even where the template has opened one.
    thinks = options["grammar"] is None and (fields.reasoning_format or service.settings.reasoning_format) != "none"
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in fields.tools or []}
    choices: list[Choice] = [
        ChatChoice(
            number,
            bool(fields.return_tokens),
            tokenizer,
            ThoughtParser(begins_in_thought(prompt, continued_text(fields))) if thinks else None,
            None if kind is None else ToolParser(kind, names, schemas),
            markers,
            fields.parallel_tool_calls is False,
        )
        for number in range(len(texts))
    ]
    form = form_of(service, fields, "chatcmpl", "chat.completion.chunk", [tokens], options)
    return await answered(request, service, fields, texts, choices, form, ignored)


def program_of(service: Service, with_tools: bool) -> str:
    """The chat template's program."""
    return service.llm.chat_prompts.program(service.settings.template.get("chat_template"), with_tools)


def rendered(service: Service, fields: ChatFields | TemplateFields) -> str:
    """The prompt, as the template spells it.

    Raises:
        ValueError: There is no template, or it does not take the messages.
        ApiError: It does not tell the model of tools, and there are some.
    """
    settings = service.settings.template
    variables = {**(settings.get("chat_template_kwargs") or {}), **(fields.chat_template_kwargs or {})}
    if fields.add_generation_prompt is not None:
        variables["add_generation_prompt"] = fields.add_generation_prompt
    tools = fields.tools or None
    if tools is not None and fields.tool_choice != "none" and "tools" not in program_of(service, True):
        raise refused("tools", "the model's chat template does not tell it of tools")
    values: dict[str, Any] = {**settings, "chat_template_kwargs": variables, "tools": tools}
    if isinstance(fields.tool_choice, str):
        values["tool_choice"] = fields.tool_choice
    if fields.reasoning_effort is not None:
        values["reasoning_effort"] = fields.reasoning_effort
    values["continue_final_message"] = bool(fields.continue_final_message)
    return service.llm.chat_prompts.text(fields.messages, **values)


def continued_text(fields: ChatFields) -> str:
    """What the request has of the answer already; nothing where it is to begin."""
    if not fields.continue_final_message:
        return ""
    content = fields.messages[-1].get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def tool_names(tools: list[dict[str, Any]] | None) -> set[str]:
    """The names of the functions; ApiError where a tool is none."""
    names = set()
    for number, tool in enumerate(tools or []):
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if tool.get("type", "function") != "function" or not isinstance(name, str):
            message = f"tools[{number}]: expected a function: {{'type': 'function', 'function': {{'name': ...}}}}"
            raise ApiError(400, message, f"tools[{number}]", "invalid_value")
        names.add(name)
    return names


def control_markers(tokenizer: _core.Tokenizer) -> dict[int, str]:
    """The markers that are control tokens of the vocabulary."""
    found = {text: tokenizer.find(text) for text in _MARKERS}
    return {
        token: text
        for text, token in found.items()
        if token is not None and tokenizer.token_type(token) == _core.TokenType.CONTROL
    }
