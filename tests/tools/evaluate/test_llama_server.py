"""llama-server as a peer: how it is started, asked, watched and stopped; with a stand-in on the loopback interface."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from frspec_cpp.tools.evaluate import llama_server, report
from frspec_cpp.tools.evaluate.cli import main
from frspec_cpp.tools.evaluate.drafters import DrafterFile
from frspec_cpp.tools.evaluate.llama_server import KINDS, LlamaServer, server_rows
from frspec_cpp.tools.evaluate.peer_rows import PeerChoice, PeerOptions
from frspec_cpp.tools.evaluate.peers import load_peer
from frspec_cpp.tools.evaluate.records import Method
from frspec_cpp.tools.evaluate.storage import read_manifest, read_runs

FAKE = Path(__file__).resolve().parents[2] / "support" / "fake_llama_server.py"
TOKENIZER: Any = SimpleNamespace(is_eog=lambda token: token == 1005)
MODEL = DrafterFile(Path("/models/small.gguf"), "model", 1000)
EAGLE = DrafterFile(Path("/models/eagle.gguf"), "eagle3", 1000)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in as a program."""
    path = tmp_path_factory.mktemp("bin") / "llama-server"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    path.chmod(0o755)
    return path


def options_of(binary: Path, drafter: Path | None = None, **writing: Any) -> PeerOptions:
    return PeerOptions(
        target=Path("/models/t.gguf"), choice=PeerChoice([MODEL, EAGLE], server=binary), threads=3, context=256,
        writing={"max_tokens": 7, "ignore_eos": False, "temperature": 0.0, "seed": 5, **writing}, gpu=False,
        drafter=drafter,
    )  # fmt: skip


def load(binary: Path, kind: str = "llama-server", **writing: Any) -> LlamaServer:
    drafter = {"llama-server-draft": MODEL.path, "llama-server-eagle3": EAGLE.path}.get(kind)
    options = options_of(binary, drafter, **writing)
    rows = server_rows(kind, options.choice)
    assert not isinstance(rows, str)
    peer = load_peer(rows[0].method, options, TOKENIZER)
    assert isinstance(peer, LlamaServer)
    return peer


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_plain_text(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    real = LlamaServer._ask
    monkeypatch.setattr(LlamaServer, "_ask", lambda *given: answers.append(real(*given)) or answers[-1])
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # is not asked
    peer = load(binary, temperature=0.7, top_k=9)
    text = peer.write([4, 20], traced=True)
    assert (text.tokens, text.finish_reason, text.trace) == (list(range(20, 27)), "length", None)
    assert (text.steps, text.step_tokens, text.drafted_steps) == (6, 6, 0)
    assert text.prefill_seconds == 0.0025
    assert text.total_seconds > 0.0
    asked, arguments = answers[-1]["asked"], " ".join(answers[-1]["arguments"])
    assert asked["prompt"] == [4, 20]
    assert (asked["n_predict"], asked["temperature"], asked["top_k"], asked["seed"]) == (7, 0.7, 9, 5)
    assert (asked["cache_prompt"], asked["return_tokens"], asked["ignore_eos"]) == (False, True, False)
    assert "--model /models/t.gguf --host 127.0.0.1" in arguments
    assert "--ctx-size 256" in arguments
    assert "--threads 3 --threads-batch 3" in arguments
    assert "--spec-type" not in arguments
    ended = peer.write([1003], traced=False)
    assert (ended.tokens, ended.finish_reason) == ([1003, 1004], "stop")
    process = peer._process
    assert is_alive(process.pid)
    del peer
    assert process.poll() is not None, "nobody refers to it any more"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "llama-server"])
