"""What is refused, what is ignored, and that nothing is an error of the server's."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from scripted_llm import ScriptedLLM

from frspec_cpp import LLM, Options

pytest.importorskip("fastapi")

from frspec_cpp.server.choices import Choice

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def error_of(answer: Any) -> dict[str, Any]:
    """The error object, whose form is always the same."""
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["message"]
    return dict(body["error"])


@pytest.mark.parametrize(
    ("path", "fields", "status", "param", "said"),
    [
        (CHAT, {}, 400, "messages", "required"),
        (CHAT, {"messages": []}, 400, "messages", "at least 1"),
        (CHAT, {"messages": [{"content": "x"}]}, 400, "messages", "role"),
        (CHAT, {"messages": USER, "temperature": -1}, 400, "temperature", "-1"),
        (CHAT, {"messages": USER, "top_p": 1.5}, 400, "top_p", "1.5"),
        (CHAT, {"messages": USER, "n": 65}, 400, "n", "65"),
        (CHAT, {"messages": USER, "seed": -2}, 400, "seed", "-2"),
        (CHAT, {"messages": USER, "stop": ["a"] * 17}, 400, "stop", "16"),
        (CHAT, {"messages": USER, "max_tokens": 0}, 400, "max_tokens", "found 0"),
        (CHAT, {"messages": USER, "max_tokens": 3, "n_predict": 4}, 400, "max_tokens", "n_predict 4"),
        (CHAT, {"messages": USER, "top_logprobs": 3}, 400, "top_logprobs", "logprobs"),
        (CHAT, {"messages": USER, "stream_options": {}}, 400, "stream_options", "stream"),
        (CHAT, {"messages": USER, "modalities": ["text", "audio"]}, 400, "modalities", "audio"),
        (CHAT, {"messages": USER, "functions": [{"name": "f"}]}, 400, "functions", "tools"),
        (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, 400, "tools[0]", "function"),
        (CHAT, {"messages": USER, "tools": [TOOL]}, 400, "tools", "does not tell it of tools"),
        (CHAT, {"messages": USER, "tool_choice": "required"}, 400, "tool_choice", "no tools"),
        (CHAT, {"messages": USER, "tool_choice": "x"}, 400, "tool_choice", "auto"),
        (CHAT, {"messages": USER, "chat_template": "{{ 1 }}"}, 400, "chat_template", "--chat-template-file"),
        (CHAT, {"messages": USER, "response_format": {"type": "json_schema"}}, 400, "response_format", "no schema"),
        (CHAT, {"messages": USER, "response_format": {"type": "x"}}, 400, "response_format.type", "x"),
        (CHAT, {"messages": USER, "grammar": "root ::= [a"}, 400, "grammar", "line 1"),
        (CHAT, {"messages": USER, "grammar": "%llguidance {}\nstart: b"}, 400, "grammar", "unknown name"),
        (CHAT, {"messages": USER, "json_schema": {"type": "banana"}}, 400, "json_schema", "banana"),
        (CHAT, {"messages": USER, "guided_json": {"type": "object"}}, 400, "guided_json", "response_format"),
        (COMPLETIONS, {"prompt": "x", "grammar": 'root ::= "a"', "ignore_eos": True}, 400, "ignore_eos", "grammar"),
        (COMPLETIONS, {"prompt": "x", "grammar": 'root ::= "a"', "json_schema": {}}, 400, "json_schema", "2 grammars"),
        (CHAT, {"messages": USER, "mirostat": 2}, 400, "mirostat", "sampler"),
        (CHAT, {"messages": USER, "repetition_penalty": 1.2}, 400, "repetition_penalty", "repeat_penalty"),
        (CHAT, {"messages": USER, "logit_bias": {"x": 1}}, 400, "logit_bias", "token id"),
        (CHAT, {"messages": USER, "logit_bias": {"99999999": 1}}, 400, "logit_bias", "99999999"),
        (CHAT, {"messages": USER, "logit_bias": [[1, "x"]]}, 400, "logit_bias", "number"),
        (CHAT, {"messages": USER, "logit_bias": [[1]]}, 400, "logit_bias", "[1]"),
        (CHAT, {"messages": USER, "logit_bias": [[1, 10**400]]}, 400, "logit_bias", "number"),
        (CHAT, {"messages": USER, "t_max_predict_ms": 10**400}, 400, "t_max_predict_ms", "less"),
        (CHAT, {"messages": USER, "chat_template_kwargs": {"messages": []}}, 400, "chat_template_kwargs", "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages", "messages: found a lone"),
        (CHAT, {"messages": USER, "cache_salt": "\udfff"}, 400, "cache_salt", "unicode"),
        (CHAT, {"messages": USER, "cache_salt": "gr\u00fcn"}, 400, "cache_salt", "pattern"),
        (CHAT, {"messages": USER, "cache_salt": "a\n"}, 400, "cache_salt", "pattern"),
        (CHAT, {"messages": USER, "cache_salt": "a" * 129}, 400, "cache_salt", "128"),
        (CHAT, {"messages": USER, "service_tier": 5}, 400, "service_tier", "5"),
        (CHAT, {"messages": USER, "prompt_cache_key": 7}, 400, "prompt_cache_key", "7"),
        (CHAT, {"messages": USER, "min_tokens": 9, "max_tokens": 3}, 400, "min_tokens", "9"),
        (COMPLETIONS, {"prompt": []}, 400, "prompt", "none"),
        (COMPLETIONS, {"prompt": [[]]}, 400, "prompt", "no tokens"),
        (COMPLETIONS, {"prompt": [99999999]}, 400, "prompt", "prompt"),
        (COMPLETIONS, {"prompt": [[5], [6, 99999999]]}, 400, "prompt", "99999999"),
        (COMPLETIONS, {"prompt": "\ud800"}, 400, "prompt", "prompt: found a lone"),
        (COMPLETIONS, {"prompt": [1, "x"]}, 400, "prompt", ""),
        (COMPLETIONS, {"prompt": "x", "suffix": "y"}, 400, "suffix", "filled"),
        (COMPLETIONS, {"prompt": "x", "best_of": 3, "n": 2}, 400, "best_of", "2"),
        (COMPLETIONS, {"prompt": ["x"] * 33, "n": 2}, 400, "n", "64"),
        (COMPLETIONS, {"prompt": "x", "logprobs": 6}, 400, "logprobs", "5"),
        (COMPLETIONS, {"prompt": "x", "stop_token_ids": [10**9]}, 400, "stop_token_ids", "1000000000"),
        ("/detokenize", {"tokens": [10**9]}, 400, "tokens", "1000000000"),
        ("/tokenize", {"content": 5}, 400, "content", "5"),
        ("/infill", {}, 501, None, "infill"),
    ],
)
def test_refused(server: Any, path: str, fields: dict[str, Any], status: int, param: str | None, said: str) -> None:
    answer = server.client.post(
        path, content=json.dumps({**fields}).encode(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    error = error_of(answer)
    if param is not None:
        assert str(error["param"]).split(".")[0] == param.split(".")[0]
    assert said in error["message"]


def test_neutral_values_are_no_fields(server: Any) -> None:
    neutral = {"grammar": "", "mirostat": 0, "repetition_penalty": 1.0, "suffix": "", "top_n_sigma": -1}
    harmless = {
        "functions": None,
        "response_format": {"type": "text"},
        "service_tier": "auto",
        "user": "me",
        "metadata": {"a": "b"},
    }
    answer = server.post(COMPLETIONS, prompt="x", max_tokens=1, **neutral, **harmless)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "mirostat, repetition_penalty, suffix, top_n_sigma"


def test_what_is_ignored_is_named(server: Any) -> None:
    fields = {"messages": USER, "max_tokens": 1, "prediction": {"type": "content", "content": "x"}, "böse,\n": 1}
    answer = server.post(CHAT, **fields, stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "prediction"


def test_defaults_are_llama_cpps(server: Any, llm: LLM) -> None:
    """Temperature 0.8, as /props says; the library's is 0."""
    params = server.client.get("/props").json()["default_generation_settings"]["params"]
    assert params["temperature"] == 0.8
    assert params["seed"] is None
    text = server.post(COMPLETIONS, prompt="def f(", max_tokens=12, seed=11).json()["choices"][0]["text"]
    assert text == llm.generate("def f(", 12, temperature=0.8, seed=11).text
    assert text != llm.generate("def f(", 12, seed=11).text


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({"temperature": 1.3, "top_k": 7}, {"temperature": 1.3, "top_k": 7}),
        ({"top_p": 0.3, "min_p": 0.2}, {"top_p": 0.3, "min_p": 0.2}),
        ({"top_p": 0}, {"top_p": 1e-6}),
        ({"typical_p": 0.5}, {"typical_p": 0.5}),
        ({"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}, {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
        ({"repeat_penalty": 1.7, "repeat_last_n": -1}, {"repeat_penalty": 1.7, "repeat_last_n": -1}),
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
        ({"min_tokens": 12, "stop": "e"}, {"min_tokens": 12, "stop": "e"}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
    ],
)
def test_options_reach_the_engine(server: Any, llm: LLM, asked: dict[str, Any], given: dict[str, Any]) -> None:
    options = Options(**{"temperature": 0.8, "seed": 3, **given})
    answer = server.post(COMPLETIONS, prompt="a a a a", max_tokens=16, seed=3, return_tokens=True, **asked).json()
    expected = llm.generate("a a a a", 16, **options)
    assert answer["choices"][0]["text"] == expected.text
    assert answer["choices"][0]["tokens"] == expected.tokens


def test_a_text_may_end_by_time(server: Any) -> None:
    answer = server.post(COMPLETIONS, prompt="x", ignore_eos=True, t_max_predict_ms=1).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] < 400


