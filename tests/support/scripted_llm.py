"""An AsyncLLM that says what it is told to, so that a server's answers do not depend on a model, nor on its pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from frspec_cpp import LLM, AsyncLLM, Generation, Piece, Started, Token, TokenLogprobs


class ScriptedLLM(AsyncLLM):
    """Says `words`, a token a pass; the server stands on nothing else of it.

    Args:
        llm: For its tokens.
        words: What it says.
        stalls: It says them at once, and then nothing more until it is cancelled.
    """

    def __init__(self, llm: LLM, words: str, stalls: bool = False) -> None:
        super().__init__(llm)
        self.words = words
        self.stalls = stalls
        self.begun = 0
        self.cancelled = 0

    def submit(self, prompt: Any, max_tokens: Any = None, **options: Any) -> Any:
        """The words, whatever was asked."""
        return _Text(self, prompt, options)


class _Text:
    def __init__(self, owner: ScriptedLLM, prompt: list[int], options: dict[str, Any]) -> None:
        self._owner = owner
        self._prompt = prompt
        self._logprobs = options.get("logprobs") is not None

    def cancel(self) -> None:
        self._owner.cancelled += 1

    async def events(self) -> AsyncIterator[Started | Piece | Generation]:
        llm, words = self._owner.llm, self._owner.words
        self._owner.begun += 1
        yield Started(0.0)
        if self._owner.stalls:
            yield Piece([Token(5, False, words)], words, None)
            await asyncio.Event().wait()
        tokens = llm.tokenize(words, add_special=False)
        for token in tokens:
            text = llm.detokenize([token])  # nothing, for control tokens
            logprobs = [TokenLogprobs(token, -1.0, {})] if self._logprobs else None
            yield Piece([Token(token, False, text)], text, logprobs)
        end = llm.generate(self._prompt, 1, ignore_eos=True)  # for the numbers
        yield Generation(words, tokens, end.stats, "stop", 1, [False] * len(tokens), None, None)
