"""Texts that go on behind tokens which were written elsewhere: they are what they would have been."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frspec_cpp import LLM, Generation
from frspec_cpp.texts import Piece, Token

PROMPT = "The river carries the snow of the mountains to the sea, \u6771\u4eac"
SAMPLED = {"temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def llm(demo_target: Path, demo_drafter: Path) -> Iterator[LLM]:
    """The demo pair, with trees of a fixed shape."""
    with LLM(demo_target, drafter=demo_drafter, n_ctx=96, tree=(3, 2, 8)) as found:
        yield found


def whole(llm: LLM, max_tokens: int, **options: Any) -> tuple[Generation, list[Token]]:
    """A text that was never cut, with what is shown of each token."""
    events = list(llm.submit(PROMPT, max_tokens, **options).events())
    assert isinstance(events[-1], Generation)
    return events[-1], [token for event in events if isinstance(event, Piece) for token in event.tokens]


CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": SAMPLED,
    "penalties": {**SAMPLED, "repeat_penalty": 1.3, "frequency_penalty": 0.5, "repeat_last_n": 12},
    "plain": {**SAMPLED, "draft": "never"},
    "tokens that are held back": {
        "temperature": 2.0,
        "seed": 5,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "min_tokens": 30,
    },
    "log-probabilities": {**SAMPLED, "logprobs": 2},
    "no limit": {**SAMPLED, "max_tokens": None},
}


@pytest.mark.parametrize("case", CASES)
def test_cut_anywhere(llm: LLM, case: str) -> None:
    options = {"max_tokens": 40, "ignore_eos": "min_tokens" not in CASES[case], **CASES[case]}
    text, tokens = whole(llm, **options)
    ids = [token.id for token in tokens]
    assert len(ids) >= 30
    for cut in [1, 2, 7, len(ids) // 2, len(ids) - 1, len(ids)]:
        rest = llm.generate(PROMPT, committed=ids[:cut], **options)
        assert rest.tokens == ids[cut:], cut
        assert "".join(token.text for token in tokens[:cut]) + rest.text == text.text, cut
        assert rest.finish_reason == text.finish_reason
        assert rest.prompt_tokens == text.prompt_tokens + cut
        assert rest.logprobs == (None if text.logprobs is None else text.logprobs[cut:])


def test_a_stop_string_across_the_cut(llm: LLM) -> None:
    """What is held back at the cut, since it may become one, is still held back behind it."""
    text, tokens = whole(llm, 40, ignore_eos=True, **SAMPLED)
    tried = 0
    for at in range(8, 20):
        spelled = "".join(token.text for token in tokens[at : at + 3])
        if len(spelled) < 3 or not spelled.strip() or spelled in text.text[: text.text.index(spelled)]:
            continue
        stop = spelled[:-1] if len(tokens[at + 2].text) > 1 else spelled
        stopped, shown = whole(llm, 40, ignore_eos=True, stop=stop, **SAMPLED)
        assert stopped.finish_reason == "stop"
        for cut in range(1, len(shown) + 1):
            rest = llm.generate(
                PROMPT, 40, committed=[t.id for t in shown[:cut]], ignore_eos=True, stop=stop, **SAMPLED
            )
            assert rest.tokens == stopped.tokens[cut:]
            assert "".join(token.text for token in shown[:cut]) + rest.text == stopped.text
            assert rest.finish_reason == "stop"
        tried += 1
    assert tried > 2


def test_half_characters(llm: LLM) -> None:
    """A cut inside a character loses none of it."""
    spelled = "\U0001f30a\u00e9\u6771"
    ids = llm.tokenize(spelled, add_special=False)
    assert len(ids) > len(spelled)  # some are spelled in bytes
    for cut in range(1, len(ids)):
        rest = llm.generate(PROMPT, len(ids), committed=ids[:cut], ignore_eos=True, logit_bias={ids[cut]: 1000.0})
        assert rest.tokens[0] == ids[cut]
        before = llm.tokenizer.decode(ids[:cut])
        assert (before.rstrip("\ufffd") + rest.text).startswith(llm.tokenizer.decode(ids[: cut + 1]).rstrip("\ufffd"))


def test_a_full_context(llm: LLM) -> None:
    text, tokens = whole(llm, 1000, ignore_eos=True)
    assert text.finish_reason == "length"
    ids = [token.id for token in tokens]
    assert text.prompt_tokens + len(ids) == llm.n_ctx
    rest = llm.generate(PROMPT, 1000, committed=ids, ignore_eos=True)
    assert (rest.tokens, rest.finish_reason) == ([], "length")
    assert llm.generate(PROMPT, 1000, committed=ids[:-2], ignore_eos=True).tokens == ids[-2:]


def test_refused(llm: LLM) -> None:
    for arguments, message in (
        ({"committed": [5] * 41, "max_tokens": 40}, "committed: found 41 tokens, expected at most 40, max_tokens"),
        ({"committed": [5] * 96, "max_tokens": None}, "committed: found 96 tokens behind a prompt of"),
        ({"committed": [-1]}, r"tokens\[0\]: found id -1"),
        ({"committed": [5], "verify": "rejection"}, "committed: found rejection sampling"),
        ({"prompt": [], "committed": [5]}, "prompt: found no tokens"),
        ({"prompt": ["a", "b"], "committed": [5]}, "committed: found a list of prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            llm.generate(**{"prompt": PROMPT, **arguments})
