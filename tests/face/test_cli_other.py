"""`frspec tokenize`, `frspec inspect`, help and version."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

import frspec_cpp

Runner = Callable[..., subprocess.CompletedProcess[bytes]]

TEXT = "def größe(n): return n + 1\n\n日本語 🙂"


def tokenize(run: Runner, *arguments: str, stdin: bytes = b"") -> dict[str, list[object]]:
    result = run("tokenize", "--json", *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_tokenize_gives_the_ids_of_the_python_tokenizer(run: Runner, demo_target: Path, tmp_path: Path) -> None:
    tokenizer = frspec_cpp.Tokenizer(str(demo_target))
    expected = tokenizer.encode(TEXT)
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    assert tokenize(run, "-p", TEXT)["tokens"] == expected
    assert tokenize(run, "-m", str(demo_target), "--file", str(path))["tokens"] == expected
    assert tokenize(run, stdin=TEXT.encode())["tokens"] == expected
    assert tokenize(run, "--no-special", "-p", TEXT)["tokens"] == tokenizer.encode(TEXT, add_special=False)


def test_tokenize_parses_control_tokens_as_generate_does(run: Runner, demo_target: Path) -> None:
    tokenizer = frspec_cpp.Tokenizer(str(demo_target))
    eos = tokenizer.eos_id
    assert eos is not None
    text = f"a{tokenizer.token_text(eos)}b"
    assert eos in tokenize(run, "-p", text)["tokens"]
    assert eos in tokenize(run, "-p", text, "--parse-special")["tokens"]
    assert eos not in tokenize(run, "-p", text, "--no-parse-special")["tokens"]


def test_tokenize_names_the_pieces(run: Runner) -> None:
    found = tokenize(run, "-p", "Hello world", "--no-special")
    assert list(found) == ["tokens", "pieces"]
    assert "".join(map(str, found["pieces"])) == "Hello\u0120world"  # as byte-level BPE writes a space
    lines = run("tokenize", "-p", "Hello world", "--no-special").stdout.decode().splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        [str(token), json.dumps(piece, ensure_ascii=False)]
        for token, piece in zip(found["tokens"], found["pieces"], strict=True)
    ]


def test_tokenize_needs_no_weights(run: Runner, shared: Path) -> None:
    files = sorted((shared / "data" / "vocabularies").glob("*.gguf"))
    tried = 0
    for path in files:
        try:
            expected = frspec_cpp.Tokenizer(str(path)).encode(TEXT)
        except ValueError:
            continue  # a kind of vocabulary that is not supported; the tokenizer's tests know which
        assert tokenize(run, "-m", str(path), "-p", TEXT)["tokens"] == expected
        tried += 1
    if files:
        assert tried > 0


def test_inspect(run: Runner, demo_target: Path) -> None:
    result = run("inspect", str(demo_target), "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    reader = gguf.GGUFReader(demo_target)
    assert [tensor["name"] for tensor in found["tensors"]] == [tensor.name for tensor in reader.tensors]
    text = run("inspect", str(demo_target)).stdout.decode()
    assert all(tensor.name in text for tensor in reader.tensors)


def test_version(run: Runner) -> None:
    assert run("--version").stdout.decode() == f"frspec {frspec_cpp.__version__}\n"


@pytest.mark.parametrize("command", ["generate", "tokenize", "inspect"])
def test_help(run: Runner, command: str) -> None:
    assert command in run("--help").stdout.decode()
    for option in ("--help", "-h"):
        result = run(command, option)
        assert result.returncode == 0
        assert result.stderr == b""
        assert result.stdout.decode().startswith(f"Usage: frspec {command} ")
        assert max(map(len, result.stdout.decode().splitlines())) <= 120
