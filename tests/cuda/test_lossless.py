"""On a GPU, too, losslessness is equality; and a step is one graph and one small copy back."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_device import DEVICE
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.convert import convert
from reference_steps import write_vocabulary_ranks
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import LLM

TOKENS = 10
PROMPTS = [[5, 6, 7], [random.Random(1).randrange(400) for _ in range(70)]]
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1},
]
# A prompt of one pass and one of several, each way to sample.
TEXTS = [(PROMPTS[0], SAMPLINGS[0]), (PROMPTS[1], SAMPLINGS[1]), (PROMPTS[0], SAMPLINGS[2])]
SMALL = {"tree_depth": 3, "tree_branch": 4, "tree_size": 12}


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    folder = tmp_path_factory.mktemp("pair")
    if request.param == "eagle3":
        return make_tiny_eagle3(folder)
    made = make_tiny_pair(folder)
    if request.param == "eagle2":
        return made
    target, drafter = folder / "target-q8.gguf", folder / "drafter-q8.gguf"
    convert(made.target, target, "q8_0", quiet=True)
    convert(made.drafter, drafter, "q8_0", target=target, quiet=True)
    return TinyPair(made.target, made.drafter, target, drafter)


@pytest.fixture(scope="module")
def one_pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """For what does not depend on the kind of drafter or weight."""
    return make_tiny_pair(tmp_path_factory.mktemp("one-pair"))


@pytest.fixture(scope="module")
def plain(pair: TinyPair) -> list[list[int]]:
    llm = LLM(pair.target_gguf, device=DEVICE)
    return [llm.generate(prompt, TOKENS, seed=11, ignore_eos=True, **sampling).tokens for prompt, sampling in TEXTS]


FULL = {"head": "full", **SMALL}
CHAIN = {"head": "full", "tree_branch": 1, "tree_depth": 4, "tree_size": 6, "ngram": 3}


# Each head with one kind of drafter at least, each kind with several heads.
@pytest.mark.parametrize(
    ("pair", "options"),
    [
        *(("eagle2", options) for options in (FULL, CHAIN, {"head": "ranked:80+contextual:40", **SMALL})),
        *(("eagle3", options) for options in (FULL, {"head": "ranked:150", **SMALL}, {"head": "auto", **SMALL})),
        *(("q8_0", options) for options in ({"head": "full", "n_batch": 9}, {"head": "contextual:60", **SMALL})),
    ],
    ids=str,
    indirect=["pair"],
)
def test_drafting_changes_nothing(
    pair: TinyPair, plain: list[list[int]], options: dict[str, Any], tmp_path: Path
) -> None:
    ranks = tmp_path / "ranks.gguf" if "ranked" in options["head"] else None
    if ranks is not None:
        write_vocabulary_ranks(ranks, pair.target_gguf, np.random.default_rng(2).permutation(400))
    llm = LLM(pair.target_gguf, drafter=pair.drafter_gguf, ranks=ranks, device=DEVICE, **options)
    found = [
        llm.generate(prompt, TOKENS, seed=11, ignore_eos=True, draft=True, **sampling) for prompt, sampling in TEXTS
    ]
    assert [one.tokens for one in found] == plain
    assert all(one.stats.drafter_error is None for one in found)
    assert sum(one.stats.steps for one in found) < len(found) * (TOKENS - 1)  # something was accepted


@pytest.mark.parametrize("pair", ["q8_0"], indirect=True)
def test_a_whole_model_drafts(pair: TinyPair, plain: list[list[int]]) -> None:
    llm = LLM(pair.target_gguf, drafter=pair.target_gguf, head="full", device=DEVICE, **SMALL)
    for at, (prompt, sampling) in enumerate(TEXTS):
        found = llm.generate(prompt, TOKENS, seed=11, ignore_eos=True, draft=True, **sampling)
        assert found.tokens == plain[at]


@pytest.mark.parametrize(("pair", "verify"), [("eagle2", "rejection"), ("q8_0", "block")], indirect=["pair"])
def test_rejection_accepts_what_the_target_would_say(pair: TinyPair, verify: str) -> None:
    """A drafter that is the target agrees with it: hardly a draft of a chain is refused."""
    shape = {"tree_depth": 3, "tree_branch": 1, "tree_size": 8}
    llm = LLM(pair.target_gguf, drafter=pair.target_gguf, head="full", device=DEVICE, **shape)
    options = {"temperature": 1.0, "top_k": 40, "seed": 3, "ignore_eos": True, "draft": True}
    found = llm.generate(PROMPTS[0], 21, verify=verify, **options)
    assert found.stats.steps <= 6
    assert llm.generate(PROMPTS[0], 21, verify=verify, **options).tokens == found.tokens


@pytest.mark.parametrize(("temperature", "tokens"), [(0.0, 20), (0.9, 60)])
def test_a_step_is_one_graph(one_pair: TinyPair, temperature: float, tokens: int) -> None:
    llm = LLM(one_pair.target_gguf, drafter=one_pair.drafter_gguf, head="full", device=DEVICE, **SMALL)
    counts = llm._engine.launch_counts
    for seed in range(3):  # warms up: all numbers of accepted drafts were met
        before = counts
        found = llm.generate(PROMPTS[0], tokens, temperature=temperature, seed=seed, ignore_eos=True, draft=True)
        counts = llm._engine.launch_counts
    new = {key: counts[key] - before[key] for key in counts}
    assert new["graphs_made"] <= 2  # one more may be met
    # The prompt's passes and what begins a text are no steps.
    assert found.stats.steps - 2 <= new["graph_launches"] <= found.stats.steps + 6
    assert new["launches"] < 0.25 * new["commands"]
    # Between two steps little changes: what was accepted, and where.
    assert new["values_changed"] < 0.2 * new["commands"]


@pytest.mark.parametrize("draft", [True, False])
def test_steps_that_begin_before_the_last_verdict_is_seen(one_pair: TinyPair, draft: bool) -> None:
    """Where nothing on the host has a say, a step is begun ahead; asking for log-probabilities prevents it."""
    llm = LLM(one_pair.target_gguf, drafter=one_pair.drafter_gguf, head="full", device=DEVICE, **SMALL)
    for sampling in SAMPLINGS:
        for length in (1, 2, 14) if sampling is SAMPLINGS[-1] else (14,):
            options: dict[str, Any] = {"seed": 4, "draft": draft, **sampling}
            ahead = llm.generate(PROMPTS[1], length, ignore_eos=True, **options)
            behind = llm.generate(PROMPTS[1], length, ignore_eos=True, logprobs=0, **options)
            assert ahead.tokens == behind.tokens
            assert ahead.stats.steps == behind.stats.steps
    # A text that ends while the next step is on its way, and one that is left: the next text does not mind.
    stop = ahead.tokens[12]
    stopped = llm.generate(PROMPTS[1], 14, stop_token_ids=[stop], ignore_eos=True, **options)
    assert stopped.tokens == ahead.tokens[: ahead.tokens.index(stop)]
    stream = llm.stream(PROMPTS[1], 14, ignore_eos=True, **options)
    next(stream)
    assert llm.generate(PROMPTS[1], 14, ignore_eos=True, **options).tokens == ahead.tokens


def test_steps_change_nothing_but_what_the_device_knows(one_pair: TinyPair) -> None:
    """A step that is begun ahead is the same list of commands with the same values."""
    llm = LLM(one_pair.target_gguf, drafter=one_pair.drafter_gguf, head="full", device=DEVICE, **SMALL)
    options: dict[str, Any] = {"ignore_eos": True, "draft": True}
    for _ in range(3):
        llm.generate(PROMPTS[0], 25, **options)
    before = llm._engine.launch_counts
    found = llm.generate(PROMPTS[0], 25, **options)
    after = llm._engine.launch_counts
    assert after["graphs_made"] == before["graphs_made"]
    assert after["values_changed"] - before["values_changed"] < 3 * found.stats.steps


@pytest.mark.parametrize("draft", [True, False])
def test_a_text_ends_while_a_step_goes_ahead(one_pair: TinyPair, draft: bool) -> None:
    """By a token, by a string, by the context, or because nobody wants more of it: the next text does not mind."""
    llm = LLM(one_pair.target_gguf, drafter=one_pair.drafter_gguf, head="full", device=DEVICE, n_ctx=24, **SMALL)
    options: dict[str, Any] = {"ignore_eos": True, "draft": draft, "temperature": 1.0, "seed": 5}
    whole = llm.generate(PROMPTS[0], 500, logprobs=0, **options)
    assert whole.finish_reason == "length"
    assert llm.generate(PROMPTS[0], 500, **options).tokens == whole.tokens
    for at in (5, 17):
        first = whole.tokens.index(whole.tokens[at])
        stopped = llm.generate(PROMPTS[0], 500, stop_token_ids=[whole.tokens[at]], **options)
        assert (stopped.tokens, stopped.finish_reason) == (whole.tokens[:first], "stop")
        stream = llm.stream(PROMPTS[0], 500, **options)
        for _ in range(at // 4):
            next(stream)
        short = llm.generate(PROMPTS[0], at, **options)
        assert short.tokens == whole.tokens[:at]


@pytest.mark.parametrize("head", ["auto", "ranked:150"])
def test_steps_that_a_tuner_plans_go_ahead_while_it_has_nothing_to_learn(
    one_pair: TinyPair, head: str, tmp_path: Path
) -> None:
    ranks = tmp_path / "ranks.gguf"
    write_vocabulary_ranks(ranks, one_pair.target_gguf, np.random.default_rng(2).permutation(400))
    llm = LLM(one_pair.target_gguf, drafter=one_pair.drafter_gguf, head=head, ranks=ranks, device=DEVICE, **SMALL)
    options: dict[str, Any] = {"ignore_eos": True, "draft": True}
    reference = llm.generate(PROMPTS[0], 24, ignore_eos=True, draft=False)
    found = llm.generate(PROMPTS[0], 24, **options)
    assert found.tokens == reference.tokens
    assert found.stats.drafted_steps == found.stats.steps


@pytest.mark.parametrize("draft", [True, False])
def test_a_text_that_leaves_no_token(one_pair: TinyPair, draft: bool) -> None:
    """Steps that begin before it is seen look for a token that is none; the error and the next text are as ever."""
    llm = LLM(one_pair.target_gguf, drafter=one_pair.drafter_gguf, head="full", device=DEVICE, **SMALL)
    options: dict[str, Any] = {"ignore_eos": True, "draft": draft}
    before = llm.generate(PROMPTS[0], 10, **options).tokens
    for penalty in (-3e38, -4e37):
        with pytest.raises(RuntimeError, match="leave no token"):
            llm.generate(PROMPTS[0], 60, frequency_penalty=penalty, repeat_last_n=-1, **options)
        assert llm.generate(PROMPTS[0], 10, **options).tokens == before


@pytest.mark.threads
def test_texts_are_dropped_by_another_thread_while_one_is_written(one_pair: TinyPair) -> None:
    """Each took the engine's place from the one before; the one that is written has it now, and does not mind."""
    llm = LLM(one_pair.target_gguf, drafter=one_pair.drafter_gguf, head="full", device=DEVICE, **SMALL)
    reference = llm.generate(PROMPTS[0], 30, ignore_eos=True, draft=True).tokens
    native = {"logit_bias": {7: 1.0}, "ignore_eos": True}
    dropped = [llm._begin(PROMPTS[0], 5, True, native) for _ in range(40)]  # type: ignore[arg-type]
    found: list[list[int]] = []
    writer = threading.Thread(
        target=lambda: found.append(llm.generate(PROMPTS[0], 30, ignore_eos=True, draft=True).tokens)
    )
    writer.start()
    while dropped:
        dropped.pop()
        time.sleep(0.002)
    writer.join()
    assert found == [reference]


def test_heads_that_follow_the_text_are_told_late_where_they_are_not_in_use(tmp_path: Path) -> None:
    """A vocabulary that is large enough for contextual rows among those that `auto` chooses from."""
    large = make_tiny_pair(tmp_path, vocab=2800)
    ranks = tmp_path / "ranks.gguf"
    write_vocabulary_ranks(ranks, large.target_gguf, np.random.default_rng(2).permutation(2800))
    llm = LLM(large.target_gguf, drafter=large.drafter_gguf, head="auto", ranks=ranks, device=DEVICE, **SMALL)
    options: dict[str, Any] = {"ignore_eos": True, "temperature": 0.9, "seed": 1}
    reference = llm.generate(PROMPTS[0], 20, draft=False, **options)
    found = llm.generate(PROMPTS[0], 20, draft=True, **options)
    assert found.tokens == reference.tokens
    assert found.stats.drafter_error is None
