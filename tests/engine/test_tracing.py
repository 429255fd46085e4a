"""The record of a text's steps: it tells what happened, and changes nothing."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.convert import convert
from reference_steps import write_random_sketch, write_vocabulary_ranks
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import LLM, Generation, Step, _core

VOCAB = 400
TOKENS = 40
PROMPTS = [[5, 6, 7], [random.Random(1).randrange(VOCAB) for _ in range(30)]]
SAMPLINGS: list[dict[str, Any]] = [{"temperature": 0.0}, {"temperature": 0.8, "seed": 5, "top_k": 0}]
SHAPE: dict[str, Any] = {"tree_depth": 3, "tree_branch": 5, "tree_size": 20, "n_threads": 1}
HEAD_IDS = sorted({0, 1, *random.Random(4).sample(range(VOCAB), 240)})
CONTROLS = [0, 1]
ORDER = np.random.default_rng(1).permutation(VOCAB)


def ranked(size: int) -> set[int]:
    """The tokens of ``ranked:size``: control tokens, then the first of the ranks."""
    ranks = [int(token) for token in ORDER if token not in CONTROLS]
    return {*CONTROLS, *ranks[: size - len(CONTROLS)]}


@pytest.fixture(scope="module")
def eagle2(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("eagle2"))


@pytest.fixture(scope="module")
def eagle3(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_eagle3(tmp_path_factory.mktemp("eagle3"), head_ids=HEAD_IDS)


@pytest.fixture(scope="module")
def ranks(eagle2: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks") / "ranks.gguf"
    write_vocabulary_ranks(path, eagle2.target_gguf, ORDER.astype(np.int32))
    return path


def steps_of(found: Generation) -> list[Step]:
    assert found.trace is not None
    return found.trace


def check(found: Generation, size: int) -> None:
    """Whatever holds of every trace of a text whose trees have up to `size` nodes."""
    steps, stats = steps_of(found), found.stats
    assert len(steps) == stats.steps
    assert found.tokens[1:] == [token for step in steps for token in step.tokens]
    # The first token is the prompt's; of a step all are drafts but the last, unless the text ended before it.
    drafted = [i < step.accepted for step in steps for i in range(len(step.tokens))]
    assert found.drafted == [False, *drafted]
    for step in steps[:-1]:
        assert len(step.tokens) == step.accepted + 1
    assert len(steps[-1].tokens) <= steps[-1].accepted + 1
    assert stats.drafted_steps == sum(step.nodes > 1 for step in steps)
    for step in steps:
        assert 0 <= step.accepted < step.nodes <= size
        assert len(set(step.offered)) == len(step.offered) < step.nodes - step.accepted
        assert step.tokens[step.accepted :] == [] or step.tokens[step.accepted] not in step.offered
        if step.nodes == 1:
            assert step.offered == []
            assert step.in_subset is None
            assert step.transformer_seconds == step.head_seconds == 0.0
        parts = (step.transformer_seconds, step.head_seconds, step.verify_seconds)
        assert min(parts) >= 0.0
        assert step.verify_seconds > 0.0
        assert sum(parts) <= step.total_seconds * (1 + 1e-6)
    assert sum(step.verify_seconds for step in steps) == pytest.approx(stats.verify_seconds)
    spent = sum(step.transformer_seconds + step.head_seconds for step in steps)
    assert spent == pytest.approx(stats.draft_seconds)
    assert sum(step.total_seconds for step in steps) == pytest.approx(stats.total_seconds - stats.prefill_seconds)


def trace(llm: LLM, size: int = SHAPE["tree_size"], **options: Any) -> list[tuple[Generation, list[int]]]:
    """Texts of every prompt and sampling, traced and checked, with the tokens that each step's target said last.

    These are known where the text did not end before.
    """
    texts = []
    for prompt in PROMPTS:
        for sampling in SAMPLINGS:
            call: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True, "draft": True, **sampling, **options}
            bare, found = llm.generate(prompt, **call), llm.generate(prompt, trace=True, **call)
            assert found.tokens == bare.tokens
            assert found.drafted == bare.drafted, "the steps are those of a text that is not traced"
            assert bare.trace is None
            assert found.stats.drafter_error is None
            check(found, size)
            texts.append((found, [step.tokens[-1] for step in steps_of(found) if len(step.tokens) > step.accepted]))
    return texts


def answers(texts: list[tuple[Generation, list[int]]]) -> list[tuple[int, bool | None]]:
    """Of every step that did not end the text: the target's own token, and whether the head could have offered it."""
    return [
        (last, step.in_subset)
        for found, said in texts
        for last, step in zip(said, steps_of(found), strict=False)  # the last step may have none
    ]


