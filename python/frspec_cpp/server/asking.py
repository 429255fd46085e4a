"""From a request to its texts, and from them to the answer: what chats and completions share."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from frspec_cpp.async_llm import AsyncText
from frspec_cpp.grammar import Grammar, grammar_of
from frspec_cpp.option_table import Options
from frspec_cpp.server.answer import Answer, Form
from frspec_cpp.server.choices import Choice
from frspec_cpp.server.echoes import Echo, EchoedText
from frspec_cpp.server.errors import ApiError, api_error
from frspec_cpp.server.fields import MOST_GRAMMAR, TextFields
from frspec_cpp.server.refusals import header, ignored_fields
from frspec_cpp.server.replies import EventStream, Gone, reply, unless_gone
from frspec_cpp.server.sampling import text_options, with_seed
from frspec_cpp.server.service import Service
from frspec_cpp.texts import LOWEST_PRIORITY

T = TypeVar("T")
_NO_CALL = "which holds from the first token on: no tool could be called; expected one of them, or tool_choice 'none'"
_CLIENT_LEFT = 499  # nobody reads it; logs do


def checked(service: Service, fields: TextFields) -> list[str]:
    """The names of the fields that are ignored; ApiError where one is refused."""
    service.check_model(fields.model)
    if fields.stream_options is not None and not fields.stream:
        raise ApiError(400, "stream_options: found no stream, expected both", "stream_options", "invalid_value")
    return ignored_fields(fields.others())


async def prepared(service: Service, function: Callable[[], T], field: str = "tokens") -> T:
    """The result of a function that turns a field into tokens; what it raises is the client's fault."""
    try:
        return await service.in_thread(function)
    except UnicodeEncodeError as error:
        message = f"{field}: found a lone surrogate, U+{ord(error.object[error.start]):04X}, expected Unicode"
        raise ApiError(400, message, field, "invalid_value") from error
    except ValueError as error:
        # Where the model lies is nobody's business.
        message = str(error).replace(str(service.path), service.file_name)
        message = re.sub(r"^(text|tokens)\b", field, message)  # the library's names
        raise api_error(ValueError(message)) from error


def options_of(request: Request, service: Service, fields: TextFields, logprobs: int | None) -> Options:
    """The options of the first text; ApiError where a value is not possible.

    Where there are keys, what a key's texts leave in the cache is for that key alone: from the time that a prompt takes
    one could else learn what others have asked.
    """
    try:
        options = text_options(fields, service.settings, service.llm.tokenizer)
    except ValueError as error:
        raise api_error(error) from error
    key = request.scope.get("frspec.key") if service.settings.cache_scope == "key" else None
    salt = f"{'' if key is None else key}:{fields.cache_salt or ''}"
    return {**options, "logprobs": logprobs, "reuse": fields.cache_prompt is not False, "salt": salt}


def predicted(service: Service, fields: TextFields, ignored: list[str]) -> list[int] | None:
    """The tokens of the prediction; None where there is none, or nothing that looks into it: then it is ignored.

    Raises:
        ApiError: It has not OpenAI's form.
    """
    if fields.prediction is None:
        return None
    content = fields.prediction.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]
    if fields.prediction.get("type") != "content" or not isinstance(content, str):
        message = "prediction: expected {'type': 'content', 'content': a text, or parts that are text}"
        raise ApiError(400, message, "prediction", "invalid_value")
    if service.llm.ngram == 0:
        ignored.append("prediction")
        return None
    return service.llm.tokenize(content, add_special=False, parse_special=False)


async def guided(
    service: Service, fields: TextFields, options: Options, call: Grammar | None = None, may_call: bool = False
) -> Options:
    """The options, and the grammar that the answer is to follow; ApiError where there is none such.

    A grammar is compiled for the first time here, in a thread: it may take its time.

    Args:
        service: Has the model.
        fields: Of the request.
        options: Of its texts.
        call: The grammar of a call that the answer must be; None: it need not be one.
        may_call: The answer may be a call, of which another grammar knows nothing.
    """
    names = ("response_format", "json_schema", "grammar")
    given = {name: getattr(fields, name) for name in names if getattr(fields, name) is not None}
    try:
        grammar = grammar_of(given)
        if call is not None:
            if grammar is not None:
                raise ValueError(f"{next(iter(given))}: found tool_choice beside it, expected one of them")
            grammar, given = call, {"tool_choice": call}
        if grammar is None:
            return options
        if call is None and may_call:
            name = next(name for name, value in given.items() if grammar_of({name: value}) is not None)
            raise ApiError(400, f"tools: found {name} beside it, {_NO_CALL}", name, "unsupported_value")
        if len(grammar.source) > MOST_GRAMMAR:
            found = f"{next(iter(given))}: found a grammar of {len(grammar.source)} characters"
            raise ValueError(f"{found}, expected at most {MOST_GRAMMAR}")
        await service.in_thread(service.llm.check_grammar, grammar)
    except ImportError as error:
        raise ApiError(501, str(error), next(iter(given)), "unsupported_value") from error
    except (TypeError, ValueError) as error:
        raise ApiError(400, str(error), next(iter(given)), "invalid_value") from error
    return {**options, "grammar": grammar}


