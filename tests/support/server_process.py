"""`frspec serve` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import TIMEOUT, program


class Process:
    """A server of its own, whose lines on standard error are read."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [program("frspec"), "serve", "--port", "0", "-t", "1", *map(str, arguments)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "FRSPEC_TUNING_CACHE": "off"},
        )
        self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Reads what it says until a line has the pattern."""
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"found no {pattern!r} in what it said: {said}")

    def client(self) -> Any:
        """A client of it."""
        import httpx

        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=TIMEOUT)

    def end(self) -> int:
        """Waits for its end; returns the exit code."""
        code = self.process.wait(TIMEOUT)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def started(*arguments: str | Path) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
        process.end()
