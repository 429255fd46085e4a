"""The installed binary, and the demo pair as an LLM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from processes import program

import frspec_cpp

Runner = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def binary() -> str:
    """Path of the `frspec` that was installed with this Python's package."""
    return program("frspec")


@pytest.fixture(scope="session")
def run(binary: str) -> Runner:
    """Runs the binary with the given arguments; `stdin` is bytes, `environment` is added to this process's."""

    def call(
        *arguments: str | bytes, stdin: bytes = b"", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [binary, *arguments],
            input=stdin,
            capture_output=True,
            timeout=300,
            check=False,
            env={**os.environ, **(environment or {})},
        )

    return call


@pytest.fixture(scope="session")
def llm() -> frspec_cpp.LLM:
    """The demo pair, with a head that is not chosen by the clock."""
    return frspec_cpp.LLM(*frspec_cpp.demo_paths(), head="full")
