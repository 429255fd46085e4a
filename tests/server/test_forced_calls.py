"""Calls that an answer must be: a grammar sees to it, whatever the model would say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from chat_templates import CHATML, with_templates

from frspec_cpp import LLM, AsyncLLM

pytest.importorskip("fastapi")
pytest.importorskip("llguidance")

USER: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
CITY = {"type": "string", "maxLength": 8}
WEATHER = {"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "$defs": {"city": CITY}}
WEATHER |= {"required": ["city"], "additionalProperties": False}
CLOCK = {"type": "object", "properties": {"zone": {"enum": ["CET", "UTC"]}}}
CLOCK |= {"required": ["zone"], "additionalProperties": False}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "clock": CLOCK}
TOOLS: Any = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]


@pytest.fixture(scope="module")
def served(demo_target: Path, tmp_path_factory: pytest.TempPathFactory, run_server: Any) -> Iterator[Any]:
    """The template tells of tools in no form that is known: what is forced needs none."""
    program = "{%- if tools %}{{- tools | tojson }}{%- endif %}" + CHATML
    path = with_templates(demo_target, tmp_path_factory.mktemp("forced") / "tools.gguf", program)
    with LLM(path, n_ctx=512, n_threads=1, ngram=3, tree=(2, 2, 6)) as llm, run_server(AsyncLLM(llm)) as found:
        yield found


@pytest.mark.parametrize("choice", ["required", "weather", "clock"])
def test_a_call_is_forced(served: Any, choice: str) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    form: Any = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    asked: dict[str, Any] = {
        "messages": USER,
        "tools": TOOLS,
        "tool_choice": form,
        "max_tokens": 80,
        "temperature": 1.0,
    }
    names = set()
    for seed in range(4):
        answer = client.chat.completions.create(model="demo", seed=seed, **asked)
        (told,) = answer.choices
        assert told.finish_reason == "tool_calls"
        assert told.message.content is None
        (call,) = told.message.tool_calls or []
        names.add(call.function.name)
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
        chunks = list(client.chat.completions.create(model="demo", seed=seed, stream=True, **asked))
        calls = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or []]
        assert [(c.function.name, c.function.arguments) for c in calls] == [
            (call.function.name, call.function.arguments)
        ]
    assert names <= ({choice} if choice != "required" else set(SCHEMAS))


@pytest.mark.parametrize("schema", [{"properties": {"a": {"type": "integer"}}}, {"description": "x"}, {"$id": "i"}])
def test_arguments_are_an_object(served: Any, schema: dict[str, Any]) -> None:
    """Also where the schema does not say so, or has a name."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    for seed in range(2):
        answer = served.post(
            "/v1/chat/completions",
            messages=USER,
            tools=tools,
            tool_choice="required",
            max_tokens=200,
            seed=seed,
            logit_bias=[["{", -3]],
        )
        (choice,) = answer.json()["choices"]
        text = choice["message"]["content"] or choice["message"]["tool_calls"][0]["function"]["arguments"]
        assert choice["finish_reason"] in ("tool_calls", "length"), answer.text
        assert text.startswith("{")


def test_a_call_that_is_cut_short_is_content(served: Any) -> None:
    answer = served.post("/v1/chat/completions", messages=USER, tools=TOOLS, tool_choice="required", max_tokens=3)
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tool_choice": "required"}, "found no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": TOOLS}, "found 'x'"),
        ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "expected 'auto'"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": TOOLS}, "expected 'auto'"),
        ({"tool_choice": ["required"], "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": "required", "tools": TOOLS, "json_schema": {}}, "expected one of them"),
        ({"tool_choice": "required", "tools": TOOLS, "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_refused(served: Any, fields: dict[str, Any], said: str) -> None:
    answer = served.post("/v1/chat/completions", messages=USER, max_tokens=4, **fields)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "given",
    [
        {"response_format": {"type": "json_object"}},
        {"json_schema": {"enum": [17]}},
        {"response_format": {"type": "text"}, "grammar": 'root ::= "17"'},
    ],
)
def test_a_grammar_knows_no_calls(served: Any, given: dict[str, Any]) -> None:
    """Beside tools that may be called it would keep the model from it, and nobody would be told."""
    asked: dict[str, Any] = {"messages": USER, "max_tokens": 8, "tools": TOOLS, **given}
    name = list(given)[-1]
    for more in ({}, {"tool_choice": "auto"}):
        answer = served.post("/v1/chat/completions", **asked, **more)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
        assert answer.json()["error"]["message"].startswith(f"tools: found {name} beside it")
    for more in ({"tool_choice": "none"}, {"tools": []}):
        assert served.post("/v1/chat/completions", **{**asked, **more}).status_code == 200
    text = {"response_format": {"type": "text"}, "grammar": ""}
    assert served.post("/v1/chat/completions", **{**asked, "json_schema": None, **text}).status_code == 200


def test_strict_arguments(served: Any) -> None:
    """Only where a call is forced the grammar sees to them: else the field is named as one that is ignored."""
    strict = [{"type": "function", "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    asked: dict[str, Any] = {"messages": USER, "max_tokens": 2}
    for tools, more, ignored in (
        (strict, {}, "tools.function.strict"),
        (strict, {"stream": True}, "tools.function.strict"),
        (strict, {"tool_choice": "required"}, None),
        (TOOLS, {}, None),
    ):
        answer = served.post("/v1/chat/completions", **asked, tools=tools, **more)
        assert answer.headers.get("x-ignored-fields") == ignored


def test_forms_do_not_matter(demo_target: Path, tmp_path: Path, run_server: Any) -> None:
    """A call that is forced is JSON, also where the template teaches another form."""
    program = "{%- if tools %}<tool_call><function=x><parameter=y>{{- tools | tojson }}{%- endif %}" + CHATML
    path = with_templates(demo_target, tmp_path / "coder.gguf", program)
    with LLM(path, n_ctx=512, n_threads=1) as llm, run_server(AsyncLLM(llm)) as served:
        assert served.client.get("/props").json()["tool_calls"] == "qwen3_coder"
        for stream in (False, True):
            answer = served.post(
                "/v1/chat/completions",
                messages=USER,
                tools=TOOLS,
                tool_choice={"type": "function", "function": {"name": "clock"}},
                max_tokens=400,
                stream=stream,
            )
            assert '"tool_calls":[{' in answer.text
            assert '"finish_reason":"tool_calls"' in answer.text


def test_long_schemas(served: Any) -> None:
    parameters = {"type": "object", "properties": {f"property {number}": {} for number in range(4000)}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    answer = served.post("/v1/chat/completions", messages=USER, tools=tools, tool_choice="required", max_tokens=4)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")
    assert "expected at most 65536" in answer.json()["error"]["message"]


def test_a_schema_that_is_none(served: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "banana"}}}]
    answer = served.post("/v1/chat/completions", messages=USER, tools=tools, tool_choice="required", max_tokens=4)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")
    assert "banana" in answer.json()["error"]["message"]
