"""The replicas as an engine of the server: a text goes on elsewhere when its replica dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ray.exceptions import RayError, RayTaskError

from frspec_cpp import _core
from frspec_cpp.async_llm import AsyncLLM, AsyncText, NotAccepting, QueueFull, QueueTimeout
from frspec_cpp.generation import Generation, Stats, TokenLogprobs
from frspec_cpp.llm import LLM
from frspec_cpp.option_table import Options
from frspec_cpp.options import native as native_options
from frspec_cpp.options import takes_options
from frspec_cpp.ray.replica import Description
from frspec_cpp.texts import Cancelled, Event, Piece, Reading, Started, TextRequest, Token, numbers

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from typing_extensions import Unpack

_LOSSES = 8  # replicas that a text may lose
_PAUSE = 0.25  # seconds; each one is as much longer


class RemoteModel(LLM):
    """What can be asked of a model without its weights: its tokens and templates, and what a replica tells of it.

    Args:
        path: The model's file, which every machine has.
        told: By a replica.
        replicas: How many there are.
    """

    def __init__(self, path: str, told: Description, replicas: int = 1) -> None:
        self.replicas = replicas
        self._path = path
        self._closed = False
        self._told = told
        self._own_tokenizer = _core.Tokenizer(path)

    @property
    def tokenizer(self) -> _core.Tokenizer:
        """The target's tokenizer."""
        return self._own_tokenizer

    @property
    def n_ctx(self) -> int:
        """As of LLM, like what follows."""
        return self._told.n_ctx

    @property
    def vocab_size(self) -> int:
        """Tokens."""
        return self._told.vocab_size

    @property
    def architecture(self) -> str:
        """The target's."""
        return self._told.architecture

    @property
    def device(self) -> str:
        """Of a replica."""
        return self._told.device

    @property
    def has_drafter(self) -> bool:
        """Whether replicas have one."""
        return self._told.has_drafter

    @property
    def ngram(self) -> int:
        """Tokens that replicas look up."""
        return self._told.ngram

    @property
    def n_parallel(self) -> int:
        """Of all replicas."""
        return self.replicas * self._told.n_parallel


class RemoteText(AsyncText):
    """A text that replicas write, one after the other where one dies. See :class:`AsyncText`."""

    def __init__(self, owner: Replicas, request: TextRequest, timeout: float | None) -> None:
        super().__init__()
        self.request = request
        self.number = next(numbers)
        self.cached = 0
        self.pieces: list[Piece] = []
        self.has_begun = False
        self._replicas = owner
        self._timeout = timeout
        # When a replica must have begun with it; None: one has, or may at any time.
        self._starts_by: float | None = None
        self._await_start()
        self._stream: Any = None
        self._stop = asyncio.Event()
        self._ends: float | None = None

    @property
    def generated(self) -> int:
        """Tokens so far."""
        return len(self._tokens())

    @property
    def passes(self) -> int:
        """That have given tokens."""
        return len(self.pieces)

    def cancel(self) -> None:
        """Ends it: :meth:`result` has what there is, or raises Cancelled where its turn has not come."""
        self._stop.set()
        if self._stream is None:  # perhaps nobody has asked for its events, nor will
            self._replicas.forget(self)
        else:
            self._stream.cancel()

    async def events(self) -> AsyncIterator[Started | Reading | Piece | Generation]:
        """All that is told of it, as of :class:`AsyncText`; a second replica goes on where the first ended."""
        losses = 0
        has_ended = False
        try:
            while not self._stop.is_set():
                try:
                    async for event in self._of_one_replica():
                        has_ended = isinstance(event, Generation)
                        self._replicas._see(self.request, event)
                        yield event
                        if has_ended:
                            return
                    if not self._stop.is_set():
                        raise RuntimeError("a replica ended a text without telling its end")
                except RayTaskError as error:  # the replica lives, and has raised it
                    raise error.cause from error
                except RayError:
                    losses += 1
                    if losses > _LOSSES:
                        raise
                    if self._starts_by is None:
                        self._await_start()
                    await asyncio.sleep(_PAUSE * losses)
            if not self.has_begun:
                raise Cancelled("the text was cancelled before its turn came")
            yield self._whole(None, "cancelled")
        finally:
            if self.has_begun and not has_ended:  # what was written for who has left counts, too
                self._replicas._see(self.request, self._whole(None, "cancelled"))
            self._replicas.forget(self)

    def _await_start(self) -> None:
        self._starts_by = None if self._timeout is None else time.monotonic() + self._timeout

    def _left_to_start(self) -> float | None:
        """Seconds that a replica has to begin with it, not less than 0; None: any time."""
        return None if self._starts_by is None else max(self._starts_by - time.monotonic(), 0.0)

    async def _of_one_replica(self) -> AsyncIterator[Started | Reading | Piece | Generation]:
        left = None if self._ends is None else max(self._ends - time.monotonic(), 0.001)
        committed = [token.id for token in self._tokens()]
        request = replace(self.request, committed=committed, max_seconds=left or self.request.max_seconds)
        self._stream = self._replicas.handle.options(stream=True).write.remote(request, self._left_to_start())
        async for event in self._told():
            if isinstance(event, Started):
                self._starts_by = None
            if isinstance(event, Piece):
                if self._ends is None and self.request.max_seconds is not None:
                    self._ends = time.monotonic() + self.request.max_seconds
                self.pieces.append(event)
                yield event
            elif isinstance(event, Reading) and not self.pieces:
                self.cached = event.cached
                yield event
            elif isinstance(event, Generation):
                self.cached = event.stats.cached_tokens
                if event.finish_reason == "cancelled" and not self._stop.is_set():
                    raise NotAccepting("the replica was closed")
                yield self._whole(event, event.finish_reason)
            elif isinstance(event, Started) and not self.has_begun:
                self.has_begun = True
                yield event

    async def _told(self) -> AsyncIterator[Event]:
        """What the replica tells, until the text is cancelled: a replica that hangs is not waited for.

        Nor is one that does not begin in time: where none lives, nobody else would tell.
        """
        stop = asyncio.ensure_future(self._stop.wait())
        step: asyncio.Future[Event] | None = None
        try:
            while True:
                step = asyncio.ensure_future(anext(self._stream))
                step.add_done_callback(_look_at)
                left = self._left_to_start()
                await asyncio.wait((step, stop), return_when=asyncio.FIRST_COMPLETED, timeout=left)
                if self._stop.is_set():
                    return
                if not step.done():
                    self._stream.cancel()
                    raise QueueTimeout(f"no replica began with the text for {self._timeout:g} s")
                try:
                    event = step.result()
                except StopAsyncIteration:
                    return
                yield event
        finally:
            stop.cancel()
            if step is not None:
                step.cancel()

    def _tokens(self) -> list[Token]:
        return [token for piece in self.pieces for token in piece.tokens]

    def _whole(self, last: Generation | None, reason: Any) -> Generation:
        """The text that all replicas together have written; the costs are those of the last one."""
        tokens = self._tokens()
        seed = self.request.options.get("seed") or 0
        stats = last.stats if last is not None else Stats.nothing(seed)
        logprobs: list[TokenLogprobs] | None = None
        if self.request.options.get("logprobs") is not None:
            logprobs = [each for piece in self.pieces for each in piece.logprobs or ()]
        prompt = len(self.request.prompt)
        return Generation(
            text="".join(piece.text for piece in self.pieces),
            tokens=[token.id for token in tokens],
            stats=replace(stats, prompt_tokens=prompt, cached_tokens=self.cached, generated_tokens=len(tokens)),
            finish_reason=reason,
            prompt_tokens=prompt,
            drafted=[token.drafted for token in tokens],
            logprobs=logprobs,
            trace=None,
        )


