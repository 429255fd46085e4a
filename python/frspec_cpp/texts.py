"""Texts that wait for their turn: a queue before an LLM, which writes several texts at a time."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from frspec_cpp import _core
from frspec_cpp.generation import Generation, TokenLogprobs
from frspec_cpp.option_table import Options
from frspec_cpp.turns import READ, WRITTEN, Turns

LOWEST_PRIORITY = 9
numbers = itertools.count()  # of texts


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


@dataclass(frozen=True)
class Reading:
    """A pass has read a part of what stands before the first new token.

    Attributes:
        total: Tokens of it.
        cached: Those of them that earlier texts had left in the cache.
        processed: Those that have been read, or were there.
    """

    total: int
    cached: int
    processed: int


#: What is told of a text: Started, Reading where asked for, pieces, and at the end what was written or went wrong.
Event: TypeAlias = "Started | Reading | Piece | Generation | Exception"


@dataclass(frozen=True)
class TextRequest:
    """What is asked for.

    Attributes:
        prompt: Token ids.
        max_tokens: At most so many; None or -1: as many as the context holds.
        options: How tokens are chosen and where the text ends.
        priority: 0, the first ones, to 9; among equals turns are shared out among owners (:mod:`frspec_cpp.turns`).
        max_seconds: From the first token on; then the text ends with the reason ``"length"``. None: no limit.
        committed: Tokens of the text that were written elsewhere; what is told begins behind them.
        owner: Whose it is: turns are shared out fairly among owners.
        progress: Tell of what is read, too.
        prompt_cache_key: Of texts whose prompts begin alike.
    """

    prompt: list[int]
    max_tokens: int | None
    options: Options
    priority: int = 0
    max_seconds: float | None = None
    committed: Sequence[int] = ()
    owner: str = ""
    progress: bool = False
    prompt_cache_key: str = ""


#: Begins a text.
Begin: TypeAlias = Callable[[TextRequest], _core.Generation]


class Ticket:
    """A text in the queue, or being written. Any thread may use it.

    Args:
        request: What is asked for.
        begin: Begins it.
        deliver: Is given every event, in the thread that writes, or where a waiting text is cancelled.
        begun: The text, where it is begun already.
        tokens: What was written of it then.

    Attributes:
        number: No other text of the process has it.
        cached: Tokens of the prompt that were in the cache.
        passes: That have given tokens.
    """

    def __init__(
        self,
        request: TextRequest,
        begin: Begin,
        deliver: Callable[[Event], object],
        begun: _core.Generation | None = None,
        tokens: Sequence[tuple[int, bool, str]] = (),
    ) -> None:
        self.request = request
        self._begin = begin
        self.entered = time.monotonic()
        self.number = next(numbers)
        self.cached = 0
        self.passes = 0
        self._read = 0  # tokens of the prompt that a Reading has told of
        self._tokens = list(tokens)
        self._deliver = deliver
        self._lock = threading.Lock()
        self._native = begun
        self._cancelled = False
        self._out_of_time = False
        self._ends: float | None = None

    @property
    def generated(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    @property
    def priority(self) -> int:
        """0, the first ones, to 9."""
        return self.request.priority

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.request.owner

    @property
    def goes_alone(self) -> bool:
        """Whether no other text may be written beside it."""
        return self.request.options.get("verify", "keyed") != "keyed"

    @property
    def has_begun(self) -> bool:
        """Whether some of it may be written already."""
        return self._native is not None

    @property
    def native(self) -> _core.Generation:
        """The text, once it has begun."""
        assert self._native is not None
        return self._native

    def stop(self) -> None:
        """Ends the text after the pass that runs; one that has not begun ends as soon as it does."""
        with self._lock:
            self._cancelled = True
            if self._native is not None:
                self._native.cancel()

    def give_up(self, error: BaseException) -> None:
        """Tells that the text will not be written, or not to its end."""
        # Whatever it is, it belongs to whoever asked for the text.
        self._deliver(error if isinstance(error, Exception) else RuntimeError(f"the text was ended: {error!r}"))

    def start(self) -> bool:
        """Begins the text; False where that fails, which it has told then."""
        try:
            native = self._native or self._begin(self.request)
        except BaseException as error:
            self.give_up(error)
            return False
        with self._lock:
            self._native = native
            if self._cancelled:
                native.cancel()
        self._deliver(Started(time.monotonic() - self.entered))
        return True

    def take(self, fresh: list[tuple[int, bool, str]] | None) -> bool:
        """What a step gave; None where the text has failed. Delivers it, and tells whether the text goes on."""
        try:
            if fresh is None:
                self.native.raise_error()
                raise AssertionError("a text that has failed has an error")
            return self._take(fresh)
        except BaseException as error:
            self.give_up(error)
            return False

    def _take(self, fresh: list[tuple[int, bool, str]]) -> bool:
        request, native = self.request, self.native
        wants_logprobs = request.options.get("logprobs") is not None
        if not self._tokens and (fresh or request.progress):
            stats = native.stats
            self.cached = stats.cached_tokens
            if not fresh and native.finish_reason is None and stats.read_tokens > self._read:
                self._read = stats.read_tokens
                self._deliver(Reading(stats.prompt_tokens, stats.cached_tokens, stats.read_tokens))
        if fresh:
            self.passes += 1
            self._deliver(self._piece(native, fresh, len(self._tokens) if wants_logprobs else None))
            self._tokens += fresh
        if native.finish_reason is None:
            self._look_at_the_clock(bool(fresh))
            return True
        if native.closing_text:
            self._deliver(Piece([], native.closing_text, [] if wants_logprobs else None))
        result = Generation.from_native(native, self._tokens, wants_logprobs, request.options.get("trace", False))
        is_long = self._out_of_time and not self._cancelled
        self._deliver(replace(result, finish_reason="length") if is_long else result)
        return False

    def _look_at_the_clock(self, has_begun: bool) -> None:
        """Ends the text where its time is over, or its event says so."""
        event = self.request.options.get("cancel")
        if event is not None and event.is_set():
            self.native.cancel()
        if self.request.max_seconds is None or (self._ends is None and not has_begun):
            return
        self._ends = time.monotonic() + self.request.max_seconds if self._ends is None else self._ends
        if time.monotonic() >= self._ends:
            self._out_of_time = True
            self.native.cancel()

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
    """The texts of one LLM: some are written together, others wait.

    The thread that writes them lives as long as there are some, so an idle LLM costs nothing and may be forked.

    Args:
        most: Texts that are written at once.
        lock: Of the LLM; the thread has it while a pass runs.

    Attributes:
        alone: A text that is written by another thread, which has the lock, until others come.
    """

    def __init__(self, most: int, lock: AbstractContextManager[Any]) -> None:
        self._most = most
        self._writes = lock
        self.alone: _core.Generation | None = None
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []
        self._works = False
        self._turns = Turns()

    @property
    def works(self) -> bool:
        """Whether there are texts."""
        return self._works

    def put(self, ticket: Ticket) -> None:
        """Puts a text behind those that wait."""
        with self._lock:
            self._turns.come(ticket.owner, [other.owner for other in self._waiting + self._running])
            self._waiting.append(ticket)
            if self._works:
                return
            self._works = True
        # Where Python is ending, texts are not waited for.
        try:
            threading.Thread(target=self._work, name="frspec-texts", daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            with self._idle:
                lost, self._waiting, self._works = self._waiting, [], False
                self._idle.notify_all()
            for other in lost:
                if other is not ticket:
                    other.give_up(error)
            raise

    def wait(self) -> None:
        """Returns when there are no texts."""
        with self._idle:
            self._idle.wait_for(lambda: not self._works)

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

    def running(self) -> list[Ticket]:
        """The texts that are being written, those that began first in front."""
        with self._lock:
            return list(self._running)

    def _work(self) -> None:
        while True:
            with self._lock:
                begun = len(self._running)
                while (ticket := self._next()) is not None:
                    self._running.append(ticket)
                    self._turns.charge(ticket.owner, READ * len(ticket.request.prompt))
                running = list(self._running)
                if not running:
                    self._works = False
                    self._idle.notify_all()
                    return
            self.ask_for_the_lock()
            with self._writes:
                left = running[:begun] + [ticket for ticket in running[begun:] if ticket.start()]
                left = self._step(left)
            with self._lock:
                self._running = left

    def ask_for_the_lock(self) -> None:
        """Where a text is written alone beside texts that could be written with it, it is handed over."""
        alone = self.alone
        if alone is not None and self._works and self._most > 1:
            alone.hand_over()

    def _step(self, running: list[Ticket]) -> list[Ticket]:
        """One pass for all of them; those that go on."""
        try:
            given = _core.Generation.step_together([ticket.native for ticket in running])
        except BaseException as error:
            for ticket in running:
                ticket.give_up(error)
            return []
        with self._lock:
            for ticket, fresh in zip(running, given, strict=True):
                self._turns.charge(ticket.owner, WRITTEN * len(fresh or ()))
        return [ticket for ticket, fresh in zip(running, given, strict=True) if ticket.take(fresh)]

    def _next(self) -> Ticket | None:
        """A text whose turn has come; None: there is none, or no room."""
        if not self._waiting or len(self._running) >= self._most or any(one.goes_alone for one in self._running):
            return None
        ticket = self._turns.next(self._waiting)
        if ticket.goes_alone and self._running:
            return None
        self._waiting.remove(ticket)
        return ticket


class PendingText:
    """A text that was asked for with :meth:`LLM.submit`.

    Iterating over it gives its text in pieces, as it comes, and may be done once.
    """

    def __init__(
        self,
        texts: TextQueue,
        request: TextRequest,
        begin: Begin,
        begun: _core.Generation | None = None,
        tokens: Sequence[tuple[int, bool, str]] = (),
    ) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._end: Generation | Exception | None = None
        self._texts = texts
        self._ticket = Ticket(request, begin, self._events.put, begun, tokens)
        texts.put(self._ticket)

    def cancel(self) -> None:
        """Ends it: :meth:`result` has what there is, or raises Cancelled where its turn has not come."""
        self._texts.cancel(self._ticket)

    def events(self) -> Iterator[Started | Reading | Piece | Generation]:
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
