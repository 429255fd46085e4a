"""A chat that keeps its messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from frspec_cpp.generation import Generation
from frspec_cpp.options import ChatOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from frspec_cpp.llm import LLM


class Conversation:
    """What was said in a chat, made by :meth:`LLM.conversation`.

    Attributes:
        messages: So far, as OpenAI writes them. They may be changed between two answers.
    """

    def __init__(self, llm: LLM, system: str | None, *, max_tokens: int | None, **options: Unpack[ChatOptions]) -> None:
        self.messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self._llm = llm
        self._options: dict[str, Any] = {"max_tokens": max_tokens, **options}

    def ask(self, message: str | Mapping[str, Any], **options: Any) -> Generation:
        """The answer to ``message``, a text or a whole message. Both are kept; an error keeps neither.

        Args:
            message: What is said.
            options: Of this answer, instead of the conversation's: ``max_tokens``, and those of :meth:`LLM.chat`.

        Raises:
            ValueError: As :meth:`LLM.chat`.
        """
        said = _message(message)
        answer: Generation = self._llm.chat([*self.messages, said], **{**self._options, **options})
        self._keep(said, answer.text)
        return answer

    def stream(self, message: str | Mapping[str, Any], **options: Any) -> Iterator[str]:
        """The same, in pieces as they come. Who leaves the iterator early keeps the answer so far.

        Raises:
            ValueError: As :meth:`LLM.chat`, at once.
        """
        said = _message(message)
        pieces = self._llm.chat([*self.messages, said], stream=True, **{**self._options, **options})
        return self._follow(said, pieces)

    def reset(self) -> None:
        """Forgets all messages but the system's."""
        self.messages = [message for message in self.messages[:1] if message["role"] == "system"]

    def _follow(self, said: dict[str, Any], pieces: Iterator[str]) -> Iterator[str]:
        answer = []
        try:
            for piece in pieces:
                answer.append(piece)
                yield piece
        finally:
            self._keep(said, "".join(answer))

    def _keep(self, said: dict[str, Any], answer: str) -> None:
        self.messages += [said, {"role": "assistant", "content": answer}]


def _message(message: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": message} if isinstance(message, str) else dict(message)
