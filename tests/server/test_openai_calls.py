"""The `openai` client's own ways to ask, each of them sync and async."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import httpx
import pytest
from chat_templates import HERMES
from pydantic import BaseModel
from scripted_llm import ScriptedLLM

from frspec_cpp import LLM, Generation, Piece, Started, Token
from frspec_cpp.async_llm import QueueFull

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

USER: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]
WORDS = "It is 12 degrees in Oslo, and it rains."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    days: int


class Animal(BaseModel):
    """Small, so that it ends whatever spaces stand in it."""

    kind: Literal["cat", "dog"]
    legs: Literal[3, 4]


class Ask:
    """Calls a client, which is sync or async."""

    def __init__(self, kind: str) -> None:
        self._is_async = kind == "async"

    def __call__(self, url: str, call: Callable[[Any], Any], **settings: Any) -> Any:
        """What `call` gives of a client; of a stream, or of a context that is one, all that comes."""
        settings = {"base_url": url + "/v1", "api_key": "none", "max_retries": 0, **settings}
        if self._is_async:
            return asyncio.run(self._call(call, settings))
        with openai.OpenAI(**settings) as client:
            found = call(client)
            if hasattr(found, "__enter__"):
                with found as stream:
                    return [*stream]
            return found

    @staticmethod
    async def _call(call: Callable[[Any], Any], settings: dict[str, Any]) -> Any:
        async with openai.AsyncOpenAI(**settings) as client:
            found = call(client)
            if inspect.isawaitable(found):
                found = await found
            if hasattr(found, "__aenter__"):
                async with found as stream:
                    return [each async for each in stream]
            return found


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return Ask(request.param)


def wait_until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_chat_and_its_stream(ask: Ask, run_server: Any, llm: LLM) -> None:
    asked: Any = {"model": "demo", "messages": USER, "user": "me", "metadata": {"a": "b"}, "store": False}
    with run_server(ScriptedLLM(llm, WORDS)) as served:
        answer = ask(served.url, lambda client: client.chat.completions.create(**asked))
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (WORDS, "stop")
        chunks = ask(served.url, lambda client: client.chat.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WORDS


def test_the_stream_helper(ask: Ask, run_server: Any, llm: LLM) -> None:
    """It puts the answer together, and holds each chunk against OpenAI's form."""
    with run_server(ScriptedLLM(llm, WORDS)) as served:
        for options in ({}, {"stream_options": {"include_usage": True}}, {"logprobs": True}):
            events = ask(
                served.url,
                lambda client, more=options: client.chat.completions.stream(model="demo", messages=USER, **more),
            )
            assert "".join(event.delta for event in events if event.type == "content.delta") == WORDS
            (done,) = (event for event in events if event.type == "content.done")
            assert done.content == WORDS
            last = [event for event in events if event.type == "chunk"][-1].snapshot
            assert last.choices[0].message.content == WORDS
            assert last.choices[0].finish_reason == "stop"
            assert (last.usage is not None) == ("stream_options" in options)


def test_tools_of_pydantic(ask: Ask, run_server: Any, llm: LLM) -> None:
    tools = [openai.pydantic_function_tool(Weather, name="weather")]
    with run_server(ScriptedLLM(llm, CALL), template={"chat_template": HERMES}) as served:
        answer = ask(served.url, lambda client: client.chat.completions.parse(model="demo", messages=USER, tools=tools))
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.parsed_arguments == Weather(city="Oslo", days=2)
        events = ask(
            served.url, lambda client: client.chat.completions.stream(model="demo", messages=USER, tools=tools)
        )
        (done,) = (event for event in events if event.type == "tool_calls.function.arguments.done")
        assert (done.name, done.parsed_arguments) == ("weather", Weather(city="Oslo", days=2))


