"""Counts the tokens that a target writes itself: ranks for drafting what it will write (VocabTrim, 2506.22694)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import _core
from .console import progress_bar
from .text_files import check_input, read_texts

PROMPT_TOKENS = 64  # of each text
_CHARACTERS = 16 * PROMPT_TOKENS  # that are looked at for them


def read_prompts(
    tokenizer: _core.Tokenizer, files: Sequence[Path], field: str | None = None, most: int | None = None
) -> list[list[int]]:
    """The first tokens of each text, at most `most` texts.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: bad input (the message names file and line), or no text at all.
    """
    for file in files:
        check_input(file)
    texts = (text for file in files for text in read_texts(file, field, lambda _: None))
    prompts = [tokenizer.encode(text[:_CHARACTERS])[:PROMPT_TOKENS] for text in itertools.islice(texts, most)]
    prompts = [list(tokens) for tokens in prompts if tokens]
    if not prompts:
        raise ValueError(f"{', '.join(str(file) for file in files)}: no text to begin with")
    return prompts


def count_generated(
    target: Path,
    drafter: Path | None,
    files: Sequence[Path],
    field: str | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    limit: int | None = None,
    threads: int = 0,
    quiet: bool = False,
) -> np.ndarray:
    """How often each token occurs in what the target writes behind the texts of `files`: int64, (V).

    Prompts are not counted, nor is what ends a text.

    Args:
        target: GGUF file.
        drafter: GGUF file of a drafter, which changes nothing but the time it takes; None: none.
        files: texts whose first tokens are the prompts: .txt, .jsonl (both also .gz or .zst) or .parquet.
        field: of JSON and Parquet records.
        max_tokens: of each text.
        temperature: 0: the most probable tokens; above it, every text is drawn with a seed of its own.
        limit: stop after the text in which so many tokens are reached.
        threads: 0 for all processors.
        quiet: show no progress bar.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: bad input, a pair that does not fit, or a target that writes nothing at all.
    """
    head = "full" if drafter is None else "auto"
    engine = _core.Engine(str(target), None if drafter is None else str(drafter), head=head, n_threads=threads)
    if not 1 <= max_tokens < engine.n_ctx:
        raise ValueError(
            f"max_tokens: found {max_tokens}, expected 1 to {engine.n_ctx - 1}, what the context has room for"
        )
    room = engine.n_ctx - max_tokens
    prompts = [tokens[:room] for tokens in read_prompts(engine.tokenizer, files, field, limit)]
    counts = np.zeros(engine.vocab_size, dtype=np.int64)
    written = 0
    total = len(prompts) * max_tokens
    with progress_bar(total if limit is None else min(limit, total), "generating tokens", quiet, "token") as bar:
        for seed, prompt in enumerate(prompts):
            tokens = [
                token
                for token, _, _ in engine.begin(prompt, max_tokens=max_tokens, temperature=temperature, seed=seed).run()
            ]
            np.add.at(counts, tokens, 1)
            written += len(tokens)
            # A text that ends early has done its part, unless a number of tokens is wanted.
            bar.update(len(tokens) if limit is not None else max_tokens)
            if limit is not None and written >= limit:
                break
    if not counts.any():
        raise ValueError(f"{target}: ends every text at once: no tokens to count")
    return counts
