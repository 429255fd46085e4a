"""`frspec generate`: output, prompts, colours."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_values import metadata

import frspec_cpp
from frspec_cpp import LLM

Runner = Callable[..., subprocess.CompletedProcess[bytes]]

PROMPT = "def fibonacci(n):"


def generate_json(run: Runner, *arguments: str | bytes, stdin: bytes = b"") -> dict[str, object]:
    result = run("generate", "--json", *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def fixed() -> LLM:
    """The demo pair with trees of a fixed shape."""
    target, drafter = frspec_cpp.demo_paths()
    return LLM(target, drafter=drafter, head="full", tree=(5, 10, 60))


def test_json_has_exactly_these_members(run: Runner, llm: LLM, fixed: LLM) -> None:
    tree = ("--tree", "5,10,60")  # else its steps depend on the clock
    result = run(
        "generate", "-p", PROMPT, "-n", "40", "--ignore-eos", "--json", "--draft", "always", "--head=full", *tree
    )
    assert result.returncode == 0
    assert result.stderr == b""
    assert result.stdout.count(b"\n") == 1
    found = json.loads(result.stdout)
    assert list(found) == ["text", "tokens", "prompt_tokens", "finish_reason", "stats"]
    expected = fixed.generate(PROMPT, 40, ignore_eos=True, draft=True)
    assert found["text"] == expected.text
    assert found["tokens"] == expected.tokens
    assert len(found["tokens"]) == 40
    assert found["prompt_tokens"] == len(llm.tokenize(PROMPT))
    assert found["finish_reason"] == "length"
    stats = found["stats"]
    assert list(stats) == [
        "tokens_per_second",
        "accepted_length",
        "steps",
        "drafted_steps",
        "draft_seconds",
        "verify_seconds",
        "prefill_seconds",
        "cached_tokens",
        "seed",
        "tuning",
    ]
    tuning = stats.pop("tuning")
    assert list(tuning) == [
        "head",
        "translation",
        "drafts",
        "nodes",
        "levels",
        "gain",
        "cost",
        "tokens_per_second",
        "plain_tokens_per_second",
        "summary",
    ]
    assert tuning["head"] == "full"
    assert stats.pop("seed") == 0
    assert stats.pop("cached_tokens") == 0
    assert isinstance(stats["steps"], int)
    assert all(isinstance(value, (int, float)) for value in stats.values())
    assert stats["steps"] == expected.stats.steps
    assert stats["accepted_length"] == pytest.approx(39 / stats["steps"])
    assert min(stats.values()) > 0


def test_drafts_do_not_change_the_tokens(run: Runner) -> None:
    arguments = ("-p", "Once upon a time", "-n", "40", "--ignore-eos")
    drafted = generate_json(run, *arguments, "--draft", "always")
    plain = generate_json(run, *arguments, "--no-draft")
    other = generate_json(run, *arguments, "--tree-depth=2", "--tree-branch", "3", "--tree-size", "9", "-t", "1")
    assert drafted["tokens"] == plain["tokens"] == other["tokens"]
    assert drafted["stats"]["accepted_length"] > plain["stats"]["accepted_length"] == 1  # type: ignore[index]


def test_sampling_follows_the_seed(run: Runner) -> None:
    arguments = ("-p", PROMPT, "-n", "16", "--ignore-eos", "--temp", "1")
    first = generate_json(run, *arguments, "--seed", "1")["tokens"]
    assert generate_json(run, *arguments, "--seed=1", "--no-draft")["tokens"] == first
    assert generate_json(run, *arguments, "--seed", "2")["tokens"] != first


def test_plain_output_is_the_text_and_nothing_else(run: Runner, llm: LLM) -> None:
    result = run("generate", "-p", PROMPT, "-n", "48", "--head", "ranked:2048")
    assert result.returncode == 0
    assert result.stdout.decode() == llm.generate(PROMPT, 48).text
    lines = result.stderr.splitlines()
    assert re.fullmatch(rb"frspec: \d+ tokens \((stop|length)\), .* tokens/s, .*", lines[0])
    assert re.match(rb"frspec: auto: .*head ranked:2048", lines[1])
    assert len(lines) == 2


def test_auto_says_what_it_chose(run: Runner, llm: LLM) -> None:
    result = run("generate", "-p", PROMPT, "-n", "48")
    assert result.returncode == 0
    assert result.stdout.decode() == llm.generate(PROMPT, 48).text
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert re.match(rb"frspec: auto: drafting .*; \S+ tokens/s expected, \S+ without drafts$", lines[1])


def test_the_prompt_may_come_from_anywhere(run: Runner, demo_target: Path, tmp_path: Path) -> None:
    # One line end at the end of a file belongs to the file, all else to the prompt.
    prompt = "# Größe, 日本語\ndef größe(x):\n"
    model = ("-m", str(demo_target))
    expected = generate_json(run, *model, "-p", prompt, "-n", "4")
    path = tmp_path / "prompt.txt"
    path.write_bytes(prompt.encode() + b"\r\n")
    for arguments, stdin in [
        ([f"--prompt={prompt}"], b""),
        (["-f", str(path)], b""),
        (["--file", str(path)], b""),
        (["-f", "-"], prompt.encode() + b"\n"),
        ([], prompt.encode() + b"\n"),
    ]:
        found = generate_json(run, *model, *arguments, "--max-tokens", "4", stdin=stdin)
        assert (found["tokens"], found["prompt_tokens"]) == (expected["tokens"], expected["prompt_tokens"])


def test_a_target_without_drafter_decodes_plainly(run: Runner, demo_target: Path, demo_drafter: Path) -> None:
    plain = generate_json(run, "-m", str(demo_target), "-p", PROMPT, "-n", "16")
    assert plain["stats"]["accepted_length"] == 1  # type: ignore[index]
    pair = ("--model", str(demo_target), "--drafter", str(demo_drafter))
    drafted = generate_json(run, *pair, "-p", PROMPT, "-n", "16", "--draft", "always")
    assert drafted["stats"]["accepted_length"] > 1  # type: ignore[index]
    assert drafted["tokens"] == plain["tokens"]


def test_show_drafts_colours_drafted_tokens_only(run: Runner, llm: LLM, fixed: LLM) -> None:
    expected = fixed.generate(PROMPT, 60, draft=True)
    assert expected.text.isascii()  # so that every token spells whole characters
    assert 0 < sum(expected.drafted) < len(expected.drafted)
    always = ("--head", "full", "--tree", "5,10,60", "--draft", "always")
    result = run("generate", "-p", PROMPT, "-n", "60", "--show-drafts", *always)
    assert result.returncode == 0
    shown = result.stdout.decode()
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == expected.text
    colours: list[bool] = []  # of each character
    coloured = False
    for part in re.split(r"(\x1b\[[0-9;]*m)", shown):
        if part.startswith("\x1b"):
            assert coloured == (part == "\x1b[0m")  # switched on and off in turn
            coloured = not coloured
        else:
            colours += [coloured] * len(part)
    assert not coloured
    drafted: list[bool] = []
    for token, foreseen in zip(expected.tokens, expected.drafted, strict=True):
        drafted += [foreseen and character != "\n" for character in llm.tokenizer.token_bytes(token).decode()]
    assert colours == drafted
    assert b"drafted and accepted" in result.stderr


def test_a_closed_pipe_ends_it_quietly(binary: str) -> None:
    process = subprocess.Popen(
        [binary, "generate", "-p", PROMPT, "-n", "2000", "--ignore-eos"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        pipesize=4096,  # less than the text: it cannot end before the pipe is closed
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


def test_a_full_disk_is_an_error(binary: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        result = subprocess.run(
            [binary, "generate", "-p", PROMPT, "-n", "4"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == b"frspec: error: standard output: No space left on device\n"


def test_sampling_options_are_those_of_python(run: Runner, llm: LLM) -> None:
    expected = llm.generate(
        PROMPT, 40, temperature=0.9, top_k=50, top_p=0.99, min_p=0.01, repeat_penalty=1.1, repeat_last_n=20,
        logit_bias={10: -2.0, 649: float("-inf")}, seed=5, min_tokens=3, stop=["\n\n"], logprobs=2,
    )  # fmt: skip
    found: Any = generate_json(
        run, "-p", PROMPT, "-n", "40", "--temp", "0.9", "--top-k", "50", "--top-p", "0.99", "--min-p", "0.01",
        "--repeat-penalty", "1.1", "--repeat-last-n", "20", "-l", "10-2", "--logit-bias=649-inf", "-s", "5",
        "--min-tokens", "3", "--stop", "\n\n", "-r", "not there", "--logprobs", "2",
    )  # fmt: skip
    assert found["tokens"] == expected.tokens
    assert found["text"] == expected.text
    assert expected.logprobs is not None
    for entry, other in zip(found["logprobs"], expected.logprobs, strict=True):
        assert entry["token"] == other.token
        assert entry["logprob"] == pytest.approx(other.logprob)
        assert {top["token"]: pytest.approx(top["logprob"]) for top in entry["top"]} == other.top


def test_ranks_that_adapt(run: Runner, tmp_path: Path) -> None:
    """The same text; the file is made, and the next run goes on with it."""
    path = tmp_path / "mine.gguf"
    arguments = ("-p", PROMPT, "-n", "30", "--ignore-eos", "--draft", "always", "--head", "ranked:512")
    static = generate_json(run, *arguments)
    for rounds in (1, 2):
        adapted = generate_json(run, *arguments, "--adapt", str(path))
        assert adapted["tokens"] == static["tokens"]
        assert metadata(path)["frspec.ranks.tokens_counted"] == 30 * rounds
    path.write_bytes(b"damaged")
    result = run("generate", *arguments, "--adapt", str(path))
    assert result.returncode == 1
    assert result.stderr.startswith(b"frspec: error: ")
    assert b"mine.gguf" in result.stderr
    assert path.read_bytes() == b"damaged"
