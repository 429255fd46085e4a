"""Log-probabilities in the two forms of OpenAI: of chats, and the old one of completions."""

from __future__ import annotations

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


def old_logprobs(
    tokenizer: _core.Tokenizer, tokens: Sequence[TokenLogprobs], offset: int
) -> tuple[dict[str, list[Any]], int]:
    """The four lists, and where the next token begins.

    Args:
        tokenizer: The model's.
        tokens: Some of the text, one after the other.
        offset: Where the first of them begins.
    """
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        text = _text(tokenizer.token_bytes(token.token))
        found["tokens"].append(text)
        found["token_logprobs"].append(max(token.logprob, _LEAST))
        # The own token is always among them, as OpenAI has it.
        best = {**token.top, token.token: token.logprob} if token.top else {}
        found["top_logprobs"].append(
            {_entry(tokenizer, other, logprob)["token"]: max(logprob, _LEAST) for other, logprob in best.items()}
        )
        found["text_offset"].append(offset)
        offset += len(text)
    return found, offset
