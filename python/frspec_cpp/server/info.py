"""Endpoints that tell of the server and its model, and those about tokens."""

from __future__ import annotations

import math
from typing import Any

import frspec_cpp
from frspec_cpp.server.asking import prepared
from frspec_cpp.server.chats import rendered
from frspec_cpp.server.errors import ApiError
from frspec_cpp.server.fields import DetokenizeFields, TemplateFields, TokenizeFields
from frspec_cpp.server.service import Service
from frspec_cpp.server.tool_calls import format_of
from frspec_cpp.texts import Ticket

PAGE_TOKENS = 64
_LIBRARY_ONLY = ("logits_processor", "cancel", "trace", "verify", "prediction")  # options that no request has


def models(service: Service) -> dict[str, Any]:
    """GET /v1/models."""
    return {"object": "list", "data": [_model(service, service.name)]}


def model(service: Service, name: str) -> dict[str, Any]:
    """GET /v1/models/NAME."""
    service.check_model(name)
    return _model(service, name)


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "frspec_cpp",
        "aliases": service.names,
        "meta": service.meta,
    }


def read_meta(service: Service) -> dict[str, int]:
    """What llama-server tells of a model, read from its file."""
    llm = service.llm
    file = frspec_cpp.GgufFile(service.path)
    values = file.metadata
    sizes = {
        "n_ctx_train": values.get(f"{llm.architecture}.context_length"),
        "n_embd": values.get(f"{llm.architecture}.embedding_length"),
    }
    return {
        "n_vocab": llm.vocab_size,
        **{name: size for name, size in sizes.items() if isinstance(size, int)},
        "n_params": sum(math.prod(tensor.shape) for tensor in file.tensors),
        "size": sum(tensor.nbytes for tensor in file.tensors),
    }


def health(service: Service) -> dict[str, Any]:
    """GET /health: 200 where texts are taken and can be written, else 503."""
    service.check_health()
    return {"status": "ok"}


def metrics(service: Service) -> str:
    """GET /metrics."""
    gauges: dict[str, float] = {
        "num_requests_running": len(service.engine.running()),
        "num_requests_waiting": len(service.engine.waiting()),
    }
    pages = service.engine.pages
    if pages is not None:
        total, held, kept = pages
        # Pages are counted behind a pass, when texts that it ended still have theirs.
        is_idle = gauges["num_requests_running"] == 0
        gauges |= {"kv_cache_usage_perc": 0.0 if is_idle else held / total, "pages_cached": kept}
    totals = {"num_preemptions_total": service.engine.displaced}
    return service.metrics.text(service.name, gauges, totals)


def props(service: Service) -> dict[str, Any]:
    """GET /props."""
    llm, tokenizer = service.llm, service.llm.tokenizer
    params = {name: value for name, value in service.settings.defaults().items() if name not in _LIBRARY_ONLY}
    templates = tokenizer.chat_templates
    own = service.settings.template.get("chat_template")
    program = llm.chat_prompts.program(own) if own or "" in templates else None
    tools = templates.get("tool_use", program) if own is None else program

    def spelled(token: int | None) -> str:
        return "" if token is None else tokenizer.token_text(token)

    return {
        "default_generation_settings": {
            "n_ctx": llm.n_ctx,
            "params": {**params, "max_tokens": service.settings.max_tokens, "stream": False},
        },
        "total_slots": llm.n_parallel,
        "model_alias": service.name,
        "model_file": service.file_name,
        "modalities": {"vision": False, "audio": False},
        "chat_template": program,
        "tool_calls": None if tools is None else format_of(tools),
        "reasoning_format": service.settings.reasoning_format,
        "bos_token": spelled(tokenizer.bos_id),
        "eos_token": spelled(tokenizer.eos_id),
        "has_drafter": llm.has_drafter,
        "device": llm.device,
        "build_info": f"frspec_cpp {frspec_cpp.__version__}",
    }


def slots(service: Service) -> list[dict[str, Any]]:
    """GET /slots: the places where texts are written. Never what they say."""
    settings = service.settings
    if settings.keys and not settings.slots:
        raise ApiError(501, "this server does not show its slots: expected --slots", None, "slots_not_shown")
    running = service.engine.running()
    waiting = len(service.engine.waiting())
    places: list[dict[str, Any]] = []
    for number in range(service.llm.n_parallel):
        place: dict[str, Any] = {
            "id": number,
            "n_ctx": service.llm.n_ctx,
            "speculative": service.llm.has_drafter,
            "is_processing": number < len(running),
            "n_waiting": waiting,
        }
        if number < len(running):
            place |= _writing(running[number])
        places.append(place)
    return places


_SHOWN = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "ignore_eos", "draft", "draft_max")


def _writing(text: Ticket) -> dict[str, Any]:
    """What is told of a text that is being written. What a client wrote, stop strings too, is nobody's business."""
    request = text.request
    prompt, passes = len(request.prompt), text.passes
    return {
        "id_task": text.number,
        "n_prompt_tokens": prompt,
        "cached_tokens": text.cached,
        "pages": -(-(prompt + text.generated) // PAGE_TOKENS),
        "accepted_length": text.generated / passes if passes else 0.0,
        "params": {name: request.options[name] for name in _SHOWN if name in request.options},  # type: ignore[literal-required]
        "next_token": {"n_decoded": text.generated},
    }


async def tokenize(service: Service, fields: TokenizeFields) -> dict[str, Any]:
    """POST /tokenize."""
    llm = service.llm
    ids = await prepared(
        service, lambda: llm.tokenize(fields.content, fields.add_special, fields.parse_special), "content"
    )
    if not fields.with_pieces:
        return {"tokens": ids}
    return {"tokens": [{"id": token, "piece": _piece(llm.tokenizer.token_bytes(token))} for token in ids]}


def _piece(spelled: bytes) -> str | list[int]:
    """A text, or as llama-server has it the bytes of what is none."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return list(spelled)


async def detokenize(service: Service, fields: DetokenizeFields) -> dict[str, Any]:
    """POST /detokenize."""
    return {"content": await prepared(service, lambda: service.llm.detokenize(fields.tokens))}


async def apply_template(service: Service, fields: TemplateFields) -> dict[str, Any]:
    """POST /apply-template."""
    return {"prompt": await prepared(service, lambda: rendered(service, fields), "messages")}
