"""Recurrent states outlive what goes wrong: passes that end in their middle, steps that fail, passes that only time."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen35 import write_hybrid

from frspec_cpp import _core

CHECKS = 1 + 4  # of whether to go on, in a pass: before it, and before each layer
PROMPT = [random.Random(1).randrange(5, 400) for _ in range(100)]
OPTIONS: dict[str, Any] = {"n_ctx": 400, "n_threads": 1, "n_batch": 32}


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hybrid(tmp_path_factory.mktemp("hybrid"))


def make(hybrid: Path, kind: str) -> _core.Engine:
    return _core.Engine(str(hybrid), **OPTIONS, **({"drafter": "mtp", "tree": "2,3,8"} if kind == "mtp" else {}))


def write(engine: _core.Engine, prompt: list[int], count: int = 20, **options: Any) -> list[int]:
    text = engine.begin(prompt, max_tokens=count, ignore_eos=True, **{"draft": "always", **options})
    tokens = [token for token, _, _ in text.run()]
    assert text.stats.drafter_error == ""
    return tokens


class Ends:
    """Ends a text by the given question about it: by an error, or as a user does."""

    def __init__(self, question: int, error: Exception | None) -> None:
        self.left, self.error = question, error

    def is_set(self) -> bool:
        """Whether to end. It takes longer than the engine waits between two questions, so all are asked."""
        time.sleep(0.025)
        self.left -= 1
        if self.left == 0 and self.error is not None:
            raise self.error
        return self.left == 0


@pytest.mark.parametrize(("question", "fails"), [(3, True), (CHECKS + 4, False)])
def test_a_pass_that_ends_in_its_middle(hybrid: Path, question: int, fails: bool) -> None:
    """Between its layers, some of whose states have read the rows: in the first pass of a prompt, or in the second."""
    engine = make(hybrid, "mtp")
    cancel = Ends(question, ZeroDivisionError("mine") if fails else None)
    text = engine.begin(PROMPT, cancel=cancel, max_tokens=20, ignore_eos=True, draft="always")
    if fails:
        with pytest.raises(ZeroDivisionError, match="mine"):
            text.run()
    else:
        assert text.run() == []
    assert cancel.left == 0
    assert text.stats.read_tokens == (question - 1) // CHECKS * OPTIONS["n_batch"]
    fresh = make(hybrid, "mtp")
    assert write(engine, PROMPT) == write(fresh, PROMPT)
    assert write(engine, PROMPT[:50]) == write(fresh, PROMPT[:50], reuse=False)


@pytest.mark.parametrize("kind", ["hybrid", "mtp"])
def test_a_step_that_fails_behind_its_pass(hybrid: Path, kind: str) -> None:
    """What it verified is no part of the text, and another text that is running does not notice."""
    engine = make(hybrid, kind)
    expected = write(engine, PROMPT, reuse=False)

    def fails(ids: Any, logits: np.ndarray) -> None:
        if len(ids) >= len(PROMPT) + 5:
            raise ZeroDivisionError("mine")

    text = engine.begin(PROMPT, max_tokens=20, ignore_eos=True, draft="always", logits_processor=fails)
    with pytest.raises(ZeroDivisionError, match="mine"):
        text.run()
    assert write(engine, PROMPT) == expected
    assert write(engine, PROMPT + expected[:9], 11) == expected[9:]


def test_finding_out_what_pays_leaves_texts_alone(hybrid: Path) -> None:
    """The passes that are timed before the first text that may be drafted: not those of texts, nor what they left."""
    fresh = _core.Engine(str(hybrid), **OPTIONS)
    expected = write(fresh, PROMPT, 40)
    engine = _core.Engine(str(hybrid), "mtp", **OPTIONS)
    assert write(engine, PROMPT[:70], 10, draft="never") == write(fresh, PROMPT[:70], 10, draft="never")
    text = engine.begin(PROMPT, max_tokens=40, ignore_eos=True, draft="never")
    tokens = [token for _ in range(12) for token, _, _ in text.step()]
    assert engine.displaced == 0
    other = engine.begin([5, 6, 7], max_tokens=4, ignore_eos=True, draft="auto")
    assert engine.displaced == 1, "it has timed passes"
    tokens += [token for token, _, _ in text.run()]
    assert tokens == expected
    assert [token for token, _, _ in other.run()] == write(fresh, [5, 6, 7], 4)
    longer = PROMPT + expected + PROMPT[:9]
    again = engine.begin(longer, max_tokens=10, ignore_eos=True, draft="never")
    assert [token for token, _, _ in again.run()] == write(fresh, longer, 10, reuse=False)
    assert again.stats.cached_tokens >= 128
