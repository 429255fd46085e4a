"""Default options draft on real models, in every combination that the docs name: equal text alone proves nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frspec_cpp import LLM
from frspec_cpp.generation import Stats

QWEN = "qwen2.5-coder-0.5b-instruct.q4_k_m.gguf"
SMOLLM2 = "smollm2-135m-instruct.q4_1.gguf"
# The answer repeats the question: a kind of text where every drafter has something to say.
QUESTION = "Repeat this sentence three times: The quick brown fox jumps over the lazy dog near the old river bank."

COMBINATIONS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "another vocabulary": (QWEN, SMOLLM2, {}),
    "tli, ranked": (QWEN, SMOLLM2, {"translate": "tli", "head": "ranked:8192"}),
    "slem, ranked, fixed tree": (QWEN, SMOLLM2, {"translate": "slem", "head": "ranked:8192", "tree": "2,2,6"}),
    "the same vocabulary": (SMOLLM2, SMOLLM2, {}),
    "n-grams alone": (SMOLLM2, None, {"ngram": 6}),
    "n-grams beside": (SMOLLM2, SMOLLM2, {"ngram": 6}),
    "eagle-3": (SMOLLM2, "eagle3", {}),
    "eagle-3, contextual": (SMOLLM2, "eagle3", {"head": "contextual"}),
}


@pytest.fixture(scope="module")
def plain() -> dict[tuple[str, int], list[int]]:
    """Plain decoding's tokens, by target and number of the text."""
    return {}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_default_options_draft(
    name: str, real_model: Callable[[str], Path], shared: Path, plain: dict[tuple[str, int], list[int]]
) -> None:
    target, drafter, options = COMBINATIONS[name]
    path: Path | None = None
    if drafter == "eagle3":
        path = shared / "data" / "smollm2" / "smollm2-135m-instruct-eagle3.gguf"
    elif drafter:
        path = real_model(drafter)
    with LLM(real_model(target), drafter=path, n_ctx=512, **options) as llm:
        texts: list[Stats] = []
        for number in range(12):
            temperature, seed = 0.7 * (number > 0), 3 + number
            messages = [{"role": "user", "content": QUESTION}]
            asked: dict[str, Any] = {"temperature": temperature, "seed": seed}
            drafted = llm.chat(messages, 24, **asked)
            if (target, number) not in plain:
                plain[target, number] = llm.chat(messages, 24, draft=False, **asked).tokens
            assert drafted.tokens == plain[target, number]
            texts.append(drafted.stats)
            assert drafted.stats.tuning is not None
            assert "tokens/s expected" in drafted.stats.tuning.summary
            # Two are enough, unless one of them was short, or the processor another's meanwhile.
            if number > 0 and max(stats.accepted_length for stats in texts) > 1.0:
                break
        assert max(stats.drafted_steps for stats in texts) >= 1
        assert max(stats.accepted_length for stats in texts) > 1.0


def test_what_was_learned_is_kept_from_process_to_process(
    demo_drafters: dict[str, Path], demo_target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second engine starts with the first one's numbers; a damaged file is as good as none."""
    monkeypatch.setitem(os.environ, "FRSPEC_TUNING_CACHE", str(tmp_path / "tuning"))
    options: dict[str, Any] = {"drafter": demo_drafters["eagle3"], "n_ctx": 512}
    with LLM(demo_target, **options) as llm:
        expected = llm.generate("One, two, three, four, five, six,", 24).tokens
    (file,) = (tmp_path / "tuning").iterdir()
    kept = file.read_text()
    assert kept.startswith("frspec tuning 4\n")
    for content in (kept, kept[: len(kept) // 2], "", kept.replace("tuning 4", "tuning 3")):
        file.write_text(content)
        with LLM(demo_target, **options) as llm:
            assert llm.generate("One, two, three, four, five, six,", 24).tokens == expected
        assert file.read_text().startswith("frspec tuning 4\n")
    assert len(list((tmp_path / "tuning").iterdir())) == 1, "no parts are left behind"
