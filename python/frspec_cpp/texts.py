"""Texts that wait for their turn: a queue before an LLM, which writes one text at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from frspec_cpp import _core
from frspec_cpp.generation import Generation, TokenLogprobs
from frspec_cpp.option_table import Options

LOWEST_PRIORITY = 9
_LONG_WAIT = 10.0  # seconds: who has waited so long is next, whatever its priority


class Cancelled(RuntimeError):
    """The text was cancelled before its turn came."""


class Token(NamedTuple):
    """A token of a text.

    Attributes:
        id: In the vocabulary.
        drafted: Whether a draft had foreseen it.
        text: What can be shown with it: no piece ends inside a character, or in what may become a stop string.
    """

    id: int
    drafted: bool
    text: str


@dataclass(frozen=True)
class Started:
    """The text's turn has come: its prompt is being read."""

    queue_seconds: float


@dataclass(frozen=True)
class Piece:
    """What one pass of the target gave to a text.

    Attributes:
        tokens: In order; none in the last piece, which has what was held back until the text ended.
        text: What can be shown now.
        logprobs: For each token; None unless asked for.
    """

    tokens: list[Token]
    text: str
    logprobs: list[TokenLogprobs] | None


#: What is told of a text: Started, pieces, and at the end what was written or what went wrong.
Event: TypeAlias = "Started | Piece | Generation | Exception"


@dataclass(frozen=True)
class TextRequest:
    """What is asked for.

    Attributes:
        prompt: Token ids.
        max_tokens: At most so many; None or -1: as many as the context holds.
        options: How tokens are chosen and where the text ends.
        priority: 0, the first ones, to 9; among equals who came first.
        max_seconds: From the first token on; then the text ends with the reason ``"length"``. None: no limit.
    """

    prompt: list[int]
    max_tokens: int | None
    options: Options
    priority: int = 0
    max_seconds: float | None = None


#: Begins a text, which its thread may write until the context is left.
Begin: TypeAlias = Callable[[TextRequest], AbstractContextManager[_core.Generation]]


class Ticket:
    """A text in the queue, or being written. Any thread may use it.

    Args:
        request: What is asked for.
        begin: Begins it.
        deliver: Is given every event, in the thread that writes, or where a waiting text is cancelled.
    """

    def __init__(self, request: TextRequest, begin: Begin, deliver: Callable[[Event], object]) -> None:
        self.request = request
        self._begin = begin
        self.entered = time.monotonic()
        self.generated = 0  # tokens so far
        self._deliver = deliver
        self._lock = threading.Lock()
        self._native: _core.Generation | None = None
        self._cancelled = False

    def stop(self) -> None:
        """Ends the text after the pass that runs; one that has not begun ends as soon as it does."""
        with self._lock:
            self._cancelled = True
            if self._native is not None:
                self._native.cancel()

    def give_up(self, error: Exception) -> None:
        """Tells that the text will not be written."""
        self._deliver(error)

    def write(self) -> None:
        """Writes the text, and delivers what happens."""
        try:
            with self._begin(self.request) as native:
                end = self._write(native)
        except BaseException as error:  # whatever it is, it belongs to whoever asked for the text
            self._deliver(error if isinstance(error, Exception) else RuntimeError(f"the text was ended: {error!r}"))
        else:
            self._deliver(end)

    def _write(self, native: _core.Generation) -> Generation:
        request = self.request
        with self._lock:
            self._native = native
            if self._cancelled:
                native.cancel()
        self._deliver(Started(time.monotonic() - self.entered))
        wants_logprobs = request.options.get("logprobs") is not None
        tokens: list[tuple[int, bool, str]] = []
        ends: float | None = None
        out_of_time = False
        while native.finish_reason is None:
            fresh = native.step()
            if fresh:
                self._deliver(self._piece(native, fresh, len(tokens) if wants_logprobs else None))
                tokens += fresh
                self.generated = len(tokens)
            if request.max_seconds is not None:
                ends = time.monotonic() + request.max_seconds if ends is None else ends
                if native.finish_reason is None and time.monotonic() >= ends:
                    out_of_time = True
                    native.cancel()
        if native.closing_text:
            self._deliver(Piece([], native.closing_text, [] if wants_logprobs else None))
        result = Generation.from_native(native, tokens, wants_logprobs, request.options.get("trace", False))
        return replace(result, finish_reason="length") if out_of_time and not self._cancelled else result

    @staticmethod
    def _piece(native: _core.Generation, fresh: list[tuple[int, bool, str]], first: int | None) -> Piece:
        tokens = [Token(*token) for token in fresh]
        logprobs = None
        if first is not None:
            found = native.logprobs_from(first)
            logprobs = [
                TokenLogprobs(token.id, own, dict(top)) for token, (own, top) in zip(tokens, found, strict=True)
            ]
        return Piece(tokens, "".join([token.text for token in tokens]), logprobs)


