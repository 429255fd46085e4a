"""Files that change while they are open: mapped ones, and those that are read into memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from frspec_cpp.tools.make_random_model import SHAPES, make_random_model
from processes import program

from frspec_cpp import LLM


def shorten(path: Path) -> None:
    os.truncate(path, 4096)


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


@pytest.mark.parametrize("change", [shorten, overwrite])
def test_files_that_were_read_may_change(
    demo_target: Path, demo_drafter: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The rows of another head are read anew: from memory."""
    with LLM(demo_target, drafter=demo_drafter, head="ranked:256", n_threads=1) as llm:
        expected = llm.generate("def f(", 24, ignore_eos=True).tokens
    target, drafter = (Path(shutil.copy(path, tmp_path)) for path in (demo_target, demo_drafter))
    with LLM(target, drafter=drafter, head="ranked:256", n_threads=1, use_mmap=False) as llm:
        change(target)
        change(drafter)
        llm.set_head("contextual:256")
        assert llm.generate("def f(", 24, ignore_eos=True, draft=True).tokens == expected


def test_a_mapped_file_may_be_replaced_by_renaming(demo_target: Path, tmp_path: Path) -> None:
    target = Path(shutil.copy(demo_target, tmp_path))
    with LLM(target, n_threads=1) as llm:
        expected = llm.generate("def f(", 24, ignore_eos=True).tokens
        other = tmp_path / "other.gguf"
        other.write_bytes(b"something else")
        other.replace(target)
        assert llm.generate("def f(", 24, ignore_eos=True).tokens == expected


def test_files_that_cannot_be_had(demo_target: Path, tmp_path: Path) -> None:
    """What is not there is named, whichever way files come into memory."""
    for use_mmap in (True, False):
        with pytest.raises(FileNotFoundError, match="absent"):
            LLM(tmp_path / "absent.gguf", use_mmap=use_mmap)
        (tmp_path / "half.gguf").write_bytes(demo_target.read_bytes()[:100_000])
        with pytest.raises(ValueError, match=r"half\.gguf"):
            LLM(tmp_path / "half.gguf", use_mmap=use_mmap)


def test_ctrl_c_while_files_are_read(demo_target: Path) -> None:
    """Python's handlers run before the weights are loaded, too."""
    code = """
import signal, sys
import frspec_cpp
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    signal.setitimer(signal.ITIMER_REAL, 0.002)  # once: another one could come while the first is dealt with
    while True:
        frspec_cpp.LLM(sys.argv[1], use_mmap=False)
except KeyboardInterrupt:
    print("interrupted")
print(len(frspec_cpp.LLM(sys.argv[1]).generate("x", 3, ignore_eos=True).tokens))
"""
    done = subprocess.run([sys.executable, "-c", code, str(demo_target)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["interrupted", "3"], "")


def test_the_binary_explains_a_bus_error(demo_target: Path, tmp_path: Path) -> None:
    """A target whose embedding is looked up in the file is shortened while it writes; --no-mmap does not notice."""
    target = tmp_path / "target.gguf"
    make_random_model(target, SHAPES["tiny"], "q8_0", demo_target, quiet=True)
    whole = target.read_bytes()
    for options, code, said in ([], 1, "--no-mmap reads models"), (["--no-mmap"], 0, "1800 tokens"):
        target.write_bytes(whole)
        command = [
            program("frspec"),
            "generate",
            "-m",
            str(target),
            "-p",
            "x",
            "-n",
            "1800",
            "--ignore-eos",
            "--temp",
            "5",
            *options,
        ]
        # A pipe that holds less than the text: it cannot end before the file is shortened.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, pipesize=4096)
        assert process.stdout is not None
        process.stdout.read(1)
        os.truncate(target, 4096)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert said in errors.decode()
