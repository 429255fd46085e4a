"""What the engine makes of a drafter: accepted lengths of chains and trees, and the speed beside plain decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import frspec_cpp

from ..target import open_gguf

# Shapes that are told of: a chain of three drafts, and a tree of 16 nodes.
SHAPES = {"chain_3": (2, 1, 4), "tree_16": (4, 4, 16)}


@dataclasses.dataclass(frozen=True)
class Speeds:
    """Tokens per second behind the prompts, without the drafter and with it; `accepted_length` with it."""

    plain: float
    drafted: float
    accepted_length: float


def accepted_lengths(
    target: Path, drafter: Path, prompts: Sequence[Sequence[int]], max_tokens: int, threads: int, context: int
) -> dict[str, float]:
    """Mean tokens per pass of the target at temperature 0, for each of SHAPES, over the whole (or the own) head."""
    result = {}
    for name, tree in SHAPES.items():
        tokens = passes = 0.0
        with frspec_cpp.LLM(
            target, drafter=drafter, head=_head(drafter), tree=tree, ngram=0, n_threads=threads, n_ctx=context
        ) as llm:
            for prompt in prompts:
                stats = _generated(llm, prompt, max_tokens, "always").stats
                tokens += stats.accepted_length * stats.steps
                passes += stats.steps
        result[name] = tokens / passes if passes else 0.0
    return result


def speeds(
    target: Path, drafter: Path, prompts: Sequence[Sequence[int]], max_tokens: int, threads: int, context: int
) -> Speeds:
    """At temperature 0, with all that is automatic: head, tree, whether to draft.

    Raises RuntimeError where drafting changed a text.
    """
    tokens, seconds, passes = [0.0, 0.0], [0.0, 0.0], 0.0
    with frspec_cpp.LLM(target, drafter=drafter, n_threads=threads, n_ctx=context) as llm:
        _generated(llm, prompts[0], max_tokens, "auto")  # the tuner learns
        for prompt in prompts:
            texts = [_generated(llm, prompt, max_tokens, draft) for draft in ("never", "auto")]
            if texts[0].tokens != texts[1].tokens:
                raise RuntimeError(f"{drafter}: the drafted text differs from the plain one, expected the same")
            for i, text in enumerate(texts):
                tokens[i] += text.stats.accepted_length * text.stats.steps
                seconds[i] += text.stats.total_seconds - text.stats.prefill_seconds
            passes += texts[1].stats.steps
    plain, drafted = (count / time if time else 0.0 for count, time in zip(tokens, seconds, strict=True))
    return Speeds(plain, drafted, tokens[1] / passes if passes else 0.0)


def _generated(llm: Any, prompt: Sequence[int], max_tokens: int, draft: str) -> Any:
    text = llm.generate(list(prompt), max_tokens=max_tokens, draft=draft)
    if text.stats.drafter_error is not None:
        raise RuntimeError(f"the drafter gave up: {text.stats.drafter_error}")
    return text


def _head(drafter: Path) -> str:
    """The drafter's own head where it has one that is reduced, else the whole one."""
    return "learned" if any(tensor.name == "d2t" for tensor in open_gguf(drafter).tensors) else "full"
