"""Messages as OpenAI's clients and agents write them, tools, template variables, answers that are continued."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, GEMMA, HERMES, LLAMA2, LLAMA3, MISTRAL, PARTS, PHI3, with_templates

from frspec_cpp import LLM
from frspec_cpp.chat import ChatTemplate

ALL = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "phi3": PHI3}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city, <now>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def call(arguments: Any, name: str = "get_weather") -> dict[str, Any]:
    return {"id": "call_abc12", "type": "function", "function": {"name": name, "arguments": arguments}}


# What the documentation of agent frameworks shows them sending.
AGENTS: dict[str, list[Any]] = {
    "openai function calling": [
        {"role": "developer", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What's the weather like in Paris today?"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call('{"city":"Paris"}')]},
        {"role": "tool", "tool_call_id": "call_abc12", "content": "14"},
    ],
    "openai agents sdk": [
        {"role": "system", "content": "You only respond in haikus."},
        {"role": "user", "content": [{"type": "input_text", "text": "What's the weather in Tokyo?"}]},
        {"role": "assistant", "tool_calls": [call('{"city":"Tokyo"}')]},
        {"role": "tool", "tool_call_id": "call_abc12", "content": "The weather in Tokyo is sunny."},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Sun on the city", "annotations": []}]},
        {"role": "user", "content": "And tomorrow?"},
    ],
    "langchain": [
        {"role": "system", "content": [{"type": "text", "text": "foo"}]},
        {"role": "user", "content": [{"type": "text", "text": "whats in this"}, "and in that"]},
        {"role": "assistant", "tool_calls": [call('{"baz": "buz"}', "analyze")], "content": ""},
        {"role": "tool", "name": "analyze", "tool_call_id": "call_abc12", "content": "foobar"},
        {"role": "assistant", "content": "thats nice"},
        {"role": "user", "content": "go on"},
    ],
    "autogen": [
        {"content": "You are a helpful AI assistant.", "role": "system"},
        {"content": "Compute 44231 + 13312.", "role": "user", "name": "user_proxy"},
        {"content": "", "role": "assistant", "name": "bot", "function_call": None, "tool_calls": [call('{"a": 4}')]},
        {"content": "57543", "role": "tool", "tool_call_id": "call_abc12", "tool_responses": [{"content": "57543"}]},
    ],
    "llamaindex": [
        {"role": "system", "content": "You are a pirate with a colorful personality"},
        {"role": "user", "content": "What is your name"},
        {"role": "assistant", "content": None, "tool_calls": [call({"city": "Tortuga"})]},
        {"role": "tool", "content": "stormy", "tool_call_id": "call_abc12"},
        {"role": "assistant", "content": "Arr"},
        {"role": "user", "content": "Where?"},
    ],
}  # fmt: skip


def reference(template: str, messages: list[Any], **options: Any) -> str:
    """What transformers renders."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token="<s>", eos_token="</s>"
    )
    options = {"add_generation_prompt": True, **options}
    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    assert isinstance(text, str)
    return text


def ours(template: str, messages: list[Any], **options: Any) -> str:
    return ChatTemplate(template, "m.gguf", "<s>", "</s>").render(messages, **options)


def normalized(messages: list[Any], *, parts: bool) -> list[Any]:
    """The same conversation as transformers wants it: arguments as objects, text parts or strings."""
    result = copy.deepcopy(messages)
    for message in result:
        message["role"] = message["role"].replace("developer", "system")
        for entry in message.get("tool_calls") or []:
            arguments = entry["function"]["arguments"]
            if isinstance(arguments, str):
                entry["function"]["arguments"] = json.loads(arguments)
        content = message.get("content")
        if isinstance(content, list):
            texts = [part if isinstance(part, str) else part["text"] for part in content]
            message["content"] = [{"type": "text", "text": text} for text in texts] if parts else "\n".join(texts)
    return result


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("template", [HERMES, PARTS], ids=["hermes", "parts"])
def test_agents_messages_reach_the_template(name: str, template: str) -> None:
    messages = AGENTS[name]
    before = copy.deepcopy(messages)
    found = ours(template, messages, tools=[WEATHER])
    assert messages == before
    assert found == reference(template, normalized(messages, parts=template == PARTS), tools=[WEATHER])
    assert '\\\\"' not in found  # arguments are not quoted twice


@pytest.mark.parametrize("name", AGENTS)
def test_chat_takes_agents_messages_unchanged(llm: LLM, name: str) -> None:
    out = llm.chat(AGENTS[name], 4, tools=[WEATHER], tool_choice="auto", chat_template=HERMES, ignore_eos=True)
    text = reference(HERMES, normalized(AGENTS[name], parts=False), tools=[WEATHER])
    assert out.tokens == llm.generate(text, 4, ignore_eos=True).tokens