def test_speculation(kind: str, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    real = LlamaServer._ask
    monkeypatch.setattr(LlamaServer, "_ask", lambda *given: answers.append(real(*given)) or answers[-1])
    peer = load(binary, kind)
    text = peer.write([20], traced=False)
    # Seven tokens: one of the prompt's pass, and two passes that gave three.
    assert (text.steps, text.step_tokens, text.drafted_steps) == (2, 6, None)
    arguments = " ".join(answers[-1]["arguments"])
    names = {"llama-server-draft": "draft-simple", "llama-server-eagle3": "draft-eagle3"}
    assert f"--spec-type {names.get(kind, kind.removeprefix('llama-server-'))}" in arguments
    files = {"llama-server-draft": "small", "llama-server-eagle3": "eagle"}
    drafter = f"--spec-draft-model /models/{files.get(kind)}.gguf --spec-draft-n-max 3"
    assert (drafter in arguments) == (kind in files)
    peer.close()


def test_rows(binary: Path) -> None:
    rows = server_rows("llama-server", PeerChoice(server=binary))
    assert isinstance(rows, list)
    plain = rows[0].method
    assert (plain.name, plain.engine, plain.exact) == ("llama-server", "llama.cpp 9.9 (build 7)", False)
    other = DrafterFile(Path("/models/other.gguf"), "model", 500, same_vocabulary=False)
    rows = server_rows("llama-server-draft", PeerChoice([MODEL, EAGLE, other], [2, 5], binary))
    assert isinstance(rows, list)
    assert {row.method.name: (row.method.drafter, row.drafter, row.method.settings["n_max"]) for row in rows} == {
        f"llama-server-draft {name} n-max {most}": (f"{name}.gguf", Path(f"/models/{name}.gguf"), most)
        for name in ("small", "other")
        for most in (2, 5)
    }
    with pytest.raises(ValueError, match=r"llama-server-eagle3: found small\.gguf is a language model .*; expected"):
        server_rows("llama-server-eagle3", PeerChoice([MODEL], server=binary))
    with pytest.raises(ValueError, match="llama-server-draft: found no drafter"):
        server_rows("llama-server-draft", PeerChoice(server=binary))


def test_no_program(tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_rows("llama-server", PeerChoice()) == (
        "found no program 'llama-server' in PATH; --llama-server names one"
    )
    with pytest.raises(FileNotFoundError, match=r"--llama-server .*absent: found no such program"):
        server_rows("llama-server", PeerChoice(server=tmp_path / "absent"))
    monkeypatch.setenv("PATH", f"{binary.parent}:/bin:/usr/bin")
    assert isinstance(server_rows("llama-server", PeerChoice()), list)


def test_a_server_that_does_not_start(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LLAMA_SERVER", "dies")
    where = r"^method 'llama-server-ngram-mod': cannot be loaded: "
    with pytest.raises(
        RuntimeError, match=where + r"llama-server ended with exit code 3: error: failed to load model$"
    ):
        load(binary, "llama-server-ngram-mod")
    broken = tmp_path / "llama-server"
    broken.write_text("no program")
    broken.chmod(0o755)
    with pytest.raises(RuntimeError, match=where.replace("-ngram-mod", "")):
        load_peer(Method("llama-server", "llama-server", settings={"spec_type": "none"}), options_of(broken), TOKENIZER)


def test_a_server_that_never_gets_ready(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "_START_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="llama-server was not ready after 0 seconds"):
        load(binary)


@pytest.mark.parametrize(
    ("fault", "what"),
    [("refuses", r'llama-server answered 500: .*"context too small"'), ("falls", r"Remote end closed|reset by peer")],
)
def test_a_text_that_fails(fault: str, what: str, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LLAMA_SERVER", fault)
    peer = load(binary)
    with pytest.raises(RuntimeError, match=rf"^llama-server: .*({what})"):
        peer.write([7], traced=False)
    peer.close()
    assert peer._process.poll() is not None


def test_a_server_that_does_not_want_to_end(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "_STOP_SECONDS", 0.2)
    monkeypatch.setenv("FAKE_LLAMA_SERVER", "lingers")
    peer = load(binary)
    start = time.monotonic()
    peer.close()
    assert peer._process.poll() is not None
    assert time.monotonic() - start < 60.0  # it is not waited for until it ends by itself


def test_an_evaluation(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside our methods; its texts are others, which the report says, and is no failure."""
    monkeypatch.setattr(report, "draw_charts", lambda _: [])  # which take seconds
    (tmp_path / "p.txt").write_text("The little dog")
    command = [
        "-o",
        str(tmp_path / "out"),
        "--prompts",
        str(tmp_path / "p.txt"),
        "--methods",
        "ngram",
        "--repeats",
        "1",
    ]
    command += ["--warmup", "0", "-n", "6", "-q", "--peers", "llama-server,llama-server-ngram-mod"]
    assert main([*command, "--llama-server", str(binary)]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert [method.name for method in manifest.methods] == ["plain", "ngram", "llama-server", "llama-server-ngram-mod"]
    runs = {run.method: run for run in read_runs(tmp_path / "out") if run.repeat == 0}
    assert runs["llama-server"].tokens != runs["plain"].tokens
    assert runs["ngram"].tokens == runs["plain"].tokens
    written = (tmp_path / "out" / "report.md").read_text()
    assert re.search(r"llama-server", written)
    assert main([*command, "--llama-server", str(tmp_path / "absent")]) == 1
    assert "found no such program" in capsys.readouterr().err
    assert main([*command[:-1], "llama-cpp"]) == 1
    assert "--peers: found 'llama-cpp', expected some of" in capsys.readouterr().err
