"""The application: which function answers what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

import frspec_cpp
from frspec_cpp.server import chats, completions, info
from frspec_cpp.server.errors import ApiError, ErrorAnswer, handle
from frspec_cpp.server.fields import ChatFields, CompletionFields, DetokenizeFields, TemplateFields, TokenizeFields
from frspec_cpp.server.guard import Guard
from frspec_cpp.server.json_bodies import StrictRoute
from frspec_cpp.server.replies import reply
from frspec_cpp.server.service import Service

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# The page asks nobody but its own server, and nobody can put it into a frame.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# What /openapi.json tells of answers.
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": "An error"} for status in ("4XX", "5XX")
}
_STREAMS = ("/v1/chat/completions", "/v1/completions")
_STREAMED = {
    "description": "The answer; with `stream` its chunks, as server-sent events",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_TEXT = {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
_ABSENT = {
    "/v1/embeddings": "embeddings",
    "/embeddings": "embeddings",
    "/embedding": "embeddings",
    "/v1/rerank": "reranking",
    "/completion": "completion: expected /v1/completions",
    "/v1/responses": "responses: expected /v1/chat/completions",
    "/v1/messages": "messages: expected /v1/chat/completions",
    "/infill": "infill",
}


def build_app(service: Service, load: Callable[[], Any] | None = None) -> FastAPI:
    """The application.

    Args:
        service: What it serves.
        load: Is called when the server has begun, and is to make the service ready.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if load is not None:
            load()
        yield

    app = FastAPI(title="frspec_cpp", version=frspec_cpp.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    texts = _texts(service)
    app.include_router(texts)
    app.include_router(_information(service))
    for error in (ApiError, HTTPException, RequestValidationError):  # what nobody foresaw is the guard's
        app.add_exception_handler(error, handle)
    bodies = {route.path for route in texts.routes if isinstance(route, StrictRoute)}.difference(_ABSENT)
    app.add_middleware(Guard, service=service, bodies=bodies)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-ignored-fields", "x-request-id", "x-seed", "retry-after"],
        )
    return app


def _texts(service: Service) -> APIRouter:
    """What reads a body, or would."""
    router = APIRouter(route_class=StrictRoute, responses=_ERRORS)

    async def chat(request: Request, fields: ChatFields) -> Response:
        return await chats.chat(service, request, fields)

    async def complete(request: Request, fields: CompletionFields) -> Response:
        return await completions.complete(service, request, fields)

    async def tokenize(fields: TokenizeFields) -> Response:
        return reply(await info.tokenize(service, fields))

    async def detokenize(fields: DetokenizeFields) -> Response:
        return reply(await info.detokenize(service, fields))

    async def apply_template(fields: TemplateFields) -> Response:
        return reply(await info.apply_template(service, fields))

    async def absent(request: Request) -> Response:
        name = _ABSENT[request.url.path]
        raise ApiError(501, f"this server has no {name}", None, "not_supported")

    for path, function in {
        "/v1/chat/completions": chat,
        "/v1/completions": complete,
        "/tokenize": tokenize,
        "/detokenize": detokenize,
        "/apply-template": apply_template,
    }.items():
        answers = {200: _STREAMED} if path in _STREAMS else None
        router.add_api_route(path, function, methods=["POST"], response_model=None, responses=answers)
    for path in _STREAMS:  # as llama-server has them, too
        function = chat if path == _STREAMS[0] else complete
        short = path.removeprefix("/v1")
        router.add_api_route(short, function, methods=["POST"], response_model=None, include_in_schema=False)
    for path in _ABSENT:
        router.add_api_route(path, absent, methods=["POST"], response_model=ErrorAnswer, status_code=501)
    return router


def _information(service: Service) -> APIRouter:
    router = APIRouter(responses=_ERRORS)
    page = (files("frspec_cpp.server") / "page.html").read_text(encoding="utf-8")

    def page_of_its_own() -> Response:
        if not service.settings.page:
            raise ApiError(404, "this server shows no page")
        return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY, "x-frame-options": "DENY"})

    async def metrics() -> Response:
        return PlainTextResponse(info.metrics(service), media_type=_METRICS_TYPE)

    async def health() -> Response:
        return reply(info.health(service))

    async def models() -> Response:
        return reply(info.models(service))

    async def model(name: str) -> Response:
        return reply(info.model(service, name))

    async def props() -> Response:
        return reply(info.props(service))

    async def slots() -> Response:
        return reply(info.slots(service))

    for path, function in {
        "/health": health,
        "/v1/health": health,
        "/v1/models": models,
        "/v1/models/{name:path}": model,
        "/props": props,
        "/slots": slots,
        "/metrics": metrics,
    }.items():
        kind, answers = (Response, {200: _TEXT}) if function is metrics else (JSONResponse, None)
        router.add_api_route(
            path, function, methods=["GET"], response_model=None, response_class=kind, responses=answers
        )
        # Balancers ask so. The server leaves the body out.
        router.add_api_route(path, function, methods=["HEAD"], response_model=None, include_in_schema=False)
    router.add_api_route("/models", models, methods=["GET"], response_model=None, include_in_schema=False)
    router.add_api_route("/", page_of_its_own, methods=["GET", "HEAD"], response_model=None, include_in_schema=False)
    return router
