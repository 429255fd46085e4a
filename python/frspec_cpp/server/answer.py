"""One answer: the texts of its choices, as they come, with what they have cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from frspec_cpp.async_llm import AsyncText, NotAccepting
from frspec_cpp.generation import Generation
from frspec_cpp.server.choices import Choice
from frspec_cpp.server.errors import api_error, unexpected
from frspec_cpp.server.metrics import Metrics, Watch
from frspec_cpp.server.replies import DONE, event
from frspec_cpp.texts import Event, Piece, Reading, Started


@dataclass(frozen=True)
class Form:
    """How an answer is told.

    Attributes:
        head: What every object of it begins with.
        chunk_object: The kind of a chunk.
        prompt_tokens: Of the request; a prompt with several choices counts once.
        include_usage: A last chunk has the usage.
        timings_per_token: Every chunk has timings.
        prediction: Tokens that the text was predicted to be; None: nothing was predicted.
        n: Choices of each prompt.
        seed: The first text's.
    """

    head: dict[str, Any]
    chunk_object: str
    prompt_tokens: int
    include_usage: bool
    timings_per_token: bool
    prediction: Sequence[int] | None = None
    n: int = 1
    seed: int = 0


def timings(texts: Sequence[Generation]) -> dict[str, Any]:
    """What texts have cost, in llama.cpp's form. `seed` is the first one's."""
    stats = [text.stats for text in texts]
    cache_n = sum(each.cached_tokens for each in stats)
    prompt_n = sum(each.prompt_tokens for each in stats) - cache_n
    predicted_n = sum(each.generated_tokens for each in stats)
    prompt_ms = 1000 * sum(each.prefill_seconds for each in stats)
    predicted_ms = 1000 * sum(max(each.total_seconds - each.prefill_seconds, 0.0) for each in stats)
    drafted = sum(sum(text.drafted) for text in texts)
    steps = sum(each.steps for each in stats)
    return {
        "cache_n": cache_n,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_second": 1000 * prompt_n / prompt_ms if prompt_ms > 0 else 0.0,
        "predicted_n": predicted_n,
        "predicted_ms": predicted_ms,
        "predicted_per_second": stats[0].tokens_per_second
        if len(stats) == 1
        else (1000 * (predicted_n - len(stats)) / predicted_ms if predicted_ms > 0 else 0.0),
        "draft_n": sum(each.drafted_tokens for each in stats),
        "draft_n_accepted": drafted,
        "drafted_steps": sum(each.drafted_steps for each in stats),
        "steps": steps,
        "accepted_length": sum(each.accepted_length * each.steps for each in stats) / steps if steps else 0.0,
        "seed": stats[0].seed,
    }


class Answer:
    """An answer that is being written. To be followed once, either as a whole or as a stream.

    Args:
        texts: Of the choices.
        choices: In the same order.
        form: How it is told.
        metrics: Are told of every text.
    """

    def __init__(self, texts: list[AsyncText], choices: list[Choice], form: Form, metrics: Metrics) -> None:
        self._texts = texts
        self._choices = choices
        self._form = form
        self._watches = [Watch(metrics) for _ in texts]
        self._ends: dict[int, Generation] = {}
        self._steps = self._all_steps()
        self._first: list[dict[str, Any]] = []
        self._left = False

    def leave(self) -> None:
        """Ends the texts that are still to come or being written."""
        if self._left:
            return
        self._left = True
        for number, (text, watch) in enumerate(zip(self._texts, self._watches, strict=True)):
            if number not in self._ends:
                text.cancel()
            watch.leave()

    async def begin(self) -> None:
        """Waits until the first text's turn has come; raises what keeps it from being written."""
        self._first = await anext(self._steps)

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece; raises what ends it."""
        try:
            async for _ in self._steps:
                pass
        finally:
            self.leave()
        return {
            **self._form.head,
            "choices": [choice.whole() for choice in self._choices],
            "usage": self._usage(),
            "timings": self._timings(),
        }

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events. What ends it early is one of them."""
        usage = {"usage": None} if self._form.include_usage else {}
        head = {**self._form.head, "object": self._form.chunk_object}
        try:
            for chunk in self._first:
                yield event({**head, "choices": [chunk], **usage})
            async for chunks in self._steps:
                for number, chunk in enumerate(chunks):
                    is_last = len(self._ends) == len(self._texts) and number == len(chunks) - 1
                    extra = {"timings": self._timings()} if is_last else self._timings_so_far(chunk["index"])
                    if "prompt_progress" in chunk:
                        extra["prompt_progress"] = chunk.pop("prompt_progress")
                    yield event({**head, "choices": [chunk], **usage, **extra})
            if self._form.include_usage:
                yield event({**head, "choices": [], "usage": self._usage()})
        except Exception as error:
            yield event(unexpected(error).body())
        else:
            yield DONE

    async def _all_steps(self) -> AsyncIterator[list[dict[str, Any]]]:
        async for number, happened in _merged(self._texts):
            choice = self._choices[number]
            self._watches[number].see(happened)
            if isinstance(happened, Started):
                yield choice.opening()
            elif isinstance(happened, Piece):
                chunks = choice.feed(happened)
                if choice.is_complete:
                    self._texts[number].cancel()
                yield chunks
            elif isinstance(happened, Reading):
                yield [{**choice.silence(), "prompt_progress": self._watches[number].progress(happened)}]
            elif isinstance(happened, Generation):
                if happened.finish_reason == "cancelled" and not choice.is_complete:
                    raise api_error(NotAccepting())
                self._ends[number] = happened
                yield choice.finish(happened)

    def _timings(self) -> dict[str, Any]:
        return timings([self._ends[number] for number in range(len(self._texts))])

    def _timings_so_far(self, number: int) -> dict[str, Any]:
        return {"timings": self._watches[number].timings()} if self._form.timings_per_token else {}

    def _usage(self) -> dict[str, Any]:
        # A prompt with several choices counts once, here, too.
        cached = sum(text.stats.cached_tokens for number, text in self._ends.items() if number % self._form.n == 0)
        completion = sum(text.stats.generated_tokens for text in self._ends.values())
        usage = {
            "prompt_tokens": self._form.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self._form.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if self._form.prediction is not None:
            usage["completion_tokens_details"] = _predicted(self._form.prediction, self._ends.values())
        return usage


def _predicted(prediction: Sequence[int], texts: Iterable[Generation]) -> dict[str, int]:
    """OpenAI's numbers: tokens of the prediction that appear in the texts, and those that do not."""
    counts, accepted, rejected = Counter(prediction), 0, 0
    for text in texts:
        found = (counts & Counter(text.tokens)).total()
        accepted += found
        rejected += len(prediction) - found
    return {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": rejected}


async def _merged(texts: list[AsyncText]) -> AsyncIterator[tuple[int, Event]]:
    """What is told of several texts, as it comes; the first error ends it, as an ApiError."""
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    async def follow(number: int, text: AsyncText) -> None:
        try:
            async for happened in text.events():
                events.put_nowait((number, happened))
        except Exception as error:
            events.put_nowait((number, error))

    tasks = [asyncio.create_task(follow(number, text)) for number, text in enumerate(texts)]
    left = len(texts)
    try:
        while left:
            number, happened = await events.get()
            if isinstance(happened, Exception):
                raise api_error(happened) from happened
            left -= isinstance(happened, Generation)
            yield number, happened
    finally:
        for task in tasks:
            task.cancel()