@pytest.mark.parametrize("head", ["full", pytest.param("ranked:120", marks=pytest.mark.every_device)])
def test_eagle2(eagle2: TinyPair, ranks: Path, head: str) -> None:
    few = ranked(120)
    options = {} if head == "full" else {"ranks": ranks}
    texts = trace(LLM(eagle2.target_gguf, eagle2.drafter_gguf, head=head, **SHAPE, **options))
    found = answers(texts)
    assert all(in_subset is (head == "full" or token in few) for token, in_subset in found)
    if head != "full":
        assert {in_subset for _, in_subset in found} == {True, False}
    steps = [step for text, _ in texts for step in steps_of(text)]
    assert any(step.accepted for step in steps)
    assert any(step.offered for step in steps)
    for step in steps:
        assert step.nodes == SHAPE["tree_size"]
        assert step.head_seconds > 0.0
        assert step.transformer_seconds > 0.0
        assert head == "full" or {*step.tokens[: step.accepted], *step.offered} <= few


@pytest.mark.parametrize("head", ["learned", "ranked:100"])
def test_eagle3(eagle3: TinyPair, ranks: Path, head: str) -> None:
    options = {} if head == "learned" else {"ranks": ranks}
    found = answers(trace(LLM(eagle3.target_gguf, eagle3.drafter_gguf, head=head, **SHAPE, **options)))
    rows = set(HEAD_IDS)
    if head != "learned":  # the first of the ranks that the drafter has a row for
        rows = {*CONTROLS, *[int(t) for t in ORDER if t in rows and t not in CONTROLS][: 100 - len(CONTROLS)]}
    assert all(in_subset is (token in rows) for token, in_subset in found)
    assert {in_subset for _, in_subset in found} == {True, False}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_favourite_stands_first(eagle2: TinyPair, sampling: dict[str, Any]) -> None:
    """Trees of one level offer the best children of the root: fewer of them are the first of more."""
    offers: dict[int, dict[tuple[int, int], list[int]]] = {}  # by branch, by prompt and position in the text
    for branch in (1, 2, 6):
        llm = LLM(
            eagle2.target_gguf, eagle2.drafter_gguf, head="full", tree_depth=0, tree_branch=branch, tree_size=branch + 1
        )
        offers[branch] = {}
        for prompt in range(16):
            found = llm.generate([5, 6, prompt], 120, ignore_eos=True, draft=True, trace=True, **sampling)
            check(found, branch + 1)
            position = 1
            for step in steps_of(found):
                if step.accepted == 0:
                    offers[branch][prompt, position] = step.offered
                else:
                    assert step.offered == [], "the tree ended there"
                position += len(step.tokens)
    for few, more in ((1, 2), (1, 6), (2, 6)):
        both = offers[few].keys() & offers[more].keys()
        assert len(both) > 10
        for place in both:
            assert offers[few][place] == offers[more][place][:few]
            assert len(offers[more][place]) == more


def test_rows_that_follow_the_text(eagle2: TinyPair) -> None:
    """Those of the last tokens are there; a token that has not been heard of is told of after the step, not before."""
    llm = LLM(eagle2.target_gguf, eagle2.drafter_gguf, head="contextual:60", **SHAPE)
    texts = trace(llm, repeat_penalty=0.4, repeat_last_n=5)  # a reward: tokens return
    greedy = texts[:: len(SAMPLINGS)]  # there the head hears of every token that the target says, afterwards
    assert {in_subset for _, in_subset in answers(greedy)} == {True, False}
    repeated = 0
    for prompt, found in zip([prompt for prompt in PROMPTS for _ in SAMPLINGS], texts, strict=True):
        text = [*prompt, found[0].tokens[0]]
        for step in steps_of(found[0]):
            # The root is told of with the step; each token before brings up to 9 rows, of 58 that follow the text.
            if len(step.tokens) > step.accepted and step.tokens[-1] in text[-4:-1]:
                assert step.in_subset
                repeated += 1
            text += step.tokens
    assert repeated > 3


def test_a_head_that_cannot_say(eagle2: TinyPair, ranks: Path, tmp_path: Path) -> None:
    """The rows of a speculated head are nobody's subset; in a union the other's rows are known to be there."""
    sketch = tmp_path / "sketch.gguf"
    write_random_sketch(sketch, eagle2.target_gguf, eagle2.drafter_gguf)
    alone = LLM(eagle2.target_gguf, eagle2.drafter_gguf, head="speculated:40", sketch=sketch, **SHAPE)
    assert {in_subset for _, in_subset in answers(trace(alone))} == {None}
    union = LLM(
        eagle2.target_gguf, eagle2.drafter_gguf, head="speculated:30+ranked:120", sketch=sketch, ranks=ranks, **SHAPE
    )
    found = answers(trace(union))
    assert all(in_subset is (True if token in ranked(120) else None) for token, in_subset in found)
    assert {in_subset for _, in_subset in found} == {True, None}


