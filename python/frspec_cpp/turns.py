"""Whose turn is next: in order of priority, then fairly among owners, then of arrival."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

LONG_WAIT = 10.0  # seconds: who has waited so long is next, whatever its priority and owner
READ, WRITTEN = 1.0, 4.0  # what a token of a prompt, and one that is generated, weigh


class Waiting(Protocol):
    """A text that waits.

    Attributes:
        entered: When it came.
    """

    entered: float

    @property
    def has_begun(self) -> bool:
        """Whether some of it is written already."""

    @property
    def priority(self) -> int:
        """0, the first ones, to 9."""

    @property
    def owner(self) -> str:
        """Whose it is."""


W = TypeVar("W", bound=Waiting)


class Turns:
    """Chooses among texts that wait. Each owner has a debt, of what was read and written for it: the least is next.

    One who comes after a pause has the debt of the least indebted of those who are there: a pause saves nothing up.

    Args:
        clock: Seconds; for simulations.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._debts: dict[str, float] = {}

    def come(self, owner: str, others: Sequence[str]) -> None:
        """A text of an owner comes; `others`: the owners of those that wait or are written."""
        there = set(others)
        self._debts = {name: debt for name, debt in self._debts.items() if name in there}
        if owner not in self._debts:
            self._debts[owner] = min(self._debts.values(), default=0.0)

    def charge(self, owner: str, weight: float) -> None:
        """Something was done for an owner."""
        self._debts[owner] = self._debts.get(owner, 0.0) + weight

    def next(self, waiting: Sequence[W]) -> W:
        """The text whose turn it is; they stand in order of arrival."""
        for text in waiting:
            if text.has_begun:
                return text
        if self._clock() - waiting[0].entered >= LONG_WAIT:
            return waiting[0]
        return min(waiting, key=lambda text: (text.priority, self._debts.get(text.owner, 0.0)))
