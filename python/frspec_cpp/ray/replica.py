"""A replica: a process, mostly of a machine of its own, that writes texts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from frspec_cpp.async_llm import AsyncLLM
from frspec_cpp.texts import Event, TextRequest


@dataclass(frozen=True)
class Description:
    """What others must know of a replica's model; the attributes are those of :class:`frspec_cpp.LLM`."""

    n_ctx: int
    vocab_size: int
    architecture: str
    device: str
    has_drafter: bool
    ngram: int
    n_parallel: int


class Replica:
    """Writes texts, and goes on with those that another replica has begun.

    Args:
        model: As of :class:`frspec_cpp.LLM`, like the others.
        drafter: As of LLM.
        max_queue: Texts that may wait here.
        options: As of LLM.
    """

    def __init__(self, model: str, drafter: str | None, max_queue: int, options: dict[str, Any]) -> None:
        self._engine = AsyncLLM(model, drafter, max_queue=max_queue, **options)
        self._engine.load_now()

    def describe(self) -> Description:
        """What it has loaded."""
        llm = self._engine.llm
        return Description(
            n_ctx=llm.n_ctx,
            vocab_size=llm.vocab_size,
            architecture=llm.architecture,
            device=llm.device,
            has_drafter=llm.has_drafter,
            ngram=llm.ngram,
            n_parallel=llm.n_parallel,
        )

    def process(self) -> tuple[int, int]:
        """Its number, and that of the texts which it is writing."""
        return os.getpid(), len(self._engine.running())

    async def check_health(self) -> None:
        """Raises where it cannot write. Ray asks now and then, and starts another one."""
        error = self._engine.failure
        if error is not None:
            raise RuntimeError("the replica cannot write texts") from error

    async def write(self, request: TextRequest, timeout: float | None) -> AsyncIterator[Event]:
        """All that is told of a text, from its committed tokens on; raises as :meth:`AsyncText.events`."""
        text = self._engine.submit(
            request.prompt,
            request.max_tokens,
            priority=request.priority,
            timeout=timeout,
            max_seconds=request.max_seconds,
            committed=request.committed,
            owner=request.owner,
            progress=request.progress,
            **request.options,
        )
        try:
            async for event in text.events():
                yield event
        finally:
            text.cancel()