def test_a_loop_that_runs_tools(ask: Ask, run_server: Any, llm: LLM) -> None:
    """The message that asks goes back as it came, with what the tools say."""
    tools = [openai.pydantic_function_tool(Weather, name="weather")]
    engine = ScriptedLLM(llm, f"{CALL}\n{CALL}")
    messages: list[Any] = list(USER)
    turns = []
    with run_server(engine, template={"chat_template": HERMES}) as served:
        while True:
            answer = ask(
                served.url, lambda client: client.chat.completions.create(model="demo", messages=messages, tools=tools)
            )
            turns.append(answer.choices[0].finish_reason)
            messages.append(answer.choices[0].message)
            if turns[-1] != "tool_calls":
                break
            for call in answer.choices[0].message.tool_calls:
                city = json.loads(call.function.arguments)["city"]
                messages.append({"role": "tool", "tool_call_id": call.id, "content": f"12 degrees in {city}"})
            engine.words = WORDS
    assert turns == ["tool_calls", "stop"]
    assert messages[-1].content == WORDS


def test_parse(ask: Ask, server: Any) -> None:
    """A model of pydantic is what the answer must be."""
    pytest.importorskip("llguidance")
    asked: Any = {"model": "demo", "messages": USER, "response_format": Animal, "max_tokens": 300, "seed": 1}
    answer = ask(server.url, lambda client: client.chat.completions.parse(**asked))
    assert isinstance(answer.choices[0].message.parsed, Animal)
    events = ask(server.url, lambda client: client.chat.completions.stream(**asked))
    (done,) = (event for event in events if event.type == "content.done")
    assert done.parsed == answer.choices[0].message.parsed
    with pytest.raises(openai.LengthFinishReasonError):
        ask(server.url, lambda client: client.chat.completions.parse(**{**asked, "max_tokens": 1}))


def test_completions(ask: Ask, server: Any, llm: LLM) -> None:
    plain = llm.generate("def f(", 24, temperature=0.0)
    word = plain.text.split()[1]
    asked: Any = {"model": "demo", "prompt": "def f(", "max_tokens": 24, "temperature": 0}
    answer = ask(
        server.url,
        lambda client: client.completions.create(
            **asked, n=2, best_of=2, stop=["\x00never", word], logprobs=1, seed=3, user="me", suffix=None
        ),
    )
    expected = plain.text[: plain.text.index(word)]
    assert [choice.text for choice in answer.choices] == [expected] * 2
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.choices[0].logprobs.tokens[0] == llm.tokenizer.token_bytes(plain.tokens[0]).decode()
    chunks = ask(server.url, lambda client: client.completions.create(**asked, stop=word, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    with pytest.raises(openai.BadRequestError, match="filled in") as error:
        ask(server.url, lambda client: client.completions.create(**asked, suffix="x"))
    assert error.value.param == "suffix"


def test_models(ask: Ask, run_server: Any, llm: LLM) -> None:
    with run_server(ScriptedLLM(llm, WORDS), alias="org/model:Q4,other") as served:

        def listed(client: Any) -> Any:
            return client.models.list()

        found = ask(served.url, listed)
        models = found.data if hasattr(found, "data") else found
        assert [model.id for model in models] == ["org/model:Q4"]
        assert ask(served.url, lambda client: client.models.retrieve("org/model:Q4")).id == "org/model:Q4"
        with pytest.raises(openai.NotFoundError) as error:
            ask(served.url, lambda client: client.models.retrieve("gpt-4"))
        assert error.value.code == "model_not_found"


def test_raw_answers(ask: Ask, run_server: Any, llm: LLM) -> None:
    asked: Any = {"model": "demo", "messages": USER, "seed": 7, "extra_body": {"unheard_of": 1}}
    with run_server(ScriptedLLM(llm, WORDS)) as served:
        raw = ask(served.url, lambda client: client.chat.completions.with_raw_response.create(**asked))
        assert raw.parse().choices[0].message.content == WORDS
        assert raw.parse()._request_id == raw.headers["x-request-id"] == raw.parse().id
        assert (raw.headers["x-seed"], raw.headers["x-ignored-fields"]) == ("7", "unheard_of")


def test_raw_streams(run_server: Any, llm: LLM) -> None:
    with (
        run_server(ScriptedLLM(llm, WORDS)) as served,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none") as client,
        client.chat.completions.with_streaming_response.create(model="demo", messages=USER, stream=True) as response,
    ):
        lines = [line for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda client: client.embeddings.create(model="demo", input="x"), "embeddings"),
        (lambda client: client.responses.create(model="demo", input="x"), "/v1/chat/completions"),
    ],
)
def test_what_is_not_there(ask: Ask, server: Any, call: Callable[[Any], Any], path: str) -> None:
    """The client is told so once: it does not ask again, as it does of other errors of a server."""
    rejected = 'requests_rejected_total{model_name="demo",code="501"} '

    def count() -> int:
        _, found, rest = server.client.get("/metrics").text.partition(rejected)
        return int(rest.split()[0]) if found else 0

    already = count()
    with pytest.raises(openai.APIStatusError, match=path) as error:
        ask(server.url, call, max_retries=2)
    assert (error.value.status_code, error.value.type, error.value.code) == (
        501,
        "not_supported_error",
        "not_supported",
    )
    assert count() == already + 1


