"""Prompts for an evaluation: from the files that benchmarks publish, from plain text, or from the package."""

from __future__ import annotations

import errno
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import frspec_cpp

from ..console import require

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
DEMO = Path(__file__).parent / "data" / "demo.jsonl"
TEMPLATES = ("auto", "always", "never")
_PUBLIC = {
    "spec-bench": "data/spec_bench/question.jsonl of https://github.com/hemingkx/Spec-Bench",
    "mt-bench": "fastchat/llm_judge/data/mt_bench/question.jsonl of https://github.com/lm-sys/FastChat",
    "humaneval": "data/HumanEval.jsonl.gz of https://github.com/openai/human-eval",
    "gsm8k": "grade_school_math/data/test.jsonl of https://github.com/openai/grade-school-math",
}
_TEXT_KEYS = ("messages", "turns", "prompt", "question", "text")
_NAME_KEYS = ("question_id", "task_id", "prompt_id", "id")
_SEPARATOR = "---"


@dataclass(frozen=True)
class Question:
    """What is asked: one text, or several in turn.

    Attributes:
        name: File and number or id: ``"spec_bench.jsonl:81"``; unique in a run, its turns' names included. Like the
            category it holds nothing that a terminal would obey.
        category: What its results are summed up under.
        turns: What the user says; before each but the first stands an answer.
        system: What the system says first; empty: nothing.
        is_chat: Whether it was written as messages, which make no sense without a chat template.
    """

    name: str
    category: str
    turns: tuple[str, ...]
    system: str = ""
    is_chat: bool = False


def read_questions(sources: Sequence[str]) -> list[Question]:
    """The questions of all `sources`: names of files, or ``"demo"``.

    Raises:
        FileNotFoundError: A source is no file; the message says where public ones are to be had.
        ValueError: A file is empty, malformed (with the line, what was found and what was expected) or given twice.
        MissingPackage: A Parquet file without pyarrow.
    """
    files = [_file_of(source) for source in sources]
    twice = [str(path) for path, count in Counter(path.resolve() for path in files).items() if count > 1]
    if twice:
        raise ValueError(f"--prompts: found {twice[0]} twice, expected each file once")
    questions: list[Question] = []
    for path in files:
        found = list(read_file(path))
        if not found:
            raise ValueError(f"{path}: found no prompts, expected at least one")
        questions += found
    return _with_unique_names(questions)


def read_file(path: Path) -> Iterator[Question]:
    """The questions of one file; raises as `read_questions`."""
    ending = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if ending in (".jsonl", ".ndjson", ".jsonl.gz"):
        return _read_json_lines(path)
    if ending == ".parquet":
        return _read_parquet(path)
    if ending == ".txt":
        return _read_text(path)
    raise ValueError(f"{path}: found the name ending '{ending}', expected .jsonl, .jsonl.gz, .parquet or .txt")


def turn_name(name: str, turn: int) -> str:
    """What the `turn`th turn (from 1) of the question `name` is called."""
    return name if turn == 1 else f"{name} turn {turn}"


def choose(questions: Sequence[Question], count: int | None, categories: Sequence[str] | None) -> list[Question]:
    """Of the named categories (None: all), `count` questions each (None: all), evenly spread, in their order.

    Raises:
        ValueError: There is no such category.
    """
    by_category: dict[str, list[Question]] = {}
    for question in questions:
        by_category.setdefault(question.category, []).append(question)
    for name in categories or ():
        if name not in by_category:
            raise ValueError(f"--categories: found '{name}', expected some of {', '.join(by_category)}")
    chosen: list[Question] = []
    for name, some in by_category.items():
        if categories and name not in categories:
            continue
        step = 1.0 if count is None else max(1.0, len(some) / count)
        number = len(some) if count is None else min(count, len(some))
        chosen += [some[int(i * step)] for i in range(number)]
    return chosen


class PromptBuilder:
    """Token ids of prompts, as the model's chat template or, without one, as plain text.

    Args:
        llm: The target.
        template: ``"auto"``: the chat template where the model has one; ``"always"``; ``"never"``.
        parse_special: Whether plain text that spells a control token is that token.

    Raises:
        ValueError: ``"always"``, and the model has no template.
    """

    def __init__(self, llm: frspec_cpp.LLM, template: str, parse_special: bool = True) -> None:
        has_one = llm.tokenizer.chat_template is not None
        if template == "always" and not has_one:
            raise ValueError("--template always: the target's file has no key 'tokenizer.chat_template'")
        self.applies_template = has_one and template != "never"
        self._llm = llm
        self._parse_special = parse_special

    def tokens(self, turns: Sequence[str], answers: Sequence[str], system: str = "") -> list[int]:
        """The prompt that ends with the last of `turns`; `answers` are those to the turns before it.

        Without a template the first answer continues the first turn, and later turns begin a new paragraph, as the
        first one does behind what the system says.
        """
        if not self.applies_template:
            text = (system + "\n\n" if system else "") + turns[0]
            for turn, answer in zip(turns[1:], answers, strict=True):
                text += answer + "\n\n" + turn
            return self._llm.tokenize(text, parse_special=self._parse_special)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": turns[0]})
        for turn, answer in zip(turns[1:], answers, strict=True):
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
        return self._llm.chat_prompt(messages)


