"""Bad input to the binary: exit code 1 and one line on stderr that names the culprit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Runner = Callable[..., subprocess.CompletedProcess[bytes]]

P = ("-p", "x")
# Arguments, and what the message must hold.
ARGUMENTS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("command", "generate")),
    (("generrate",), ('"generrate"', "generate")),
    (("--verbose",), ('"--verbose"',)),
    (("generate", *P, "--unknown"), ('unknown option "--unknown"',)),
    (("generate", *P, "-x=3"), ('"-x=3"',)),
    (("generate", "-p"), ("-p, --prompt", "missing value")),
    (("generate", *P, "-n"), ("--max-tokens", "missing value")),
    (("generate", *P, "surplus"), ('"surplus"',)),
    (("generate", *P, "--json=yes"), ("--json", "no value")),
    (("generate", *P, "-n", "many"), ("--max-tokens", '"many"', "whole number")),
    (("generate", *P, "-n", "1.5"), ("--max-tokens", '"1.5"')),
    (("generate", *P, "-n", ""), ("--max-tokens", '""')),
    (("generate", *P, "-n", "9999999999"), ("--max-tokens", '"9999999999"')),
    (("generate", *P, "-n", "0"), ("max_tokens", "found 0", "at least 1")),
    (("generate", *P, "--temp", "warm"), ("--temp", '"warm"')),
    (("generate", *P, "--temp", "-1"), ("temperature", "-1")),
    (("generate", *P, "--temp", "nan"), ("temperature", "nan")),
    (("generate", *P, "--seed", "-2"), ("--seed", '"-2"')),
    (("generate", *P, "-n", "-3"), ("max_tokens", "found -3", "-1")),
    (("generate", *P, "-ngl", "99"), ('"-ngl"', "on the device as a whole")),
    (("generate", *P, "--n-gpu-layers=20"), ('"--n-gpu-layers"', "on the device as a whole")),
    (("generate", *P, "--rope-scaling", "ntk"), ("rope_scaling_type", '"ntk"', "yarn")),
    (("generate", *P, "--rope-scale", "0"), ("--rope-scale", "found 0", "above 0")),
    (("generate", *P, "--rope-scale", "2", "--rope-freq-scale", "0.5"), ("--rope-scale", "--rope-freq-scale", "both")),
    (("generate", *P, "--rope-freq-base", "-1"), ("rope_freq_base", "found -1")),
    (("generate", *P, "-c", "2049"), ("context", "found 2049", "2 to 2048", "--rope-scaling yarn --rope-scale 2")),
    (("generate", *P, "--draft", "true"), ("draft", '"true"', "auto, always or never")),
    (("generate", *P, "-t", "-2"), ("threads", "-2")),
    (("generate", *P, "-c", "1"), ("context", "found 1")),
    (("generate", *P, "-c", "2000000000"), ("context", "2000000000")),
    (("generate", *P, "--tree-depth", "65"), ("depth", "65", "64")),
    (("generate", *P, "--tree-branch", "0"), ("branch", "found 0")),
    (("generate", *P, "--tree-size", "-7"), ("size", "-7")),
    (("generate", *P, "--head", "full", "--adapt", "mine.gguf"), ("adapt", "mine.gguf", "head 'full'")),
    (("generate", *P, "--head", "ranked:99", "--adapt", "/absent/mine.gguf"), ("/absent", "mine.gguf", "no folder")),
    (("generate", *P, "--head", "half"), ("half", "ranked:N")),
    (("generate", *P, "--head", "ranked:"), ("ranked:",)),
    (("generate", *P, "--head", "ranked:0"), ("ranked:0",)),
    (("generate", *P, "--device", "tpu"), ("device", "tpu", "cpu")),
    (("generate", *P, "--device", "cuda"), ("cuda",)),
    (("generate", *P, "--json", "--show-drafts"), ("--json", "--show-drafts")),
    (("generate", *P, "-f", "/dev/null"), ("--prompt", "--file")),
    (("generate", "-f", "/no/such/prompt"), ("/no/such/prompt", "No such file")),
    (("generate", "-f", "/"), ("/", "directory")),
    (("generate", *P, "-m", "/no/such.gguf"), ("/no/such.gguf",)),
    (("generate", *P, "-m", "/no/such\nfile.gguf"), ("such\\x0afile",)),
    (("generate", *P, "-m", "/dev/null"), ("/dev/null",)),
    (("generate", *P, "-d", "/no/such.gguf"), ("/no/such.gguf",)),
    (("generate", *P, "--ranks", "/no/ranks.gguf", "--head", "ranked:9"), ("/no/ranks.gguf",)),
    (("tokenize", *P, "-m", "/no/such.gguf"), ("/no/such.gguf",)),
    (("tokenize", *P, "--max-tokens", "3"), ('"--max-tokens"',)),
    (("inspect",), ("missing argument FILE",)),
    (("inspect", "/no/such.gguf"), ("/no/such.gguf",)),
    (("inspect", "a.gguf", "b.gguf"), ('"b.gguf"',)),
]


def check(result: subprocess.CompletedProcess[bytes], expected: tuple[str, ...]) -> None:
    message = result.stderr.decode()
    assert result.returncode == 1, message
    assert result.stdout == b""
    assert message.startswith("frspec: error: ")
    assert message.endswith("\n")
    assert message.count("\n") == 1, message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(("arguments", "expected"), ARGUMENTS, ids=lambda value: " ".join(value)[:60] or "nothing")
def test_bad_arguments(run: Runner, arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    check(run(*arguments), expected)


def test_invalid_utf8(run: Runner) -> None:
    for command in ("generate", "tokenize"):
        check(run(command, stdin=b"abc\xffdef"), ("UTF-8", "3"))
        check(run(command, "-p", b"ab\xe2\x82"), ("UTF-8", "2"))
        check(run(command, stdin=b"\xed\xa0\x80"), ("UTF-8", "0"))


def test_a_prompt_longer_than_the_context(run: Runner) -> None:
    check(run("generate", "-c", "64", "-p", "word " * 300), ("64",))


def test_an_empty_prompt_without_bos_is_refused_by_name(run: Runner, demo_target: Path) -> None:
    # The demo vocabulary puts BOS before a text, so that an empty one can be continued.
    assert run("generate", "-n", "2", "-p", "").returncode == 0


def test_a_drafter_is_no_target(run: Runner, demo_drafter: Path) -> None:
    check(run("generate", "-p", "x", "-m", str(demo_drafter)), (str(demo_drafter), "architecture"))


def test_a_truncated_file(run: Runner, demo_target: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(demo_target.read_bytes()[:100_000])
    for command in (("generate", "-p", "x", "-m"), ("tokenize", "-p", "x", "-m"), ("inspect",)):
        check(run(*command, str(path)), (str(path),))


def test_a_head_larger_than_the_vocabulary(run: Runner) -> None:
    check(run("generate", "-p", "x", "--head", "ranked:1000000"), ("1000000",))


def test_ranked_head_without_a_drafter(run: Runner, demo_target: Path) -> None:
    check(run("generate", "-p", "x", "-m", str(demo_target), "--head", "ranked:100"), ("head", "drafter"))


def test_demo_pair_is_not_there(run: Runner, tmp_path: Path) -> None:
    for command in ("generate", "tokenize"):
        result = run(command, "-p", "x", environment={"FRSPEC_DEMO_DIR": str(tmp_path)})
        check(result, (str(tmp_path), "demo-target.gguf"))
