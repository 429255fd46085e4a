"""The ends of a process: threads that still work when Python ends, and forked processes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import TIMEOUT

from frspec_cpp import GgufFile

pytestmark = pytest.mark.threads


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


# What daemon threads are doing, in native code, when the main thread ends, and what they need the GIL for meanwhile.
WRITING = [
    "llm.generate('x', 500, ignore_eos=True)",
    "list(llm.stream('x', 500, ignore_eos=True))",
    "llm.generate(ids, 1)",
    "llm.generate('x', 500, ignore_eos=True, logits_processor=lambda ids, logits: None)",
    "llm.generate('x', 500, ignore_eos=True, cancel=threading.Event())",
    "shared.generate('x', 20)",
    "shared.cancel()",
]
READING = [
    "llm.forward(ids[:200])",
    "frspec_cpp.LLM(*frspec_cpp.demo_paths(), progress=lambda *report: None)",
    "frspec_cpp.LLM(*frspec_cpp.demo_paths(), use_mmap=False)",
    "frspec_cpp.GgufFile(frspec_cpp.demo_paths()[0])",
    "llm.tokenizer.encode_batch(['many words ' * 100] * 100)",
    "frspec_cpp.bench(n_prompt=[8], n_gen=[], n_verify=[1], repetitions=1, progress=lambda *report: None)",
]


@pytest.mark.parametrize("works", [WRITING, READING], ids=["writing", "reading"])
def test_daemon_threads_at_the_end(works: list[str]) -> None:
    code = """
        import json, sys, threading, time
        import frspec_cpp
        class Last:
            def __del__(self, sleep=time.sleep):
                sleep(0.5)  # Python is ending: every thread asks for the GIL now
        last = Last()
        shared = frspec_cpp.LLM(*frspec_cpp.demo_paths(), n_threads=2)
        ids = [5, 6, 7] * 600
        begun = []
        def work(code):
            llm = frspec_cpp.LLM(frspec_cpp.demo_paths()[0], n_threads=2)
            begun.append(code)
            while True:
                exec(code)
        works = json.loads(sys.argv[1])
        for code in works:
            threading.Thread(target=work, args=(code,), daemon=True).start()
        while len(begun) < len(works):
            time.sleep(0.02)
        time.sleep(0.3)
    """
    ended = python(code, json.dumps(works))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_daemon_thread_does_not_hold_up_what_is_saved_at_the_end(
    demo_target: Path, demo_drafter: Path, tmp_path: Path
) -> None:
    code = """
        import sys, threading, time
        import frspec_cpp
        llm = frspec_cpp.LLM(sys.argv[1], drafter=sys.argv[2], head="ranked:256", adapt=sys.argv[3])
        written = threading.Semaphore(0)
        def slowly(ids, logits):
            written.release()
            time.sleep(0.01)
        text = dict(max_tokens=4000, ignore_eos=True, logits_processor=slowly)
        threading.Thread(target=llm.generate, args=("x",), kwargs=text, daemon=True).start()
        for _ in range(10):
            written.acquire()
    """
    ranks = tmp_path / "ranks.gguf"
    ended = python(code, demo_target, demo_drafter, ranks)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ranks.exists()


def test_other_threads_and_objects_at_the_end() -> None:
    """A thread that is no daemon is waited for; what hangs around is let go of: streams, processors, atexit."""
    code = """
        import atexit, threading
        import frspec_cpp
        llm = frspec_cpp.LLM(frspec_cpp.demo_paths()[0], n_threads=2)
        half_read = llm.stream("x", 50, ignore_eos=True, logits_processor=lambda ids, logits: None)
        next(half_read)
        atexit.register(lambda: print("atexit", len(llm.generate("y", 3, ignore_eos=True).tokens), flush=True))
        other = frspec_cpp.LLM(frspec_cpp.demo_paths()[0], n_threads=2)
        threading.Thread(target=lambda: print("thread", len(other.generate("x", 200, ignore_eos=True).tokens))).start()
    """
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == ["thread 200", "atexit 3"]


def test_a_text_in_the_last_destructor() -> None:
    code = """
        import os
        import frspec_cpp
        llm = frspec_cpp.LLM(frspec_cpp.demo_paths()[0], n_threads=2)
        half_read = llm.stream("x", 50, ignore_eos=True)
        next(half_read)
        class Late:
            def __del__(self, llm=llm, write=os.write):
                write(1, b"%d" % len(llm.generate("z", 4, ignore_eos=True).tokens))
        kept = Late()
    """
    ended = python(code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "4", "")


def test_streams_are_dropped_by_other_threads() -> None:
    code = """
        import gc, threading
        import frspec_cpp
        llm = frspec_cpp.LLM(frspec_cpp.demo_paths()[0], n_threads=2)
        write = lambda: llm.generate("x", 100, ignore_eos=True).tokens
        expected = write()
        for _ in range(5):
            stream = llm.stream("x", 50, ignore_eos=True, logits_processor=lambda ids, logits: None)
            next(stream)
            cycle = [stream]
            cycle.append(cycle)
            found = {}
            thread = threading.Thread(target=lambda: found.update(tokens=write()))
            thread.start()
            del stream, cycle
            gc.collect()
            thread.join()
            assert found["tokens"] == expected
    """
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")


# What forked children do with the LLM that they have inherited; it must end well, and be true.
IN_CHILD = [
    "sys.exit(0)",
    "globals().pop('llm')",
    "llm.close() or llm.close() or True",
    "tokens(load()) == expected",
    "tokens(load()) == tokens(llm) == expected",
    "first + ''.join(stream) == text",
    "in_thread(lambda: tokens(llm) == expected)",
    "in_thread(lambda: tokens(load()) == expected)",
    "in_fork(lambda: tokens(llm) == expected) == 0 and tokens(llm) == expected",
    "llm.set_head('ranked:256') or tokens(llm) == expected",
    "len(llm.tokenizer.encode_batch(['a b c'] * 100)) == 100",
    "multiprocessing.pool.ThreadPool(2).map(lambda _: tokens(llm) == expected, 'ab') == [True, True]",
]

FORK = """
    import json, multiprocessing.pool, os, signal, sys, threading
    import frspec_cpp
    def load():
        return frspec_cpp.LLM(*frspec_cpp.demo_paths(), head="full", n_threads=4)
    def tokens(llm):
        return llm.generate("def f(", 24, ignore_eos=True).tokens
    def in_thread(function):
        found = []
        thread = threading.Thread(target=lambda: found.append(function()))
        thread.start()
        thread.join(300)
        return found[0]
    def in_fork(function):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if function() else 1)
        return os.waitpid(pid, 0)[1]
    llm = load()
    expected = tokens(llm)
    text = llm.generate("x = ", 40, ignore_eos=True).text
    stream = llm.stream("x = ", 40, ignore_eos=True)
    first = next(stream)
    for does in json.loads(sys.argv[1]):
        pid = os.fork()
        if pid == 0:
            signal.alarm(400)
            if not eval(does):
                os._exit(1)
            sys.exit(0)
        print(os.waitpid(pid, 0)[1], flush=True)
    assert first + "".join(stream) == text, "the parent's stream"
    assert tokens(llm) == expected, "the parent's text"
