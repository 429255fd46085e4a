"""What two vocabularies have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from frspec_cpp import _core
from frspec_cpp.llm import LLM


@dataclass(frozen=True)
class VocabularyOverlap:
    """The intersection of a target's vocabulary T and a drafter's D (2502.05202, section 3).

    Attributes:
        target_tokens: Size of T.
        drafter_tokens: Size of D.
        shared_tokens: Tokens of both: they spell the same bytes, or have the same role.
        text_share: Of the tokens of the given text, those that are shared, 0 to 1.
        probability_mass: Of the target's next-token probabilities along the text, what falls on shared tokens: the
            mean over positions, 0 to 1. TLI can accept no more than that.
    """

    target_tokens: int
    drafter_tokens: int
    shared_tokens: int
    text_share: float
    probability_mass: float


def vocabulary_overlap(
    target: str | os.PathLike[str], drafter: str | os.PathLike[str], text: str, n_threads: int = 0
) -> VocabularyOverlap:
    """Size and probability mass of the tokens that two models share, along a text.

    Args:
        target: GGUF file of the target.
        drafter: GGUF file of the drafter (only its vocabulary is read).
        text: What the mass is measured on; its first 256 tokens are.
        n_threads: CPU threads; 0: one per available core.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is damaged, or the text has no token.
    """
    llm = LLM(target, n_threads=n_threads)
    other = _core.Tokenizer(os.fspath(drafter))
    aligned = np.array(_core.align_vocabularies(llm.tokenizer, other))
    shared = aligned >= 0
    tokens = llm.tokenize(text)[: min(256, llm.n_ctx)]
    if not tokens:
        raise ValueError("text: found no tokens, expected at least one")
    logits = llm.forward(tokens)
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits, out=logits)
    masses = weights[:, shared].sum(axis=1) / weights.sum(axis=1)
    return VocabularyOverlap(
        target_tokens=llm.vocab_size,
        drafter_tokens=other.vocab_size,
        shared_tokens=int(shared.sum()),
        text_share=float(shared[tokens].mean()),
        probability_mass=float(masses.mean()),
    )
