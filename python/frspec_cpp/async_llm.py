"""AsyncLLM: texts of one LLM for programs that run on asyncio, a server among them."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from frspec_cpp.chat import TEMPLATE_DEFAULTS
from frspec_cpp.generation import Generation
from frspec_cpp.llm import LLM
from frspec_cpp.option_table import Options
from frspec_cpp.options import ChatOptions, takes_chat_options, takes_options
from frspec_cpp.texts import Cancelled, Event, Piece, Reading, Started, TextRequest, Ticket

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_MAX_RETRY = 60  # seconds


class QueueFull(RuntimeError):
    """Too many texts wait, or too long ones.

    Attributes:
        retry_after: Seconds after which there may be room, 1 to 60.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFull], tuple[str, int]]:
        """Both arguments: an exception is pickled with its message alone."""
        return type(self), (str(self), self.retry_after)


class QueueTimeout(TimeoutError):
    """The text's turn did not come in time."""


class NotAccepting(RuntimeError):
    """No texts are taken any more."""


#: So many texts in a row must fail before it is said that none can be written, and so long it is.
_FAILING_TEXTS, _FAILING_SECONDS = 3, 15.0
#: Errors that tell nothing of the engine.
_OF_A_TEXT = (ValueError, Cancelled, QueueTimeout, NotAccepting)


def _writes() -> bool:
    """Whether a thread of this process writes texts; it may be another LLM's."""
    return any(thread.name == "frspec-texts" for thread in threading.enumerate())


class AsyncText:
    """A text that was asked for. To be used by the loop that asked for it.

    Iterating over it (``async for``) gives its text in pieces, as it comes, and may be done once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._owner: AsyncLLM | None = None
        self._ticket: Ticket | None = None

    def _enter(self, owner: AsyncLLM, ticket: Ticket, timeout: float | None) -> None:
        self._owner, self._ticket = owner, ticket
        owner.llm._texts.put(ticket)
        if timeout is not None:
            error = QueueTimeout(f"the text waited for its turn for {timeout:g} s, as long as it was to wait")
            self._timer = self._loop.call_later(timeout, owner.llm._texts.withdraw, ticket, error)

    def _deliver(self, event: Event) -> None:  # in any thread
        try:
            self._loop.call_soon_threadsafe(self._take, event)
        except RuntimeError:  # the loop is closed: nobody waits for the text
            if self._ticket is not None:
                self._ticket.stop()

    def _take(self, event: Event) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._events.put_nowait(event)
        if self._owner is not None and self._ticket is not None:
            self._owner._see(self._ticket.request, event)

    def cancel(self) -> None:
        """Ends it: :meth:`result` has what there is, or raises Cancelled where its turn has not come."""
        if self._owner is not None and self._ticket is not None:
            self._owner.llm._texts.cancel(self._ticket)

    async def events(self) -> AsyncIterator[Started | Reading | Piece | Generation]:
        """All that is told of it, as it comes, and the whole text at the end.

        Raises:
            Cancelled: It was cancelled before its turn.
            QueueTimeout: Its turn did not come in time.
            NotAccepting: The LLM was closed before its turn.
            ValueError: As :meth:`LLM.generate`.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Generation):
                return

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if isinstance(event, Piece) and event.text:
                yield event.text

    async def result(self) -> Generation:
        """Waits for the whole text; raises as :meth:`events`."""
        async for event in self.events():
            if isinstance(event, Generation):
                return event
        raise AssertionError("a text ends with a Generation or an error")


