"""What a request must pass before it is read: keys, limits, and a server that is ready."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from frspec_cpp.server.errors import ApiError, unexpected
from frspec_cpp.server.metrics import Metrics
from frspec_cpp.server.service import Service

_PUBLIC = {"/", "/health", "/v1/health"}  # they tell nothing of the model, and nothing of anybody
_MOST_UNREAD = 2**25  # bytes of a refused body
_MOST_READ_OUT = 32  # refused bodies that are read at once: anybody may send such, and each has a connection
_LEAST_RATE = 2**15  # bytes of a body in a second: who is as fast gets the time it takes
_ALWAYS = {*_PUBLIC, "/metrics"}  # even while the model is being loaded


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


class Guard:
    """Refuses requests, or counts what they send. An ASGI middleware.

    Args:
        app: Answers those that pass.
        service: Has the settings.
        bodies: Paths of which a body is read.
    """

    def __init__(self, app: ASGIApp, service: Service, bodies: Collection[str]) -> None:
        self._app = app
        self._bodies = bodies
        self._service = service
        self._keys = [_digest(key) for key in service.settings.keys]
        self._active = 0  # requests that were taken: neither refused ones nor those of public paths
        self._reading_out = 0  # refused bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        counting = _Counting(send, self._service.metrics)
        try:
            self._check(scope, headers)
        except ApiError as error:
            await self._refuse(error, scope, receive, counting)
            return
        counts = int(scope["path"] not in _PUBLIC)
        self._active += counts
        try:
            await self._handed_on(scope, receive, counting)
        finally:
            self._active -= counts

    async def _refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        response = error.response()
        # Who waits for leave to send a body is told before.
        if "expect" in Headers(scope=scope) or not await self._drained(receive, self._body_ends()):
            response.headers["connection"] = "close"
        await response(scope, receive, send)

    async def _handed_on(self, scope: Scope, receive: Receive, send: _Counting) -> None:
        try:
            await self._app(scope, self._limited(receive), send)
        except Exception as error:
            if send.has_begun:
                raise
            await unexpected(error).response()(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        method, path = scope["method"], scope["path"]
        settings = self._service.settings
        if path not in _PUBLIC:
            scope["frspec.key"] = self._checked_key(headers)
            if self._active >= settings.max_requests:
                raise ApiError(503, f"{settings.max_requests} requests are being answered", None, "too_many_requests")
        if path not in _ALWAYS:
            self._service.check_open()
        if method != "POST":
            return
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json" and path in self._bodies:
            raise ApiError(415, f"Content-Type: found {kind[:100]!r}, expected application/json")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > settings.max_body:
            raise self._too_long()

    def _checked_key(self, headers: Headers) -> int | None:
        """Which of the keys the request shows; None where there are none."""
        if not self._keys:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        key = shown.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # All keys are compared, and each to its end: the time tells nothing.
        known = [hmac.compare_digest(_digest(key), own) for own in self._keys]
        if not any(known):
            message = "found no API key" if not key else "found an API key that is none of the server's"
            raise ApiError(
                401, f"{message}, expected Authorization: Bearer KEY", None, "invalid_api_key",
                {"www-authenticate": "Bearer"},
            )  # fmt: skip
        return known.index(True)

    def _too_long(self) -> ApiError:
        return ApiError(
            413, f"body: expected at most {self._service.settings.max_body} bytes", None, "body_too_long",
            {"connection": "close"},
        )  # fmt: skip

    def _body_ends(self) -> float:
        """When a body that begins now must have come, by the loop's clock; what has come of it gives it more time."""
        return asyncio.get_running_loop().time() + self._service.settings.body_timeout

    def _limited(self, receive: Receive) -> Receive:
        """`receive`, which counts the body while it comes. All of it has one deadline, however it drips."""
        settings = self._service.settings
        ends = self._body_ends()
        length = 0
        more = True

        async def limited() -> Message:
            nonlocal length, more
            if not more:
                return await receive()  # that the client has left
            try:
                message = await _before(ends + length / _LEAST_RATE, receive)
            except asyncio.TimeoutError:
                raise ApiError(
                    408, f"body: found no end of it in time ({settings.body_timeout:g} s)", None, "body_timeout",
                    {"connection": "close"},
                ) from None  # fmt: skip
            length += len(message.get("body", b""))
            if length > settings.max_body:
                await self._drained(receive, ends)
                raise self._too_long()
            more = message["type"] == "http.request" and message.get("more_body", False)
            return message

        return limited

    async def _drained(self, receive: Receive, ends: float) -> bool:
        """Reads what is left of a body: who is still sending would not see the answer. Says whether that was all."""
        if self._reading_out == _MOST_READ_OUT:
            return False
        self._reading_out += 1
        left = _MOST_UNREAD
        try:
            while left > 0:
                message = await _before(ends, receive)
                if not message.get("more_body", False):
                    return True
                left -= len(message.get("body", b""))
        except asyncio.TimeoutError:
            pass
        finally:
            self._reading_out -= 1
        return False


async def _before(ends: float, receive: Receive) -> Message:
    """The next message, if it comes until then; else TimeoutError."""
    return await asyncio.wait_for(receive(), max(ends - asyncio.get_running_loop().time(), 0.001))


class _Counting:
    """`send`, which counts refusals."""

    def __init__(self, send: Send, metrics: Metrics) -> None:
        self._send = send
        self._metrics = metrics
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        """Sends a part of an answer."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            if message["status"] >= 400:
                self._metrics.count("requests_rejected_total", label=("code", str(message["status"])))
        await self._send(message)