def _file_of(source: str) -> Path:
    if source == "demo":
        return DEMO
    path = Path(source)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file of prompts", source)
    if path.is_file():
        return path
    if source.lower() in _PUBLIC:
        raise FileNotFoundError(
            f"--prompts {source}: nothing is downloaded; get {_PUBLIC[source.lower()]} and give the file's path"
        )
    raise FileNotFoundError(
        f"--prompts {source}: found no such file, expected 'demo' or a .jsonl, .jsonl.gz, .parquet or .txt file, such "
        "as " + "; ".join(_PUBLIC.values())
    )


def _read_json_lines(path: Path) -> Iterator[Question]:
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError) as error:
            raise ValueError(f"{path}: damaged gzip data: {error}") from None
    for number, line in enumerate(data.split(b"\n"), 1):
        where = f"{path}: line {number}"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: byte {error.start}: not valid UTF-8 ({error.reason})") from None
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{where}: found no valid JSON ({error}), expected an object") from None
        yield _question(row, path, number, where)


def _read_parquet(path: Path) -> Iterator[Question]:
    pyarrow = require("pyarrow", f"reading {path.name}", "pyarrow")
    parquet = require("pyarrow.parquet", f"reading {path.name}", "pyarrow")
    try:
        rows = parquet.read_table(path).to_pylist()
    except pyarrow.lib.ArrowException as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from None
    for number, row in enumerate(rows, 1):
        yield _question(row, path, number, f"{path}: row {number}")


def _read_text(path: Path) -> Iterator[Question]:
    """A prompt, or several between lines of three hyphens."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start}: not valid UTF-8 ({error.reason})") from None
    prompts: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if line.rstrip() == _SEPARATOR:
            prompts.append([])
        else:
            prompts[-1].append(line)
    texts = ["".join(lines) for lines in prompts]
    if len(texts) > 1:  # the line's end before a separator belongs to the separator
        texts = [text.removesuffix("\n").removesuffix("\r") for text in texts]
    texts = [text for text in texts if text.strip()]
    for number, text in enumerate(texts, 1):
        name = path.name if len(texts) == 1 else f"{path.name}:{number}"
        yield Question(_plain(name), _plain(path.stem), (text,))


def _question(row: Any, path: Path, number: int, where: str) -> Question:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: found {type(row).__name__}, expected an object")
    key = next((key for key in _TEXT_KEYS if row.get(key) is not None), None)
    if key is None:
        keys = ", ".join(map(repr, row)) or "none"
        raise ValueError(
            f"{where}: found the keys {keys}, expected one of 'messages', 'turns', 'prompt', 'question' and 'text'"
        )
    system, is_chat = "", key == "messages"
    turns = [row[key]] if isinstance(row[key], str) else row[key]
    if is_chat:
        system, turns = _said(row[key], where)
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError(f"{where}: key '{key}': found {_short(row[key])}, expected text, or a list of texts")
    for turn in (system, *turns):
        try:
            turn.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}: key '{key}': found a lone surrogate, expected Unicode") from None
    ident = next((row[name] for name in _NAME_KEYS if isinstance(row.get(name), (str, int))), number)
    name, category = _plain(f"{path.name}:{ident}"), _plain(_category(row, key, path, where))
    return Question(name, category, tuple(turns), system, is_chat)


def _said(messages: Any, where: str) -> tuple[str, list[str]]:
    """What the system says first, and what the user says in turn; answers that the file has are asked for anew."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{where}: key 'messages': found {_short(messages)}, expected a list of messages")
    texts: dict[str, list[str]] = {}
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or (role in ("system", "user") and not isinstance(content, str)):
            raise ValueError(f"{where}: key 'messages': found {_short(message)}, expected a role, and text as content")
        texts.setdefault(role, []).append(content)
    if "user" not in texts:
        raise ValueError(
            f"{where}: key 'messages': found nothing that the user says, expected a message of role 'user'"
        )
    return "\n\n".join(texts.get("system", [])), texts["user"]


def _plain(name: str) -> str:
    """`name` as it may be shown anywhere: blanks for its white space, U+FFFD for what is not printable."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in name)


def _category(row: dict[str, Any], key: str, path: Path, where: str) -> str:
    category = row.get("category")
    if category is None:
        if str(row.get("task_id", "")).startswith("HumanEval/"):
            return "humaneval"
        return "gsm8k" if key == "question" and "answer" in row else path.name.split(".")[0]
    if not isinstance(category, str) or not category.strip():
        raise ValueError(f"{where}: key 'category': found {_short(category)}, expected a name")
    return "mt_bench" if category in MT_BENCH else category


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _with_unique_names(questions: list[Question]) -> list[Question]:
    """Files of one name in different folders, and ids that occur twice, are told apart by a number."""
    taken: set[str] = set()
    tried: Counter[str] = Counter()  # so that many questions of one name do not begin anew at 2
    unique: list[Question] = []
    for question in questions:
        turns = range(1, len(question.turns) + 1)
        while True:
            tried[question.name] += 1
            times = tried[question.name]
            name = question.name if times == 1 else f"{question.name} ({times})"
            names = {turn_name(name, turn) for turn in turns}
            if not names & taken:
                break
        taken |= names
        unique.append(replace(question, name=name))
    return unique
