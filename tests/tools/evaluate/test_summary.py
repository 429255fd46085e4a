"""The report's numbers against values computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from evaluation_records import METHODS, make_manifest, make_prompts, make_runs
from frspec_cpp.tools.evaluate.records import Manifest, Method, Prompt, Run
from frspec_cpp.tools.evaluate.steps import reason, traced
from frspec_cpp.tools.evaluate.summary import MethodSummary, Spread, question, spread, summarise

from frspec_cpp import Step

PLAIN = Method("plain", "plain")
FAST = Method("fast", "frspec", head="ranked:8", rows=8)
PEER = Method("peer", "llama.cpp", engine="another", exact=False)


def a_run(method: Method, prompt: int, repeat: int, generated: int, seconds: float, **others: Any) -> Run:
    """A timed text: 1 s of prompt, and as many steps as tokens after the first unless told otherwise."""
    values: dict[str, Any] = {
        "steps": generated - 1,
        "step_tokens": generated - 1,
        "drafted_steps": 0,
        "prefill_seconds": 1.0,
        "draft_seconds": 0.0,
        "verify_seconds": seconds - 1.0,
        "finish_reason": "length",
    }
    values |= others
    return Run(method.name, prompt, repeat, generated, total_seconds=seconds, **values)


def a_step(tokens: list[int], accepted: int, **others: Any) -> Step:
    values: dict[str, Any] = {
        "nodes": 10,
        "offered": [9, 8],
        "in_subset": True,
        "transformer_seconds": 0.001,
        "head_seconds": 0.002,
        "verify_seconds": 0.004,
        "total_seconds": 0.008,
    }
    return Step(tokens, accepted, **(values | others))


def of(found: list[MethodSummary], method: Method) -> MethodSummary:
    return next(one for one in found if one.method == method)


def two_questions() -> list[Prompt]:
    return [
        Prompt(0, "a.jsonl:1", "code", 5, question=0),
        Prompt(1, "b.jsonl:1", "talk", 5, question=1),
        Prompt(2, "b.jsonl:1 turn 2", "talk", 9, question=1, turn=2),
    ]


def a_manifest(methods: list[Method], prompts: list[Prompt], repeats: int = 1) -> Manifest:
    return make_manifest(methods, prompts, repeats)


def test_spread_interpolates() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0]) == Spread(4, 2.5, 1.0, 1.75, 2.5, 3.25, 4.0)
    assert spread([]) is None


def test_turns_are_of_one_question() -> None:
    assert [question(prompt) for prompt in two_questions()] == [0, 1, 1]


def test_a_name_like_a_turns_is_a_question_of_its_own() -> None:
    prompts = [Prompt(0, "a", "talk", 5, question=0), Prompt(1, "a turn 2", "talk", 5, question=1)]
    runs = [a_run(PLAIN, 0, 1, 10, 5.0), a_run(PLAIN, 1, 1, 12, 3.0)]  # 2 and 4 tokens/s
    overall = of(summarise(a_manifest([PLAIN], prompts), runs).methods, PLAIN).overall
    assert overall.questions == 2
    assert overall.tokens_per_second is not None
    assert overall.tokens_per_second.mean == 3.0


def test_speed_by_spec_benchs_definition() -> None:
    runs = [
        a_run(PLAIN, 0, 1, 10, 5.0),  # 2 tokens/s
        a_run(PLAIN, 1, 1, 12, 3.0),
        a_run(PLAIN, 2, 1, 12, 3.0),  # both turns: 24 tokens in 6 s
        a_run(FAST, 0, 1, 10, 2.0, steps=3, drafted_steps=2),  # 5 tokens/s
        a_run(FAST, 1, 1, 12, 2.0, steps=4, drafted_steps=4),
        a_run(FAST, 2, 1, 12, 4.0, steps=5, drafted_steps=3),  # 24 tokens in 6 s
    ]
    warm_up = [replace(run, repeat=0, total_seconds=99.0) for run in runs]
    found = summarise(a_manifest([PLAIN, FAST], two_questions()), [*warm_up, *runs])
    fast = of(found.methods, FAST).overall
    assert fast.questions == fast.samples == 2
    assert fast.tokens_per_second is not None
    assert fast.tokens_per_second.mean == pytest.approx((5.0 + 4.0) / 2)
    assert fast.speedup == pytest.approx((5.0 + 4.0) / (2.0 + 4.0))  # of means, not the mean of 2.5 and 1
    assert fast.ratios is not None
    assert (fast.ratios.low, fast.ratios.high) == pytest.approx((1.0, 2.5))
    # Decoding alone: 9 tokens in 1 s and 22 in 4 s, over 9 in 4 s and 22 in 4 s.
    assert fast.decode_speedup == pytest.approx((9.0 + 5.5) / (2.25 + 5.5))
    assert fast.accepted_length == pytest.approx((9 + 11 + 11) / (3 + 4 + 5))
    assert fast.drafted_share == pytest.approx(9 / 12)
    assert fast.step_times is not None
    assert fast.step_times.total_ms == pytest.approx(1e3 * 5.0 / 12)
    assert of(found.methods, PLAIN).overall.speedup == pytest.approx(1.0)
    talk = of(found.methods, FAST).categories["talk"]
    assert talk.speedup == pytest.approx(1.0)
    assert talk.accepted_length == pytest.approx(22 / 9)
    assert found.remarks == []


def test_a_question_counts_when_all_its_turns_are_there() -> None:
    runs = [a_run(method, prompt, 1, 10, 5.0) for method in (PLAIN, FAST) for prompt in (0, 1)]
    manifest = a_manifest([PLAIN, FAST], two_questions())
    found = summarise(manifest, runs)
    assert of(found.methods, FAST).overall.questions == 1
    assert of(found.methods, FAST).categories["talk"].tokens_per_second is None
    assert found.texts == 4
    assert found.expected_texts == 2 * 3 * 2
    assert "4 of 12" in found.remarks[0]
    # Its second turn did not fit: the first is all of it.
    found = summarise(replace(manifest, left_out={"b.jsonl:1 turn 2": "found 9 tokens, expected at most 8"}), runs)
    assert of(found.methods, FAST).overall.questions == 2
    assert (found.prompts, found.expected_texts) == (2, 2 * 2 * 2)


def test_speedup_compares_what_both_have() -> None:
    prompts = two_questions()[:1]
    runs = [a_run(PLAIN, 0, 1, 10, 5.0), a_run(PLAIN, 0, 2, 10, 10.0), a_run(FAST, 0, 1, 10, 2.5)]
    found = summarise(a_manifest([PLAIN, FAST], prompts, 2), runs)
    assert of(found.methods, FAST).overall.speedup == pytest.approx(2.0)  # of the first repeat


def test_a_record_written_twice_counts_once() -> None:
    prompts = two_questions()[:1]
    run = a_run(PLAIN, 0, 1, 10, 5.0)
    found = summarise(a_manifest([PLAIN], prompts), [run, replace(run, total_seconds=2.0), replace(run, prompt=7)])
    speed = found.methods[0].overall.tokens_per_second
    assert speed == Spread(1, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)


def test_peers_that_do_not_tell_have_no_numbers() -> None:
    nothing = dict.fromkeys(("steps", "step_tokens", "drafted_steps", "draft_seconds", "verify_seconds"))
    prompts = two_questions()[:1]
    runs = [
        a_run(PLAIN, 0, 0, 4, 5.0, tokens=[1, 2, 3, 4]),
        a_run(PLAIN, 0, 1, 4, 5.0),
        a_run(PEER, 0, 0, 3, 2.0, prefill_seconds=None, tokens=[1, 2, 5], **nothing),
        a_run(PEER, 0, 1, 3, 2.0, prefill_seconds=None, **nothing),
    ]
    found = summarise(a_manifest([PLAIN, PEER], prompts), runs)
    peer = of(found.methods, PEER).overall
    assert peer.speedup == pytest.approx(1.5 / 0.8)
    for name in ("accepted_length", "steps", "drafted_share", "step_times", "traced", "decode_tokens_per_second"):
        assert getattr(peer, name) is None, name
    assert peer.agreement is not None
    assert (peer.agreement.equal, peer.agreement.same_tokens, peer.agreement.tokens) == (0, 2, 4)
    assert any("peer" in remark for remark in found.remarks)
    assert not any("NOT LOSSLESS" in remark for remark in found.remarks)


def test_another_text_of_an_exact_method_is_said_loudly() -> None:
    prompts = two_questions()[:1]
    runs = [a_run(PLAIN, 0, 0, 2, 5.0, tokens=[1, 2]), a_run(FAST, 0, 0, 2, 5.0, tokens=[1, 3])]
    found = summarise(a_manifest([PLAIN, FAST], prompts), runs)
    assert any("NOT LOSSLESS" in remark and "fast" in remark for remark in found.remarks)


def test_without_timed_texts_the_warm_up_tells_accepted_lengths() -> None:
    runs = [a_run(FAST, 0, 0, 10, 2.0, steps=3), a_run(PLAIN, 0, 0, 10, 2.0)]
    found = summarise(a_manifest([PLAIN, FAST], two_questions()[:1]), runs)
    fast = of(found.methods, FAST).overall
    assert (fast.speedup, fast.tokens_per_second, fast.step_times) == (None, None, None)
    assert fast.accepted_length == pytest.approx(3.0)
    assert any("no timed texts" in remark for remark in found.remarks)


def test_texts_that_end_at_once_have_no_speed() -> None:
    nothing = {"generated": 0, "steps": 0, "step_tokens": 0}
    runs = [
        replace(a_run(method, prompt, repeat, 10, seconds), **(nothing if prompt != 1 else {}))
        for method, seconds in ((PLAIN, 4.0), (FAST, 2.0))
        for prompt in (0, 1, 2)
        for repeat in (0, 1)
    ]
    found = summarise(a_manifest([PLAIN, FAST], two_questions()), runs)
    fast = of(found.methods, FAST).overall
    assert (fast.questions, fast.samples) == (1, 1)
    assert fast.tokens_per_second == Spread(1, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)  # of the first turn alone
    assert fast.ratios == Spread(1, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    assert found.remarks == [
        "Left out of the speeds: 2 prompts, whose texts ended at once, without a token: a.jsonl:1, b.jsonl:1 turn 2."
    ]
    # Of one method alone: it is named.
    found = summarise(
        a_manifest([PLAIN, FAST], two_questions()), [*runs[:6], *(replace(r, generated=1) for r in runs[6:])]
    )
    assert all(remark.startswith("Left out of the speeds of plain: ") for remark in found.remarks)
    assert found.remarks
    # Of all questions: nothing was timed, and nothing is said to be missing.
    found = summarise(a_manifest([PLAIN, FAST], two_questions()), [replace(run, generated=0) for run in runs])
    assert of(found.methods, FAST).overall.tokens_per_second is None
    assert len(found.remarks) == 1


def test_without_anything() -> None:
    found = summarise(a_manifest([PLAIN, FAST], two_questions()), [])
    assert found.remarks == ["There are no results yet."]
    assert found.methods[0].overall.tokens_per_second is None


def test_without_plain_decoding() -> None:
    found = summarise(a_manifest([FAST], two_questions()[:1]), [a_run(FAST, 0, 1, 10, 2.0)])
    assert found.methods[0].overall.speedup is None
    assert any("Plain decoding was not" in remark for remark in found.remarks)


def test_reasons() -> None:
    assert reason(a_step([1], 0, nodes=1, offered=[], in_subset=None)) == "no_drafts"
    assert reason(a_step([1, 2], 2, offered=[])) == "text_ended"
    # The target wanted to end the text instead of these drafts, or its token did not fit: a refusal all the same.
    assert reason(a_step([1, 2], 2)) == "another_preferred"
    assert reason(a_step([1], 2, in_subset=False)) == "outside_subset"
    assert reason(a_step([1, 2, 3], 2, offered=[], in_subset=None)) == "tree_ended"
    assert reason(a_step([1, 2], 1, in_subset=False)) == "outside_subset"
    assert reason(a_step([1, 2], 1)) == "another_preferred"
    assert reason(a_step([1, 2], 1, in_subset=None)) == "subset_unknown"


def test_steps() -> None:
    steps = [
        a_step([1, 2, 3], 2, offered=[], in_subset=None),  # the tree had two levels
        a_step([1, 2], 1, in_subset=False),
        a_step([1], 0, total_seconds=0.006),  # a clock that runs backwards
        a_step([1], 0, nodes=1, offered=[], in_subset=None),
    ]
    found = traced([steps[:3], steps[3:]])
    assert found is not None
    assert (found.texts, found.steps) == (2, 4)
    assert [(one.depth, one.tried, one.accepted) for one in found.depths] == [(1, 3, 2), (2, 2, 1)]
    assert found.lengths == [1, 1, 1]
    assert found.drafted == 3
    assert found.accepted_plus_one == pytest.approx((3 + 2 + 1 + 1) / 4)
    assert found.misses == {
        "outside_subset": 1,
        "another_preferred": 1,
        "subset_unknown": 0,
        "tree_ended": 1,
        "text_ended": 0,
        "no_drafts": 1,
    }
    split = found.split
    assert (split.transformer_ms, split.head_ms, split.verify_ms) == pytest.approx((1.0, 2.0, 4.0))
    assert split.total_ms == pytest.approx(7.5)
    assert split.other_ms == pytest.approx(0.5)
    assert traced([]) is None
    assert traced([[]]) is None


def test_an_example_adds_up() -> None:
    manifest = make_manifest(METHODS, make_prompts())
    found = summarise(manifest, make_runs(manifest))
    assert found.texts == found.expected_texts
    for one in found.methods:
        parts = one.categories.values()
        assert sum(part.samples for part in parts) == one.overall.samples
        if one.overall.traced is not None:
            assert sum(part.traced.steps for part in parts if part.traced) == one.overall.traced.steps
            assert sum(one.overall.traced.misses.values()) == one.overall.traced.steps
