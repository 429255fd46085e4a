"""Who generates: what a run asks of an engine, and frspec_cpp itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import frspec_cpp

from ... import _core
from .methods import Contender


@dataclass(frozen=True)
class Text:
    """What an engine has written, and what it took. Times in seconds; None: the engine does not say."""

    tokens: list[int]
    finish_reason: str
    steps: int | None
    step_tokens: int | None
    drafted_steps: int | None
    prefill_seconds: float | None
    draft_seconds: float | None
    verify_seconds: float | None
    total_seconds: float
    trace: list[frspec_cpp.Step] | None = None


class Engine(Protocol):
    """Writes texts by one method."""

    def write(self, prompt: Sequence[int], traced: bool) -> Text:
        """Continues `prompt`; `traced`: tells of each step, where it can."""


class _Shared:
    """An LLM, and the head that it has now."""

    def __init__(self, llm: frspec_cpp.LLM, head: str) -> None:
        self.llm = llm
        self._head = head

    def use(self, head: str) -> frspec_cpp.LLM:
        if head != self._head:
            self.llm.set_head(head)
            self._head = head
        return self.llm


class Loader:
    """Makes engines of frspec_cpp.

    Args:
        target: The target's file.
        common: Keyword arguments of `frspec_cpp.LLM` for all methods.
        writing: Keyword arguments of `LLM.generate` for all methods.
        share: Methods of one drafter share an engine, whose head is changed between texts: less memory, but time
            between texts. Those with ``auto`` have one of their own all the same, since it learns.
    """

    def __init__(self, target: str, common: dict[str, Any], writing: dict[str, Any], share: bool = False) -> None:
        self._target = target
        self._common = common
        self._writing = writing
        self._share = share
        self._loaded: dict[str, _Shared] = {}

    def load(self, contender: Contender) -> OwnEngine:
        """The engine of `contender`; errors are those of `frspec_cpp.LLM`, behind the method's name."""
        options = {"drafter": None, "head": "auto", **contender.options}
        head = str(options["head"])
        key = repr(sorted((name, str(value)) for name, value in options.items() if name != "head"))
        shared = self._loaded.get(key) if self._share and head != "auto" else None
        if shared is None:
            try:
                shared = _Shared(frspec_cpp.LLM(self._target, **{**self._common, **options}), head)
            except (ValueError, TypeError, MemoryError) as error:
                kind = MemoryError if isinstance(error, MemoryError) else ValueError
                raise kind(f"method '{contender.method.name}': {error}") from None
            if head != "auto":
                self._loaded[key] = shared
        return OwnEngine(shared, head, {**self._writing, "draft": contender.draft})


class OwnEngine:
    """frspec_cpp, by one method: an LLM that may be others', too, its head, and arguments of `LLM.generate`."""

    def __init__(self, shared: _Shared, head: str, writing: dict[str, Any]) -> None:
        self._shared = shared
        self._head = head
        self._writing = writing

    @property
    def llm(self) -> frspec_cpp.LLM:
        """The loaded models."""
        return self._shared.llm

    def write(self, prompt: Sequence[int], traced: bool) -> Text:
        """Continues `prompt`; every step is told of where it is `traced`."""
        llm = self._shared.use(self._head)
        options = {**self._writing, "reuse": False}  # every method reads the prompt
        if traced:
            options["trace"] = True
        out = llm.generate(prompt, **options)
        if out.stats.drafter_error is not None:
            raise RuntimeError(f"the drafter gave up: {out.stats.drafter_error}")
        stats = out.stats
        return Text(
            tokens=out.tokens,
            finish_reason=out.finish_reason,
            steps=stats.steps,
            step_tokens=round(stats.accepted_length * stats.steps),
            drafted_steps=stats.drafted_steps,
            prefill_seconds=stats.prefill_seconds,
            draft_seconds=stats.draft_seconds,
            verify_seconds=stats.verify_seconds,
            total_seconds=stats.total_seconds,
            trace=None if out.trace is None else [_step(step) for step in out.trace],
        )


def _step(step: frspec_cpp.Step) -> frspec_cpp.Step:
    """The same with shorter numbers: a tenth of a microsecond is below what clocks tell."""
    times = (one.name for one in fields(step) if one.name.endswith("_seconds"))
    return replace(step, **{name: round(getattr(step, name), 7) for name in times})


def pieces_of(tokenizer: _core.Tokenizer, tokens: Sequence[int]) -> list[str]:
    """What each token says: whole characters, control tokens nothing; joined, they are the text."""
    decoder = _core.StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokens]
    if pieces:
        pieces[-1] += decoder.finish()
    return pieces


def said_of(tokenizer: _core.Tokenizer, trace: Sequence[frspec_cpp.Step]) -> dict[str, str]:
    """What the drafts look like that were offered where the target said otherwise, by token id."""
    return {str(token): token_label(tokenizer, token) for step in trace for token in step.offered}


def token_label(tokenizer: _core.Tokenizer, token: int) -> str:
    """A token to look at: what it spells, or the vocabulary's name of a control token."""
    return tokenizer.token_bytes(token).decode(errors="replace") or tokenizer.token_text(token)