@pytest.mark.parametrize("head", ["auto", "ranked:120"])
def test_the_head_in_use_answers(eagle2: TinyPair, ranks: Path, head: str) -> None:
    """Through whatever stands before it: a choice of heads, a record of states, ranks that adapt."""
    if head == "auto":
        llm = LLM(eagle2.target_gguf, eagle2.drafter_gguf, head=head, ranks=ranks, **SHAPE)
        found = llm.generate(PROMPTS[0], TOKENS, ignore_eos=True, draft=True, trace=True)
        check(found, SHAPE["tree_size"])
        assert {step.in_subset for step in steps_of(found)} <= {True, False}
        return
    engine = _core.Engine(
        str(eagle2.target_gguf), str(eagle2.drafter_gguf), ranks=str(ranks), head=head, states=10, **SHAPE
    )
    text = engine.begin(PROMPTS[0], max_tokens=TOKENS, ignore_eos=True, draft="always", trace=True)
    text.run()
    for step in text.trace:
        if len(step["tokens"]) > step["accepted"]:
            assert step["in_subset"] is (step["tokens"][-1] in ranked(120))


def test_adapted_rows(eagle2: TinyPair, ranks: Path, tmp_path: Path) -> None:
    """A token that has come into the head since is known to be there."""
    llm = LLM(
        eagle2.target_gguf,
        eagle2.drafter_gguf,
        head="ranked:60",
        ranks=ranks,
        adapt=tmp_path / "my-ranks.gguf",
        **SHAPE,
    )
    missed: list[set[int]] = []
    for _ in range(3):
        found = llm.generate(PROMPTS[1], 200, ignore_eos=True, draft=True, trace=True)
        steps = [step for step in steps_of(found) if len(step.tokens) > step.accepted]
        missed.append({step.tokens[-1] for step in steps if step.in_subset is False})
        offered = {token for step in steps for token in step.offered}
        assert not missed[-1] & offered
        assert not missed[-1] & {token for step in steps for token in step.tokens[: step.accepted]}
    assert found.stats.adapted_rows >= 0
    assert len(missed[0]) > len(missed[-1])


def test_plain_steps(eagle2: TinyPair) -> None:
    drafting = LLM(eagle2.target_gguf, eagle2.drafter_gguf, head="full", **SHAPE)
    alone = LLM(eagle2.target_gguf, n_threads=1)
    for llm in (drafting, alone):
        for found, _ in trace(llm, 1, draft=False):
            assert [step.nodes for step in steps_of(found)] == [1] * (TOKENS - 1)


@pytest.mark.every_device
def test_steps_with_and_without_drafts(eagle2: TinyPair, ranks: Path) -> None:
    """In a text that is drafted now and then, as "auto" does, every step tells of itself."""
    engine = _core.Engine(str(eagle2.target_gguf), str(eagle2.drafter_gguf), ranks=str(ranks), head="ranked:120")
    text = engine.begin(PROMPTS[1], max_tokens=TOKENS, ignore_eos=True, draft="sparse", trace=True)
    tokens = [token for token, _, _ in text.run()]
    steps = [Step(**step) for step in text.trace]
    assert tokens[1:] == [token for step in steps for token in step.tokens]
    drafted = [number for number, step in enumerate(steps) if step.nodes > 1]
    assert drafted == [0, 1, 3, 7, 15, 31][: len(drafted)]
    assert len(drafted) > 3
    for number, step in enumerate(steps):
        assert (step.in_subset is not None) == (step.head_seconds > 0) == (number in drafted)


@pytest.mark.parametrize("drafter", [False, True])
def test_ngrams(eagle2: TinyPair, ranks: Path, drafter: bool) -> None:
    """Without a drafter there is no head to ask; beside one, the question is about its head."""
    options: dict[str, Any] = {"head": "ranked:120", "ranks": ranks} if drafter else {"head": "full"}
    llm = LLM(eagle2.target_gguf, eagle2.drafter_gguf if drafter else None, ngram=3, **SHAPE, **options)
    prompt = PROMPTS[1] * 3
    found = llm.generate(prompt, TOKENS, ignore_eos=True, draft=True, trace=True)
    assert found.tokens == llm.generate(prompt, TOKENS, ignore_eos=True, draft=False).tokens
    steps = steps_of(found)
    assert [token for step in steps for token in step.tokens] == found.tokens[1:]
    assert found.stats.drafted_steps == sum(step.nodes > 1 for step in steps) > 0
    assert drafter or found.stats.drafted_steps < found.stats.steps  # the text does not always repeat itself
    for step in steps:
        assert step.in_subset is None if not drafter else step.in_subset is not None
        assert (step.head_seconds > 0) == drafter
        if drafter and len(step.tokens) > step.accepted:
            assert step.in_subset is (step.tokens[-1] in ranked(120))


