"""Drafting is watched: it pauses where it costs more than it gives, and no drafter can end a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_edit import GgufEditor

from frspec_cpp import LLM, _core

PROMPT = "def fibonacci(n):\n"


def test_a_drafter_that_does_not_pay_pauses(demo_target: Path, demo_drafter: Path) -> None:
    """A tree of 300 nodes costs many times what it gives here: most steps are plain.

    How few are drafted is for simulations to say (test_tuner.py): here the clock is a real one.
    """
    shape = {"tree_depth": 6, "tree_branch": 16, "tree_size": 300}
    llm = LLM(demo_target, drafter=demo_drafter, head="full", n_ctx=1024, **shape)
    watched = llm.generate(PROMPT, 500, ignore_eos=True)
    assert watched.tokens == llm.generate(PROMPT, 500, ignore_eos=True, draft=False).tokens
    assert watched.stats.drafted_steps < 0.5 * watched.stats.steps
    assert watched.stats.tuning is not None
    assert watched.stats.tuning.plain_tokens_per_second > 0
    # What was learned is kept: the next text does not begin with the same mistake.
    again = llm.generate(PROMPT, 100, ignore_eos=True)
    assert again.stats.drafted_steps < 0.5 * again.stats.steps


def test_always_is_always(demo_target: Path, demo_drafter: Path) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:2048", ngram=8, n_ctx=1024, tree_depth=2, tree_branch=1)
    prompt = "abc def ghi jkl " * 20
    always = llm.generate(prompt, 300, ignore_eos=True, draft=True)
    assert always.stats.drafted_steps == always.stats.steps
    assert always.tokens == llm.generate(prompt, 300, ignore_eos=True).tokens
    assert always.tokens == llm.generate(prompt, 300, ignore_eos=True, draft=False).tokens


@pytest.mark.parametrize("head", ["ranked:2048", "contextual:512", "auto"])
@pytest.mark.parametrize("mode", ["auto", "always", "sparse"])
def test_pauses_change_nothing_at_any_temperature(demo_target: Path, demo_drafter: Path, mode: str, head: str) -> None:
    """The drafter is told later what happened meanwhile, in one piece or several."""
    engine = _core.Engine(str(demo_target), str(demo_drafter), head=head, n_batch=9, n_ctx=512)
    prompt = engine.tokenizer.encode(PROMPT)
    for temperature in (0.0, 0.9):
        options: dict[str, Any] = {"max_tokens": 120, "temperature": temperature, "seed": 4, "ignore_eos": True}
        plain = engine.begin(prompt, draft="never", **options)
        expected = [token for token, _, _ in plain.run()]
        assert plain.stats.drafted_steps == 0
        found = engine.begin(prompt, draft=mode, **options)
        assert [token for token, _, _ in found.run()] == expected
        assert found.stats.drafted_steps > 0 or mode == "auto"
        if mode == "sparse":
            assert found.stats.drafted_steps < 0.2 * found.stats.steps


def test_a_drafter_whose_numbers_overflow_ends_nothing(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    drafter = GgufEditor(demo_drafter)
    drafter.set_floats("blk.0.ffn_norm.weight", np.full(256, 1e38, dtype=np.float32))
    path = drafter.write(tmp_path / "huge.gguf")
    llm = LLM(demo_target, drafter=path)
    for temperature in (0.0, 1.0):
        found = llm.generate(PROMPT, 40, temperature=temperature, ignore_eos=True, draft=True)
        assert found.tokens == llm.generate(PROMPT, 40, temperature=temperature, ignore_eos=True, draft=False).tokens


@pytest.mark.parametrize("draft", ["sometimes", None, 2, ""])
def test_modes_that_do_not_exist(demo_target: Path, draft: object) -> None:
    with pytest.raises(ValueError, match="draft: found"):
        LLM(demo_target).generate(PROMPT, draft=draft)  # type: ignore[arg-type]
