"""What goes over the wire: JSON, and streams of server-sent events that heed slow clients and those who leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
_PING = b": ping\n\n"


class Gone(Exception):
    """The client has left."""


def encoded(value: Any) -> bytes:
    """JSON. A lone surrogate, which a client may have sent, is no UTF-8: it becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="replace")


def event(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"


def reply(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(encoded(value), media_type="application/json", headers=dict(headers or {}))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled where the client leaves.

    Raises:
        Gone: It has left.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_gone(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        await _end(task, leaving)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """A stream of server-sent events.

    Args:
        events: The events, as bytes.
        leave: Is called when the stream has ended, whatever ended it.
        ping: Seconds without an event after which a comment is sent, so that nobody on the way closes the connection.
        write_timeout: Seconds after which a client that takes nothing is given up.
        headers: More headers.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        leave: Callable[[], object],
        ping: float,
        write_timeout: float,
        headers: Mapping[str, str],
    ) -> None:
        self._events = events
        self._leave = leave
        self._ping = ping
        self._write_timeout = write_timeout
        self.status_code = 200
        self.background = None
        self.init_headers({"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **headers})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Headers of an answer whose length nobody knows."""
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream, until it ends or the client leaves."""
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        except (asyncio.TimeoutError, OSError):
            pass  # it takes nothing, or is gone: there is nobody to tell
        finally:
            await _end(writing, leaving)
            self._leave()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def sent(data: bytes, more: bool) -> None:
            message = {"type": "http.response.body", "body": data, "more_body": more}
            await asyncio.wait_for(send(message), self._write_timeout)

        async for data in self._with_pings():
            await sent(data, True)
        await sent(b"", False)

    async def _with_pings(self) -> AsyncIterator[bytes]:
        coming: asyncio.Task[bytes] | None = None
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(self._next())
                done, _ = await asyncio.wait({coming}, timeout=self._ping)
                if not done:
                    yield _PING
                    continue
                data, coming = coming.result(), None
                if not data:
                    return
                yield data
        finally:
            if coming is not None:
                await _end(coming)

    async def _next(self) -> bytes:
        """The next event; nothing at the end."""
        return await anext(self._events, b"")
