"""`frspec chat`, `frspec generate --chat`, prompts with markup and prompts of token ids."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, GEMMA, LLAMA2, LLAMA3, MISTRAL, PHI3, with_templates
from pseudo_terminal import PseudoTerminal

from frspec_cpp import LLM

Runner = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def chatty(demo_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo target with chat templates."""
    return with_templates(demo_target, tmp_path_factory.mktemp("chat") / "chatty.gguf", CHATML, gemma=GEMMA)


@pytest.fixture
def terminal(binary: str) -> Iterator[Callable[..., PseudoTerminal]]:
    started: list[PseudoTerminal] = []

    def start(*arguments: str) -> PseudoTerminal:
        started.append(PseudoTerminal([binary, *arguments]))
        return started[-1]

    yield start
    for program in started:
        program.kill()


def answers(llm: LLM, messages: list[str], system: str | None = None, max_tokens: int = 12) -> list[str]:
    """What the model says to these messages in turn."""
    history = [] if system is None else [{"role": "system", "content": system}]
    found = []
    for message in messages:
        history.append({"role": "user", "content": message})
        found.append(llm.chat(history, max_tokens, chat_template=CHATML).text)
        history.append({"role": "assistant", "content": found[-1]})
    return found


def lines(texts: list[str]) -> str:
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def test_through_a_pipe(run: Runner, chatty: Path, llm: LLM) -> None:
    stdin = 'What is "this"?\n\nAnd \\\nthat, größer\t\U0001f642?\n/clear\nWhat is "this"?'
    result = run("chat", "-m", str(chatty), "-n", "12", "-sys", "Be brief.\\n", stdin=stdin.encode())
    assert result.returncode == 0, result.stderr
    first = answers(llm, ['What is "this"?', "And \nthat, größer\t\U0001f642?"], "Be brief.\n")
    assert first[0] != first[1]
    assert result.stdout.decode() == lines([*first, first[0]])
    assert result.stderr == b""


def test_commands_and_a_first_message(run: Runner, chatty: Path, llm: LLM) -> None:
    arguments = ("chat", "-m", str(chatty), "-n", "12", "-p", "Tell me\\nmore")
    result = run(*arguments, stdin=b"/stats\n/help\n/etc is a folder\n/exit\nnobody hears this\n")
    assert result.returncode == 0
    assert result.stdout.decode() == lines(answers(llm, ["Tell me\nmore", "/etc is a folder"]))
    assert b"12 tokens (length)" in result.stderr or b"tokens (stop)" in result.stderr
    assert b"/clear begins anew" in result.stderr


def test_another_answer(run: Runner, chatty: Path, llm: LLM) -> None:
    """/regen answers with the next seed, and the chat goes on from there."""
    arguments = ("chat", "-m", str(chatty), "-n", "12", "--temp", "1", "-s", "5")
    result = run(*arguments, stdin=b"/regen\nTell me more\n/regen\nAnd then?\n")
    assert result.returncode == 0, result.stderr
    assert b"/regen: there is no answer yet" in result.stderr

    def answer(messages: list[dict[str, str]], seed: int) -> str:
        return llm.chat(messages, 12, chat_template=CHATML, temperature=1.0, seed=seed).text

    asked = [{"role": "user", "content": "Tell me more"}]
    first, second = answer(asked, 5), answer(asked, 6)
    assert first != second
    third = answer([*asked, {"role": "assistant", "content": second}, {"role": "user", "content": "And then?"}], 6)
    assert result.stdout.decode() == lines([first, second, third])


def test_turns_reuse_what_was_said(run: Runner, chatty: Path) -> None:
    """The second turn reads what is new; with --no-reuse all, and says the same."""
    first = "Tell me all about " + "apples and pears " * 10
    found = {}
    for option in ((), ("--no-reuse",), ("--no-cache-prompt",)):
        result = run("chat", "-m", str(chatty), "-n", "12", *option, stdin=f"{first}\n/stats\nMore\n/stats\n".encode())
        assert result.returncode == 0
        turns = re.findall(rb"prompt of (\d+) tokens \((\d+) cached\)", result.stderr)
        found[option] = (result.stdout, [(int(tokens), int(cached)) for tokens, cached in turns])
    (text, turns), (again, anew), also = found.values()
    assert text == again == also[0]
    assert anew == also[1] == [(tokens, 0) for tokens, _ in turns]
    assert turns[0][1] == 0
    assert turns[0][0] < turns[1][1] < turns[1][0]


