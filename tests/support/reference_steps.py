"""Compares the steps of an engine with those of a reference drafter along the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from eagle2_reference import Drafter, Shape, Text, steps_along
from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
from frspec_cpp.tools.ranks_file import Ranks, write_ranks
from frspec_cpp.tools.sketch import factorise, read_head, write_sketch

from frspec_cpp import _core

Steps = list[tuple[int, int]]  # (tokens before the step, tokens it gave)
NEAR_TIE = 1e-3  # difference of two logits that half precision in the cache may turn around


def engine_steps(engine: _core.Engine, text: Text) -> tuple[list[int], Steps]:
    """What the engine writes behind the prompt of `text`, and its steps after the prompt's own."""
    generation = engine.begin(
        text.tokens[: text.prompt], max_tokens=len(text.continuation), ignore_eos=True, draft="always"
    )
    tokens, steps = [token for token, _, _ in generation.step()], []
    assert len(tokens) == 1
    while generation.finish_reason is None:
        given = generation.step()
        # All but the last are accepted drafts; the last one is, too, where the text ends before the bonus token.
        assert all(drafted for _, drafted, _ in given[:-1])
        steps.append((text.prompt + len(tokens), len(given)))
        tokens += [token for token, _, _ in given]
    assert generation.stats.steps == len(steps)
    return tokens, steps


def compare(engine: _core.Engine, drafter: Drafter, texts: Sequence[Text], shape: Shape) -> float:
    """Compares the engine's steps with the reference's; returns the mean of tokens per step."""
    found: Steps = []
    expected: Steps = []
    compared = 0
    for number, text in enumerate(texts):
        tokens, steps = engine_steps(engine, text)
        same = [a == b for a, b in zip(tokens, text.continuation, strict=True)]
        length = same.index(False) if False in same else len(same)
        assert length == len(same) or text.margins[length] < NEAR_TIE, (number, length)
        compared += length
        end = text.prompt + length
        reference = [(step.start, step.given) for step in steps_along(drafter, text, shape)]
        # Positions that no other text shares, so that all texts can be compared as one.
        found += [(number * 10000 + start, given) for start, given in steps if start + given <= end]
        expected += [(number * 10000 + start, given) for start, given in reference if start + given <= end]
    assert compared >= 0.9 * sum(len(text.continuation) for text in texts), "near-ties are rare"
    common = len(set(found) & set(expected))
    assert common >= 0.95 * max(len(found), len(expected)), (found, expected)
    mean, reference_mean = (sum(given for _, given in steps) / len(steps) for steps in (found, expected))
    assert mean == pytest.approx(reference_mean, rel=0.02)
    return mean


def make_engine(target: Path, drafter: Path, shape: Shape, **options: Any) -> _core.Engine:
    """An engine whose trees have the given shape."""
    return _core.Engine(
        str(target),
        drafter=str(drafter),
        tree_depth=shape.depth,
        tree_branch=shape.branch,
        tree_size=shape.size,
        **{"head": "full", **options},
    )


def write_vocabulary_ranks(path: Path, target: Path, order: np.ndarray) -> None:
    """Writes a ranks file for the vocabulary of a GGUF file."""
    tokens = gguf.GGUFReader(target).fields["tokenizer.ggml.tokens"].contents()
    write_ranks(path, Ranks(order, len(tokens), vocabulary_fingerprint(tokens)))


def write_random_sketch(path: Path, target: Path, drafter: Path, rank: int = 32) -> None:
    """Writes a sketch of the drafter's head, made of random states."""
    head = read_head(target, drafter)
    states = np.random.default_rng(2).standard_normal((300, head.width)).astype(np.float32)
    down, up = factorise(head, states, rank, quiet=True)
    tokens = gguf.GGUFReader(target).fields["tokenizer.ggml.tokens"].contents()
    write_sketch(path, down, up, "f32", vocabulary_fingerprint(tokens), "states", [])
