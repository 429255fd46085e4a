"""Ctrl-C: the binary prints what there is, Python raises KeyboardInterrupt and its engine stays usable."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import TIMEOUT, wait_for_handler

from frspec_cpp import LLM

pytestmark = pytest.mark.usefixtures("ctrl_c")

PROMPT = "Once upon a time"
LONG = ["generate", "-p", PROMPT, "-n", "2000", "--ignore-eos", "--no-draft", "-t", "1"]


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """A pipe of one page holds less than a long text, which therefore cannot end before it is read."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, pipesize=4096
    )


def test_binary_prints_what_there_is(binary: str, llm: LLM) -> None:
    process = start([binary, *LONG])
    assert process.stdout is not None
    begin = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    text = (begin + rest).decode()
    count = int(errors.split()[1])  # "frspec: 12 tokens (interrupted), ..."
    assert count < 2000
    assert text == llm.generate(PROMPT, count, ignore_eos=True, draft=False).text
    assert errors.count(b"\n") == 1
    assert b"interrupted" in errors


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_binary_json_stays_valid(binary: str, llm: LLM, delay: float) -> None:
    process = start([binary, *LONG, "--json"])
    wait_for_handler(process)
    time.sleep(delay)  # while it is loading, or while it writes: what is asserted holds for both
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, errors
    found = json.loads(output)
    assert found["finish_reason"] == "interrupted"
    tokens = found["tokens"]
    assert len(tokens) < 2000
    expected = llm.generate(PROMPT, len(tokens) + 1, ignore_eos=True, draft=False)
    assert tokens == expected.tokens[:-1]


SCRIPT = """
import json, sys
import frspec_cpp
llm = frspec_cpp.LLM(sys.argv[1], n_batch=1, n_threads=1)  # a prompt takes as long as a text
prompt = llm.tokenize("Once upon a time")
if sys.argv[2] == "prompt":
    prompt = (prompt * 500)[:2000]
print("ready", flush=True)
try:
    if sys.argv[2] == "stream":
        for _ in llm.stream(prompt, 2000, ignore_eos=True): pass
    else:
        llm.generate(prompt, 2000, ignore_eos=True)
    print("finished", flush=True)
except KeyboardInterrupt:
    print(json.dumps(llm.generate("def fibonacci(n):", 12).tokens), flush=True)
"""


@pytest.mark.parametrize("what", ["text", "prompt", "stream"])
def test_python_raises_and_goes_on(llm: LLM, demo_target: Path, what: str) -> None:
    process = start([sys.executable, "-c", SCRIPT, str(demo_target), what])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    assert output != b"finished\n", "it was done before the signal came"
    assert json.loads(output) == llm.generate("def fibonacci(n):", 12).tokens
