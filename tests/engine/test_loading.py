"""Loading: what it reports, what it leaves in memory, and heads that change afterwards."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from frspec_cpp.tools.make_random_model import SHAPES, make_random_model

from frspec_cpp import LLM

PROMPT = "def main():\n"

_MEMORY = """
import sys
import frspec_cpp

def resident():
    fields = (line.split(":") for line in open("/proc/self/status"))
    return next(int(value.split()[0]) for name, value in fields if name == "VmRSS") * 1024

frspec_cpp.Tokenizer(sys.argv[1])  # the vocabulary is no weight
before = resident()
llm = frspec_cpp.LLM(sys.argv[1], n_ctx=64, n_batch=16)
print(resident() - before)
assert len(llm.generate("a", max_tokens=2, ignore_eos=True).tokens) == 2
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the resident memory")
@pytest.mark.parametrize(("shape", "layers", "kind"), [("llama3.2-1b", 1, "q4_k_m"), ("tiny", 2, "q8_0")])
def test_memory_after_loading(demo_target: Path, tmp_path: Path, shape: str, layers: int, kind: str) -> None:
    """One copy of each weight: the mapped file is let go of. An embedding that is no head stays in the file."""
    path = tmp_path / "model.gguf"
    model = dataclasses.replace(SHAPES[shape], layers=layers)
    make_random_model(path, model, kind, demo_target, quiet=True)
    code = subprocess.run([sys.executable, "-c", _MEMORY, str(path)], capture_output=True, text=True, check=False)
    assert code.returncode == 0, code.stderr
    slack = 12 * 2**20  # caches, scratch, the tokenizer
    assert int(code.stdout) < 1.1 * path.stat().st_size + slack


def test_progress(demo_target: Path, demo_drafter: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    LLM(demo_target, drafter=demo_drafter, progress=lambda *report: seen.append(report))
    names, done, totals = zip(*seen, strict=True)
    assert set(names) == {"loading"}
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    weights = demo_target.stat().st_size + demo_drafter.stat().st_size
    assert 0.7 * weights < done[-1] <= weights


def test_errors_in_progress_end_the_loading(demo_target: Path) -> None:
    def stop(*_: object) -> None:
        raise ZeroDivisionError("enough")

    with pytest.raises(ZeroDivisionError, match="enough"):
        LLM(demo_target, progress=stop)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_loading(demo_target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        LLM(demo_target, progress=lambda *_: signal.raise_signal(signal.SIGINT))


def test_a_bar_needs_a_terminal(demo_target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    LLM(demo_target, progress=True)
    assert capfd.readouterr() == ("", "")


def test_set_head(demo_target: Path, demo_drafter: Path) -> None:
    """A head that is set later drafts as one that was there from the start."""
    llm = LLM(demo_target, drafter=demo_drafter, tree_size=20)
    steps = {}
    for head in ("ranked:256", "full", "ranked:8192"):
        llm.set_head(head)
        found = llm.generate(PROMPT, max_tokens=64, ignore_eos=True, draft=True)
        fresh = LLM(demo_target, drafter=demo_drafter, tree_size=20, head=head)
        expected = fresh.generate(PROMPT, max_tokens=64, ignore_eos=True, draft=True)
        assert (found.tokens, found.stats.steps) == (expected.tokens, expected.stats.steps)
        steps[head] = found.stats.steps
    assert steps["ranked:256"] > steps["full"]  # so the heads did differ


def test_a_head_that_cannot_be_leaves_the_old_one(demo_target: Path, demo_drafter: Path) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:512", tree=(5, 10, 60))
    expected = llm.generate(PROMPT, max_tokens=32, ignore_eos=True, draft=True)
    for head in ("ranked:65537", "ranked", "best"):
        with pytest.raises(ValueError, match="head"):
            llm.set_head(head)
    found = llm.generate(PROMPT, max_tokens=32, ignore_eos=True, draft=True)
    assert (found.tokens, found.stats.steps) == (expected.tokens, expected.stats.steps)
    with pytest.raises(ValueError, match="no drafter to use it"):
        LLM(demo_target).set_head("full")


def test_a_stream_goes_on_where_the_head_changes(demo_target: Path, demo_drafter: Path) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:512")
    stream = llm.stream(PROMPT, max_tokens=64, ignore_eos=True)
    begun = next(stream)
    llm.set_head("ranked:1024")
    assert begun + "".join(stream) == llm.generate(PROMPT, max_tokens=64, ignore_eos=True, draft="never").text
