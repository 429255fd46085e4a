"""Log-probabilities in the two forms of OpenAI: of chats, and the old one of completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from frspec_cpp import _core
from frspec_cpp.generation import TokenLogprobs

_LEAST = -9999.0  # what OpenAI writes for a token that is out; JSON has no infinity


def _text(spelled: bytes) -> str:
    """Bytes that are no UTF-8 alone as OpenAI writes them."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _entry(tokenizer: _core.Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    spelled = tokenizer.token_bytes(token) or tokenizer.token_text(token).encode()  # a control token spells nothing
    return {"token": _text(spelled), "logprob": max(logprob, _LEAST), "bytes": list(spelled)}


def chat_logprobs(tokenizer: _core.Tokenizer, tokens: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    """The entries of ``logprobs.content``."""
    return [
        {
            **_entry(tokenizer, token.token, token.logprob),
            "top_logprobs": [_entry(tokenizer, other, logprob) for other, logprob in token.top.items()],
        }
        for token in tokens
    ]


def _no_tokens() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


class OldLogprobs:
    """The old form, in which each token has its place in the text.

    Args:
        tokenizer: The model's.
        offset: Where the first token begins.
    """

    def __init__(self, tokenizer: _core.Tokenizer, offset: int) -> None:
        self._tokenizer = tokenizer
        self._restart(offset)

    def of_prompt(self, text: str, ids: Sequence[int], tokens: Sequence[TokenLogprobs]) -> dict[str, list[Any]]:
        """The four lists of a prompt, whose first token has none. What comes next begins behind it.

        Args:
            text: It.
            ids: Its tokens.
            tokens: Those behind the first.
        """
        self._restart(0)
        found = _no_tokens()
        for number, token in enumerate(ids):
            values = (None, None) if number == 0 else self._values(tokens[number - 1])
            self._add(found, token, values, text)
        self._restart(len(text))
        return found

    def of_text(self, tokens: Sequence[TokenLogprobs]) -> dict[str, list[Any]]:
        """The four lists of tokens that follow those before."""
        found = _no_tokens()
        for token in tokens:
            self._add(found, token.token, self._values(token))
        return found

    def _restart(self, offset: int) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may have several tokens

    def _add(
        self,
        found: dict[str, list[Any]],
        token: int,
        values: tuple[float | None, dict[str, float] | None],
        prompt: str = "",
    ) -> None:
        spelled = self._tokenizer.token_bytes(token)
        own, best = values
        found["tokens"].append(_text(spelled))
        found["token_logprobs"].append(own)
        found["top_logprobs"].append(best)
        found["text_offset"].append(self._offset)
        if self._tokenizer.token_type(token) == _core.TokenType.CONTROL:
            # Only who has written a prompt as text has such in it.
            self._offset += len(spelled) if prompt.startswith(_text(spelled), self._offset) else 0
            return
        # Some vocabularies put a space before a text.
        is_added = self._offset == 0 and spelled[:1] == b" " and prompt[:1] not in ("", " ")
        self._offset += len(self._decoder.decode(spelled[1:] if is_added else spelled))

    def _values(self, token: TokenLogprobs) -> tuple[float, dict[str, float]]:
        # The own token is always among them, as OpenAI has it.
        best = {**token.top, token.token: token.logprob} if token.top else {}
        told = {
            _entry(self._tokenizer, other, logprob)["token"]: max(logprob, _LEAST) for other, logprob in best.items()
        }
        return max(token.logprob, _LEAST), told
