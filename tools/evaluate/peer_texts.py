"""What peers have in common: whose text it is when it ends, what its steps were, whose error it was."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ... import _core
from ..console import describe
from .engines import Text
from .peer_rows import PeerOptions
from .records import Method

SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # what all of them know, and mean alike


def collect(
    ids: Any, start: float, writing: dict[str, Any], tokenizer: _core.Tokenizer
) -> tuple[list[int], str, float | None]:
    """The text's tokens, why it ended, and the seconds to the first token.

    Raises:
        RuntimeError: It ended before its time, by something else than an end-of-generation token.
    """
    tokens: list[int] = []
    first: float | None = None
    for token in ids:
        if first is None:
            first = time.perf_counter() - start
        if not writing.get("ignore_eos") and tokenizer.is_eog(int(token)):
            return tokens, "stop", first
        tokens.append(int(token))
        if len(tokens) == writing["max_tokens"]:
            return tokens, "length", first
    without = "" if writing.get("ignore_eos") else " and no end-of-generation token"
    raise RuntimeError(f"found a text of {len(tokens)} tokens{without}, expected {writing['max_tokens']} tokens")


class Passes:
    """What a streamer notes: how many passes gave tokens, when the first did, and how many it gave."""

    def __init__(self) -> None:
        super().__init__()  # another base, if there is one
        self.passes = 0
        self.of_prompt = 1
        self._at: float | None = None

    def note(self, tokens: int) -> None:
        """A pass gave so many tokens."""
        if self.passes == 0:
            self._at = time.perf_counter()
            self.of_prompt = tokens
        self.passes += 1

    def since(self, start: float) -> float | None:
        """Seconds from `start` to the first pass's tokens; None: there was none."""
        return None if self._at is None else self._at - start


def text_of(
    tokens: list[int], reason: str, first: float | None, total: float, passes: int, of_prompt: int, drafts: bool
) -> Text:
    """Of the passes of the target one was the prompt's, which gave the first `of_prompt` tokens."""
    ended = 1 if reason == "stop" else 0  # the token that ended the text was given, too
    return Text(
        tokens=tokens,
        finish_reason=reason,
        steps=max(0, passes - 1),
        step_tokens=max(0, len(tokens) + ended - of_prompt),
        drafted_steps=None if drafts else 0,
        prefill_seconds=first,
        draft_seconds=None,
        verify_seconds=None,
        total_seconds=total,
    )


def ends_of(tokenizer: _core.Tokenizer) -> list[int]:
    """All tokens that end a text."""
    return [token for token in range(tokenizer.size) if tokenizer.is_eog(token)]


@contextmanager
def named(where: str) -> Iterator[None]:
    """Whatever goes wrong in code that is not ours is told in one line, behind `where`."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{where}: {error}") from error
    except Exception as error:
        what = describe(error)
        if not isinstance(error, (RuntimeError, OSError)):
            what = type(error).__name__ + (f": {what}" if str(error) else "")
        raise RuntimeError(f"{where}: {what}") from error


class Peer(ABC):
    """An engine that is not ours.

    Args:
        method: The row that it fills.
        options: What peers are started with.
        tokenizer: The target's.
    """

    def __init__(self, method: Method, options: PeerOptions, tokenizer: _core.Tokenizer) -> None:
        self._method = method
        self._writing = options.writing
        self._tokenizer = tokenizer

    def write(self, prompt: Sequence[int], traced: bool) -> Text:
        """Continues `prompt`; there is no trace. Errors are RuntimeErrors behind the method's name."""
        del traced
        with named(self._method.name):
            return self._write(prompt)

    @abstractmethod
    def _write(self, prompt: Sequence[int]) -> Text: ...
