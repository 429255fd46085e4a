"""Chat templates: rendered as transformers does; malformed messages and templates are clear errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from chat_templates import CHATML, LLAMA3, with_templates

from frspec_cpp import LLM, chat
from frspec_cpp.chat import ChatTemplate

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"

FEATURES = """
{% if tools %}
tools
{% endif %}
{% for message in messages %}
    {% if loop.index > 3 %}
        {% break %}
    {% endif %}
    {% if message.role == "system" %}
        {% continue %}
    {% endif %}
{{ message | tojson }} {{ message.content | tojson(indent=2) }}
{% generation %}
{{ message.content }}{{ eos_token }}
{% endgeneration %}
{% endfor %}
{{ strftime_now("%Y") | length }}
"""
MESSAGES = [
    {"role": "system", "content": "Be brief. <b>\"Größe\" & 'so'</b>"},
    {"role": "user", "content": "  Name three rivers.\n日本語 🙂 "},
    {"role": "assistant", "content": "Rhine, Nile, Amazon"},
    {"role": "user", "content": "More!"},
]


@pytest.mark.parametrize("template", [CHATML, LLAMA3, FEATURES], ids=["chatml", "llama3", "features"])
def test_rendered_as_transformers_does(template: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token=BOS, eos_token=EOS
    )
    expected = reference.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(template, "m.gguf", BOS, EOS).render(MESSAGES) == expected


def test_features_by_hand() -> None:
    rendered = ChatTemplate(FEATURES, "m.gguf", BOS, EOS).render(MESSAGES[1:3])
    assert rendered.splitlines()[1:4] == [
        json.dumps(MESSAGES[1], ensure_ascii=False) + " " + json.dumps(MESSAGES[1]["content"], ensure_ascii=False),
        MESSAGES[1]["content"].split("\n")[0],
        MESSAGES[1]["content"].split("\n")[1] + EOS,
    ]
    assert rendered.splitlines()[-1] == "4"


@pytest.fixture(scope="module")
def chat_target(demo_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_templates(demo_target, tmp_path_factory.mktemp("chat") / "chatml.gguf", CHATML)


def test_chat_continues_the_rendered_template(chat_target: Path, demo_drafter: Path) -> None:
    llm = LLM(chat_target, drafter=demo_drafter)
    assert llm.tokenizer.chat_template == CHATML
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES)
    text += "<|im_start|>assistant\n"
    ids = [llm.tokenizer.bos_id, *llm.tokenizer.encode(text, add_special=False, parse_special=True)]
    out = llm.chat(MESSAGES, max_tokens=20)
    assert out.prompt_tokens == len(ids)
    assert out.tokens == llm.generate(ids, 20).tokens  # type: ignore[arg-type]
    sampled = llm.chat(MESSAGES, 20, temperature=1.0, seed=3, ignore_eos=True, draft=False)
    assert sampled.tokens == llm.generate(ids, 20, temperature=1.0, seed=3, ignore_eos=True).tokens  # type: ignore[arg-type]


def test_a_sandbox_that_can_be_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of jinja2 3.1.5 got str.format by a filter, past its own (CVE-2025-27516)."""

    def get(value: Any, name: str) -> Any:
        return getattr(value, name)

    def old() -> jinja2.Environment:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment()
        environment.filters["attr"] = get
        return environment

    template = "{{ ('{0.__class__.__mro__}'|attr('format'))(messages) }}"
    with pytest.raises(ValueError, match="'__class__' of 'list' object is unsafe"):
        ChatTemplate(template, "x.gguf", BOS, EOS).render(MESSAGES)
    monkeypatch.setattr(chat, "_environment", old)
    chat._check_sandbox.cache_clear()
    with pytest.raises(ImportError, match=r"jinja2: .* expected 3\.1\.6 or newer"):
        ChatTemplate("x", "x.gguf", BOS, EOS)


def test_bos_is_not_doubled(demo_target: Path, tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    llm = LLM(with_templates(demo_target, tmp_path / "bos.gguf", template))
    assert llm.chat([{"role": "user", "content": "Hi"}], 1).prompt_tokens == len(llm.tokenize("Hi"))
    assert llm.tokenize("Hi")[0] == llm.tokenizer.bos_id


def test_turns_reuse_what_was_said(chat_target: Path) -> None:
    llm = LLM(chat_target)
    messages = [{"role": "user", "content": "Tell me all about " + "apples and pears " * 10}]
    first = llm.chat(messages, 10)
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "More"}]
    second = llm.chat(messages, 10)
    assert first.stats.cached_tokens == 0
    assert first.prompt_tokens <= second.stats.cached_tokens < second.prompt_tokens
    assert llm.chat(messages, 10, reuse=False).tokens == second.tokens


BAD_MESSAGES: list[tuple[Any, str]] = [
    ("hello", "messages: found str"),
    (None, "messages: found NoneType"),
    ({"role": "user", "content": "x"}, "messages: found dict"),
    ([], "messages: found none"),
    (["hello"], "messages[0]: found str"),
    ([MESSAGES[0], 3], "messages[1]: found int"),
    ([{"content": "x"}], "messages[0]: found no 'role'"),
    ([{"role": "user"}], "no attribute 'content'"),  # what must be there is for the template to say
    ([{"role": "user", "content": None}], "no attribute 'content'"),
    ([{"role": "user", "content": 3}], "int"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "['content'][0]: found a part of type"),
    ([{"role": "user", "content": ["x", 3]}], "messages[0]['content'][1]: found a part of type 'int'"),
    ([{"role": "user", "content": "x", "more": {1, 2}}], "messages[0]['more']: found set"),
    ([{"role": 1, "content": "x"}], "messages[0]['role']: found int"),
    ([{"role": "user", "content": "\ud800"}], "surrogate"),
]


@pytest.mark.parametrize(("messages", "message"), BAD_MESSAGES, ids=lambda value: repr(value)[:40])
def test_malformed_messages(chat_target: Path, messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LLM(chat_target).chat(messages, 1)


def test_a_model_without_template(demo_target: Path) -> None:
    llm = LLM(demo_target)
    if llm.tokenizer.chat_template is not None:
        pytest.skip("the demo target has a chat template")
    with pytest.raises(ValueError, match="no chat template"):
        llm.chat(MESSAGES)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{% for m in %}", "line 2"),
        ("{% if %}", "m.gguf"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.at_all }}", "no attribute 'nothing'"),
        ("{{ messages[0].content + 1 }}", "m.gguf"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely callable"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "[Rr]ange"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ChatTemplate(template, "m.gguf", BOS, EOS).render(MESSAGES)
    assert "m.gguf" in str(caught.value)
