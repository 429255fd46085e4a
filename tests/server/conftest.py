"""Servers on the loopback, in this process, and models that can chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, with_templates
from served import Served, running

from frspec_cpp import LLM, AsyncLLM

Serving = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def chat_target(demo_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_templates(demo_target, tmp_path_factory.mktemp("server") / "chatty.gguf", CHATML)


@pytest.fixture(scope="session")
def llm(chat_target: Path, demo_drafter: Path) -> LLM:
    """With trees that do not depend on the clock, and one text at a time: others wait for their turn."""
    return LLM(chat_target, drafter=demo_drafter, head="full", tree="3,4,8", n_ctx=512, n_threads=1, n_parallel=1)


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