def as_json(run: Runner, *arguments: str, stdin: bytes = b"") -> dict[str, Any]:
    result = run("generate", "--json", *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


FAMILIES = {"llama2": LLAMA2, "llama3": LLAMA3, "mistral": MISTRAL, "phi3": PHI3, "gemma": GEMMA}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_message(run: Runner, chatty: Path, llm: LLM, tmp_path: Path, family: str) -> None:
    """The tokens are those of Python, so those of Jinja, for every family of templates."""
    file = tmp_path / "own.jinja"
    file.write_text(FAMILIES[family])
    which = {"gemma": ["--chat-template", "gemma"], "phi3": ["--chat-template", PHI3]}
    arguments = ["--chat", "-m", str(chatty), *which.get(family, ["--chat-template-file", str(file)]), "-n", "8"]
    messages = [{"role": "user", "content": "Why  is the sky\n\nblue? <|x|> "}]
    if family not in ("gemma",):
        messages.insert(0, {"role": "system", "content": "Be \\brief"})
        arguments += ["--system", "Be \\\\brief"]
    found = as_json(run, *arguments, stdin=messages[-1]["content"].encode())
    expected = llm.chat(messages, 8, chat_template=FAMILIES[family])
    assert found["prompt_tokens"] == expected.prompt_tokens
    assert found["tokens"] == expected.tokens


def test_variables_of_the_template(run: Runner, chatty: Path, llm: LLM) -> None:
    template = "{% if enable_thinking is defined and not enable_thinking %}quick{% else %}slowly{% endif %}"
    arguments = ("--chat", "-m", str(chatty), "--chat-template", template, "-p", "x", "-n", "8")
    slow = as_json(run, *arguments)
    quick = as_json(run, *arguments, "--chat-template-kwargs", '{"enable_thinking": false}')
    assert slow["tokens"] == llm.generate("slowly", 8).tokens
    assert quick["tokens"] == llm.generate("quick", 8).tokens


ERRORS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("chat",), ("demo-target.gguf", "no chat template", "--chat-template")),
    (("chat", "-m", "CHATTY", "--chat-template", "chatml"), ('"chatml"', '"gemma"')),
    (("chat", "-m", "CHATTY", "--chat-template-file", "/no/such.jinja"), ("/no/such.jinja",)),
    (("chat", "-m", "CHATTY", "--chat-template", "a\n{% for %}"), ("line 2", "expression")),
    (("chat", "-m", "CHATTY", "--chat-template", "{{ raise_exception('Not me') }}"), ("Not me",)),
    (("chat", "-m", "CHATTY", "--chat-template", "gemma", "-sys", "x"), ("System role not supported",)),
    (("chat", "-m", "CHATTY", "--chat-template-kwargs", "{1}"), ("--chat-template-kwargs", "no valid JSON")),
    (("chat", "-m", "CHATTY", "--chat-template-kwargs", "[1]"), ("--chat-template-kwargs", "found list")),
    (("chat", "-m", "CHATTY", "--json"), ('"--json"',)),
    (("generate", "-p", "x", "--system", "y"), ("--system", "--chat")),
    (("generate", "-p", "x", "--chat", "--no-parse-special"), ("--no-parse-special",)),
    (("generate", "-p", "x", "--token-file", "ids"), ("--token-file", "--prompt")),
    (("generate", "--chat", "-m", "CHATTY", "-p", "x", "-sys", "a", "-sysf", "b"), ("--system-file",)),
]


