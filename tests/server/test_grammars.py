"""Answers that follow a grammar, whole and as streams, with the openai client's own ways to ask for them."""

from __future__ import annotations

import json
import sys
from typing import Any

import jsonschema
import openai
import pytest

pytest.importorskip("llguidance")

from chat_templates import CHATML

from frspec_cpp import LLM, AsyncLLM

MESSAGES: Any = [{"role": "user", "content": "Who are you?"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "kind": {"enum": ["a cat", "a dog", "a long story"]}},
    "required": ["name", "kind"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "who", "strict": True, "schema": SCHEMA}}


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_json_schema(client: openai.OpenAI, temperature: float) -> None:
    asked: dict[str, Any] = {"temperature": temperature, "seed": 4, "max_tokens": 120, "response_format": FORM}
    answer = client.chat.completions.create(model="demo", messages=MESSAGES, **asked)
    text = answer.choices[0].message.content
    assert text is not None
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text), SCHEMA)
    stream = client.chat.completions.create(model="demo", messages=MESSAGES, stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == text
    plain: Any = {"extra_body": {"speculative.n_max": 0}}
    alone = client.chat.completions.create(model="demo", messages=MESSAGES, **asked, **plain)
    assert alone.choices[0].message.content == text


def test_several_texts_of_a_request(client: openai.OpenAI) -> None:
    """Each has a grammar of its own: how far one has come is nothing for the next."""
    answer = client.chat.completions.create(
        model="demo", messages=MESSAGES, n=3, temperature=1.0, seed=1, max_tokens=120, response_format=FORM
    )
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)


def test_json_object(server: Any) -> None:
    """Any object, or one by a schema, as llama.cpp takes it."""
    form = {"type": "json_object", "schema": SCHEMA}
    answer = server.post("/v1/chat/completions", messages=MESSAGES, response_format=form, max_tokens=120, seed=2)
    jsonschema.validate(json.loads(answer.json()["choices"][0]["message"]["content"]), SCHEMA)
    form = {"type": "json_object"}
    answer = server.post("/v1/chat/completions", messages=MESSAGES, response_format=form, max_tokens=8, seed=2)
    assert answer.json()["choices"][0]["message"]["content"].lstrip().startswith("{")


@pytest.mark.parametrize(
    "grammar",
    ['root ::= "yes, of course" | "no, never"', '%llguidance {}\nstart: "yes, of course" | "no, never"'],
    ids=["gbnf", "lark"],
)
def test_grammars(server: Any, grammar: str) -> None:
    answer = server.post("/v1/completions", prompt="Are you a cat?", grammar=grammar, max_tokens=40, seed=3)
    (choice,) = answer.json()["choices"]
    assert choice["text"] in ("yes, of course", "no, never")
    assert choice["finish_reason"] == "stop"


def test_a_schema_alone(server: Any) -> None:
    answer = server.post("/v1/completions", prompt="x", json_schema={"enum": [17]}, max_tokens=40, seed=3)
    assert json.loads(answer.json()["choices"][0]["text"]) == 17


@pytest.mark.parametrize("stream", [False, True])
def test_what_follows_a_grammar_is_content(run_server: Any, llm: LLM, stream: bool) -> None:
    """Where the template has opened a thought, too: nothing closes it."""
    fields: list[dict[str, Any]] = [
        {"response_format": {"type": "json_object", "schema": {"enum": [17]}}},
        {"json_schema": {"enum": [17]}},
        {"grammar": 'root ::= "17"'},
    ]
    with run_server(AsyncLLM(llm), template={"chat_template": CHATML + "<think>\n"}) as served:
        for given in fields:
            answer = served.post("/v1/chat/completions", messages=MESSAGES, max_tokens=20, stream=stream, **given)
            bodies = [json.loads(part) for part in answer.text.split("data: ") if part.startswith("{")]
            messages = [choice.get("message") or choice["delta"] for body in bodies for choice in body["choices"]]
            assert "".join(message.get("content") or "" for message in messages) == "17"
            assert not any("reasoning_content" in message for message in messages)
        asked: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True, "response_format": {"type": "text"}}
        answer = served.post("/v1/chat/completions", messages=MESSAGES, **asked)
        assert "reasoning_content" in answer.json()["choices"][0]["message"]


@pytest.mark.parametrize("name", ["response_format", "json_schema"])
def test_schemas_of_any_length(server: Any, name: str) -> None:
    """Are refused before they are compiled, which takes the longer the larger they are."""

    def asked(count: int) -> Any:
        schema = {"type": "object", "properties": {f"property {number}": {} for number in range(count)}}
        value = schema if name == "json_schema" else {"type": "json_schema", "json_schema": {"schema": schema}}
        return server.post("/v1/completions", prompt="x", max_tokens=1, **{name: value})

    assert asked(10).status_code == 200
    answer = asked(4000)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert "expected at most 65536" in answer.json()["error"]["message"]


def test_without_the_package(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told as something that this server does not do."""
    monkeypatch.delitem(vars(server.service.llm), "_grammars", raising=False)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    answer = server.post("/v1/completions", prompt="x", grammar='root ::= "a"', max_tokens=4)
    assert answer.status_code == 501
    assert "pip install 'frspec_cpp[grammar]'" in answer.json()["error"]["message"]
