"""Completions that begin with their prompt, whose tokens' log-probabilities may be told, too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from frspec_cpp.async_llm import AsyncText
from frspec_cpp.generation import Generation, Stats, TokenLogprobs
from frspec_cpp.grammar import Grammar
from frspec_cpp.option_table import Options
from frspec_cpp.texts import Cancelled, Piece, Reading, Started

#: Asks for a text after a prompt, of so many tokens at most.
Submit: TypeAlias = Callable[[list[int], int, Options], AsyncText]


@dataclass
class Echo:
    """A prompt that is told again.

    Attributes:
        text: It.
        tokens: Its token ids.
        logprobs: Of its tokens but the first, which follows nothing; None: nobody has asked, or they are to come.
    """

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprobs] | None = None


class EchoedText(AsyncText):
    """A text whose prompt is told before; with ``max_tokens`` 0 the prompt is all.

    The log-probabilities of a prompt are those of another text, which must be it, behind its first token. That one is
    written like any other, beside others. The text starts when they are known.

    Args:
        submit: Asks for both.
        echo: The prompt, which is told its log-probabilities, where the options have ``logprobs``.
        max_tokens: Of the text.
        options: Of the text.
    """

    def __init__(self, submit: Submit, echo: Echo, max_tokens: int, options: Options) -> None:
        super().__init__()
        self._submit = submit
        self._echo = echo
        self._max_tokens = max_tokens
        self._options = options
        self._cancelled = False
        self._text: AsyncText | None = None
        if options["logprobs"] is not None and len(echo.tokens) > 1:
            given: Options = {
                "grammar": Grammar.from_tokens(echo.tokens[1:]),
                "ignore_eos": True,  # a prompt may hold such tokens
                "logprobs": options["logprobs"],
                "reuse": options["reuse"],
                "salt": options["salt"],
            }
            self._text = submit(echo.tokens[:1], len(echo.tokens) - 1, given)

    def cancel(self) -> None:
        """Ends what is being written."""
        self._cancelled = True
        if self._text is not None:
            self._text.cancel()

    async def events(self) -> AsyncIterator[Started | Reading | Piece | Generation]:
        """All that is told of the text, as of :class:`AsyncText`."""
        started, seconds = Started(0.0), 0.0
        if self._text is not None:
            logprobs: list[TokenLogprobs] = []
            async for event in self._text.events():
                if isinstance(event, Started):
                    started = event
                elif isinstance(event, Piece):
                    logprobs += event.logprobs or []
                elif isinstance(event, Generation):
                    seconds = event.stats.total_seconds
                    self._cancelled |= event.finish_reason == "cancelled"
            self._echo.logprobs = logprobs
        elif self._options["logprobs"] is not None:
            self._echo.logprobs = []
        if self._cancelled:
            raise Cancelled("the text was cancelled before its turn came")
        if self._max_tokens == 0:
            yield started
            yield self._nothing(seconds)
            return
        self._text = self._submit(self._echo.tokens, self._max_tokens, self._options)
        async for event in self._text.events():
            if isinstance(event, Started):
                event = Started(started.queue_seconds + event.queue_seconds)
            elif isinstance(event, Generation):
                event = replace(event, stats=_with_prompt(event.stats, seconds))
            yield event

    def _nothing(self, seconds: float) -> Generation:
        """A text of no tokens."""
        tokens = len(self._echo.tokens)
        stats = replace(Stats.nothing(self._options["seed"] or 0), prompt_tokens=tokens)
        return Generation("", [], _with_prompt(stats, seconds), "length", tokens, [], None, None)


def _with_prompt(stats: Stats, seconds: float) -> Stats:
    """What a text has cost with its prompt's log-probabilities, of which nothing had been in the cache."""
    if seconds == 0.0:
        return stats
    return replace(
        stats,
        cached_tokens=0,
        prefill_seconds=stats.prefill_seconds + seconds,
        total_seconds=stats.total_seconds + seconds,
    )
