"""Answers of models that call tools and think, which the demo pair does not: their words are given here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, HERMES, LLAMA3_TOOLS, MISTRAL_TOOLS, with_templates
from scripted_llm import ScriptedLLM

from frspec_cpp import LLM

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

USER: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
OSLO = '{"name": "weather", "arguments": {"city": "Oslo"}}'
TAGGED = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n{}</function>\n</tool_call>"
# Of a template of Qwen3-Coder, what makes it one.
QWEN3_CODER = """
{%- if tools %}
    {{- '<|im_start|>system\\n<tools>' + tools | tojson + '</tools>\\n<tool_call>\\n<function=example>\\n' }}
    {{- '<parameter=one>\\nvalue\\n</parameter>\\n</function>\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n<function=' + call.function.name + '>\\n' }}
        {%- for name, value in call.function.arguments | items %}
            {{- '<parameter=' + name + '>\\n' + value | string + '\\n</parameter>\\n' }}
        {%- endfor %}
        {{- '</function>\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


@pytest.fixture(scope="module", params=["hermes", "qwen3_coder", "llama3", "mistral"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tool_llm(form: str, demo_target: Path, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    template = {"hermes": HERMES, "qwen3_coder": QWEN3_CODER, "llama3": LLAMA3_TOOLS, "mistral": MISTRAL_TOOLS}[form]
    return LLM(with_templates(demo_target, tmp_path_factory.mktemp("tools") / f"{form}.gguf", template), n_threads=1)


def spelled(form: str) -> str:
    return {
        "hermes": f"<tool_call>\n{OSLO}\n</tool_call>",
        "qwen3_coder": TAGGED.format(""),
        "llama3": OSLO.replace("arguments", "parameters"),
        "mistral": f"[TOOL_CALLS] [{OSLO}]",
    }[form]


def ask(served: Any, **more: Any) -> tuple[Any, list[Any]]:
    """The answer as a whole, and the chunks of a stream."""
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        fields = {"model": "demo", "messages": USER, **more}
        whole = client.chat.completions.create(**fields)
        return whole, list(client.chat.completions.create(**fields, stream=True))


def streamed(chunks: list[Any]) -> tuple[str, str, list[tuple[str, str]]]:
    """Content, thoughts and calls of a stream."""
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls: dict[int, list[str]] = {}
    for call in [call for delta in deltas for call in delta.tool_calls or []]:
        name, arguments = calls.setdefault(call.index, ["", ""])
        calls[call.index] = [name + (call.function.name or ""), arguments + (call.function.arguments or "")]
    content = "".join(delta.content or "" for delta in deltas)
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    return content, thoughts, [(name, arguments) for name, arguments in calls.values()]


def test_a_call(run_server: Any, tool_llm: LLM, form: str) -> None:
    engine = ScriptedLLM(tool_llm, spelled(form))
    with run_server(engine) as served:
        assert served.client.get("/props").json()["tool_calls"] == form
        whole, chunks = ask(served, tools=TOOLS)
        (call,) = whole.choices[0].message.tool_calls
        assert (call.type, call.function.name) == ("function", "weather")
        assert json.loads(call.function.arguments) == {"city": "Oslo"}
        assert whole.choices[0].message.content is None
        assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
        content, _, calls = streamed(chunks)
        assert content.strip() == ""
        assert [(name, json.loads(arguments)) for name, arguments in calls] == [("weather", {"city": "Oslo"})]

        # The turn goes on with what the tool says.
        message = whole.choices[0].message.model_dump(exclude_none=True)
        answer = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}
        engine.words = "It is 12."
        whole, _ = ask(served, messages=[*USER, message, answer], tools=TOOLS)
        assert whole.choices[0].message.content == "It is 12."
        assert whole.choices[0].finish_reason == "stop"


def test_numbers_between_marks(run_server: Any, llm: LLM) -> None:
    """The tool's schema tells them from texts."""
    words = TAGGED.format("<parameter=days>\n3\n</parameter>\n<parameter=more>\n3\n</parameter>\n")
    with run_server(ScriptedLLM(llm, words), template={"chat_template": QWEN3_CODER}) as served:
        whole, chunks = ask(served, tools=TOOLS)
        (call,) = whole.choices[0].message.tool_calls
        expected = {"city": "Oslo", "days": 3, "more": "3"}
        assert json.loads(call.function.arguments) == json.loads(streamed(chunks)[2][0][1]) == expected


def test_words_are_no_call(run_server: Any, tool_llm: LLM, form: str) -> None:
    words = spelled(form)
    with run_server(ScriptedLLM(tool_llm, words)) as served:
        for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
            whole, chunks = ask(served, **more)
            assert whole.choices[0].message.content == words
            assert whole.choices[0].message.tool_calls is None
            assert streamed(chunks)[0] == words


def test_one_call_only(run_server: Any, tool_llm: LLM, form: str) -> None:
    twice = {
        "hermes": "\n".join([spelled(form)] * 2),
        "qwen3_coder": spelled(form) * 2,
        "llama3": f"{spelled(form)}; {spelled(form)}",
    }
    engine = ScriptedLLM(tool_llm, twice.get(form, f"[TOOL_CALLS] [{OSLO}, {OSLO}]"))
    with run_server(engine) as served:
        whole, chunks = ask(served, tools=TOOLS, parallel_tool_calls=False)
        assert len(whole.choices[0].message.tool_calls) == len(streamed(chunks)[2]) == 1
        assert whole.choices[0].finish_reason == "tool_calls"
        whole, chunks = ask(served, tools=TOOLS)
        assert len(whole.choices[0].message.tool_calls) == len(streamed(chunks)[2]) == 2


def test_thoughts(run_server: Any, llm: LLM) -> None:
    with run_server(ScriptedLLM(llm, "<think>\nHm.\n</think>\n\nYes.")) as served:
        whole, chunks = ask(served)
        assert whole.choices[0].message.content == "Yes."
        assert whole.choices[0].message.reasoning_content == "Hm."
        assert streamed(chunks)[:2] == ("Yes.", "Hm.")
        whole, chunks = ask(served, extra_body={"reasoning_format": "none"})
        assert whole.choices[0].message.content == streamed(chunks)[0] == "<think>\nHm.\n</think>\n\nYes."
    with run_server(ScriptedLLM(llm, "Hm.</think>Yes."), template={"chat_template": CHATML + "<think>\n"}) as served:
        whole, chunks = ask(served)
        assert (whole.choices[0].message.content, whole.choices[0].message.reasoning_content) == ("Yes.", "Hm.")


def test_an_answer_that_goes_on_in_a_thought(run_server: Any, llm: LLM) -> None:
    with run_server(ScriptedLLM(llm, " see.\n</think>\n\nYes.")) as served:
        for content in ("<think>\nLet me", [{"type": "text", "text": "<think>\nLet me"}]):
            begun = [*USER, {"role": "assistant", "content": content}]
            whole, chunks = ask(served, messages=begun, extra_body={"continue_final_message": True})
            assert streamed(chunks)[:2] == ("Yes.", "see.")
            assert (whole.choices[0].message.content, whole.choices[0].message.reasoning_content) == ("Yes.", "see.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_seed_is_told_first(server: Any, path: str, stream: bool) -> None:
    """So that a text whose stream broke can be asked for again."""
    asked: dict[str, Any] = {"messages": USER} if "chat" in path else {"prompt": ["a", "b"]}
    asked |= {"max_tokens": 8, "n": 2}
    seeds = set()
    for more in ({}, {"seed": -1}, {"seed": 7}):
        answer = server.post(path, **asked, **more, stream=stream)
        seeds.add(int(answer.headers["x-seed"]))
        told = json.loads(answer.text.split("data: ")[-2]) if stream else answer.json()
        assert told["timings"]["seed"] == int(answer.headers["x-seed"])
    assert len(seeds) == 3
    assert 7 in seeds


def test_every_token_has_its_log_probability(run_server: Any, llm: LLM) -> None:
    """Where text is held back, too."""
    words = "<think>\nHm.\n</think>\n\nYes."
    with run_server(ScriptedLLM(llm, words)) as served:
        whole, chunks = ask(served, logprobs=True)
        tokens = whole.choices[0].logprobs.content
        assert b"".join(bytes(token.bytes) for token in tokens).decode() == words
        pieces = [c.choices[0].logprobs for c in chunks]
        assert [token for piece in pieces if piece for token in piece.content] == tokens
