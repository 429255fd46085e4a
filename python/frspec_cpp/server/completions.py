"""POST /v1/completions."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from frspec_cpp.server.asking import answered, checked, form_of, guided, options_of, predicted, prepared, submitted
from frspec_cpp.server.choices import Choice, CompletionChoice
from frspec_cpp.server.echoes import Echo
from frspec_cpp.server.errors import ApiError, refused
from frspec_cpp.server.fields import CompletionFields
from frspec_cpp.server.service import Service


async def complete(service: Service, request: Request, fields: CompletionFields) -> Response:
    """Continues the prompts of a request."""
    ignored = checked(service, fields)
    n = fields.n or 1
    if fields.best_of is not None and fields.best_of > n:
        raise refused("best_of", f"found {fields.best_of}, expected at most {n}, n: every text is given")
    options = await guided(service, fields, options_of(request, service, fields, fields.logprobs))
    given = prompts_of(fields)
    prompts = await prepared(service, lambda: [_tokens(service, prompt) for prompt in given], "prompt")
    prediction = await prepared(service, lambda: predicted(service, fields, ignored), "prediction")
    options = {**options, "prediction": prediction}
    echoes = [
        Echo(_text(service, prompt), tokens)
        for prompt, tokens in zip(given, prompts, strict=True)
        for _ in range(n)
        if fields.echo
    ]
    texts = submitted(request, service, fields, prompts, options, echoes)
    tokenizer = service.llm.tokenizer
    choices: list[Choice] = [
        CompletionChoice(number, bool(fields.return_tokens), tokenizer, echoes[number] if echoes else None)
        for number in range(len(texts))
    ]
    form = form_of(service, fields, "cmpl", "text_completion", prompts, options)
    return await answered(request, service, fields, texts, choices, form, ignored)


def prompts_of(fields: CompletionFields) -> list[str | list[int]]:
    """The prompts, of which there may be one, as a text or as ids.

    Raises:
        ApiError: There are none, or too many.
    """
    prompt = fields.prompt
    if isinstance(prompt, str):
        return [prompt]
    ids = [token for token in prompt if isinstance(token, int)]
    if ids:
        return [ids]
    prompts = [text for text in prompt if not isinstance(text, int)]
    if not prompts:
        raise ApiError(400, "prompt: found none, expected at least one", "prompt", "invalid_value")
    return prompts


def _tokens(service: Service, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        return service.llm.tokenize(prompt)
    service.llm.detokenize(prompt)  # which refuses ids that are none
    return prompt


def _text(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else service.llm.detokenize(prompt)
