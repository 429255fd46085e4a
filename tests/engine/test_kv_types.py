"""The q8_0 cache: as lossless as the f16 one, close to it, and about half as large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frspec_cpp import LLM, _core

PROMPT = "def quicksort(values):\n    "


@pytest.mark.every_isa
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafting_changes_nothing(demo_target: Path, demo_drafter: Path, temperature: float) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:4096", tree_size=30, cache_type="q8_0")
    plain, drafted = (
        llm.generate(PROMPT, max_tokens=96, temperature=temperature, seed=3, ignore_eos=True, draft=draft)
        for draft in (False, True)
    )
    assert drafted.tokens == plain.tokens
    if temperature == 0.0:
        assert drafted.stats.accepted_length > 1.2


def test_it_is_close_to_f16(demo_target: Path) -> None:
    tokens = LLM(demo_target).tokenize(PROMPT * 20)
    f16, q8_0 = (_core.Engine(str(demo_target), cache_type=kind).forward(tokens) for kind in ("f16", "q8_0"))
    assert not np.array_equal(f16, q8_0)
    assert np.sqrt(np.mean((f16 - q8_0) ** 2)) < 0.02 * f16.std()


@pytest.mark.every_isa
@pytest.mark.threads
def test_chunks_and_threads_do_not_change_bits(demo_target: Path) -> None:
    tokens = LLM(demo_target).tokenize(PROMPT * 9)
    expected = _core.Engine(str(demo_target), cache_type="q8_0", n_threads=1).forward(tokens)
    for n_threads, n_batch in [(2, 1), (3, 17)]:
        engine = _core.Engine(str(demo_target), cache_type="q8_0", n_threads=n_threads, n_batch=n_batch)
        assert np.array_equal(engine.forward(tokens), expected)


def test_other_types_are_errors(demo_target: Path) -> None:
    with pytest.raises(ValueError, match="'q4_0', expected f16 or q8_0"):
        LLM(demo_target, cache_type="q4_0")
