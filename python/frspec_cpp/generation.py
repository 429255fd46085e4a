"""What generating gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from frspec_cpp import _core

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Tuning:
    """What the engine has found best to draft with, over all texts so far.

    Attributes:
        head: The head policy; empty where only what the text repeats is drafted.
        translation: ``"tli"`` or ``"slem"``, where there is a choice; else empty.
        drafts: Whether drafting beats plain decoding.
        nodes: Of a tree, the last token of the text included, on average.
        levels: Of drafted tokens in it, on average.
        gain: Drafts that a drafted step is expected to have accepted.
        cost: Of drafting and verifying them, in tokens: what plain steps would have given meanwhile.
        tokens_per_second: Expected of the way it goes now; 0: nothing is known yet.
        plain_tokens_per_second: Expected of plain decoding.
        summary: What was chosen, and why, in a sentence.
    """

    head: str
    translation: str
    drafts: bool
    nodes: float
    levels: float
    gain: float
    cost: float
    tokens_per_second: float
    plain_tokens_per_second: float
    summary: str


@dataclass(frozen=True)
class Stats:
    """What a text has cost, and what drafting gained.

    Attributes:
        tokens_per_second: Generated tokens over the time after the prompt.
        accepted_length: Mean tokens per pass of the target: accepted drafts + 1. 0 where there was no pass after
            the prompt.
        steps: Passes of the target after the prompt.
        drafted_steps: Those of them that verified drafts.
        drafted_tokens: Drafts that these verified, accepted or not.
        forced_tokens: Accepted drafts that no drafter made: a grammar left nothing else.
        tuning: What was found best to draft with; None without a drafter.
        ranks: Where the ranks of the drafter's head came from: ``"file"`` (the option `ranks`), ``"drafter"`` (its
            file), ``"adapted"``, ``"built-in"``, or the vocabulary's own order, ``"merges"`` or ``"scores"``; None: a
            head without ranks.
        drafter_error: Why the drafter gave up, and the text went on without it; None: it did not.
        adapt_error: Why the ranks that adapt could not be saved when the text ended; None: they were, or it was not
            their time. What was counted is kept for the next time.
        adapted_rows: Rows of the drafter's head that changed before the text began, where ranks adapt.
        adapt_seconds: Time that this took, a part of prefill_seconds.
        draft_seconds: Time spent drafting.
        verify_seconds: Time spent in passes of the target.
        prefill_seconds: Time for the prompt and the first token.
        total_seconds: All of it, and what lies between.
        seed: Of the sampling: the one that was drawn where a random one was asked for.
        prompt_tokens: Tokens of the prompt.
        cached_tokens: Those of them that were not read, since an earlier text had left them in the cache.
        generated_tokens: Tokens of the text.
    """

    tokens_per_second: float
    accepted_length: float
    steps: int
    drafted_steps: int
    drafted_tokens: int
    forced_tokens: int
    tuning: Tuning | None
    ranks: str | None
    drafter_error: str | None
    adapt_error: str | None
    adapted_rows: int
    adapt_seconds: float
    draft_seconds: float
    verify_seconds: float
    prefill_seconds: float
    total_seconds: float
    seed: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int

    @classmethod
    def nothing(cls, seed: int) -> Stats:
        """Of a text that has cost nothing yet."""
        return cls(0.0, 0.0, 0, 0, 0, 0, None, None, None, None, 0, 0.0, 0.0, 0.0, 0.0, 0.0, seed, 0, 0, 0)

    @classmethod
    def from_native(cls, stats: _core.Stats) -> Stats:
        """A frozen copy of the engine's counters."""
        return cls(
            tokens_per_second=stats.tokens_per_second,
            accepted_length=stats.accepted_length,
            steps=stats.steps,
            drafted_steps=stats.drafted_steps,
            drafted_tokens=stats.drafted_tokens,
            forced_tokens=stats.forced_tokens,
            tuning=None if stats.tuning is None else Tuning(**stats.tuning),
            ranks=stats.ranks or None,
            drafter_error=stats.drafter_error or None,
            adapt_error=stats.adapt_error or None,
            adapted_rows=stats.adapted_rows,
            adapt_seconds=stats.adapt_seconds,
            draft_seconds=stats.draft_seconds,
            verify_seconds=stats.verify_seconds,
            prefill_seconds=stats.prefill_seconds,
            total_seconds=stats.total_seconds,
            seed=stats.seed,
            prompt_tokens=stats.prompt_tokens,
            cached_tokens=stats.cached_tokens,
            generated_tokens=stats.generated_tokens,
        )


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of probabilities: the target's own, before the sampler chain and at temperature 1.

    Attributes:
        token: The token of the text.
        logprob: Its own.
        top: The most probable tokens, best first, and theirs.
    """

    token: int
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True)
class Step:
    """A pass of the target after the prompt's own, which gave the first token of the text.

    Attributes:
        tokens: That it gave to the text: accepted drafts, then the target's own. Fewer in the last step, where the text
            ended before; a token that ended it, and is no part of it, is not among them.
        accepted: Drafts that the target accepted.
        nodes: Of the verified tree, the last token of the text included; 1: no drafts.
        offered: The drafts behind the last accepted one, the drafter's favourite first, where the target said none of
            them; empty: the tree ended there, or there were no drafts.
        in_subset: Whether the draft head could have offered what the target said there, be it offered or not, with the
            rows that it had then. None: it is not known, because there were no drafts or no head, the rows are chosen
            anew for each state (``"speculated"``), or drafts are spelled in other tokens (``"slem"``, ``"slrs"``).
        transformer_seconds: Drafting without the head: telling the drafter what was accepted, its layers, the tree.
        head_seconds: The draft head, with the choice of its best tokens.
        verify_seconds: The pass of the target and the verdict.
        total_seconds: The whole step.
    """

    tokens: list[int]
    accepted: int
    nodes: int
    offered: list[int]
    in_subset: bool | None
    transformer_seconds: float
    head_seconds: float
    verify_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Generation:
    """A generated text.

    Attributes:
        text: The text without the prompt. Bytes that are no UTF-8 are U+FFFD, as with ``errors="replace"``.
        tokens: Its token ids, without the prompt's and without an end-of-generation or stop token that ended it; a
            stop string's are among them.
        stats: What it has cost.
        finish_reason: ``"stop"`` (an end-of-generation token, a stop token or a stop string), ``"length"`` (max_tokens,
            or the context is full) or ``"cancelled"`` (by :meth:`LLM.cancel`, :meth:`LLM.close` or ``cancel``).
        prompt_tokens: Number of tokens of the prompt.
        drafted: For each token whether a draft had foreseen it.
        logprobs: For each token its log-probability and the best tokens'; None unless asked for.
        trace: The steps after the prompt's own pass, so their tokens follow the first one; None unless asked for.
    """

    text: str
    tokens: list[int]
    stats: Stats
    finish_reason: FinishReason
    prompt_tokens: int
    drafted: list[bool]
    logprobs: list[TokenLogprobs] | None
    trace: list[Step] | None

    @classmethod
    def from_native(
        cls, native: _core.Generation, tokens: list[tuple[int, bool, str]], with_logprobs: bool, with_trace: bool
    ) -> Generation:
        """The result of a native generation that has ended."""
        stats = Stats.from_native(native.stats)
        logprobs = None
        if with_logprobs:
            logprobs = [
                TokenLogprobs(token, logprob, dict(top))
                for (token, _, _), (logprob, top) in zip(tokens, native.logprobs, strict=True)
            ]
        return cls(
            text="".join([text for _, _, text in tokens]) + native.closing_text,
            tokens=[token for token, _, _ in tokens],
            stats=stats,
            finish_reason=cast(FinishReason, native.finish_reason),
            prompt_tokens=stats.prompt_tokens,
            drafted=[drafted for _, drafted, _ in tokens],
            logprobs=logprobs,
            trace=[Step(**step) for step in native.trace] if with_trace else None,
        )
