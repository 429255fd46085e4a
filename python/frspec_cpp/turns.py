"""Whose turn is next: in order of priority, then fairly among owners, then of arrival."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

LONG_WAIT = 10.0  # seconds: who has waited so long is among the first, whatever its priority
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

    One who comes after a pause has at least the debt of the least indebted of those who are there: a pause saves
    nothing up, and ends no debt.

    Args:
        clock: Seconds; for simulations.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._debts: dict[str, float] = {}

    def come(self, owner: str, others: Sequence[str]) -> None:
        """A text of an owner comes; `others`: the owners of those that wait or are written."""
        if owner not in others:
            least = min((self._debts.get(other, 0.0) for other in others), default=0.0)
            self._debts[owner] = max(self._debts.get(owner, 0.0), least)

    def charge(self, owner: str, weight: float) -> None:
        """Something was done for an owner."""
        self._debts[owner] = self._debts.get(owner, 0.0) + weight

    def next(self, waiting: Sequence[W]) -> W:
        """The text whose turn it is; they stand in order of arrival."""
        for text in waiting:
            if text.has_begun:
                return text
        late = self._clock() - LONG_WAIT

        def place(text: W) -> tuple[int, float]:
            return 0 if text.entered <= late else text.priority, self._debts.get(text.owner, 0.0)

        return min(waiting, key=place)
