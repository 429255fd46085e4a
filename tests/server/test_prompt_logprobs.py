"""Completions that tell their prompt's log-probabilities, as evaluation harnesses ask for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frspec_cpp import LLM, AsyncLLM

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

PROMPT = "def f(x):\n    return x é🙂 1"


@pytest.fixture(scope="module")
def pair(chat_target: Path, demo_drafter: Path) -> LLM:
    """With company."""
    return LLM(chat_target, drafter=demo_drafter, n_ctx=512, n_threads=1, n_parallel=4)


@pytest.fixture(scope="module")
def served(pair: LLM, run_server: Any) -> Iterator[Any]:
    with run_server(AsyncLLM(pair)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as found:
        yield found


def expected_of(llm: LLM, ids: list[int]) -> np.ndarray[Any, Any]:
    """The log-probability of each token but the first."""
    logits = llm.forward(ids).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    found = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.asarray(found[np.arange(len(ids) - 1), ids[1:]])


def test_the_prompt_alone(client: Any, pair: LLM) -> None:
    ids = pair.tokenize(PROMPT)
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=0, echo=True, logprobs=2)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (PROMPT, "length")
    found = choice.logprobs
    assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
    np.testing.assert_allclose(found.token_logprobs[1:], expected_of(pair, ids), atol=1e-4)
    assert all(own in best for own, best in zip(found.tokens[1:], found.top_logprobs[1:], strict=True))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)
    assert answer.timings["predicted_n"] == 0
    # A token stands where it begins; one that ends a character with others, where that does.
    for token, at in zip(found.tokens, found.text_offset, strict=True):
        assert token.startswith("bytes:") or PROMPT[at:].startswith(token) or (at == 0 and token.startswith("<|"))
    assert found.text_offset[-1] == len(PROMPT) - 1


def test_with_a_text_behind_it(client: Any, pair: LLM) -> None:
    """As lm-eval-harness asks, and reads the answer."""
    context, asked = pair.tokenize("def f(x):\n"), pair.tokenize(PROMPT)
    ask = {"model": "demo", "prompt": [asked, asked[:3]], "max_tokens": 1, "temperature": 0, "seed": 1}
    answer = client.completions.create(**ask, logprobs=1, echo=True)
    first = sorted(answer.choices, key=lambda choice: choice.index)[0].logprobs
    found = first.token_logprobs[len(context) : -1]
    np.testing.assert_allclose(found, expected_of(pair, asked)[len(context) - 1 :], atol=1e-4)
    assert all(own <= max(best.values()) for own, best in zip(found, first.top_logprobs[len(context) :], strict=False))
    plain = client.completions.create(**ask, logprobs=1)
    for told, alone in zip(answer.choices, plain.choices, strict=True):
        assert told.text.endswith(alone.text)
        assert told.logprobs.token_logprobs[-1:] == alone.logprobs.token_logprobs
        assert told.logprobs.text_offset[-1] == len(told.text) - len(alone.text)
    assert answer.usage.completion_tokens == plain.usage.completion_tokens == 2


def test_several_texts_and_a_stream(client: Any) -> None:
    ask = {"model": "demo", "prompt": ["a", "x y"], "max_tokens": 6, "seed": 5, "n": 2, "logprobs": 1, "echo": True}
    whole = client.completions.create(**ask)
    plain = client.completions.create(**{**ask, "echo": False})
    texts, scores = [""] * 4, [[] for _ in range(4)]  # type: ignore[var-annotated]
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            scores[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    prompts = ["a", "a", "x y", "x y"]
    assert texts == [prompt + choice.text for prompt, choice in zip(prompts, plain.choices, strict=True)]
    assert scores == [choice.logprobs.token_logprobs for choice in whole.choices]


def test_prompts_that_are_short_or_hold_an_end(client: Any, pair: LLM) -> None:
    end = pair.tokenizer.eos_id
    ids = [*pair.tokenize("Hi"), end, *pair.tokenize("there", add_special=False)]
    answer = client.completions.create(model="demo", prompt=[ids, ids[:1]], max_tokens=0, echo=True, logprobs=0)
    long, short = answer.choices
    np.testing.assert_allclose(long.logprobs.token_logprobs[1:], expected_of(pair, ids), atol=1e-4)
    assert long.text == pair.detokenize(ids)
    assert short.logprobs.token_logprobs == [None]
    nothing = client.completions.create(model="demo", prompt="Hi", max_tokens=0, echo=True)
    assert (nothing.choices[0].text, nothing.choices[0].logprobs) == ("Hi", None)
    with pytest.raises(openai.BadRequestError, match="max_tokens: found 0"):
        client.completions.create(model="demo", prompt="Hi", max_tokens=0)


def test_in_company(client: Any, pair: LLM) -> None:
    """Neither does it disturb others, nor they it."""
    ask = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "seed": 1, "echo": True, "logprobs": 1}
    alone = client.completions.create(**ask).choices[0]
    expected = pair.generate("The river", 60, temperature=0.8, seed=2, ignore_eos=True).text
    found: list[str] = []

    def write() -> None:
        answer = client.completions.create(
            model="demo", prompt="The river", max_tokens=60, seed=2, extra_body={"ignore_eos": True}
        )
        found.append(answer.choices[0].text)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    among = [client.completions.create(**ask).choices[0] for _ in range(3)]
    for thread in threads:
        thread.join()
    assert found == [expected] * 3
    assert among == [alone] * 3


def test_one_that_has_to_wait_too_long(run_server: Any, pair: LLM) -> None:
    """Whatever becomes of it, the client is told in the usual form."""
    with run_server(AsyncLLM(pair, max_queue=1), max_queue=1) as served:
        answer = served.post("/v1/completions", prompt=["a b", "c d"], max_tokens=0, echo=True, logprobs=1)
        assert answer.status_code == 400
        answer = served.post("/v1/completions", prompt=[5] * 600, max_tokens=0, echo=True, logprobs=1)
        assert answer.json()["error"]["code"] == "context_length_exceeded"
