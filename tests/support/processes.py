"""Processes that a test starts, and when a signal reaches them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 600  # seconds: a process that hangs is a failure, one on a busy machine is not


def program(name: str) -> str:
    """Path of a program that was installed with this Python's package."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.is_file() else shutil.which(name)
    assert path is not None, f"no {name} beside {sys.executable} and none in PATH"
    return path


def wait_for_handler(process: subprocess.Popen[Any]) -> None:
    """Waits until the process catches SIGINT (Linux tells which signals a process catches)."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.is_file():
        pytest.skip("needs /proc")
    ends = time.monotonic() + TIMEOUT
    while time.monotonic() < ends:
        line = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        if int(line.split()[1], 16) & 1 << (signal.SIGINT - 1):
            return
        assert process.poll() is None
        time.sleep(0.01)
    raise AssertionError("SIGINT is never caught")