def _look_at(step: asyncio.Future[Event]) -> None:
    """What went wrong with a step that nobody waits for is nobody's business: asyncio would log it."""
    if not step.cancelled():
        step.exception()


class Replicas(AsyncLLM):
    """All replicas, as one AsyncLLM whose queue they share out among them.

    Args:
        handle: Of their deployment.
        model: What they have loaded.
        max_queue: Texts that may wait for each of them.
    """

    def __init__(self, handle: DeploymentHandle[Any], model: RemoteModel, max_queue: int) -> None:
        super().__init__(model, max_queue=max_queue * model.replicas)
        self.handle = handle
        self._texts: list[RemoteText] = []

    def waiting(self) -> list[Any]:
        """The texts whose turn has not come."""
        return [text for text in self._texts if not text.has_begun]

    def running(self) -> list[Any]:
        """The texts that are being written."""
        return [text for text in self._texts if text.has_begun]

    @property
    def pages(self) -> None:
        """Those of the replicas are not known here."""
        return None

    @property
    def displaced(self) -> int:
        """Nor is this."""
        return 0

    @property
    def failure(self) -> None:
        """A replica that fails is Ray's business: it starts another one."""
        return None

    def forget(self, text: RemoteText) -> None:
        """It has ended."""
        if text in self._texts:
            self._texts.remove(text)

    def cancel_all(self) -> None:
        """Ends all texts with what there is."""
        for text in list(self._texts):
            text.cancel()

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
        """As :meth:`AsyncLLM.submit`. The seed is drawn here, so that a second replica has the same."""
        if self._closed:
            raise NotAccepting("this server takes no more texts")
        seeded = cast(Options, {**options, "seed": native_options(self.llm.vocab_size, **options).get("seed", 0)})
        request = self.llm._request(prompt, max_tokens, parse_special, priority, seeded, max_seconds, committed)
        request = replace(request, owner=owner, progress=progress, prompt_cache_key=prompt_cache_key)
        # What is written takes nobody's place in the queue, however many replicas write.
        waiting = len(self.waiting())
        if waiting >= self._max_queue:
            raise QueueFull(f"found {waiting} texts that wait, expected at most {self._max_queue}", 1)
        text = RemoteText(self, request, timeout)
        self._texts.append(text)
        return text