@pytest.mark.parametrize("name", AGENTS)
def test_agents_messages_with_a_real_model(real_model: Any, name: str) -> None:
    path = real_model("qwen2.5-coder-0.5b-instruct.q4_k_m.gguf")
    from frspec_cpp import Tokenizer

    template = Tokenizer(path).chat_template
    assert template is not None
    found = ChatTemplate(template, str(path), "", "<|im_end|>").render(AGENTS[name], tools=[WEATHER])
    assert found == reference(template, normalized(AGENTS[name], parts=False), tools=[WEATHER])


@pytest.mark.parametrize("name", ALL)
def test_content_in_parts_is_text_for_templates_that_read_text(name: str) -> None:
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Three"}]},
        {"role": "user", "content": [{"type": "text", "text": " four "}]},
    ]
    assert ours(ALL[name], parts) == reference(ALL[name], normalized(parts, parts=False))


def test_arguments_as_the_template_reads_them() -> None:
    """As an object, as JSON text, or both."""
    before = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ '<' + c.function.name + '>' }}"
    after = "{% endfor %}{% endfor %}"
    text = before + "{{ c.function.arguments + '' }}" + after  # as DeepSeek's: a string only
    entries = before + "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}" + after
    either = before + (
        "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}" + after
    )
    for arguments in ('{"city": "Köln"}', {"city": "Köln"}):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call(arguments)]}]
        assert ours(text, messages) == '<get_weather>{"city": "Köln"}'
        assert ours(either, messages) == '<get_weather>{"city": "Köln"}'
        assert ours(entries, messages) == "<get_weather>city=Köln"
        assert '"arguments": {"city": "Köln"}' in ours(HERMES, messages)
    broken = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call("no JSON")]}]
    assert '"no JSON"' in ours(HERMES, broken)  # nothing better is known


def test_null_and_absent_content_are_the_same() -> None:
    tests_none = (
        "{% for m in messages %}{% if m['content'] is none %}[calls]{% else %}{{ m['content'] + '.' }}{% endif %}"
        "{% endfor %}"
    )
    for message in ({"content": None}, {}):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call("{}")], **message}]
        assert ours(tests_none, messages) == "?.[calls]"
        assert "None" not in ours(HERMES, messages)


class Role(str, Enum):
    """A string that has methods."""

    USER = "user"


@dataclass
class Data:
    """A message as a dataclass."""

    role: Role
    content: str


class Model:
    """What pydantic's models, and so the client's own messages, offer."""

    def model_dump(self) -> dict[str, Any]:
        """The message as a dictionary."""
        return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call('{"city": "Rome"}')]}


def test_objects_of_clients() -> None:
    found = ours(HERMES, [Data(Role.USER, "Hi"), Model(), {"role": "tool", "content": "sun"}])
    assert "<|im_start|>user\nHi<|im_end|>" in found
    assert '"arguments": {"city": "Rome"}' in found


def test_reasoning_has_several_names() -> None:
    template = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}{% endfor %}"
    for name in ("reasoning_content", "reasoning", "thinking"):
        messages = [{"role": "assistant", "content": "x", name: "because"}]
        assert ours(template, messages) == reference(template, messages) == "because|because"


def test_everything_goes_to_the_template(llm: LLM) -> None:
    template = (
        "{{ messages[0].name }},{{ tools | length }},{{ tool_choice.function.name }},{{ enable_thinking }},"
        "{{ reasoning_effort }},{{ date }},{{ add_generation_prompt }}"
    )
    messages = [{"role": "user", "content": "x", "name": "Ann"}]
    ids = llm.chat_prompt(
        messages,
        chat_template=template,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        enable_thinking=False,
        reasoning_effort="low",
        chat_template_kwargs={"date": "today", "add_generation_prompt": False},
    )
    assert llm.detokenize(ids) == "Ann,1,get_weather,False,low,today,False"
    plain = "{{ tools is none }} {{ enable_thinking is defined }} {{ tool_choice is defined }}"
    assert llm.detokenize(llm.chat_prompt(messages, chat_template=plain)) == "True False False"
    hidden = llm.chat_prompt(messages, chat_template=plain, tools=[WEATHER], tool_choice="none")
    assert llm.detokenize(hidden) == "True False True"
    with pytest.raises(TypeError, match="enable_thinkin"):
        llm.chat(messages, enable_thinkin=True)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="found 'messages'"):
        llm.chat(messages, chat_template=plain, chat_template_kwargs={"messages": []})
    with pytest.warns(UserWarning, match="does not tell the model of tools"):
        llm.chat_prompt(messages, chat_template=CHATML, tools=[WEATHER])


