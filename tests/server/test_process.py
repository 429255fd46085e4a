"""The program: how it begins, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import TIMEOUT, program
from server_process import started

from frspec_cpp import LLM

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

COMPLETIONS = "/v1/completions"
LONG = {"prompt": "x", "ignore_eos": True, "max_tokens": 200, "seed": 3, "stream": True}


def port_of_nobody() -> int:
    """A port that the system gives to nobody who does not ask for it by its number."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("found no free port")


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_sigterm_lets_texts_end(chat_target: Path, llm: LLM) -> None:
    expected = llm.generate("x", 200, temperature=0.8, seed=3, ignore_eos=True).text
    with started("-m", chat_target) as server, server.client() as client:
        server.wait_for("ready after")
        with client.stream("POST", COMPLETIONS, json=LONG) as answer:
            lines = answer.iter_lines()
            begin = next(lines)
            server.process.send_signal(signal.SIGTERM)
            text = "\n".join([begin, *lines])
        assert "".join(event["choices"][0]["text"] for event in events(text)) == expected
        assert text.rstrip().endswith("data: [DONE]")
        assert server.end() == 0


def test_draining(serving: Any, llm: LLM) -> None:
    """The port still answers; the text that was asked for before is written."""
    with serving(grace=100.0) as served, ThreadPoolExecutor(1) as threads:
        with llm._lock:
            asked = threads.submit(served.post, COMPLETIONS, prompt="x", max_tokens=2)
            while not served.service.engine.running():
                pass
            served.server.stop()
            while served.service.state != "draining":
                pass
            assert served.client.get("/health").status_code == 503
            refused = served.post(COMPLETIONS, prompt="x")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert not served.server.should_exit
        assert asked.result().json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("stream", [True, False])
def test_after_the_grace_texts_are_ended(serving: Any, llm: LLM, stream: bool) -> None:
    with serving(grace=0.0) as served, ThreadPoolExecutor(2) as threads:
        with llm._lock:
            asked = [threads.submit(served.post, COMPLETIONS, prompt="x", stream=stream) for _ in range(2)]
            while not (served.service.engine.running() and served.service.engine.waiting()):
                pass
            served.server.stop()
            while not served.server.should_exit:
                pass
        answers = [one.result() for one in asked]
    for answer in answers:
        bodies = [answer.json()] if answer.status_code != 200 else events(answer.text)
        assert bodies[-1]["error"]["type"] == "unavailable_error"
    assert sorted(answer.status_code for answer in answers) == ([200, 503] if stream else [503, 503])


def test_killed_and_begun_again_at_the_same_port(chat_target: Path) -> None:
    port = str(port_of_nobody())
    with started("-m", chat_target, "--port", port) as server, server.client() as client:
        server.wait_for("ready after")
        with client.stream("POST", COMPLETIONS, json=LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.kill()
            with suppress(httpx.HTTPError):  # all of it may have been sent
                list(lines)
        assert server.end() == -signal.SIGKILL
    with started("-m", chat_target, "--port", port, "-a", "again") as server, server.client() as client:
        assert server.port == int(port)
        assert client.get("/health").status_code in (200, 503)
        server.wait_for("ready after")
        assert client.get("/v1/models").json()["data"][0]["id"] == "again"
        # Two signals end it at once, whatever it does.
        with client.stream("POST", COMPLETIONS, json=LONG) as answer:
            next(answer.iter_lines())
            server.process.send_signal(signal.SIGINT)
            server.wait_for("SIGINT")
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 0


def test_while_it_is_loading(serving: Any, llm: LLM) -> None:
    """The port answers already."""
    with serving() as served:
        assert served.client.get("/health").json() == {"status": "ok"}
        served.service.state = "loading"
        for path in ("/health", "/v1/models"):
            answer = served.client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
        assert served.post(COMPLETIONS, prompt="x").headers["retry-after"] == "1"
        assert served.client.get("/").status_code == served.client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prt", "1"], "unknown option '--prt', did you mean --port?"),
        (["-cb"], "always so"),
        (["--n-gpu-layers=20"], "on the device as a whole"),
        (["-ngl", "20"], "on the device as a whole"),
        (["x"], "unexpected argument 'x'"),
        (["-m", "/none.gguf"], "/none.gguf"),
        (["-m", "a", "-hf", "b/c"], "found both"),
        (["--port", "x"], "--port"),
        (["--chat-template-kwargs", "{"], "no valid JSON"),
        (["--api-key-file", "/none"], "/none"),
        (["--adapt", "ranks.gguf", "--api-key", "a,b"], "several API keys"),
        (["--head", "contextual:64", "--api-key", "a,b"], "head contextual:64 and several API keys"),
        (["--max-queue", "0"], "--max-queue: found 0"),
        (["--max-body", "0"], "--max-body: found 0"),
        (["--queue-timeout", "-1"], "--queue-timeout: found -1.0"),
        (["--queue-timeout", "nan"], "--queue-timeout: found nan"),
        (["--grace", "-1"], "--grace: found -1.0"),
        (["--grace", "nan"], "--grace: found nan"),
        (["-n", "0"], "-n, --max-tokens, --n-predict, --predict: found 0, expected at least 1, or -1"),
        (["--temp", "-1"], "--temp, --temperature: found -1.0, expected a number of at least 0"),
        (["--temp", "nan"], "--temp, --temperature: found nan"),
        (["--temp", "1e39"], "--temp, --temperature: found 1e+39"),
        (["--top-p", "0"], "--top-p: found 0.0"),
        (["--top-k", "-2"], "--top-k: found -2"),
        (["--repeat-penalty", "0"], "--repeat-penalty: found 0.0"),
        (["--presence-penalty", "inf"], "--presence-penalty: found inf"),
        (["--draft-p-min", "2"], "--draft-p-min: found 2.0"),
        (["--draft-max", "-2"], "--draft-max, --draft-n: found -2"),
        (["-s", "-2"], "-s, --seed: found -2"),
        (["--host", "256.0.0.1"], "256.0.0.1:8080: cannot be listened at"),
    ],
)
def test_errors_are_one_line(capfd: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    from frspec_cpp.server.cli import main

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = [] if "--port" in arguments or "--host" in arguments else ["--port", str(free.getsockname()[1])]
    assert main([*arguments, *port]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("frspec-serve: error: ")
    assert said in last


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ping": 0}, "ping: found 0, expected seconds, above 0"),
        ({"grace": "30"}, "grace: found '30', expected seconds"),
        ({"max_tokens": 2.5}, "max_tokens: found 2.5"),
        ({"max_requests": True}, "max_requests: found True"),
        ({"cache_scope": "keys"}, "cache_scope: found 'keys', expected key or shared"),
        ({"reasoning_format": "x"}, "reasoning_format: found 'x'"),
        ({"sampling": {"temperature": -1}}, "temperature: found -1"),
        ({"sampling": {"seed": 2**64}}, "seed: found 18446744073709551616"),
        ({"sampling": {"tmp": 1}}, "sampling: found an unknown option 'tmp'"),
    ],
)
def test_settings_that_are_not_possible(given: dict[str, Any], said: str) -> None:
    """As Ray's configuration files may have them: each request would be refused for it."""
    from frspec_cpp.server.settings import Settings

    with pytest.raises(ValueError, match=re.escape(said)):
        Settings(**given)


