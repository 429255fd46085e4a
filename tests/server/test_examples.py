"""The examples that ask a server do so, and end well."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_templates import HERMES, with_templates
from scripted_llm import ScriptedLLM
from server_process import started

from frspec_cpp import LLM

pytest.importorskip("fastapi")
pytest.importorskip("openai")
pytest.importorskip("llguidance")

EXAMPLES = Path(__file__).parents[2] / "examples"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
needs_langchain = pytest.mark.skipif(
    importlib.util.find_spec("langchain_openai") is None, reason="needs the package langchain-openai"
)


def run(name: str, url: str) -> str:
    """What an example says."""
    path = EXAMPLES / name
    command = ["bash", str(path)] if path.suffix == ".sh" else [sys.executable, str(path)]
    done = subprocess.run(
        [*command, url], capture_output=True, text=True, timeout=120, env={**os.environ, "no_proxy": "*"}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai_chat.py", "temperature {'message'"),
        ("openai_tools.py", ""),
        ("openai_async.py", "left after "),
        ("curl.sh", '"token_logprobs":[null,'),
        pytest.param("langchain_chat.py", "", marks=needs_langchain),
    ],
)
def test_examples(chatty: str, name: str, said: str) -> None:
    url = chatty if name == "curl.sh" else chatty + "/v1"
    assert said in run(name, url)


@pytest.fixture(scope="module")
def chatty(demo_target: Path, demo_drafter: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server in a process of its own."""
    target = with_templates(demo_target, tmp_path_factory.mktemp("examples") / "chatty.gguf", HERMES)
    with started("-m", target, "-d", demo_drafter, "-c", "512", "-a", "my-model") as server:
        server.wait_for("ready after")
        yield f"http://127.0.0.1:{server.port}"


def test_a_tool_is_called(run_server: Any, llm: LLM) -> None:
    engine = ScriptedLLM(llm, CALL)
    with run_server(engine, template={"chat_template": HERMES}) as served:
        said = run("openai_tools.py", served.url + "/v1")
    # It does nothing but call, so that the turns run out.
    assert said.splitlines() == ['calls weather({"city": "Oslo"})'] * 4