class Unlucky(ScriptedLLM):
    """Takes no text, or fails in the middle of it."""

    full = False

    def submit(self, prompt: Any, max_tokens: Any = None, **options: Any) -> Any:
        """Refuses, or gives a text that fails."""
        if self.full:
            raise QueueFull("found 64 texts in the queue", 7)
        return self

    async def events(self) -> AsyncIterator[Started | Piece | Generation]:
        """Half a text."""
        yield Started(0.0)
        yield Piece([Token(5, False, "It is")], "It is", None)
        raise RuntimeError("the model is gone")

    def cancel(self) -> None:
        """There is nothing to end."""


def test_errors(ask: Ask, run_server: Any, llm: LLM) -> None:
    asked: Any = {"model": "demo", "messages": USER}

    def chat(client: Any) -> Any:
        return client.chat.completions.create(**asked)

    engine = Unlucky(llm, WORDS)
    with run_server(engine, keys=("k",)) as served:
        with pytest.raises(openai.AuthenticationError) as denied:
            ask(served.url, chat)
        assert (denied.value.code, denied.value.status_code) == ("invalid_api_key", 401)
        for fields, kind in (
            ({"temperature": -1}, openai.BadRequestError),
            ({"model": "gpt-4"}, openai.NotFoundError),
            ({}, openai.InternalServerError),
        ):
            with pytest.raises(kind) as told:
                ask(
                    served.url,
                    lambda client, more=fields: client.chat.completions.create(**{**asked, **more}),
                    api_key="k",
                )
            assert told.value.body.keys() == {"message", "type", "param", "code"}
        with pytest.raises(openai.APIError, match="went wrong"):  # behind the first words
            ask(served.url, lambda client: client.chat.completions.create(**asked, stream=True), api_key="k")
        engine.full = True
        with pytest.raises(openai.RateLimitError) as full:
            ask(served.url, chat, api_key="k")
        assert full.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.APIConnectionError):
        ask(served.url, chat)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(openai.APITimeoutError):
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}", chat, timeout=0.1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_waited_long_enough(ask: Ask, run_server: Any, llm: LLM, stream: bool) -> None:
    """Its text is ended, whether it has heard some of it or nothing."""
    engine = ScriptedLLM(llm, WORDS, stalls=True)
    with run_server(engine) as served:
        # In the middle of a stream some versions of the client raise their transport's error.
        with pytest.raises((openai.APITimeoutError, httpx.TimeoutException)):
            ask(
                served.url,
                lambda client: client.with_options(timeout=0.2).chat.completions.create(
                    model="demo", messages=USER, stream=stream
                ),
            )
        wait_until(lambda: engine.cancelled == 1)


@pytest.mark.parametrize("way", ["cancel", "close", "break"])
def test_a_stream_that_is_left(run_server: Any, llm: LLM, way: str) -> None:
    """Its text is ended, and the client goes on."""
    engine = ScriptedLLM(llm, WORDS, stalls=True)

    async def listen(client: Any, heard: asyncio.Event) -> None:
        async with await client.chat.completions.create(model="demo", messages=USER, stream=True) as stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    heard.set()
                    if way == "break":
                        break
                    if way == "close":
                        await stream.close()

    async def leave(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            heard = asyncio.Event()
            task = asyncio.create_task(listen(client, heard))
            await heard.wait()
            if way == "cancel":
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while not engine.cancelled:  # though the client itself is still there
                await asyncio.sleep(0.005)
            engine.stalls = False
            answer = await client.chat.completions.create(model="demo", messages=USER)
            assert answer.choices[0].message.content == WORDS

    with run_server(engine) as served:
        asyncio.run(asyncio.wait_for(leave(served.url), 60))
        assert engine.cancelled == 1
