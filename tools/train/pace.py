"""How fast a run's phases go, what is left of them: on the terminal, and in the log."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..atomic import append
from ..console import note, progress_bar

_EVERY = 60.0  # seconds between two lines, where there is no terminal for a bar


class Pace:
    """Tells of phases.

    `log` gets a record for each: seconds, those of all processors in this process (`cpu_seconds`), tokens and tokens
    per second of its parts.
    """

    def __init__(self, log: Path, quiet: bool) -> None:
        self._log, self._quiet = log, quiet

    @contextlib.contextmanager
    def phase(self, name: str, total: int, description: str, unit: str) -> Iterator[Phase]:
        """A phase of `total` units, while it runs."""
        with progress_bar(total, description, self._quiet, unit) as bar:
            found = Phase(name, total, bar, self._quiet or sys.stderr.isatty())
            try:
                yield found
            finally:
                if found.parts:
                    append(self._log, (json.dumps(found.record()) + "\n").encode())


class Phase:
    """What was done so far."""

    def __init__(self, name: str, total: int, bar: Any, silent: bool) -> None:
        self.parts: dict[str, list[float]] = {}  # tokens and seconds
        self._name, self._total, self._bar, self._silent = name, total, bar, silent
        self._begin = self._told = time.perf_counter()
        self._cpu = time.process_time()
        self._done = self._made = 0

    def advance(self, count: int, made: bool = True) -> None:
        """So many units more are done; `made` now, or by an earlier run."""
        self._done += count
        self._made += count if made else 0
        self._bar.update(count)

    def spent(self, part: str, tokens: int, seconds: float) -> None:
        """A part of the work took so long."""
        so_far = self.parts.setdefault(part, [0.0, 0.0])
        so_far[0] += tokens
        so_far[1] += seconds
        self._bar.set_postfix_str(self._rates(), refresh=False)
        now = time.perf_counter()
        if not self._silent and now - self._told > _EVERY:
            self._told = now
            note(f"{self._name}: {self.line()}")

    def line(self) -> str:
        """How far it is, how fast, and how long it will take."""
        words = f"{self._done:,} of {self._total:,} tokens, {self._rates()}"
        if not self._made or self._done > self._total:
            return words
        return f"{words}, {in_words((self._total - self._done) * self._seconds() / self._made)} left"

    def record(self) -> dict[str, Any]:
        """For the log."""
        rates = {f"{name}_per_second": round(n / s, 1) for name, (n, s) in self.parts.items() if s > 0}
        tokens = {name: int(n) for name, (n, _) in self.parts.items()}
        seconds = {"seconds": round(self._seconds(), 1), "cpu_seconds": round(time.process_time() - self._cpu, 1)}
        return {"phase": self._name, **seconds, **tokens, **rates}

    def _seconds(self) -> float:
        return time.perf_counter() - self._begin

    def _rates(self) -> str:
        return ", ".join(f"{name} {n / s:,.0f} tokens/s" for name, (n, s) in self.parts.items() if s > 0)


def in_words(seconds: float) -> str:
    """A time as "40 s", "12 min" or "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