def test_a_port_that_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    from frspec_cpp.server.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    assert f"127.0.0.1:{port}: cannot be listened at: Address already in use" in capfd.readouterr().err


def test_without_the_extra(tmp_path: Path) -> None:
    """The message names it."""
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')")
    result = subprocess.run(
        [program("frspec"), "serve"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 1
    assert "pip install 'frspec_cpp[server]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_the_python_package(tmp_path: Path) -> None:
    alone = shutil.copy(program("frspec"), tmp_path / "frspec")
    result = subprocess.run([alone, "serve"], capture_output=True, text=True, check=False, env={"PATH": "/none"})
    assert result.returncode == 1
    assert "found no frspec-serve beside" in result.stderr
    assert "pip install 'frspec_cpp[server]'" in result.stderr


def test_help() -> None:
    result = subprocess.run([program("frspec"), "serve", "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    for option in ("--host", "--alias", "--api-key-file", "--max-queue", "--grace", "--temp", "--ctx-size"):
        assert option in result.stdout
    assert "serve" in subprocess.run([program("frspec"), "--help"], capture_output=True, text=True, check=False).stdout


def engine_arguments(engine: Any) -> dict[str, Any]:
    """What the model is to be loaded with."""
    return dict(engine._arguments[2])


def test_options_of_the_command_line(chat_target: Path, tmp_path: Path) -> None:
    """They reach the model, the requests and the keys."""
    from frspec_cpp.server import cli, serving

    keys = tmp_path / "keys"
    keys.write_text("a\n\n b \n")
    kept: dict[str, Any] = {}

    class Kept(serving.Server):
        def run(self, sockets: Any = None) -> None:
            self._socket.close()
            kept["service"] = self._service

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "Server", Kept)
        patch.setenv("LLAMA_API_KEY", "c")
        arguments = [
            "-m",
            str(chat_target),
            "--port=0",
            "--temp",
            "0.3",
            "--top_k",
            "7",
            "-n",
            "9",
            "-c",
            "64",
            "-s",
            "5",
        ]
        arguments += ["--draft-max", "3", "--cache-scope", "shared"]
        code = cli.main(
            [*arguments, "--api-key-file", str(keys), "--cors-origins", "http://a, http://b", "--tree", "2,2,4"]
        )
    assert code == 0
    settings = kept["service"].settings
    assert settings.keys == ("c", "a", "b")
    assert settings.cors_origins == ("http://a", "http://b")
    assert (settings.sampling["temperature"], settings.sampling["top_k"], settings.sampling["seed"]) == (0.3, 7, 5)
    assert settings.max_tokens == 9
    assert (settings.sampling["draft_max"], settings.cache_scope) == (3, "shared")
    assert engine_arguments(kept["service"].engine)["contextual"] is False  # there are several keys
    engine = kept["service"].engine
    engine.load_now()
    assert engine.llm.n_ctx == 64
    engine.llm.close()
