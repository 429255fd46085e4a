"""The `openai` client, sync and async: what it gets is what the LLM writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from frspec_cpp import LLM

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Write a function"}]},
]
PLAIN = [MESSAGES[0], {"role": "user", "content": "Write a function"}]


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as found:
        yield found


def test_a_chat(client: Any, llm: LLM) -> None:
    expected = llm.chat(PLAIN, 24, temperature=0.8, seed=5)
    answer = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=24, seed=5)
    choice = answer.choices[0]
    assert choice.message.content == expected.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == expected.finish_reason
    assert answer.model == "demo"
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == len(expected.tokens)
    assert answer.usage.total_tokens == expected.prompt_tokens + len(expected.tokens)
    assert answer.system_fingerprint.startswith("frspec-")
    assert answer.timings["seed"] == 5
    assert answer.timings["draft_n_accepted"] > 0


def test_a_stream_is_the_same(client: Any, llm: LLM) -> None:
    expected = llm.chat(PLAIN, 24, temperature=0.8, seed=5)
    with client.chat.completions.create(
        model="other", messages=MESSAGES, max_tokens=24, seed=5, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected.text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == expected.finish_reason
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == len(expected.tokens)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].timings["predicted_n"] == len(expected.tokens)


def test_several_choices(client: Any, llm: LLM) -> None:
    expected = [llm.chat(PLAIN, 12, temperature=0.8, seed=seed).text for seed in (7, 8, 9)]
    answer = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=12, seed=7, n=3)
    assert [choice.message.content for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=12, seed=7, n=3, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == expected


def test_log_probabilities(client: Any, llm: LLM) -> None:
    expected = llm.chat(PLAIN, 8, temperature=0.0, logprobs=3)
    assert expected.logprobs is not None
    answer = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert [token.logprob for token in tokens] == [token.logprob for token in expected.logprobs]
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == expected.text
    for token, own in zip(tokens, expected.logprobs, strict=True):
        assert [best.logprob for best in token.top_logprobs] == list(own.top.values())
        assert token.top_logprobs[0].token == token.token  # at temperature 0 the best one is chosen


def test_log_probabilities_in_a_stream(client: Any) -> None:
    ask = {"model": "demo", "messages": MESSAGES, "max_tokens": 8, "seed": 1, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**ask).choices[0].logprobs.content
    pieces = [
        token
        for chunk in client.chat.completions.create(**ask, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    assert pieces == whole


def test_completions(client: Any, llm: LLM) -> None:
    prompts = ["def f(", "import "]
    expected = [llm.generate(prompt, 10, temperature=0.8, seed=3 + i).text for prompt in prompts for i in range(2)]
    answer = client.completions.create(model="demo", prompt=prompts, max_tokens=10, seed=3, n=2)
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage.prompt_tokens == sum(len(llm.tokenize(prompt)) for prompt in prompts)
    echo = client.completions.create(model="demo", prompt=prompts[0], max_tokens=10, seed=3, echo=True)
    assert echo.choices[0].text == prompts[0] + expected[0]
    ids = llm.tokenize(prompts[1])
    assert client.completions.create(model="demo", prompt=ids, max_tokens=10, seed=4).choices[0].text == expected[3]
    stream = client.completions.create(model="demo", prompt=ids, max_tokens=10, seed=4, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == llm.detokenize(ids) + expected[3]


def test_old_log_probabilities(client: Any, llm: LLM) -> None:
    expected = llm.generate("def f(", 10, temperature=0.0, logprobs=2)
    answer = client.completions.create(model="demo", prompt="def f(", max_tokens=10, temperature=0, logprobs=2)
    found = answer.choices[0].logprobs
    assert expected.logprobs is not None
    assert found.token_logprobs == [token.logprob for token in expected.logprobs]
    assert "".join(found.tokens) == answer.choices[0].text
    assert [answer.choices[0].text[at:][: len(t)] for at, t in zip(found.text_offset, found.tokens, strict=True)] == (
        found.tokens
    )
    assert all(own in best for own, best in zip(found.tokens, found.top_logprobs, strict=True))


def test_stop_and_bias(client: Any, llm: LLM) -> None:
    plain = llm.generate("def f(", 30, temperature=0.0)
    word = plain.text.split()[2]
    answer = client.completions.create(model="demo", prompt="def f(", max_tokens=30, temperature=0, stop=[word])
    assert answer.choices[0].text == plain.text[: plain.text.index(word)]
    assert answer.choices[0].finish_reason == "stop"
    first = plain.tokens[0]
    forbidden = client.completions.create(
        model="demo", prompt="def f(", max_tokens=1, temperature=0, logit_bias={str(first): -100}
    )
    expected = llm.generate("def f(", 1, temperature=0.0, logit_bias={first: -100.0})
    assert forbidden.choices[0].text == expected.text != llm.generate("def f(", 1, temperature=0.0).text
    pairs = client.completions.create(
        model="demo", prompt="def f(", max_tokens=1, temperature=0,
        extra_body={"logit_bias": [[llm.detokenize([first]), False]]},
    )  # fmt: skip
    assert pairs.choices[0].text == expected.text


def test_without_drafts_the_text_is_the_same(client: Any) -> None:
    ask = {"model": "demo", "prompt": "def f(", "max_tokens": 20, "seed": 2}
    drafted = client.completions.create(**ask)
    plain = client.completions.create(**ask, extra_body={"speculative.n_max": 0})
    assert plain.choices[0].text == drafted.choices[0].text
    assert drafted.timings["draft_n_accepted"] > plain.timings["draft_n_accepted"] == 0


def test_a_seed_that_was_told_gives_the_text_again(client: Any) -> None:
    first = client.completions.create(model="demo", prompt="def f(", max_tokens=12)
    again = client.completions.create(model="demo", prompt="def f(", max_tokens=12, seed=first.timings["seed"])
    assert again.choices[0].text == first.choices[0].text


def test_many_at_once_are_what_they_are_alone(server: Any, llm: LLM) -> None:
    asked = [(f"Number {i}: ", i % 3 * 0.5, 5 + i) for i in range(12)]
    expected = [llm.generate(prompt, n, temperature=t, seed=n).text for prompt, t, n in asked]

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as client:

            async def ask(number: int, prompt: str, temperature: float, n: int) -> str:
                more = {"model": "demo", "prompt": prompt, "temperature": temperature, "seed": n, "max_tokens": n}
                if number % 2:
                    return (await client.completions.create(**more)).choices[0].text
                stream = await client.completions.create(**more, stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*(ask(number, *one) for number, one in enumerate(asked)))

    assert asyncio.run(ask_all()) == expected


def test_models(client: Any, llm: LLM) -> None:
    (model,) = client.models.list().data
    assert model.id == "demo"
    assert model.meta["n_vocab"] == llm.vocab_size
    assert client.models.retrieve("other").id == "other"


def test_errors_are_the_clients_own(client: Any, llm: LLM) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match=rf"600 tokens, expected fewer than {llm.n_ctx}") as error:
        client.completions.create(model="demo", prompt=[5] * 600)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="image_url"):
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        )
    with pytest.raises(openai.BadRequestError, match="banana") as error:
        client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}},
        )
    assert error.value.param == "response_format"
    with pytest.raises(openai.InternalServerError):
        client.embeddings.create(model="demo", input="x")