class TextQueue:
    """The texts of one LLM, which are written one after the other.

    The thread that writes them lives as long as there are some, so an idle LLM costs nothing and may be forked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Ticket] = []
        self._running: Ticket | None = None
        self._works = False

    def put(self, ticket: Ticket) -> None:
        """Puts a text behind those that wait."""
        with self._lock:
            self._waiting.append(ticket)
            if self._works:
                return
            self._works = True
        # Where Python is ending, texts are not waited for.
        threading.Thread(target=self._work, name="frspec-texts", daemon=True).start()

    def cancel(self, ticket: Ticket, error: Exception | None = None) -> None:
        """Ends a text. Whoever waits for one that has not begun is told ``error``, by default Cancelled."""
        if not self.withdraw(ticket, error or Cancelled("the text was cancelled before its turn came")):
            ticket.stop()

    def withdraw(self, ticket: Ticket, error: Exception) -> bool:
        """Takes a text out of the queue, if it still waits there, and tells why; else returns False."""
        with self._lock:
            if ticket not in self._waiting:
                return False
            self._waiting.remove(ticket)
        ticket.give_up(error)
        return True

    def waiting(self) -> list[Ticket]:
        """The texts that wait, in order of arrival."""
        with self._lock:
            return list(self._waiting)

    def running(self) -> Ticket | None:
        """The text that is being written."""
        return self._running

    def _work(self) -> None:
        while True:
            with self._lock:
                self._running = self._take()
                if self._running is None:
                    self._works = False
                    return
            self._running.write()

    def _take(self) -> Ticket | None:
        if not self._waiting:
            return None
        ticket = self._waiting[0]
        if time.monotonic() - ticket.entered < _LONG_WAIT:
            ticket = min(self._waiting, key=lambda other: other.request.priority)
        self._waiting.remove(ticket)
        return ticket


class PendingText:
    """A text that was asked for with :meth:`LLM.submit`.

    Iterating over it gives its text in pieces, as it comes, and may be done once.
    """

    def __init__(self, texts: TextQueue, request: TextRequest, begin: Begin) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._end: Generation | Exception | None = None
        self._texts = texts
        self._ticket = Ticket(request, begin, self._events.put)
        texts.put(self._ticket)

    def cancel(self) -> None:
        """Ends it: :meth:`result` has what there is, or raises Cancelled where its turn has not come."""
        self._texts.cancel(self._ticket)

    def events(self) -> Iterator[Started | Piece | Generation]:
        """All that is told of it, as it comes, and the whole text at the end.

        Raises:
            Cancelled: It was cancelled before its turn.
            ValueError: As :meth:`LLM.generate`.
            RuntimeError: The LLM was closed.
        """
        while self._end is None:
            event = self._events.get()
            if isinstance(event, (Generation, Exception)):
                self._end = event
                if isinstance(event, Exception):
                    raise event
            yield event

    def __iter__(self) -> Iterator[str]:
        return (event.text for event in self.events() if isinstance(event, Piece) and event.text)

    def result(self) -> Generation:
        """Waits for the whole text; raises as :meth:`events`."""
        for _ in self.events():
            pass
        assert self._end is not None
        if isinstance(self._end, Exception):
            raise self._end
        return self._end