def test_tokens_and_templates(server: Any, llm: LLM) -> None:
    text = "Größe <|end_of_text|>"
    assert server.post("/tokenize", content=text).json() == {"tokens": llm.tokenize(text, add_special=False)}
    letters = server.post("/tokenize", content=text, add_special=True, parse_special=False).json()["tokens"]
    assert letters == llm.tokenize(text, parse_special=False)
    pieces = server.post("/tokenize", content="é🙂", with_pieces=True).json()["tokens"]
    spelled = b"".join(bytes(p["piece"]) if isinstance(p["piece"], list) else p["piece"].encode() for p in pieces)
    assert spelled.decode() == "é🙂"
    assert server.post("/detokenize", tokens=letters).json() == {"content": llm.detokenize(letters)}
    rendered = server.post("/apply-template", messages=USER).json()
    assert rendered == {"prompt": llm.chat_prompts.text(USER)}
    cut = server.post("/apply-template", messages=USER, add_generation_prompt=False).json()["prompt"]
    assert cut + "<|im_start|>assistant\n" == rendered["prompt"]
    going_on = [*USER, {"role": "assistant", "content": "Hel"}]
    prompt = server.post("/apply-template", messages=going_on, continue_final_message=True).json()["prompt"]
    assert prompt.endswith("assistant\nHel")


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e300, 2**31, 2**64, -(2**63), "", "x", "none", "auto", "\x00", "🙂",
    [], [0], ["x"], [[]], [None], [[5, 1.5]], {}, {"x": 1}, {"type": "text"}, {"5": 1.5}, {"include_usage": True},
]  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize", "/apply-template"])
def test_no_request_is_an_error_of_the_server(server: Any, path: str) -> None:
    """Random values for every field: each is taken, or refused with the reason."""
    from frspec_cpp.server import fields

    kinds = {
        CHAT: fields.ChatFields,
        COMPLETIONS: fields.CompletionFields,
        "/tokenize": fields.TokenizeFields,
        "/detokenize": fields.DetokenizeFields,
        "/apply-template": fields.TemplateFields,
    }
    names = [field.alias or name for name, field in kinds[path].model_fields.items()]
    needed = {"messages": USER, "prompt": "x", "content": "x", "tokens": [5]}
    base = {name: needed[name] for name in names if name in needed}
    base |= {"max_tokens": 1} if "max_tokens" in names else {}
    choices = random.Random(path)
    taken = 0
    for name in [*names, "unknown"]:
        for value in choices.sample(VALUES, 3):
            if name == "max_tokens" and not (isinstance(value, int) and 0 <= value < 3):
                continue  # a text as long as the context takes its time
            body = {**base, name: value}
            answer = server.client.post(path, json=body)
            if answer.status_code == 200:
                taken += 1
            else:
                assert answer.status_code in (400, 404, 501), (body, answer.text)
                error_of(answer)
    assert taken > len(names) // 8


