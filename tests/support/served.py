"""Servers on the loopback, in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frspec_cpp import AsyncLLM, Options

if TYPE_CHECKING:
    import httpx

    from frspec_cpp.server.service import Service
    from frspec_cpp.server.serving import Server


@dataclass
class Served:
    """A server that runs."""

    url: str
    server: Server
    service: Service
    client: httpx.Client

    def post(self, path: str, **fields: Any) -> httpx.Response:
        """The answer to a request with these fields."""
        return self.client.post(path, json=fields)


@contextmanager
def running(engine: AsyncLLM, send_buffer: int = 0, **settings: Any) -> Iterator[Served]:
    """A server of `engine`, in a thread of this process; its sockets have `send_buffer` bytes, 0: as usual."""
    import httpx

    from frspec_cpp.server.service import Service
    from frspec_cpp.server.serving import Server
    from frspec_cpp.server.settings import Settings

    always = Options(temperature=0.8, seed=None, draft="always")  # whether drafts pay is for the clock to say
    chosen = Settings(**{"alias": "demo,other", "grace": 0.0, "sampling": always, **settings})
    service = Service(engine, engine.llm._path, chosen)
    server = Server(service, "127.0.0.1", 0, announce=False)
    if send_buffer:
        server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=url, timeout=600) as client:
            yield Served(url, server, service, client)
    finally:
        server.stop()
        thread.join(600)
    assert not thread.is_alive()
