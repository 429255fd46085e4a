"""Closing an LLM, cancelling its texts from elsewhere, and what cannot be done with one."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from frspec_cpp import LLM, Generation

pytestmark = pytest.mark.threads

LONG = {"max_tokens": 3000, "ignore_eos": True}
UNTIL_ENDED = 300.0  # seconds


@pytest.fixture
def own(demo_target: Path, demo_drafter: Path) -> LLM:
    """An LLM for one test: it is closed."""
    return LLM(demo_target, drafter=demo_drafter, head="full", n_threads=2)


@pytest.fixture(scope="module")
def shared_llm(demo_target: Path, demo_drafter: Path) -> LLM:
    return LLM(demo_target, drafter=demo_drafter, head="full", n_threads=2)


def slowly(entered: threading.Event) -> Callable[..., None]:
    """A logits processor that makes a text last, and tells when it has begun."""

    def processor(_: npt.NDArray[np.int32], __: npt.NDArray[np.float32]) -> None:
        entered.set()
        time.sleep(0.005)

    return processor


def in_thread(function: Callable[[], Generation]) -> tuple[threading.Thread, list[Generation | BaseException]]:
    found: list[Generation | BaseException] = []

    def work() -> None:
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, found


def ended(thread: threading.Thread, found: list[Generation | BaseException]) -> Any:
    thread.join(UNTIL_ENDED)
    assert not thread.is_alive()
    return found[0]


USES: dict[str, Callable[[LLM], object]] = {
    "generate": lambda llm: llm.generate("x", 4),
    "stream": lambda llm: next(llm.stream("x", 4)),
    "chat": lambda llm: llm.chat([{"role": "user", "content": "x"}]),
    "forward": lambda llm: llm.forward([1]),
    "tokenize": lambda llm: llm.tokenize("x"),
    "detokenize": lambda llm: llm.detokenize([1]),
    "set_head": lambda llm: llm.set_head("full"),
    "save_ranks": lambda llm: llm.save_ranks(),
    "n_ctx": lambda llm: llm.n_ctx,
    "device": lambda llm: llm.device,
}


def test_closed(own: LLM) -> None:
    before = own.generate("x", 8, ignore_eos=True)
    stream = own.stream("x", 8)
    next(stream)
    own.close()
    own.close()
    own.cancel()
    for use in USES.values():
        with pytest.raises(RuntimeError, match=r"^this LLM is closed$"):
            use(own)
    with pytest.raises(RuntimeError, match="this LLM is closed"):
        next(stream)
    assert repr(own).endswith("closed)")
    assert len(before.tokens) == 8


def test_with(demo_target: Path) -> None:
    with LLM(demo_target, n_threads=1) as llm:
        assert llm.generate("x", 3, ignore_eos=True).finish_reason == "length"
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate("x", 3)
    with pytest.raises(ZeroDivisionError), LLM(demo_target, n_threads=1) as other:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="closed"):
        other.generate("x", 3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the resident memory")
def test_closing_frees_the_memory(demo_target: Path) -> None:
    """Though streams and texts of it are still there; what is left is the vocabulary.

    In a process of its own: here others have left memory that is taken again.
    """
    code = """
        import sys
        from frspec_cpp import LLM
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        kept = []
        for number in range(6):
            if number == 1:  # the first one leaves what the process needs once
                before = resident()
            llm = LLM(sys.argv[1], n_ctx=1024, n_threads=1)
            stream = llm.stream("x" * 100, 4)
            next(stream)
            kept.append((llm, stream))
            if sys.argv[2] == "close":
                llm.close()
        print(resident() - before)
    """
    closed, open_ = (
        int(subprocess.check_output([sys.executable, "-c", textwrap.dedent(code), str(demo_target), what]))
        for what in ("close", "")
    )
    assert open_ > 4 * demo_target.stat().st_size
    assert closed < open_ / 2


def test_closing_saves_ranks_that_adapt(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    path = tmp_path / "ranks.gguf"
    with LLM(demo_target, drafter=demo_drafter, head="ranked:256", adapt=path) as llm:
        llm.generate("x", 5, ignore_eos=True)
    assert path.exists()
    folder = tmp_path / "gone"
    folder.mkdir()
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:256", adapt=folder / "ranks.gguf")
    llm.generate("x", 5, ignore_eos=True)
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        llm.close()
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate("x", 5)


@pytest.mark.parametrize("end", [LLM.cancel, LLM.close])
def test_a_text_ends_from_another_thread(own: LLM, end: Callable[[LLM], None]) -> None:
    entered = threading.Event()
    expected = own.generate("x", 200, ignore_eos=True, draft=False).tokens
    thread, found = in_thread(lambda: own.generate("x", logits_processor=slowly(entered), **LONG))
    entered.wait()
    end(own)
    text = ended(thread, found)
    assert text.finish_reason == "cancelled"
    assert 0 < len(text.tokens) < 3000
    assert text.tokens[:200] == expected[: len(text.tokens)]
    assert own.tokenizer.decode(text.tokens) == text.text if end is LLM.cancel else text.text


def test_the_next_text_is_whole(demo_target: Path) -> None:
    """The LLM goes on after a cancelled text, and those that wait for their turn are not cancelled."""
    entered = threading.Event()
    with LLM(demo_target, n_threads=1, n_parallel=1) as llm:
        expected = llm.generate("y", 40, ignore_eos=True).tokens
        first = in_thread(lambda: llm.generate("x", logits_processor=slowly(entered), **LONG))
        entered.wait()
        second = in_thread(lambda: llm.generate("y", 40, ignore_eos=True))
        while not llm._texts.works:
            time.sleep(0.001)
        llm.cancel()
        assert ended(*first).finish_reason == "cancelled"
        assert ended(*second).tokens == expected


def test_a_prompt_is_left(demo_target: Path) -> None:
    inside, cancelled = threading.Event(), threading.Event()
    asked = 0

    class Asked(threading.Event):
        def is_set(self) -> bool:
            """Never; but the pass waits between two layers until somebody else has cancelled the text."""
            nonlocal asked
            asked += 1
            time.sleep(0.025)  # longer than the engine waits between two questions
            if asked == 3:
                inside.set()
                cancelled.wait(UNTIL_ENDED)
            return False

    with LLM(demo_target, n_ctx=2048, n_batch=2048, n_threads=1) as llm:
        thread, found = in_thread(lambda: llm.generate([5, 6, 7, 8] * 500, 1, reuse=False, cancel=Asked()))
        assert inside.wait(UNTIL_ENDED)
        llm.cancel()
        cancelled.set()
        text = ended(thread, found)
        # It is read in one pass: a text that is only heeded after it would have a token.
        assert (text.finish_reason, text.tokens, text.text) == ("cancelled", [], "")
        assert text.prompt_tokens == 2000


def test_an_event(shared_llm: LLM) -> None:
    event, entered = threading.Event(), threading.Event()
    thread, found = in_thread(lambda: shared_llm.generate("x", cancel=event, logits_processor=slowly(entered), **LONG))
    entered.wait()
    event.set()
    assert ended(thread, found).finish_reason == "cancelled"
    text = shared_llm.generate([5, 6, 7] * 600, cancel=event)  # set already
    assert (text.finish_reason, text.tokens) == ("cancelled", [])
    assert "".join(shared_llm.stream("x", cancel=event)) == ""
    event.clear()
    assert shared_llm.generate("x", 4, cancel=event, ignore_eos=True).finish_reason == "length"


def test_a_stream_that_is_cancelled_ends(shared_llm: LLM) -> None:
    whole = shared_llm.generate("x", 60, ignore_eos=True).text
    pieces = []
    for piece in shared_llm.stream("x", 60, ignore_eos=True):
        pieces.append(piece)
        if len(pieces) == 3:
            shared_llm.cancel()
    assert whole.startswith("".join(pieces))
    assert len("".join(pieces)) < len(whole)


def test_what_an_event_may_be(shared_llm: LLM) -> None:
    class Broken:
        def is_set(self) -> bool:
            raise ZeroDivisionError("out of order")

    with pytest.raises(TypeError, match=r"^cancel: found int, expected a threading\.Event$"):
        shared_llm.generate("x", cancel=1)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError, match="out of order"):
        shared_llm.generate("x", cancel=Broken())  # type: ignore[arg-type]
    assert len(shared_llm.generate("x", 3, ignore_eos=True).tokens) == 3


def test_a_logits_processor_may_cancel_but_not_close(shared_llm: LLM) -> None:
    def cancels(ids: npt.NDArray[np.int32], _: npt.NDArray[np.float32]) -> None:
        if len(ids) == 6:
            shared_llm.cancel()

    text = shared_llm.generate([5, 6, 7], logits_processor=cancels, draft=False, **LONG)
    assert (text.finish_reason, len(text.tokens)) == ("cancelled", 4)
    with pytest.raises(RuntimeError, match="a logits processor cannot close it"):
        shared_llm.generate("x", 3, logits_processor=lambda *_: shared_llm.close())
    assert len(shared_llm.generate("x", 3, ignore_eos=True).tokens) == 3


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_llm_cannot_be_copied(shared_llm: LLM, way: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="an LLM cannot be pickled or copied"):
        way(shared_llm)


def test_a_text_can_be_pickled(shared_llm: LLM) -> None:
    text = shared_llm.generate("x", 3, logprobs=2, trace=True)
    assert pickle.loads(pickle.dumps(text)) == text
