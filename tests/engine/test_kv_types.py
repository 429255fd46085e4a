"""Types of the K/V cache: as lossless as the f16 one, and close to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frspec_cpp import LLM, _core

PROMPT = "def quicksort(values):\n    "


@pytest.mark.parametrize(
    ("kind", "temperature"), [pytest.param("q8_0", 0.0, marks=pytest.mark.every_isa), ("q8_0", 1.0), ("f32", 0.0)]
)
def test_drafting_changes_nothing(demo_target: Path, demo_drafter: Path, kind: str, temperature: float) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:4096", tree_size=30, cache_type=kind)
    plain, drafted = (
        llm.generate(PROMPT, max_tokens=40, temperature=temperature, seed=3, ignore_eos=True, draft=draft)
        for draft in (False, True)
    )
    assert drafted.tokens == plain.tokens
    if temperature == 0.0:
        assert drafted.stats.accepted_length > 1.2


def test_they_are_close(demo_target: Path) -> None:
    tokens = LLM(demo_target).tokenize(PROMPT * 20)
    f32, *others = (_core.Engine(str(demo_target), cache_type=kind).forward(tokens) for kind in ("f32", "f16", "q8_0"))
    for found in others:
        assert 0 < np.sqrt(np.mean((found - f32) ** 2)) < 0.02 * f32.std()


@pytest.mark.every_isa
@pytest.mark.threads
@pytest.mark.parametrize("kind", ["q8_0", "f32"])
def test_chunks_and_threads_do_not_change_bits(demo_target: Path, kind: str) -> None:
    tokens = LLM(demo_target).tokenize(PROMPT * 9)
    expected = _core.Engine(str(demo_target), cache_type=kind, n_threads=1).forward(tokens)
    for n_threads, n_batch in [(2, 1), (3, 17)]:
        engine = _core.Engine(str(demo_target), cache_type=kind, n_threads=n_threads, n_batch=n_batch)
        assert np.array_equal(engine.forward(tokens), expected)


def test_other_types_are_errors(demo_target: Path) -> None:
    with pytest.raises(ValueError, match="'q4_0', expected f16, q8_0 or f32"):
        LLM(demo_target, cache_type="q4_0")
