"""A choice of an answer, as it comes: the text of a completion, or the message of a chat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frspec_cpp import _core
from frspec_cpp.generation import Generation
from frspec_cpp.server.echoes import Echo
from frspec_cpp.server.logprobs import OldLogprobs, chat_logprobs
from frspec_cpp.server.reasoning import Part, ThoughtParser
from frspec_cpp.server.tool_calls import ToolCall, ToolParser
from frspec_cpp.texts import Piece


class Choice(ABC):
    """One text of an answer.

    Args:
        index: Its number.
        return_tokens: Give the token ids, too.
    """

    def __init__(self, index: int, return_tokens: bool) -> None:
        self.index = index
        self._return_tokens = return_tokens
        self._tokens: list[int] = []

    def opening(self) -> list[dict[str, Any]]:
        """The first chunks of a stream, before any text."""
        return []

    @abstractmethod
    def silence(self) -> dict[str, Any]:
        """A chunk that says nothing."""

    @abstractmethod
    def feed(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks that tell of `piece`."""

    @abstractmethod
    def finish(self, text: Generation) -> list[dict[str, Any]]:
        """The last chunks."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """All of it, once it has ended."""

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here, whatever the model wants to say yet."""
        return False

    def _ids(self, piece: Piece) -> dict[str, Any]:
        ids = [token.id for token in piece.tokens]
        self._tokens += ids
        return {"tokens": ids} if self._return_tokens else {}

    def _all_ids(self) -> dict[str, Any]:
        return {"tokens": self._tokens} if self._return_tokens else {}


class CompletionChoice(Choice):
    """A choice of ``/v1/completions``.

    Args:
        index: Its number.
        return_tokens: Give the token ids, too.
        tokenizer: The model's.
        echo: What stands before the text; None: nothing.
    """

    def __init__(self, index: int, return_tokens: bool, tokenizer: _core.Tokenizer, echo: Echo | None) -> None:
        super().__init__(index, return_tokens)
        self._echo = echo
        self._text = "" if echo is None else echo.text
        self._spelling = OldLogprobs(tokenizer, len(self._text))
        self._logprobs: dict[str, list[Any]] | None = None
        self._reason: str | None = None

    def opening(self) -> list[dict[str, Any]]:
        """The prompt, where it was asked for, with its log-probabilities, if so were they."""
        echo = self._echo
        if echo is None:
            return []
        if echo.logprobs is None:
            return [self._chunk(echo.text, None, None)]
        logprobs = self._spelling.of_prompt(echo.text, echo.tokens, echo.logprobs)
        self._logprobs = {name: list(values) for name, values in logprobs.items()}
        return [self._chunk(echo.text, logprobs, None)]

    def silence(self) -> dict[str, Any]:
        """A chunk that says nothing."""
        return self._chunk("", None, None)

    def feed(self, piece: Piece) -> list[dict[str, Any]]:
        """The text, with the tokens' log-probabilities."""
        ids = self._ids(piece)
        logprobs = None
        if piece.logprobs is not None:
            logprobs = self._spelling.of_text(piece.logprobs)
            if self._logprobs is None:
                self._logprobs = {name: [] for name in logprobs}
            for name, values in logprobs.items():
                self._logprobs[name] += values
        self._text += piece.text
        if not (piece.text or logprobs or ids):  # what is held back comes later
            return []
        return [{**self._chunk(piece.text, logprobs, None), **ids}]

    def finish(self, text: Generation) -> list[dict[str, Any]]:
        """Why it ended."""
        self._reason = text.finish_reason
        return [self._chunk("", None, self._reason)]

    def whole(self) -> dict[str, Any]:
        """The choice."""
        return {**self._chunk(self._text, self._logprobs, self._reason), **self._all_ids()}

    def _chunk(self, text: str, logprobs: dict[str, list[Any]] | None, reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": self.index, "logprobs": logprobs, "finish_reason": reason}


@dataclass
class _Message:
    content: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)


