"""Losslessness is equality: with a drafter, the engine writes exactly what it writes without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frspec_cpp import LLM

pytestmark = pytest.mark.threads

TOKENS = 32
PROMPTS = [
    "def fibonacci(n):\n",
    "Question: Natalia sold clips to 48 of her friends in April. How many clips did she sell altogether?\nAnswer:",
    "\u00dcbersetze: \u732b \U0001f408 ",
]


@pytest.fixture(scope="module")
def plain(demo_target: Path) -> dict[tuple[str, float], list[int]]:
    """What the target writes alone, by prompt and temperature, end-of-generation tokens ignored."""
    llm = LLM(demo_target)
    return {
        (prompt, temperature): llm.generate(
            prompt, max_tokens=TOKENS, temperature=temperature, seed=11, ignore_eos=True
        ).tokens
        for prompt, temperature in zip([*PROMPTS, PROMPTS[0]], (0.0, 1.0, 0.0, 1.0), strict=True)
    }


def check_equality(
    target: Path, drafter: Path, plain: dict[tuple[str, float], list[int]], options: dict[str, Any]
) -> None:
    llm = LLM(target, drafter=drafter, **options)
    for (prompt, temperature), expected in plain.items():
        found = llm.generate(prompt, max_tokens=TOKENS, temperature=temperature, seed=11, ignore_eos=True, draft=True)
        assert found.tokens == expected, (prompt, temperature)
        if temperature == 0.0:
            assert found.stats.accepted_length > 1.2  # drafts were accepted, so something was tested


@pytest.mark.every_isa
def test_drafting_changes_nothing(
    demo_target: Path, demo_drafter: Path, plain: dict[tuple[str, float], list[int]]
) -> None:
    options = {"head": "ranked:1024", "tree_depth": 3, "tree_branch": 4, "tree_size": 12, "n_threads": 1, "n_batch": 7}
    check_equality(demo_target, demo_drafter, plain, options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "ranked:8192", "tree_size": 40, "n_threads": 3},
        {"head": "ranked:65536", "tree_size": 20, "n_batch": 5},
        {"head": "ranked:2048", "tree_depth": 0, "tree_branch": 1, "tree_size": 2},
        {"head": "ranked:2048", "tree_depth": 7, "tree_branch": 1, "tree_size": 9, "n_batch": 1},
        {"head": "ranked:2048", "tree_depth": 5, "tree_branch": 16, "tree_size": 100},
    ],
    ids=str,
)
def test_no_tree_and_no_head_changes_anything(
    demo_target: Path, demo_drafter: Path, plain: dict[tuple[str, float], list[int]], options: dict[str, Any]
) -> None:
    check_equality(demo_target, demo_drafter, plain, options)


def test_draft_false_is_plain_decoding(
    demo_target: Path, demo_drafter: Path, plain: dict[tuple[str, float], list[int]]
) -> None:
    llm = LLM(demo_target, drafter=demo_drafter)
    prompt = PROMPTS[0]
    found = llm.generate(prompt, max_tokens=TOKENS, draft=False, ignore_eos=True)
    assert found.tokens == plain[prompt, 0.0]
    assert found.stats.steps == TOKENS - 1
    assert found.stats.accepted_length == 1.0


def test_the_text_is_the_same_up_to_any_length(demo_target: Path, demo_drafter: Path) -> None:
    """max_tokens cuts a text, it does not change it, wherever the cut falls within a step."""
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:2048", tree_size=16)
    whole = llm.generate(PROMPTS[0], max_tokens=24, ignore_eos=True).tokens
    for length in range(1, 14):
        part = llm.generate(PROMPTS[0], max_tokens=length, ignore_eos=True, draft=True)
        assert part.tokens == whole[:length]
        assert part.finish_reason == "length"


@pytest.mark.parametrize("n_ctx", [20, 33, 64])
def test_the_end_of_the_context(demo_target: Path, demo_drafter: Path, n_ctx: int) -> None:
    plain = LLM(demo_target, n_ctx=n_ctx).generate(PROMPTS[0], max_tokens=500, ignore_eos=True)
    drafted = LLM(demo_target, drafter=demo_drafter, n_ctx=n_ctx).generate(
        PROMPTS[0], max_tokens=500, ignore_eos=True, draft=True
    )
    assert drafted.tokens == plain.tokens
    assert plain.stats.prompt_tokens + len(plain.tokens) == n_ctx
    assert plain.finish_reason == drafted.finish_reason == "length"


def test_seeds_differ_and_repeat(demo_target: Path, demo_drafter: Path) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:2048", tree_size=16)
    texts = [llm.generate(PROMPTS[2], max_tokens=32, temperature=1.0, seed=seed).tokens for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def test_spec_bench_prompts_with_end_of_generation(shared: Path, demo_target: Path, demo_drafter: Path) -> None:
    """Real prompts of every other category, ended by the model itself."""
    rows = [json.loads(line) for line in (shared / "data/prompts/spec_bench.jsonl").open(encoding="utf-8")]
    by_category = {row["category"]: row["turns"][0] for row in reversed(rows)}
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:8192", tree_depth=3, tree_size=24)
    stops = 0
    for category, prompt in [*by_category.items()][::2]:
        plain = llm.generate(prompt, max_tokens=64, draft=False)
        drafted = llm.generate(prompt, max_tokens=64, draft=True)
        assert drafted.tokens == plain.tokens, category
        assert drafted.finish_reason == plain.finish_reason
        stops += plain.finish_reason == "stop"
    assert stops > 0
