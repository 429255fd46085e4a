"""Servers on the loopback, in this process, and models that can chat."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chat_templates import CHATML, with_templates

from frspec_cpp import LLM, AsyncLLM, Options

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


Serving = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def chat_target(demo_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_templates(demo_target, tmp_path_factory.mktemp("server") / "chatty.gguf", CHATML)


@pytest.fixture(scope="session")
def llm(chat_target: Path, demo_drafter: Path) -> LLM:
    """With trees that do not depend on the clock, and one text at a time: others wait for their turn."""
    return LLM(chat_target, drafter=demo_drafter, head="full", tree="3,4,8", n_ctx=512, n_threads=1, n_parallel=1)


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
        with httpx.Client(base_url=url, timeout=120) as client:
            yield Served(url, server, service, client)
    finally:
        server.stop()
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def run_server() -> Serving:
    """Runs a server of the AsyncLLM that it is given; further arguments are those of the settings."""
    return running


@pytest.fixture(scope="session")
def serving(llm: LLM) -> Serving:
    """Runs a server of the chatty demo pair; arguments are those of the settings."""

    def serve(**settings: Any) -> AbstractContextManager[Served]:
        return running(AsyncLLM(llm, max_queue=settings.get("max_queue", 64)), **settings)

    return serve


@pytest.fixture(scope="module")
def server(serving: Serving) -> Iterator[Served]:
    """One for the tests of a file."""
    with serving() as served:
        yield served