def test_the_schema_has_every_field(server: Any) -> None:
    schema = server.client.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/tokenize", "/metrics"} <= set(schema["paths"])
    properties = schema["components"]["schemas"]["ChatFields"]["properties"]
    assert {"messages", "temperature", "speculative.n_max", "logit_bias"} <= set(properties)


def test_the_schema_has_every_answer(server: Any) -> None:
    schema = server.client.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for told in methods.values():
            usual = "501" if server.post(path).status_code == 501 else "200"
            assert set(told["responses"]) == {usual, "4XX", "5XX"}
            error = told["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorAnswer"}
    assert set(schema["components"]["schemas"]["ErrorFields"]["properties"]) == {"message", "type", "param", "code"}
    for path, method, kinds in (
        (CHAT, "post", {"application/json", "text/event-stream"}),
        (COMPLETIONS, "post", {"application/json", "text/event-stream"}),
        ("/metrics", "get", {"text/plain"}),
        ("/props", "get", {"application/json"}),
    ):
        assert set(schema["paths"][path][method]["responses"]["200"]["content"]) == kinds


def test_methods_and_types(server: Any) -> None:
    """What reads no body asks for no type of it."""
    for path, status in (("/props", 405), ("/nothing", 404), ("/v1/embeddings", 501), (CHAT, 415)):
        answer = server.client.post(path)
        assert answer.status_code == status
        error_of(answer)
    assert server.client.get(CHAT).status_code == 405


@pytest.mark.parametrize("stream", [False, True])
def test_faults_of_the_server(
    run_server: Any, llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    """The client is told a number, and the log has it, too."""
    with run_server(ScriptedLLM(llm, "Hm")) as served:
        monkeypatch.setattr(Choice, "_ids", lambda *_: 1 // 0)
        answer = served.post(COMPLETIONS, prompt="x", stream=stream)
        if stream:
            assert answer.status_code == 200
            error = json.loads(answer.text.splitlines()[-2].removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 500
            error = error_of(answer)
        assert (error["type"], error["code"]) == ("server_error", "internal_error")
        assert "ZeroDivisionError" not in answer.text
        assert error["message"].split()[-1] in caplog.text
        assert "ZeroDivisionError" in caplog.text
        monkeypatch.undo()
        assert served.post(COMPLETIONS, prompt="x").json()["choices"][0]["text"] == "Hm"