"""


def test_forked_children() -> None:
    ended = python(FORK, json.dumps(IN_CHILD))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert dict(zip(IN_CHILD, ended.stdout.split(), strict=True)) == dict.fromkeys(IN_CHILD, "0")


def test_a_fork_while_another_thread_writes() -> None:
    """The child cannot go on with a text that was half written elsewhere, and says so; loading another works."""
    code = """
        import os, signal, sys, threading
        import frspec_cpp
        target = frspec_cpp.demo_paths()[0]
        llm = frspec_cpp.LLM(target, n_threads=4)
        inside, forked = threading.Event(), threading.Event()
        def processor(ids, logits):
            inside.set()
            forked.wait()
        thread = threading.Thread(target=lambda: llm.generate("x", 8, ignore_eos=True, logits_processor=processor))
        thread.start()
        inside.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(300)
            try:
                llm.generate("x", 3)
            except RuntimeError as error:
                print(error)
            llm.close()
            print(len(frspec_cpp.LLM(target, n_threads=4).generate("x", 3, ignore_eos=True).tokens), flush=True)
            os._exit(0)
        forked.set()
        assert os.waitpid(pid, 0)[1] == 0
        thread.join()
        assert len(llm.generate("x", 3, ignore_eos=True).tokens) == 3
    """
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")
    error, tokens = ended.stdout.splitlines()
    assert "was at work in another thread when the process forked" in error
    assert tokens == "3"


def test_a_fork_from_a_logits_processor() -> None:
    """The thread that forks goes on with its text, in both processes."""
    code = """
        import os, signal
        import frspec_cpp
        llm = frspec_cpp.LLM(frspec_cpp.demo_paths()[0], n_threads=4)
        expected = llm.generate("x", 12, ignore_eos=True).tokens
        pids = []
        def processor(ids, logits):
            if len(ids) == 6:
                pids.append(os.fork())
        tokens = llm.generate("x", 12, ignore_eos=True, logits_processor=processor).tokens
        assert tokens == expected == llm.generate("x", 12, ignore_eos=True).tokens
        if pids[0] == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
    """
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_workers_of_multiprocessing() -> None:
    """A server that loads before it forks its workers."""
    code = """
        import multiprocessing
        import frspec_cpp
        llm = frspec_cpp.LLM(*frspec_cpp.demo_paths(), head="full", n_threads=4)
        def work(prompt):
            return llm.generate(prompt, 16, ignore_eos=True).tokens
        if __name__ == "__main__":
            prompts = ["a", "b", "c", "d"]
            expected = [work(prompt) for prompt in prompts]
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(work, prompts) == expected
            assert [work(prompt) for prompt in prompts] == expected
    """
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_child_leaves_the_parents_counts_alone(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    code = """
        import os, sys
        import frspec_cpp
        llm = frspec_cpp.LLM(sys.argv[1], drafter=sys.argv[2], head="ranked:256", adapt=sys.argv[3])
        llm.generate("x", 30, ignore_eos=True)
        pid = os.fork()
        if pid != 0:
            assert os.waitpid(pid, 0)[1] == 0
        else:
            llm.generate("x", 7, ignore_eos=True)
        sys.exit(0)  # both save
    """
    ranks = tmp_path / "ranks.gguf"
    ended = python(code, demo_target, demo_drafter, ranks)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert GgufFile(ranks).metadata["frspec.ranks.tokens_counted"] == 37


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_that_comes_while_a_thread_writes() -> None:
    """Ctrl-C goes to the main thread; the text of another one is not harmed."""
    code = """
        import os, signal, threading, time
        import frspec_cpp
        llm = frspec_cpp.LLM(frspec_cpp.demo_paths()[0], n_threads=2)
        expected = llm.generate("x", 300, ignore_eos=True).tokens
        found = []
        thread = threading.Thread(target=lambda: found.append(llm.generate("x", 300, ignore_eos=True).tokens))
        thread.start()
        try:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(300)
        except KeyboardInterrupt:
            thread.join()
        assert found == [expected]
    """
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the module that makes interpreters has another name")
def test_a_second_interpreter_is_refused_and_the_first_goes_on() -> None:
    code = """
        import _xxsubinterpreters as interpreters
        import frspec_cpp
        for _ in range(2):
            other = interpreters.create()
            try:
                interpreters.run_string(other, "import frspec_cpp")
            except interpreters.RunFailedError as error:
                print(error)
            interpreters.destroy(other)
        print(frspec_cpp.generate("def", max_tokens=2).finish_reason)
        """
    found = python(code)
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert ["ImportError" in line and "another interpreter" in line for line in lines] == [True, True, False]
    assert lines[-1] == "length"
