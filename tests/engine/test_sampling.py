"""Sampling is exact under speculation: whatever the chain, drafted and plain text are equal token for token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from frspec_cpp import LLM, Generation

PROMPT = "def fibonacci(n):\n"
CHAINS: list[dict[str, Any]] = [
    {"temperature": 0.8},
    {"temperature": 0.7, "top_k": 0, "top_p": 0.9, "min_p": 0.0},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 1.5, "top_k": 100, "min_p": 0.1, "typical_p": 0.9},
    {"temperature": 1.0, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
    {"temperature": 1.0, "repeat_penalty": 1.3, "frequency_penalty": 0.1, "presence_penalty": 0.2},
    {"temperature": 0.0, "repeat_penalty": 1.5, "repeat_last_n": -1},
    {"temperature": 0.0, "frequency_penalty": 0.5, "repeat_last_n": 5},
    {"temperature": 0.0, "typical_p": 0.5},
    {"temperature": 0.9, "logit_bias": {10: -5.0, 649: float("-inf"), 2: 3.0}},
    {"temperature": 0.9, "min_tokens": 30, "seed": 2},
]


@pytest.fixture(scope="module")
def llm(demo_target: Path, demo_drafter: Path) -> LLM:
    return LLM(demo_target, drafter=demo_drafter, head="ranked:8192", tree_depth=4, tree_size=30, n_ctx=512)


def both(llm: LLM, prompt: str = PROMPT, **options: Any) -> Generation:
    """The drafted text, which must be the plain one."""
    drafted = llm.generate(prompt, draft=True, **options)
    plain = llm.generate(prompt, draft=False, **options)
    assert drafted.tokens == plain.tokens
    assert drafted.text == plain.text
    assert drafted.finish_reason == plain.finish_reason
    assert drafted.logprobs == plain.logprobs
    return drafted


@pytest.mark.every_isa
@pytest.mark.parametrize("chain", [CHAINS[0], CHAINS[2]], ids=str)
def test_kernels_of_the_noise(demo_target: Path, demo_drafter: Path, chain: dict[str, Any]) -> None:
    """Small, because tiles in software are slow."""
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:1024", tree_depth=2, tree_branch=3, tree_size=8)
    both(llm, max_tokens=16, ignore_eos=True, seed=3, **chain)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_every_chain_is_lossless(llm: LLM, chain: dict[str, Any]) -> None:
    both(llm, max_tokens=48, **{"seed": 3, "ignore_eos": True, **chain})


@pytest.mark.parametrize("tree_size", [1, 64, 65, 100])
def test_trees_that_fit_the_logits_and_trees_that_do_not(demo_target: Path, demo_drafter: Path, tree_size: int) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:2048", tree_depth=3, tree_branch=12, tree_size=tree_size)
    both(llm, max_tokens=16, temperature=1.0, top_k=20, repeat_penalty=1.1, ignore_eos=True)


def test_penalties_see_the_prompt_and_the_text(llm: LLM) -> None:
    """Penalties by hand, on the logits of the whole text, give the same greedy text."""
    found = both(llm, max_tokens=24, repeat_penalty=1.4, frequency_penalty=0.3, repeat_last_n=20, ignore_eos=True)
    tokens = llm.tokenize(PROMPT) + found.tokens
    prompt = len(tokens) - len(found.tokens)
    logits = llm.forward(tokens)
    changed = 0
    for i, token in enumerate(found.tokens):
        row = logits[prompt + i - 1].copy()
        best = int(row.argmax())
        recent = tokens[: prompt + i][-20:]
        for other in set(recent):
            row[other] *= 1.4 if row[other] <= 0 else 1 / 1.4
            row[other] -= 0.3 * recent.count(other)
        assert int(row.argmax()) == token
        changed += best != token
    assert changed >= 3


def test_a_seed_gives_what_gumbel_max_says(llm: LLM) -> None:
    """The draw by hand: argmax of processed logits plus the noise of (seed, position, token)."""
    from frspec_cpp import _testing

    options = {"temperature": 0.9, "top_k": 30, "top_p": 0.97, "min_p": 0.01}
    found = both(llm, max_tokens=20, seed=9, ignore_eos=True, **options)
    tokens = llm.tokenize(PROMPT) + found.tokens
    prompt = len(tokens) - len(found.tokens)
    processed = _testing.ops.process(llm.forward(tokens)[prompt - 1 : -1], [], "cpu", **options)
    positions = [prompt + i for i in range(len(found.tokens))]
    assert _testing.ops.sample(processed, temperature=1.0, seed=9, positions=positions).tolist() == found.tokens


class Forbid:
    """A logits processor that forbids the last eight tokens and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> None:
        """Forbids the last eight tokens, in place."""
        self.calls.append(tokens.tolist())
        logits[tokens[-8:]] = -np.inf


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logits_processor_is_exact_under_speculation(llm: LLM, temperature: float) -> None:
    drafted, plain = Forbid(), Forbid()
    options = {"max_tokens": 40, "temperature": temperature, "ignore_eos": True, "repeat_penalty": 0.8}
    options |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # something must be left
    with_drafts = llm.generate("a a a a", logits_processor=drafted, draft=True, **options)
    without = llm.generate("a a a a", logits_processor=plain, draft=False, **options)
    assert with_drafts.tokens == without.tokens
    assert with_drafts.stats.steps < without.stats.steps  # drafts were accepted
    assert all(a != b for a, b in zip(with_drafts.tokens, with_drafts.tokens[5:], strict=False))
    assert with_drafts.tokens != llm.generate("a a a a", **options).tokens
    # Plain decoding asks once per token; with drafts it asks the same, but for what was drafted behind the end.
    assert drafted.calls[: len(plain.calls)] == plain.calls
    prompt = llm.tokenize("a a a a")
    assert plain.calls == [prompt + without.tokens[:i] for i in range(40)]


