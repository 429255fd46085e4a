"""Losslessness with EAGLE-3 drafters is equality; and what the drafter is told does not depend on how it comes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eagle3_checkpoints import make_tiny_eagle3
from reference_steps import write_vocabulary_ranks
from tiny_pair import TinyPair

from frspec_cpp import LLM, _core

TOKENS = 60
PROMPTS = [[5, 6, 7], [random.Random(1).randrange(400) for _ in range(40)], [300]]
SAMPLINGS: list[dict[str, Any]] = [{"temperature": 0.0}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 0}]
PAIRS: dict[str, dict[str, Any]] = {
    "full head": {},
    "reduced head": {"head_ids": random.Random(4).sample(range(400), 240), "norm_before_fc": True},
    "wide": {"hidden_size": 96, "fc_norm": True, "norm_before_residual": True, "norm_output": True},
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_eagle3(tmp_path_factory.mktemp("pair"), **PAIRS[request.param])


@pytest.fixture(scope="module")
def plain(pair: TinyPair) -> dict[tuple[int, int], list[int]]:
    """What the target writes alone, by prompt and sampling."""
    llm = LLM(pair.target_gguf, n_threads=1)
    return {
        (p, s): llm.generate(prompt, TOKENS, seed=11, ignore_eos=True, **sampling).tokens
        for p, prompt in enumerate(PROMPTS)
        for s, sampling in enumerate(SAMPLINGS)
    }


def check(llm: LLM, plain: dict[tuple[int, int], list[int]], **options: Any) -> list[float]:
    """Drafts every text; returns the accepted length by sampling."""
    lengths = []
    for s, sampling in enumerate(SAMPLINGS):
        steps = 0
        for p, prompt in enumerate(PROMPTS):
            found = llm.generate(prompt, TOKENS, seed=11, ignore_eos=True, draft=True, **sampling, **options)
            assert found.tokens == plain[p, s], (p, s)
            assert found.stats.drafter_error is None
            steps += found.stats.steps
        lengths.append(len(PROMPTS) * (TOKENS - 1) / steps)
    return lengths


@pytest.mark.every_isa
@pytest.mark.threads
@pytest.mark.parametrize(
    "options",
    [
        {"n_batch": 1},
        {"n_batch": 7, "n_threads": 3},
        {"n_batch": 512, "tree_depth": 2, "tree_branch": 3, "tree_size": 8},
        {"tree_branch": 1, "tree_depth": 4, "tree_size": 6},
        {"ngram": 3, "n_batch": 5},
    ],
    ids=str,
)
def test_drafting_changes_nothing(pair: TinyPair, plain: dict[tuple[int, int], list[int]], options: Any) -> None:
    lengths = check(LLM(pair.target_gguf, drafter=pair.drafter_gguf, **{"n_threads": 1, **options}), plain)
    assert min(lengths) > 1.1, lengths


@pytest.mark.threads
def test_chunks_and_threads_change_no_draft(pair: TinyPair) -> None:
    """The drafter reads the same states, however the prompt comes: the same drafts, the same steps."""
    steps = set()
    for options in ({"n_batch": 1, "n_threads": 1}, {"n_batch": 7, "n_threads": 2}, {"n_batch": 512, "n_threads": 4}):
        llm = LLM(pair.target_gguf, drafter=pair.drafter_gguf, head="full", tree_size=20, **options)
        steps.add(tuple(llm.generate(p, TOKENS, ignore_eos=True, draft=True).stats.steps for p in PROMPTS))
    assert len(steps) == 1


@pytest.mark.parametrize("verify", ["rejection", "block"])
def test_chains(pair: TinyPair, plain: dict[tuple[int, int], list[int]], verify: Any) -> None:
    """At temperature 0 the greedy text; above it one text for each seed, whatever the chunks are."""
    texts = set()
    for n_batch in (3, 512):
        llm = LLM(pair.target_gguf, drafter=pair.drafter_gguf, tree_branch=1, tree_depth=3, n_batch=n_batch)
        for p, prompt in enumerate(PROMPTS):
            assert llm.generate(prompt, TOKENS, verify=verify, ignore_eos=True, temperature=0.0).tokens == plain[p, 0]
        drawn = llm.generate(PROMPTS[0], TOKENS, verify=verify, ignore_eos=True, temperature=0.7, seed=3)
        texts.add(tuple(drawn.tokens))
        assert drawn.stats.steps < TOKENS - 1, "no draft was accepted"
    assert len(texts) == 1


def test_pauses_lose_nothing(pair: TinyPair, plain: dict[tuple[int, int], list[int]]) -> None:
    """What the drafter is not told at once it is told later, in chunks of a batch of 4 tokens."""
    engine = _core.Engine(
        str(pair.target_gguf), str(pair.drafter_gguf), head="full", n_batch=4, tree_depth=1, tree_size=12
    )
    for p, prompt in enumerate(PROMPTS):
        generation = engine.begin(prompt, max_tokens=TOKENS, seed=11, ignore_eos=True, draft="sparse")
        assert [token for token, _, _ in generation.run()] == plain[p, 0]
        assert 0 < generation.stats.drafted_steps < generation.stats.steps, "it drafted and paused"
        assert not generation.stats.drafter_error


def test_logprobs_beside_taps(pair: TinyPair) -> None:
    """They come of the target's final states, which the drafter does not read."""
    alone, drafted = LLM(pair.target_gguf), LLM(pair.target_gguf, drafter=pair.drafter_gguf)
    expected = alone.generate(PROMPTS[0], 30, logprobs=2, ignore_eos=True)
    found = drafted.generate(PROMPTS[0], 30, logprobs=2, ignore_eos=True, draft=True)
    assert found.logprobs == expected.logprobs


def test_head_of_a_running_engine(pair: TinyPair, plain: dict[tuple[int, int], list[int]], tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(400).astype(np.int32)
    write_vocabulary_ranks(tmp_path / "ranks.gguf", pair.target_gguf, order)
    options = {"head": "ranked:150", "ranks": tmp_path / "ranks.gguf", "tree": (5, 10, 60)}
    llm = LLM(pair.target_gguf, drafter=pair.drafter_gguf, **options)
    few = check(llm, plain)
    llm.set_head("full")
    many = check(llm, plain)
    assert many[0] > few[0]
    llm.set_head("ranked:150")
    assert check(llm, plain) == few
    with pytest.raises(ValueError, match="ranked:401"):
        llm.set_head("ranked:401")
    assert check(llm, plain) == few


def test_the_end_of_the_context(pair: TinyPair) -> None:
    for n_ctx in (20, 45):
        plain = LLM(pair.target_gguf, n_ctx=n_ctx).generate(PROMPTS[0], 500, ignore_eos=True)
        drafted = LLM(pair.target_gguf, drafter=pair.drafter_gguf, n_ctx=n_ctx)
        found = drafted.generate(PROMPTS[0], 500, ignore_eos=True, draft=True)
        assert found.tokens == plain.tokens
        assert len(PROMPTS[0]) + len(found.tokens) == n_ctx