def submitted(
    request: Request,
    service: Service,
    fields: TextFields,
    prompts: Sequence[list[int]],
    options: Options,
    echoes: Sequence[Echo] = (),
) -> list[AsyncText]:
    """The texts: `n` of each prompt, one prompt after the other. All of them, or none and an ApiError.

    Args:
        request: Who asks.
        service: Has the engine.
        fields: Of the request.
        prompts: Their tokens.
        options: Of the first text.
        echoes: For each text, where prompts are told again.
    """
    n = fields.n or 1
    most = service.engine.max_queue
    if len(prompts) * n > most:
        message = f"n: found {len(prompts)} prompts times {n} texts, expected at most {most} texts in a request"
        raise ApiError(400, message, "n", "invalid_value")
    for prompt in prompts:
        service.check_length(prompt)
    key = request.scope.get("frspec.key")
    # OpenAI's name for what may wait.
    usual = LOWEST_PRIORITY if fields.service_tier == "flex" else 0
    priority = usual if fields.priority is None else fields.priority
    milliseconds = fields.t_max_predict_ms or 0

    def submit(prompt: list[int], limit: int, options: Options) -> AsyncText:
        return service.engine.submit(
            prompt,
            limit,
            priority=priority,
            timeout=fields.timeout or service.settings.queue_timeout,
            max_seconds=milliseconds / 1000 if milliseconds > 0 else None,
            owner="" if key is None else str(key),
            progress=bool(fields.stream and fields.return_progress),
            prompt_cache_key=fields.prompt_cache_key or "",
            **options,
        )

    texts: list[AsyncText] = []
    try:
        limit = fields.limit(service.settings.max_tokens)
        for prompt in prompts:
            for number in range(n):
                own = with_seed(options, number)
                if echoes:
                    texts.append(EchoedText(submit, echoes[len(texts)], limit, own))
                else:
                    texts.append(submit(prompt, limit, own))
    except (ValueError, RuntimeError) as error:
        for text in texts:
            text.cancel()
        raise api_error(error) from error
    return texts


def form_of(
    service: Service,
    fields: TextFields,
    kind: str,
    chunk: str,
    prompts: Sequence[list[int]],
    options: Options,
) -> Form:
    """How the answer is told: `kind` begins its id; `options` are the first text's."""
    usage = fields.stream_options is not None and bool(fields.stream_options.include_usage)
    head: dict[str, Any] = {
        "id": f"{kind}-{secrets.token_hex(12)}",
        "object": chunk.removesuffix(".chunk"),
        "created": int(time.time()),
        "model": service.name,
        "system_fingerprint": service.fingerprint(),
    }
    seed = options["seed"]
    assert seed is not None
    return Form(
        head=head,
        chunk_object=chunk,
        prompt_tokens=sum(map(len, prompts)),
        include_usage=usage,
        timings_per_token=bool(fields.timings_per_token),
        prediction=cast("Sequence[int] | None", options["prediction"]),
        n=fields.n or 1,
        seed=seed,
    )


async def answered(
    request: Request,
    service: Service,
    fields: TextFields,
    texts: list[AsyncText],
    choices: list[Choice],
    form: Form,
    ignored: list[str],
) -> Response:
    """The answer, in one piece or as a stream, which begins when the first text's turn has come."""
    answer = Answer(texts, choices, form, service.metrics)
    # The seed comes first: who has seen half of a stream can ask for the same text again.
    headers = {**header(ignored), "x-request-id": form.head["id"], "x-seed": str(form.seed)}
    try:
        if not fields.stream:
            return reply(await unless_gone(request, answer.whole()), headers)
        await unless_gone(request, answer.begin())
    except Gone:
        answer.leave()
        return Response(status_code=_CLIENT_LEFT)
    except BaseException:
        answer.leave()
        raise
    settings = service.settings
    return EventStream(answer.events(), answer.leave, settings.ping, settings.write_timeout, headers)