class AsyncLLM:
    """An LLM whose texts are asked for by asyncio's tasks, as many at once as one likes.

    They are written by a thread of their own, several at once (``n_parallel``), and others wait in a queue: in order
    of priority, and among equals fairly among owners, then of arrival. Whoever has waited for 10 s is among the first.
    ``async with AsyncLLM(...) as llm:`` loads and closes.

    Args:
        model_path: As of :class:`LLM`; or an LLM that is loaded already, which is not closed then.
        drafter: As of :class:`LLM`.
        max_queue: Texts that may wait.
        max_queued_tokens: Tokens that their prompts may have together.
        options: The other arguments of :class:`LLM`.

    Attributes:
        on_event: Is called with all that is told of all texts, also of those that nobody follows any more, by the loop
            that has asked for them.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | LLM,
        drafter: str | os.PathLike[str] | None = None,
        *,
        max_queue: int = 64,
        max_queued_tokens: int = 2**18,
        **options: Any,
    ) -> None:
        self._llm = model_path if isinstance(model_path, LLM) else None
        self._owns = self._llm is None
        self._arguments = (model_path, drafter, options)
        self._max_queue = max_queue
        self._max_queued_tokens = max_queued_tokens
        self._closed = False
        self._seconds = 1.0  # of a text, of late
        self._error: Exception | None = None  # of the last text that failed
        self._failed = 0  # texts in a row
        self._failed_at = 0.0
        self.on_event: Callable[[Event], object] | None = None

    async def __aenter__(self) -> Self:
        await self.load()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def load(self) -> None:
        """Loads the model in a thread, if that has not been done; raises as :class:`LLM`."""
        await asyncio.to_thread(self.load_now)

    def load_now(self) -> None:
        """The same, in this thread, which waits."""
        if self._llm is None:
            model, drafter, options = self._arguments
            assert not isinstance(model, LLM)
            self._llm = LLM(model, drafter, **options)

    async def close(self) -> None:
        """Takes no more texts, ends those that are there, and frees the LLM that it has loaded; raises as LLM.close."""
        self.refuse()
        self.cancel_all()
        if self._llm is not None and self._owns:
            await asyncio.to_thread(self._llm.close)

    @property
    def llm(self) -> LLM:
        """The LLM; RuntimeError before it is loaded."""
        if self._llm is None:
            raise RuntimeError("this AsyncLLM is not loaded: expected `async with` or load() before")
        return self._llm

    @property
    def is_loaded(self) -> bool:
        """Whether the model is there."""
        return self._llm is not None

    @property
    def max_queue(self) -> int:
        """Texts that may wait."""
        return self._max_queue

    @property
    def pages(self) -> tuple[int, int, int] | None:
        """As :attr:`LLM.pages`; None: there is no model yet, or it is elsewhere."""
        return None if self._llm is None else self._llm.pages

    @property
    def failure(self) -> Exception | None:
        """Why texts cannot be written; None: they can, as far as is known.

        One text may fail by its own fault, so it takes a few in a row. What nobody has tried for a while may be over.
        """
        if self._llm is not None and self._llm._texts.works and not _writes() and self._llm._texts.works:
            return RuntimeError("the thread that writes texts has died")
        is_fresh = time.monotonic() - self._failed_at < _FAILING_SECONDS
        return self._error if self._failed >= _FAILING_TEXTS and is_fresh else None

    @property
    def displaced(self) -> int:
        """How often a text had to make room for others so far."""
        return 0 if self._llm is None else self._llm.displaced

    def waiting(self) -> list[Ticket]:
        """The texts that wait, in order of arrival."""
        return [] if self._llm is None else self._llm._texts.waiting()

    def running(self) -> list[Ticket]:
        """The texts that are being written."""
        return [] if self._llm is None else self._llm._texts.running()

    def refuse(self) -> None:
        """From now on no texts are taken; those that are there go on."""
        self._closed = True

    def cancel_all(self) -> None:
        """Ends the texts that are written with what there is; those that wait with NotAccepting."""
        if self._llm is None:
            return
        for ticket in self._llm._texts.waiting():
            self._llm._texts.withdraw(ticket, NotAccepting("the texts that waited were given up"))
        for ticket in self.running():
            ticket.stop()

    @takes_options
    def submit(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 128,
        *,
        priority: int = 0,
        timeout: float | None = None,
        max_seconds: float | None = None,
        parse_special: bool = True,
        committed: Sequence[int] = (),
        owner: str = "",
        progress: bool = False,
        prompt_cache_key: str = "",
        **options: Unpack[Options],
    ) -> AsyncText:
        """Puts a text into the queue, and returns at once.

        Args:
            prompt: As in :meth:`LLM.generate`, like all that is not named here.
            max_tokens: As in :meth:`LLM.generate`.
            priority: 0, first, to 9, last.
            timeout: Seconds that it may wait for its turn; None: any time.
            max_seconds: That it may take from its first token on; then it ends, by ``"length"``. None: any time.
            parse_special: As in :meth:`LLM.generate`.
            committed: As in :meth:`LLM.generate`.
            owner: Whose it is: where texts wait, owners take turns.
            progress: Its events tell of what is read of the prompt, too.
            prompt_cache_key: Where there are several replicas, texts of the same key are written by the same one, as
                long as it has a place.
            options: As in :meth:`LLM.generate`.

        Raises:
            QueueFull: Too many texts wait.
            NotAccepting: It was closed, or is about to be.
            ValueError: As :meth:`LLM.generate`; where the engine refuses an option, its events raise it.
        """
        if self._closed:
            raise NotAccepting("this AsyncLLM takes no more texts")
        request = self.llm._request(prompt, max_tokens, parse_special, priority, options, max_seconds, committed)
        request = replace(request, owner=owner, progress=progress, prompt_cache_key=prompt_cache_key)
        self._check_room(len(request.prompt))
        text = AsyncText()
        text._enter(self, Ticket(request, self.llm._begun, text._deliver), timeout)
        return text

    @takes_options
    async def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 128,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Generation:
        """Continues ``prompt``. A task that is cancelled ends its text. Arguments and errors: see :meth:`submit`."""
        text = self.submit(prompt, max_tokens, priority=priority, timeout=timeout, **options)
        try:
            return await text.result()
        except asyncio.CancelledError:
            text.cancel()
            raise

    @takes_options
    async def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 128,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[str]:
        """Continues ``prompt`` and gives the text in pieces. Leaving the loop ends the text. See :meth:`submit`."""
        text = self.submit(prompt, max_tokens, priority=priority, timeout=timeout, **options)
        try:
            async for piece in text:
                yield piece
        finally:
            text.cancel()

    @takes_chat_options
    async def chat(
        self,
        messages: Sequence[Any],
        max_tokens: int | None = 128,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **options: Unpack[ChatOptions],
    ) -> Generation:
        """Answers ``messages``, as :meth:`LLM.chat` does. See :meth:`submit`."""
        prompt, rest = await self._chat_prompt(messages, dict(options))
        return await self.generate(prompt, max_tokens, priority=priority, timeout=timeout, **rest)

    @takes_chat_options
    async def stream_chat(
        self,
        messages: Sequence[Any],
        max_tokens: int | None = 128,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncIterator[str]:
        """Answers ``messages`` and gives the answer in pieces. Leaving the loop ends it. See :meth:`submit`."""
        prompt, rest = await self._chat_prompt(messages, dict(options))
        async for piece in self.stream(prompt, max_tokens, priority=priority, timeout=timeout, **rest):
            yield piece

    async def _chat_prompt(self, messages: Sequence[Any], options: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        template = {name: options.pop(name) for name in TEMPLATE_DEFAULTS if name in options}
        return await asyncio.to_thread(self.llm.chat_prompt, messages, **template), options

    def _check_room(self, prompt_tokens: int) -> None:
        waiting = self.waiting()
        queued = sum(len(ticket.request.prompt) for ticket in waiting)
        if len(waiting) < self._max_queue and (not waiting or queued + prompt_tokens <= self._max_queued_tokens):
            return
        seconds = min(max(math.ceil(self._seconds * (len(waiting) + 1) / self.llm.n_parallel), 1), _MAX_RETRY)
        raise QueueFull(
            f"found {len(waiting)} texts in the queue, with {queued} prompt tokens, expected at most "
            f"{self._max_queue} and {self._max_queued_tokens}",
            seconds,
        )

    def _see(self, request: TextRequest, event: Event) -> None:
        """Follows all texts."""
        if isinstance(event, Generation):
            self._learn(event)
        # What a request has brought along may fail by its own fault.
        is_own = any(request.options.get(name) is not None for name in ("grammar", "logits_processor"))
        if isinstance(event, Piece) or (isinstance(event, Generation) and event.finish_reason != "cancelled"):
            self._failed = 0
        elif isinstance(event, Exception) and not isinstance(event, _OF_A_TEXT) and not is_own:
            self._error = event
            self._failed += 1
            self._failed_at = time.monotonic()
        if self.on_event is not None:
            self.on_event(event)

    def _learn(self, text: Generation) -> None:
        self._seconds += 0.2 * (text.stats.total_seconds - self._seconds)