@pytest.mark.parametrize("translate", ["tli", "slem"])
def test_another_vocabulary(tmp_path: Path, translate: str) -> None:
    """Token by token, a drafter can offer what spells the same in its own vocabulary; string by string nobody knows."""
    paths = {}
    for name in ("llama", "mistral"):
        paths[name] = tmp_path / f"{name}.gguf"
        convert(make_checkpoint(tmp_path / name, name), paths[name], "f32", quiet=True)
    llm = LLM(paths["llama"], paths["mistral"], head="full", translate=translate, **SHAPE)
    target, drafter = llm.tokenizer, LLM(paths["mistral"]).tokenizer
    spelled = {drafter.token_bytes(i) for i in range(len(drafter)) if i not in drafter.control_ids()}
    seen = set()
    for seed in range(3):
        found = llm.generate([5, 6, 7], 30, ignore_eos=True, draft=True, trace=True, temperature=1.5, seed=seed)
        assert [token for step in steps_of(found) for token in step.tokens] == found.tokens[1:]
        for step in steps_of(found):
            if step.nodes == 1 or translate == "slem":
                assert step.in_subset is None
            elif len(step.tokens) > step.accepted and step.tokens[-1] not in target.control_ids():
                assert step.in_subset is (target.token_bytes(step.tokens[-1]) in spelled)
                seen.add(step.in_subset)
    assert translate == "slem" or seen == {True, False}


@pytest.mark.parametrize("verify", ["rejection", pytest.param("block", marks=pytest.mark.every_device)])
def test_rejection_sampling(eagle2: TinyPair, verify: str) -> None:
    chain: dict[str, Any] = {"tree_branch": 1, "tree_depth": 2, "tree_size": 4}
    llm = LLM(eagle2.target_gguf, eagle2.drafter_gguf, head="full", n_threads=1, **chain)
    steps = [step for found, _ in trace(llm, 4, verify=verify) for step in steps_of(found)]
    assert any(step.accepted for step in steps)
    for step in steps:
        assert len(step.offered) == (1 if step.accepted < 3 else 0)


def test_deep_trees_have_more_levels_than_a_clock_has_points(eagle2: TinyPair) -> None:
    """What has no point of time left is added up on the way."""
    llm = LLM(eagle2.target_gguf, eagle2.drafter_gguf, tree_depth=64, tree_branch=2, tree_size=20, head="full")
    for found, _ in trace(llm):
        assert all(step.head_seconds > 0.0 for step in steps_of(found))


def test_where_a_text_ends(eagle2: TinyPair) -> None:
    """Within a step by length, or by a token that is not part of it: the step gave less than it accepted."""
    llm = LLM(eagle2.target_gguf, eagle2.drafter_gguf, head="full", **SHAPE)
    whole = llm.generate(PROMPTS[0], TOKENS, ignore_eos=True, draft=True).tokens
    short = 0
    for length in range(1, 20):
        found = llm.generate(PROMPTS[0], length, ignore_eos=True, draft=True, trace=True)
        assert found.tokens == whole[:length]
        steps = steps_of(found)
        assert [token for step in steps for token in step.tokens] == whole[1:length]
        if steps:
            check(found, SHAPE["tree_size"])
            short += len(steps[-1].tokens) <= steps[-1].accepted
        stop = whole[length]
        if stop not in whole[:length]:
            ended = llm.generate(PROMPTS[0], TOKENS, ignore_eos=True, draft=True, trace=True, stop_token_ids=[stop])
            assert ended.finish_reason == "stop"
            assert [token for step in steps_of(ended) for token in step.tokens] == whole[1:length]
            check(ended, SHAPE["tree_size"])
    assert short > 0
    assert llm.generate(PROMPTS[0], 1, trace=True).trace == []


def test_tracing_ends_with_its_text(eagle2: TinyPair) -> None:
    """An engine that has traced a text draws the next one without."""
    llm = LLM(eagle2.target_gguf, eagle2.drafter_gguf, head="full", **SHAPE)
    first = llm.generate(PROMPTS[0], TOKENS, trace=True, draft=True, ignore_eos=True)
    assert llm.generate(PROMPTS[0], TOKENS, draft=True, ignore_eos=True).trace is None
    again = llm.generate(PROMPTS[0], TOKENS, trace=True, draft=True, ignore_eos=True)
    zero = dict.fromkeys(["transformer_seconds", "head_seconds", "verify_seconds", "total_seconds"], 0.0)
    what = [[dataclasses.replace(step, **zero) for step in steps_of(found)] for found in (first, again)]
    assert what[0] == what[1]
