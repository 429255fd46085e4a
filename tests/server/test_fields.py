"""Fields of requests, one by one: those that are heeded, refused or without effect, and the paths they go to."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_llm import ScriptedLLM

from frspec_cpp import LLM

pytest.importorskip("fastapi")

from frspec_cpp.server import refusals

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("name", sorted(refusals._REFUSED))
def test_what_would_change_the_answer_is_refused(server: Any, name: str) -> None:
    for path, asked in ((CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "x"})):
        answer = server.post(path, **asked, max_tokens=1, **{name: 2})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, name, "unsupported_value")
        assert error["message"].startswith(f"{name}: ")
    for value in (None, False, 0, "", [], {}):
        assert server.post(COMPLETIONS, prompt="x", max_tokens=1, **{name: value}).status_code == 200


def test_what_has_no_effect(server: Any) -> None:
    """Clients send it, and expect no word of it."""
    harmless = dict.fromkeys(sorted(refusals._HARMLESS), "x")
    asked: dict[str, Any] = {"messages": USER, "max_tokens": 4, "seed": 1}
    plain = server.post(CHAT, **asked).json()["choices"]
    options = {"include_usage": True, "include_obfuscation": True}
    for more in ({}, {"modalities": ["text"], "service_tier": "default"}, {"stream": True, "stream_options": options}):
        answer = server.post(CHAT, **asked, **harmless, **more)
        assert answer.status_code == 200, answer.text
        assert "x-ignored-fields" not in answer.headers
        if "stream" not in more:
            assert answer.json()["choices"] == plain


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_the_names_of_a_limit(server: Any, name: str) -> None:
    answer = server.post(CHAT, messages=USER, ignore_eos=True, **{name: 5}).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (5, "length")
    same = {"max_tokens": 5, "max_completion_tokens": 5, "n_predict": 5}
    assert server.post(CHAT, messages=USER, ignore_eos=True, **same).json()["usage"]["completion_tokens"] == 5


def test_variables_of_the_template(run_server: Any, llm: LLM) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
        "{{ reasoning_effort }},{{ own }}{% if add_generation_prompt %},go{% endif %}"
    )
    asked: dict[str, Any] = {"messages": [{"role": "developer", "content": "Be brief."}, *USER]}
    for more, said in (
        ({}, ",default,go"),
        ({"reasoning_effort": "low"}, "low,default,go"),
        ({"chat_template_kwargs": {"own": "mine"}}, ",mine,go"),
        ({"add_generation_prompt": False}, ",default"),
    ):
        settings = {"chat_template": template, "chat_template_kwargs": {"own": "default"}}
        with run_server(ScriptedLLM(llm, "Yes"), template=settings) as served:
            told = served.post("/apply-template", **asked, **more).json()["prompt"]
            # A template that knows no developers is given a system's words.
            assert told == f"system=Be brief.;user=Hi;{said}"
            answer = served.post(CHAT, **asked, **more).json()
            assert answer["usage"]["prompt_tokens"] == len(llm.chat_prompts.encode(told))


def test_paths_without_a_version(server: Any) -> None:
    """As llama-server has them, for clients whose address ends too early."""
    for path, asked in ((CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "x"})):
        asked |= {"max_tokens": 4, "seed": 2}
        short = server.post(path.removeprefix("/v1"), **asked)
        assert short.json()["choices"] == server.post(path, **asked).json()["choices"]
        assert server.client.post(path.removeprefix("/v1"), content=b"{}").status_code == 415
    assert server.client.get("/models").json() == server.client.get("/v1/models").json()
    for path, status in (("/v1/nothing", 404), ("/completion", 501), ("/v1/rerank", 501)):
        answer = server.post(path, prompt="x")
        assert answer.status_code == status
        assert "/v1/completions" in answer.json()["error"]["message"] or path != "/completion"
    assert "GET /v2/x; /openapi.json" in server.client.get("/v2/x").json()["error"]["message"]
