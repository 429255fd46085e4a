"""Running the server: loading, signals, and the end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from frspec_cpp.server import info
from frspec_cpp.server.app import build_app
from frspec_cpp.server.service import Service

_HEADER_BYTES = 16 * 2**10
_HEADER_SECONDS = 10  # that a request's header may take, from the connection or its first byte on
_MOST_WAITING = 512  # connections without a request; files that a process may open are few
_KEEP_ALIVE = 5  # seconds
_BACKLOG = 512
_LAST_WORDS = 5  # seconds for answers whose texts have ended


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        OSError: It cannot; the message names the place.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what died a moment ago holds no port
            found.bind(address)
            found.listen(_BACKLOG)
        except BaseException:
            found.close()
            raise
    except OSError as error:
        raise OSError(f"{host}:{port}: cannot be listened at: {error.strerror or error}") from error
    return found


class _Protocol(H11Protocol):
    """uvicorn's, which waits for a request's header, and for connections without a request, for ever."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None  # for a request, by the loop's clock

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Somebody has come. Where there are too many who ask for nothing, who has done so for longest must leave."""
        super().connection_made(transport)
        self._wait()
        self._start_timer()
        others = [other for other in self.connections if isinstance(other, _Protocol)]
        # Not those whose answer is still on its way.
        quiet = [other for other in others if other.transport.get_write_buffer_size() == 0]
        waiting = [(other._waits_since, other) for other in quiet if other._waits_since is not None]
        if len(waiting) > _MOST_WAITING:
            min(waiting, key=lambda pair: pair[0])[1]._leave()

    def data_received(self, data: bytes) -> None:
        """A piece of a request. A header that drips does not begin anew with each drop."""
        super().data_received(data)
        # What follows an answer may be the rest of a body that nobody wanted: that is no header.
        if self._waits_since is not None and self.conn.their_state is h11.IDLE:
            self._start_timer()

    def handle_events(self) -> None:
        """Looks at what has come, also when an answer has ended."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._waits_since = None
            self._stop_timer()

    def on_response_complete(self) -> None:
        """An answer has been sent; uvicorn's own timer waits for the first byte of the next request."""
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._waits_since = None
        self._stop_timer()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waits_since = self.loop.time()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(_HEADER_SECONDS, self._leave)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._waits_since = None  # it is counted no more
        self._stop_timer()
        self.transport.abort()  # who reads nothing would keep it open


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C: then texts may end, and no new ones begin; a second signal ends it at once.

    Args:
        service: What it serves.
        host: The address to listen at.
        port: Its port; 0: any that is free.
        announce: Say on standard error where it listens, and what it does.

    Raises:
        OSError: It cannot listen there.
    """

    def __init__(self, service: Service, host: str, port: int, announce: bool = True) -> None:
        self._socket = listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._service = service
        self._announces = announce
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.error: Exception | None = None  # why it ended, if not by a signal
        config = uvicorn.Config(
            build_app(service, self._begin_loading),
            host=host,
            port=port,
            loop="asyncio",
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_level="critical",  # what goes wrong here, errors.py tells
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_LAST_WORDS,
            h11_max_incomplete_event_size=_HEADER_BYTES,
        )
        super().__init__(config)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves; returns when it has ended."""
        host = self.config.host
        self._say(
            f"listening on http://{f'[{host}]' if ':' in host else host}:{self.port}, loading {self._service.file_name}"
        )
        super().run(sockets=[self._socket])

    def stop(self) -> None:
        """Begins to drain, from any thread; called again, ends at once."""
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._drain)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self._service.state == "loading" or self.should_exit:
            os._exit(128 + sig)  # loading cannot be interrupted otherwise
        self._say(f"{signal.Signals(sig).name}: texts that are being written may end; again: at once")
        self.stop()

    def _say(self, line: str) -> None:
        if self._announces:
            print(f"frspec-serve: {line}", file=sys.stderr, flush=True)

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._end())
        else:
            self._service.engine.cancel_all()
            self.should_exit = True

    async def _end(self) -> None:
        await self._service.drain()
        self.should_exit = True

    def _begin_loading(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._service.engine.is_loaded:
            self._service.meta = info.read_meta(self._service)
            self._service.state = "ready"
            return
        # A daemon: where loading is given up, the process need not wait for it.
        threading.Thread(target=self._load, name="frspec-loading", daemon=True).start()

    def _load(self) -> None:
        began = time.monotonic()
        try:
            self._service.engine.load_now()
            self._service.meta = info.read_meta(self._service)
        except Exception as error:
            self.error = error
            self.should_exit = True
            return
        self._service.state = "ready"
        self._say(f"ready after {time.monotonic() - began:.1f} s: {self._service.llm.device}")