class ChatChoice(Choice):
    """A choice of ``/v1/chat/completions``.

    Args:
        index: Its number.
        return_tokens: Give the token ids, too.
        tokenizer: The model's.
        thoughts: Finds them; None: they stay in the content.
        tools: Finds calls; None: there are none.
        markers: Control tokens that a call may begin with, and their text, which no model's text has.
        one_call: The first call ends the answer.
    """

    def __init__(
        self,
        index: int,
        return_tokens: bool,
        tokenizer: _core.Tokenizer,
        thoughts: ThoughtParser | None,
        tools: ToolParser | None,
        markers: Mapping[int, str],
        one_call: bool,
    ) -> None:
        super().__init__(index, return_tokens)
        self._tokenizer = tokenizer
        self._thoughts = thoughts
        self._tools = tools
        self._markers = markers
        self._one_call = one_call
        self._message = _Message()
        self._logprobs: list[dict[str, Any]] | None = None
        self._reason: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it has the only call that it may have."""
        return self._one_call and bool(self._message.calls)

    def opening(self) -> list[dict[str, Any]]:
        """Who speaks."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def silence(self) -> dict[str, Any]:
        """A chunk that says nothing."""
        return self._chunk({})

    def feed(self, piece: Piece) -> list[dict[str, Any]]:
        """A chunk for each thing that it says; log-probabilities and ids go with the first."""
        extra = self._ids(piece)
        if piece.logprobs is not None:
            fresh = chat_logprobs(self._tokenizer, piece.logprobs)
            self._logprobs = [*(self._logprobs or []), *fresh]
            extra["logprobs"] = {"content": fresh, "refusal": None}
        text = piece.text
        if self._markers and self._tools is not None:
            text = "".join([self._markers.get(token.id, token.text) for token in piece.tokens])
            text = text if piece.tokens else piece.text
        parts = [Part(text, False)] if self._thoughts is None else self._thoughts.feed(text)
        deltas = [delta for part in parts for delta in self._deltas(part)]
        if extra and not deltas:
            deltas = [{}]
        return [self._chunk(delta, **(extra if number == 0 else {})) for number, delta in enumerate(deltas)]

    def finish(self, text: Generation) -> list[dict[str, Any]]:
        """What was held back, and why it ended."""
        parts = [] if self._thoughts is None else self._thoughts.finish()
        deltas = [delta for part in parts for delta in self._deltas(part)]
        if self._tools is not None:
            deltas += self._take(self._tools.finish())
        self._reason = text.finish_reason
        if self._message.calls and (self._reason == "stop" or self.is_complete):
            self._reason = "tool_calls"
        return [*(self._chunk(delta) for delta in deltas), self._chunk({}, finish_reason=self._reason)]

    def whole(self) -> dict[str, Any]:
        """The choice, with its message."""
        said = self._message
        content = "".join(said.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if said.calls and not content.strip() else content,
            "refusal": None,
        }
        if said.thoughts:
            message["reasoning_content"] = "".join(said.thoughts)
        if said.calls:
            message["tool_calls"] = said.calls
        return {
            "index": self.index,
            "message": message,
            "logprobs": None if self._logprobs is None else {"content": self._logprobs, "refusal": None},
            "finish_reason": self._reason,
            **self._all_ids(),
        }

    def _deltas(self, part: Part) -> list[dict[str, Any]]:
        if part.is_thought:
            self._message.thoughts.append(part.text)
            return [{"reasoning_content": part.text}]
        return self._take([part.text] if self._tools is None else self._tools.feed(part.text))

    def _take(self, found: list[str | ToolCall]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for thing in found:
            if self.is_complete:
                break
            if isinstance(thing, str):
                if thing:
                    self._message.content.append(thing)
                    deltas.append({"content": thing})
            else:
                call = thing.as_openai()
                self._message.calls.append(call)
                deltas.append({"tool_calls": [{"index": len(self._message.calls) - 1, **call}]})
        return deltas

    def _chunk(self, delta: dict[str, Any], **extra: Any) -> dict[str, Any]:
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None, **extra}