@pytest.mark.parametrize(
    ("tools", "found"),
    [(WEATHER, "tools: found dict"), ("get_weather", "tools: found str"), ([WEATHER, "x"], r"tools\[1\]: found str")],
)
def test_tools_that_are_no_list_of_functions(llm: LLM, tools: Any, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        llm.chat_prompt([{"role": "user", "content": "x"}], chat_template=HERMES, tools=tools)


def test_other_templates(demo_target: Path, tmp_path: Path) -> None:
    llm = LLM(with_templates(demo_target, tmp_path / "m.gguf", "D", tool_use="T{{ tools | length }}", rag="R"))
    messages = [{"role": "user", "content": "x"}]

    def text(**options: Any) -> str:
        return llm.detokenize(llm.chat_prompt(messages, **options))

    assert text() == "D"
    assert text(tools=[WEATHER]) == "T1"
    assert text(tools=[WEATHER], tool_choice="none") == "D"
    assert text(chat_template="rag") == "R"
    assert text(chat_template="{{ messages[0].content }}!") == "x!"
    file = tmp_path / "own.jinja"
    file.write_bytes("{{ messages[0].role }}\u00fc\n".encode())
    assert text(chat_template=file) == text(chat_template=str(file)) == "userü"
    with pytest.raises(FileNotFoundError, match=r"absent\.jinja.*'tool_use'"):
        text(chat_template="absent.jinja")
    file.write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"own\.jinja: byte 2"):
        text(chat_template=file)
    with pytest.raises(ValueError, match=r"line 1 of the chat template: .*expression"):
        text(chat_template="{% for %}")
    bare = LLM(with_templates(demo_target, tmp_path / "bare.gguf", None, rag="R"))
    with pytest.raises(ValueError, match=r"tokenizer\.chat_template' but 'rag'"):
        bare.chat_prompt(messages)


@pytest.mark.parametrize("name", [*ALL, "hermes", "parts"])
@pytest.mark.parametrize("final", ["Sure, here is", "Sure: ", "  Sure\n\n"])
def test_the_last_message_is_continued(name: str, final: str) -> None:
    template = {**ALL, "hermes": HERMES, "parts": PARTS}[name]
    for content in (final, [{"type": "text", "text": final}]):
        messages = [{"role": "user", "content": "Write a list"}, {"role": "assistant", "content": content}]
        found = ours(template, messages, continue_final_message=True)
        expected = normalized(messages, parts=name == "parts")
        options = {"continue_final_message": True, "add_generation_prompt": False}
        assert found == reference(template, expected, **options)
        assert found.rstrip().endswith(final.strip())


def test_what_cannot_be_continued() -> None:
    for messages in ([{"role": "assistant", "tool_calls": [call("{}")]}], [{"role": "assistant", "content": 3}]):
        with pytest.raises(ValueError, match="found no text in the last message"):
            ours(HERMES, messages, continue_final_message=True)
    with pytest.raises(ValueError, match="does not spell the last message"):
        ours("nothing", [{"role": "assistant", "content": "x"}], continue_final_message=True)


def test_continuing_and_streaming(llm: LLM) -> None:
    options: dict[str, Any] = {"chat_template": CHATML, "continue_final_message": True, "ignore_eos": True}
    messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "One, two,"}]
    out = llm.chat(messages, 12, **options)
    prompt = "<|im_start|>user\nCount<|im_end|>\n<|im_start|>assistant\nOne, two,"
    assert out.tokens == llm.generate(prompt, 12, ignore_eos=True).tokens
    pieces = list(llm.chat(messages, 12, stream=True, **options))
    assert len(pieces) > 3
    assert "".join(pieces) == out.text
    with pytest.raises(ValueError, match="messages: found none"):
        llm.chat([], stream=True, **options)  # at once, not at the first piece


WORDS = [
    (
        "{{ raise_exception('Conversation roles must alternate user/assistant') }}",
        "roles must alternate user/assistant",
    ),
    ("{{ missing.attribute }}", "'missing' is undefined"),
    ("{{ messages[0].content | from_json }}", "from_json"),
    ("{{ messages[7].content }}", "list object has no element 7"),
    ("{{ messages | map(attribute='x') | join }}{{ 1 / 0 }}", "division by zero"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
]


@pytest.mark.parametrize(("template", "words"), WORDS, ids=[words for _, words in WORDS])
def test_a_templates_own_words(template: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        ours(template, [{"role": "user", "content": "x"}])
    assert "m.gguf" in str(caught.value)
