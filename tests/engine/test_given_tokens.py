"""Texts whose tokens are given: their log-probabilities are those of one pass over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from frspec_cpp import LLM, Grammar

TEXT = "def f(x):\n    return x + 1\n\nThe river é🙂 flows, and flows, and flows"


@pytest.fixture(scope="module", params=["none", "eagle3", "ngram"])
def llm(request: pytest.FixtureRequest, demo_target: Path, demo_drafters: dict[str, Path]) -> LLM:
    more: dict[str, Any] = {"eagle3": {"drafter": demo_drafters["eagle3"]}, "ngram": {"ngram": 8}}
    return LLM(demo_target, n_ctx=256, n_threads=1, n_parallel=3, **more.get(request.param, {}))


def tokens_of(llm: LLM) -> list[int]:
    """With one among them that ends texts."""
    ids = llm.tokenize(TEXT)
    end = llm.tokenizer.eos_id
    assert end is not None
    return [*ids[:5], end, *ids[5:]]


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def scored(llm: LLM, ids: list[int], **options: Any) -> list[tuple[int, float]]:
    text = llm.generate(
        ids[:1], len(ids) - 1, grammar=Grammar.from_tokens(ids[1:]), ignore_eos=True, logprobs=1, **options
    )
    assert text.finish_reason == "length"
    assert text.logprobs is not None
    return [(token.token, token.logprob) for token in text.logprobs]


def test_their_log_probabilities(llm: LLM) -> None:
    ids = tokens_of(llm)
    expected = log_softmax(llm.forward(ids))
    found = scored(llm, ids)
    assert [token for token, _ in found] == ids[1:]
    np.testing.assert_allclose([own for _, own in found], expected[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
    # Neither drafts nor what the text is drawn with change them.
    assert scored(llm, ids, draft="never") == scored(llm, ids, temperature=0.9, seed=3, draft="always") == found


def test_in_company(llm: LLM) -> None:
    ids = tokens_of(llm)
    alone, story = scored(llm, ids), llm.generate(TEXT, 40, temperature=0.8, seed=4).tokens
    others = [llm.submit(TEXT, 40, temperature=0.8, seed=4) for _ in range(2)]
    assert scored(llm, ids) == alone
    assert [other.result().tokens for other in others] == [story, story]


def test_the_text_goes_on_freely(llm: LLM) -> None:
    ids = llm.tokenize(TEXT)
    for count in (1, len(ids) - 1):
        text = llm.generate(ids[:count], len(ids) - count + 12, grammar=Grammar.from_tokens(ids[count:]))
        assert text.tokens == [*ids[count:], *llm.generate(ids, 12).tokens]
        # Those that were given already are no more to come.
        rest = llm.generate(
            ids[:count], len(ids) - count + 12, committed=text.tokens[:3], grammar=Grammar.from_tokens(ids[count:])
        )
        assert rest.tokens == text.tokens[3:]


def test_tokens_that_are_none(llm: LLM) -> None:
    with pytest.raises(ValueError, match="found token id 99999999"):
        llm.generate("x", 4, grammar=Grammar.from_tokens([99999999]))
    with pytest.raises(TypeError):
        Grammar.from_tokens(["x"])  # type: ignore[list-item]
    ids = llm.tokenize(TEXT)
    with pytest.raises(RuntimeError, match="expected"):
        llm.generate(ids[:1], 8, committed=[ids[2]], grammar=Grammar.from_tokens(ids[1:]))
