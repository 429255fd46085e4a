"""A program in a pseudo-terminal, as somebody at a keyboard has it."""

from __future__ import annotations

import os
import pty
import select
import signal
import time


class PseudoTerminal:
    """Runs `command`; what it writes gathers in `text`, with what was typed.

    Raises:
        TimeoutError: Something did not happen in time.
    """

    def __init__(self, command: list[str]) -> None:
        self.text = ""
        self._seen = 0
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.execv(command[0], command)

    def wait_for(self, what: str, timeout: float = 120.0) -> str:
        """What was written up to and with `what`, since the last call."""
        deadline = time.monotonic() + timeout
        while (at := self.text.find(what, self._seen)) < 0:
            if not self._read(deadline):
                raise TimeoutError(f"ended before {what!r}: {self.text!r}")
        begin, self._seen = self._seen, at + len(what)
        return self.text[begin : self._seen]

    def type(self, text: str) -> None:
        """Types `text`; the character 3 is Ctrl-C, 4 is Ctrl-D."""
        os.write(self._terminal, text.encode())

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code, once it has ended; what it wrote before is in `text`."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        _, status = os.waitpid(self._process, 0)
        self._process = 0
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """Ends it where it has not ended."""
        if self._process:
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
            os.close(self._terminal)
            self._process = 0

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"nothing more came after {self.text[-500:]!r}")
        try:
            data = os.read(self._terminal, 4096)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