@pytest.mark.parametrize(("arguments", "expected"), ERRORS, ids=lambda value: " ".join(value)[:50])
def test_errors(run: Runner, chatty: Path, arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    result = run(*(str(chatty) if argument == "CHATTY" else argument for argument in arguments), stdin=b"Hello\n")
    message = result.stderr.decode()
    assert (result.returncode, result.stdout) == (1, b""), message
    assert message.startswith("frspec: error: ")
    assert message.count("\n") == 1
    for part in expected:
        assert part in message


def test_invalid_utf8(run: Runner, chatty: Path) -> None:
    result = run("chat", "-m", str(chatty), stdin=b"ab\xff\n")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"byte offset 2, expected valid UTF-8" in result.stderr


def test_a_conversation_that_fills_the_context(run: Runner, chatty: Path) -> None:
    result = run("chat", "-m", str(chatty), "-c", "64", "--ignore-eos", stdin=b"Hello\n" + b"word " * 100 + b"\n")
    assert result.returncode == 1
    assert result.stdout.count(b"\n") > 0
    assert b"the context is full: /clear begins anew" in result.stderr
    assert b"prompt: found" in result.stderr


def test_a_template_file_is_read_whole(run: Runner, chatty: Path, llm: LLM, tmp_path: Path) -> None:
    """Jinja takes one line end off a template, and nobody another one."""
    file = tmp_path / "own.jinja"
    for end in ("", "\n", "\n\n", "<|im_start|>assistant\n"):
        file.write_bytes(b"{{ messages[0].content }}" + end.encode())
        ids = llm.chat_prompt([{"role": "user", "content": "Hi"}], chat_template=file)
        arguments = ("-m", str(chatty), "--chat", "--chat-template-file", str(file), "-p", "Hi", "-n", "1")
        assert as_json(run, *arguments)["prompt_tokens"] == len(ids)


def test_without_the_python_package(binary: str, chatty: Path, tmp_path: Path) -> None:
    alone = shutil.copy(binary, tmp_path / "frspec")
    result = subprocess.run(
        [alone, "chat", "-m", chatty], capture_output=True, check=False, stdin=subprocess.DEVNULL, env={"PATH": "/none"}
    )
    assert result.returncode == 1
    assert b"found no frspec-chat-template beside" in result.stderr
    assert b"pip install frspec_cpp" in result.stderr


def test_ctrl_c(terminal: Callable[..., PseudoTerminal], chatty: Path, llm: LLM) -> None:
    """The first one ends the answer, the next, with no answer running, the program."""
    begin = llm.chat([{"role": "user", "content": "Hello"}], 4, chat_template=CHATML, ignore_eos=True).text
    program = terminal("chat", "-m", str(chatty), "--ignore-eos", "-c", "2048", "--no-draft", "-t", "1")
    program.wait_for("> ")
    program.type("Hello\n")
    program.wait_for("Hello\n" + begin)
    program.type("\x03")
    program.wait_for("\n> ")
    program.type("/stats\n")
    assert "(interrupted)" in program.wait_for("\n> ")
    program.type("\x03")
    assert program.wait() == 130


def test_ctrl_d_and_continued_lines(terminal: Callable[..., PseudoTerminal], chatty: Path, llm: LLM) -> None:
    program = terminal("chat", "-m", str(chatty), "-n", "12")
    program.wait_for("> ")
    program.type("One \\\n")
    program.wait_for("| ")
    program.type("two\n")
    program.wait_for("two\n")
    found = program.wait_for("\n> ").removesuffix("> ")
    assert found == lines(answers(llm, ["One \ntwo"]))
    program.type("\x04")
    assert program.wait() == 0


def test_three_turns_with_a_real_model(terminal: Callable[..., PseudoTerminal], real_model: Any) -> None:
    path = real_model("smollm2-135m-instruct.q4_1.gguf")
    program = terminal("chat", "-m", str(path), "-n", "24", "-c", "1024")
    program.wait_for("> ")
    questions = ["What is the capital of France?", "Name one river there.", "Thank you!"]
    found = []
    for question in questions:
        program.type(question + "\n")
        program.wait_for(question + "\n")
        found.append(program.wait_for("\n> ").removesuffix("\n> "))
    program.type("\x04")
    assert program.wait() == 0
    llm = LLM(path, n_ctx=1024)
    history = []
    for question, text in zip(questions, found, strict=True):
        history.append({"role": "user", "content": question})
        assert llm.chat(history, 24).text.rstrip("\n") == text.rstrip("\n")
        history.append({"role": "assistant", "content": text})
    assert "Paris" in found[0]


def control(llm: LLM) -> tuple[int, str]:
    """A control token that is not BOS, and its text."""
    ids = [token for token in llm.tokenizer.control_ids() if token != llm.tokenizer.bos_id]
    return ids[0], llm.tokenizer.token_text(ids[0])


def test_markup_in_prompts(run: Runner, llm: LLM) -> None:
    token, text = control(llm)
    prompt = f"One{text}two"
    parsed, plain = llm.tokenize(prompt), llm.tokenize(prompt, parse_special=False)
    assert token in parsed
    assert token not in plain
    assert llm.generate(prompt, 8).tokens == llm.generate(parsed, 8).tokens
    assert llm.generate(prompt, 8, parse_special=False).tokens == llm.generate(plain, 8).tokens
    assert "".join(llm.stream(prompt, 8, parse_special=False)) == llm.generate(plain, 8).text
    for option, ids in (([], parsed), (["--no-parse-special"], plain)):
        assert as_json(run, "-p", prompt, "-n", "8", *option)["prompt_tokens"] == len(ids)
        assert json.loads(run("tokenize", "--json", "-p", prompt, *option).stdout)["tokens"] == ids


def test_bos_that_a_prompt_begins_with_is_not_doubled(llm: LLM) -> None:
    bos = llm.tokenizer.bos_id
    assert bos is not None
    text = llm.tokenizer.token_text(bos)
    assert llm.tokenize("Hi")[0] == bos
    assert llm.tokenize(text + "Hi") == llm.tokenize("Hi")
    assert llm.tokenize(text + text + "Hi") == [bos, *llm.tokenize("Hi")]  # whoever writes two wants two
    assert llm.tokenize("Hi" + text) == [*llm.tokenize("Hi"), bos]
    assert llm.tokenize(text + "Hi", parse_special=False)[:1] == [bos]
    assert llm.tokenize(text + "Hi", add_special=False) == llm.tokenize("Hi")


JSON_IDS = '{{"pieces": ["[", "\\"tokens\\": [5]"], "tokens": [{}], "prompt_tokens": 3}}\n'


@pytest.mark.parametrize("form", ["{}", "[{}]\n", " {} ", JSON_IDS])
def test_token_ids_as_a_prompt(run: Runner, llm: LLM, tmp_path: Path, form: str) -> None:
    ids = llm.tokenize("def fibonacci(n):")
    expected = llm.generate(ids, 8).tokens
    separator = ", " if "[" in form else "\n"
    file = tmp_path / "ids"
    file.write_text(form.format(separator.join(map(str, ids))))
    found = as_json(run, "--token-file", str(file), "-n", "8")
    assert (found["tokens"], found["prompt_tokens"]) == (expected, len(ids))
    assert as_json(run, "--ids", "-", "-n", "8", stdin=file.read_bytes())["tokens"] == expected


def test_token_ids_as_tokenize_prints_them(run: Runner, llm: LLM) -> None:
    printed = run("tokenize", "--json", "-p", 'x = ["tokens", "a"]').stdout
    found = as_json(run, "--ids", "-", "-n", "8", stdin=printed)
    assert found["tokens"] == llm.generate('x = ["tokens", "a"]', 8).tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 two", 'found "two", expected token ids'),
        ('{"ids": [1]}', r'found "{\"ids\":"'),
        ("1.5", '"1.5"'),
        ("", "prompt"),
        ("1 99999999", "99999999"),
    ],
)
def test_what_is_no_token_id(run: Runner, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "ids"
    file.write_text(text)
    result = run("generate", "--token-file", str(file))
    assert (result.returncode, result.stdout) == (1, b"")
    assert message in result.stderr.decode()


@pytest.mark.parametrize("command", [[], ["chat"], ["generate"], ["bench"], ["tokenize"], ["inspect"]])
def test_help_fits_a_screen(run: Runner, command: list[str]) -> None:
    shown = run(*command, "--help").stdout.decode().splitlines()
    assert len(shown) <= 40
    assert max(map(len, shown)) <= 80


def test_all_options_are_shown_on_request(run: Runner) -> None:
    few, every = (run("generate", option).stdout.decode() for option in ("--help", "--help-all"))
    assert "--help-all shows the other options" in few
    for option in ("--min-p", "--rope-scaling", "--tree-size", "--no-parse-special", "--n-predict"):
        assert option in every
        assert option not in few