def test_a_logits_processor_sees_processed_logits_and_may_return_others(llm: LLM) -> None:
    seen: list[int] = []

    def only_worst(_: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        kept = np.flatnonzero(~np.isinf(logits))
        seen.append(len(kept))
        result = np.full_like(logits, -np.inf)
        result[kept[logits[kept].argmin()]] = 0
        return result

    both(llm, max_tokens=12, temperature=1.0, top_k=7, top_p=1.0, min_p=0.0, logits_processor=only_worst)
    assert set(seen) == {7}


def test_logits_processors_that_fail(llm: LLM) -> None:
    def fails(*_: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        llm.generate(PROMPT, logits_processor=fails)
    with pytest.raises(RuntimeError, match="at least one token that is left"):
        llm.generate(PROMPT, logits_processor=lambda _, logits: np.full_like(logits, -np.inf))
    with pytest.raises(ValueError, match=r"logits processor: found 3 values, expected 65536"):
        llm.generate(PROMPT, logits_processor=lambda *_: np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"logits processor: found str"):
        llm.generate(PROMPT, logits_processor=lambda *_: "text")  # type: ignore[arg-type, return-value]
    assert both(llm, max_tokens=8).tokens  # still usable


def test_logprobs_are_the_models_own(llm: LLM) -> None:
    found = both(llm, max_tokens=30, temperature=1.0, top_k=5, logprobs=3, seed=5, repeat_penalty=1.2)
    assert found.logprobs is not None
    assert [entry.token for entry in found.logprobs] == found.tokens
    tokens = llm.tokenize(PROMPT) + found.tokens
    logits = llm.forward(tokens)[len(tokens) - len(found.tokens) - 1 : -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    expected -= logits.max(1, keepdims=True)
    for row, entry in zip(expected, found.logprobs, strict=True):
        assert entry.logprob == pytest.approx(row[entry.token], abs=1e-4)
        assert list(entry.top) == np.argsort(-row, kind="stable")[:3].tolist()
        np.testing.assert_allclose(list(entry.top.values()), np.sort(row)[::-1][:3], atol=1e-4)


def test_a_logits_processor_cannot_use_its_own_model(llm: LLM) -> None:
    """An error, not a wait for ever."""

    def asks(ids: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> None:
        logits[:] += llm.forward(ids.tolist())[-1]

    with pytest.raises(RuntimeError, match="cannot use the model that it is called for"):
        llm.generate(PROMPT, 4, logits_processor=asks)
    assert both(llm, max_tokens=4).tokens


def test_logits_so_large_that_steps_below_them_vanish(llm: LLM) -> None:
    bias = dict.fromkeys(range(20, 400), 100000000.0 - 8) | {5: 1e8}
    options = {"temperature": 1.0, "top_k": 0, "top_p": 0.9999, "min_p": 0.0, "logit_bias": bias}
    assert both(llm, max_tokens=8, ignore_eos=True, **options).tokens


def test_logprobs_are_given_when_asked_for(llm: LLM) -> None:
    assert llm.generate(PROMPT, 4).logprobs is None
    first = llm.generate(PROMPT, 1).tokens
    assert both(llm, max_tokens=4, logprobs=2, stop_token_ids=first).logprobs == []
    found = both(llm, max_tokens=4, logprobs=0)
    assert found.logprobs is not None
    assert [entry.top for entry in found.logprobs] == [{}] * 4


def test_stop_strings_wherever_token_borders_lie(llm: LLM) -> None:
    whole = both(llm, max_tokens=28, ignore_eos=True)
    for number, begin in enumerate(range(0, len(whole.text) - 6, 7)):
        for length in (1, 2, 6)[number % 2 :]:
            stop = whole.text[begin : begin + length]
            # Several tokens a step are the hard case; tokens one by one are looked at now and then.
            asked: dict[str, Any] = {"max_tokens": 28, "ignore_eos": True, "stop": stop}
            found = both(llm, **asked) if number % 5 == 0 else llm.generate(PROMPT, draft=True, **asked)
            assert found.text == whole.text[: whole.text.index(stop)]
            assert found.finish_reason == "stop"
            assert found.tokens == whole.tokens[: len(found.tokens)]
            # The token that completed the stop string is the last.
            assert stop in llm.detokenize(found.tokens)
            assert stop not in llm.detokenize(found.tokens[:-1])


def test_the_first_of_several_stop_strings_ends_the_text(llm: LLM) -> None:
    whole = both(llm, max_tokens=60, ignore_eos=True).text
    stops = ["return", "nowhere to be found", ":\n"]
    found = both(llm, max_tokens=60, ignore_eos=True, stop=stops)
    assert found.text == whole[: min(whole.index(s) for s in stops if s in whole)]
    pieces = list(llm.stream(PROMPT, 60, ignore_eos=True, stop=stops))
    assert "".join(pieces) == found.text


def test_what_might_become_a_stop_string_is_shown_in_the_end(llm: LLM) -> None:
    whole = both(llm, max_tokens=10, ignore_eos=True).text
    for length in range(1, len(whole)):
        stop = whole[-length:] + "\x00"
        assert llm.generate(PROMPT, 10, draft=length % 4 > 0, ignore_eos=True, stop=stop).text == whole
        if length % 10 == 1:
            assert "".join(llm.stream(PROMPT, 10, ignore_eos=True, stop=stop)) == whole


def test_stop_tokens(llm: LLM) -> None:
    whole = both(llm, max_tokens=40, ignore_eos=True).tokens
    found = both(llm, max_tokens=40, ignore_eos=True, stop_token_ids=[whole[12], 65000])
    assert found.tokens == whole[: whole.index(whole[12])]
    assert found.finish_reason == "stop"


def test_nothing_ends_a_text_before_min_tokens(llm: LLM) -> None:
    whole = both(llm, max_tokens=40, ignore_eos=True)
    stop = whole.tokens[3]
    early = both(llm, max_tokens=40, stop_token_ids=[stop])
    assert len(early.tokens) <= 3
    late = both(llm, max_tokens=40, stop_token_ids=[stop], min_tokens=20)
    assert len(late.tokens) >= 20
    assert stop not in late.tokens
    text = llm.detokenize(whole.tokens[:4])
    found = both(llm, max_tokens=40, ignore_eos=True, stop=text[-3:], min_tokens=20)
    assert len(found.tokens) >= 20
    assert found.text.startswith(text)
