"""Prompt files: the formats that are read, what is chosen, and bad input."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.console import MissingPackage
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.evaluate.prompts import DEMO, PromptBuilder, Question, choose, read_questions

import frspec_cpp


def write(folder: Path, name: str, *rows: Any) -> str:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_spec_bench_keeps_its_categories_and_makes_one_of_mt_bench(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "spec_bench.jsonl",
        {"question_id": 81, "category": "writing", "turns": ["One.", "Two."]},
        "",
        {"question_id": 101, "category": "stem", "turns": ["Three.", "Four."], "reference": ["x"]},
        {"question_id": 161, "category": "translation", "turns": ["Five."]},
    )
    assert read_questions([file]) == [
        Question("spec_bench.jsonl:81", "mt_bench", ("One.", "Two.")),
        Question("spec_bench.jsonl:101", "mt_bench", ("Three.", "Four.")),
        Question("spec_bench.jsonl:161", "translation", ("Five.",)),
    ]


def test_human_eval_and_gsm8k(tmp_path: Path) -> None:
    human = tmp_path / "human.jsonl.gz"
    human.write_bytes(gzip.compress(json.dumps({"task_id": "HumanEval/0", "prompt": "def f():\n"}).encode()))
    maths = write(tmp_path, "test.jsonl", {"question": "How many?", "answer": "#### 3"})
    assert read_questions([str(human), maths]) == [
        Question("human.jsonl.gz:HumanEval/0", "humaneval", ("def f():\n",)),
        Question("test.jsonl:1", "gsm8k", ("How many?",)),
    ]


def test_gsm8k_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"question": ["How many?", "How far?"], "answer": ["1", "2"]})
    parquet.write_table(table, tmp_path / "gsm.parquet")
    found = read_questions([str(tmp_path / "gsm.parquet")])
    assert [(q.name, q.category, q.turns) for q in found] == [
        ("gsm.parquet:1", "gsm8k", ("How many?",)),
        ("gsm.parquet:2", "gsm8k", ("How far?",)),
    ]


def test_parquet_without_pyarrow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gsm.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"gsm\.parquet.*pyarrow"):
        read_questions([str(tmp_path / "gsm.parquet")])


def test_damaged_parquet_names_the_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "gsm.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"gsm\.parquet: not a readable Parquet file"):
        read_questions([str(tmp_path / "gsm.parquet")])


def test_plain_text_is_one_prompt_or_several_between_hyphens(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(b"Line one\n\nLine two\n")
    (tmp_path / "several.txt").write_bytes(b"First\nprompt\n---\nSecond\r\n--- \n\n---\nThird -- ---\n")
    assert read_questions([str(tmp_path / "one.txt"), str(tmp_path / "several.txt")]) == [
        Question("one.txt", "one", ("Line one\n\nLine two\n",)),
        Question("several.txt:1", "several", ("First\nprompt",)),
        Question("several.txt:2", "several", ("Second",)),
        Question("several.txt:3", "several", ("Third -- ---",)),
    ]


def test_text_and_prompt_rows_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.jsonl", {"id": "a", "text": "A"}, {"prompt": ["B", "C"], "category": "two"})
    assert [(q.name, q.category, q.turns) for q in read_questions([file])] == [
        ("mine.jsonl:a", "mine", ("A",)),
        ("mine.jsonl:2", "two", ("B", "C")),
    ]


def test_messages_are_asked_and_their_answers_forgotten(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "An answer", "tool_calls": None},
        {"role": "user", "content": "Two"},
    ]
    file = write(tmp_path, "chats.jsonl", {"id": "a", "messages": chat}, {"messages": chat[1:2]})
    assert read_questions([file]) == [
        Question("chats.jsonl:a", "chats", ("One", "Two"), "Be brief.", is_chat=True),
        Question("chats.jsonl:2", "chats", ("One",), is_chat=True),
    ]


def test_names_are_unique(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [write(folder, "p.jsonl", {"id": 1, "text": "A"}) for folder in (tmp_path, tmp_path / "other")]
    assert [q.name for q in read_questions(files)] == ["p.jsonl:1", "p.jsonl:1 (2)"]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["a", "a", "a (2)"], ["a", "a (2)", "a (2) (2)"]),
        (["a (2)", "a", "a"], ["a (2)", "a", "a (3)"]),
        (["a", "a turn 2"], ["a", "a turn 2 (2)"]),
        (["a turn 2", "a"], ["a turn 2", "a (2)"]),
    ],
)
def test_names_stay_unique_where_ids_look_like_them(tmp_path: Path, ids: list[str], names: list[str]) -> None:
    file = write(tmp_path, "p.jsonl", *({"id": one, "turns": ["A", "B"]} for one in ids))
    assert [q.name for q in read_questions([file])] == [f"p.jsonl:{name}" for name in names]


def test_names_hold_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    file = write(tmp_path, "p.jsonl", {"id": "a\x1b[31m\n\u202eb\ud800", "category": "c\x9b2J\td", "text": "A\x1b"})
    text = tmp_path / "x\x1by.txt"
    text.write_text("B")
    assert read_questions([file, str(text)]) == [
        Question("p.jsonl:a\ufffd[31m \ufffdb\ufffd", "c\ufffd2J d", ("A\x1b",)),
        Question("x\ufffdy.txt", "x\ufffdy", ("B",)),
    ]
    bad = write(tmp_path, "bad.jsonl", {"\x1b[2J": "A"})
    with pytest.raises(ValueError, match="found the keys") as caught:
        read_questions([bad])
    assert "\x1b" not in str(caught.value)


def test_the_demo_prompts_are_of_different_kinds() -> None:
    found = read_questions(["demo"])
    assert len(found) >= 8
    assert len({q.category for q in found}) >= 3
    assert any(len(q.turns) > 1 for q in found)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("found no prompts", "expected at least one")),
        ("\n \n", ("found no prompts",)),
        ('{"text": "a"}\n{"text": \n', ("line 2", "found no valid JSON", "expected an object")),
        ('{"text": "a"}\n["b"]\n', ("line 2", "found list", "expected an object")),
        ('{"words": "a"}\n', ("line 1", "'words'", "'messages', 'turns', 'prompt', 'question' and 'text'")),
        ('{"messages": "a"}\n', ("line 1", "'messages'", "'a'", "list of messages")),
        ('{"messages": [{"role": "user", "content": ["a"]}]}\n', ("line 1", "'messages'", "text as content")),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', ("line 1", "'messages'", "role 'user'")),
        ('{"messages": [{"role": "user", "content": " "}]}\n', ("line 1", "'messages'", "expected text")),
        ("{}\n", ("line 1", "found the keys none")),
        ('{"turns": []}\n', ("line 1", "'turns'", "found []", "a list of texts")),
        ('{"turns": ["a", 3]}\n', ("line 1", "'turns'", "found ['a', 3]")),
        ('{"prompt": "  "}\n', ("line 1", "'prompt'", "found '  '")),
        ('{"prompt": 5}\n', ("line 1", "'prompt'", "found 5")),
        ('{"text": "a", "category": 3}\n', ("line 1", "'category'", "found 3", "expected a name")),
        ('{"text": "\\ud800"}\n', ("line 1", "'text'", "lone surrogate")),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, content: str, parts: tuple[str, ...]) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"bad\.jsonl") as caught:
        read_questions([str(tmp_path / "bad.jsonl")])
    for part in parts:
        assert part in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"\x1f\x8bnot much")
    with pytest.raises(ValueError, match=r"bad\.jsonl: line 2: byte 10: not valid UTF-8"):
        read_questions([str(tmp_path / "bad.jsonl")])
    with pytest.raises(ValueError, match=r"bad\.txt: byte 3: not valid UTF-8"):
        read_questions([str(tmp_path / "bad.txt")])
    with pytest.raises(ValueError, match=r"bad\.jsonl\.gz: damaged gzip data"):
        read_questions([str(tmp_path / "bad.jsonl.gz")])


def test_names_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing is downloaded.*question\.jsonl.*hemingkx/Spec-Bench"):
        read_questions(["spec-bench"])
    with pytest.raises(
        FileNotFoundError, match=r"no-such\.jsonl: found no such file, expected 'demo'.*openai/human-eval"
    ):
        read_questions(["no-such.jsonl"])
    with pytest.raises(IsADirectoryError):
        read_questions([str(tmp_path)])
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ValueError, match=r"a\.csv: found the name ending '\.csv', expected \.jsonl"):
        read_questions(["a.csv"])
    file = write(tmp_path, "p.jsonl", {"text": "A"})
    with pytest.raises(ValueError, match=r"p\.jsonl twice"):
        read_questions([file, "p.jsonl"])


def test_questions_are_chosen_evenly() -> None:
    questions = [Question(f"{c}{i}", c, (str(i),)) for c in ("a", "b") for i in range(10)] + [
        Question("c", "c", ("x",))
    ]
    assert [q.name for q in choose(questions, 3, None)] == ["a0", "a3", "a6", "b0", "b3", "b6", "c"]
    assert [q.name for q in choose(questions, 2, ["b", "c"])] == ["b0", "b5", "c"]
    assert choose(questions, None, None) == questions
    assert [q.name for q in choose(questions, 4, ["a"])] == ["a0", "a2", "a5", "a7"]
    with pytest.raises(ValueError, match=r"--categories: found 'd', expected some of a, b, c"):
        choose(questions, None, ["d"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[frspec_cpp.LLM, frspec_cpp.LLM]:
    """A tiny model without a chat template, and one with."""
    folder = make_checkpoint(tmp_path_factory.mktemp("prompts") / "model", "llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    for name, more in (("bare", {}), ("chat", {"chat_template": template})):
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, **more}))
        convert(folder, folder / f"{name}.gguf", quiet=True)
    return frspec_cpp.LLM(folder / "bare.gguf"), frspec_cpp.LLM(folder / "chat.gguf")


def test_without_a_template_answers_continue_the_text(models: tuple[frspec_cpp.LLM, frspec_cpp.LLM]) -> None:
    bare, chat = models
    for llm, template in ((bare, "auto"), (bare, "never"), (chat, "never")):
        builder = PromptBuilder(llm, template)
        assert not builder.applies_template
        assert builder.tokens(["One"], []) == llm.tokenize("One")
        assert builder.tokens(["One", "Two"], [" and more"]) == llm.tokenize("One and more\n\nTwo")
        assert builder.tokens(["One"], [], "Rules") == llm.tokenize("Rules\n\nOne")


def test_a_template_is_applied_to_all_turns(models: tuple[frspec_cpp.LLM, frspec_cpp.LLM]) -> None:
    bare, chat = models
    for template in ("auto", "always"):
        builder = PromptBuilder(chat, template)
        assert builder.applies_template
        text = chat.detokenize(builder.tokens(["One", "Two"], ["more"]))
        assert text.strip() == "[user] One\n[assistant] more\n[user] Two\n[assistant]"
        text = chat.detokenize(builder.tokens(["One"], [], "Rules"))
        assert text.strip() == "[system] Rules\n[user] One\n[assistant]"
    with pytest.raises(ValueError, match=r"--template always.*tokenizer\.chat_template"):
        PromptBuilder(bare, "always")


def test_the_demo_file_is_in_the_package() -> None:
    assert DEMO.is_file()
