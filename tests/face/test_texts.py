"""Several texts of one LLM: lists, the queue, conversations and asyncio. Each is what it is alone."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, with_templates

from frspec_cpp import (
    LLM,
    AsyncLLM,
    Cancelled,
    Generation,
    NotAccepting,
    Piece,
    QueueFull,
    QueueTimeout,
    Started,
)

PROMPTS = ["def f(", "Once upon", [5, 6, 7]]


@pytest.fixture(scope="module")
def chatty(demo_target: Path, demo_drafter: Path, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    path = with_templates(demo_target, tmp_path_factory.mktemp("texts") / "chatty.gguf", CHATML)
    return LLM(path, drafter=demo_drafter, head="full", tree="3,4,8", n_threads=1)


def test_a_list_gives_a_list(llm: LLM) -> None:
    alone = [llm.generate(prompt, 9, temperature=0.8, seed=4).tokens for prompt in PROMPTS]
    assert [text.tokens for text in llm.generate(PROMPTS, 9, temperature=0.8, seed=4)] == alone
    assert [text.tokens for text in llm.generate(tuple(PROMPTS), 9, temperature=0.8, seed=4)] == alone


def test_options_may_be_lists(llm: LLM) -> None:
    seeds, limits, stops = [1, 2, 3], [4, 5, None], [["e"], None, ["x", "a"]]
    alone = [
        llm.generate(prompt, limit or 20, temperature=t, seed=seed, stop=stop).text
        for prompt, limit, t, seed, stop in zip(PROMPTS, limits, [0.0, 0.5, 1.0], seeds, stops, strict=True)
    ]
    limits[2] = 20
    found = llm.generate(PROMPTS, limits, temperature=[0.0, 0.5, 1.0], seed=seeds, stop=stops)
    assert [text.text for text in found] == alone
    # Of what is a list already, one holds for all.
    alone = [llm.generate(prompt, 20, stop=["e", "a"]).text for prompt in PROMPTS]
    assert [text.text for text in llm.generate(PROMPTS, 20, stop=["e", "a"])] == alone


def test_lists_of_another_length(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"seed: found a list of 2, expected one value, or 3"):
        llm.generate(PROMPTS, 4, seed=[1, 2])
    with pytest.raises(ValueError, match="prompt"):
        llm.generate([])
    with pytest.raises(TypeError, match="top_k: found 'x'"):  # none is written before all are checked
        llm.generate(PROMPTS, 4, logits_processor=lambda *_: pytest.fail("was written"), top_k=[1, 2, "x"])
    with pytest.raises(ValueError, match="id 99999999"):
        llm.generate(["x", [99999999]], 4, logits_processor=lambda *_: pytest.fail("was written"))


def test_submitted_texts(llm: LLM) -> None:
    alone = [llm.generate(prompt, 9, temperature=0.8, seed=4) for prompt in PROMPTS]
    pending = [llm.submit(prompt, 9, temperature=0.8, seed=4) for prompt in PROMPTS]
    assert "".join(pending[1]) == alone[1].text
    assert [text.result().tokens for text in pending] == [text.tokens for text in alone]
    assert pending[0].result().text == alone[0].text  # as often as one likes
    events = list(llm.submit("def f(", 9, temperature=0.8, seed=4, logprobs=2).events())
    assert isinstance(events[0], Started)
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [token.id for piece in pieces for token in piece.tokens] == alone[0].tokens
    end = events[-1]
    assert isinstance(end, Generation)
    assert [p for piece in pieces for p in piece.logprobs or []] == end.logprobs


def test_the_order_of_texts(llm: LLM) -> None:
    order: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: order.append(name)

    with llm._lock:  # nothing is written meanwhile
        begun = llm.submit("x", 1, logits_processor=note("begun"))
        while not llm._texts.running():
            pass
        given = [("low", 9), ("first", 2), ("second", 2), ("high", 0)]
        pending = [llm.submit("x", 1, priority=p, logits_processor=note(name)) for name, p in given]
    for text in [begun, *pending]:
        text.result()
    assert order == ["begun", "high", "first", "second", "low"]


def test_who_has_waited_long_is_next(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from frspec_cpp import turns

    monkeypatch.setattr(turns, "LONG_WAIT", 0.0)
    order: list[int] = []
    with llm._lock:
        begun = llm.submit("x", 1)
        while not llm._texts.running():
            pass
        pending = [llm.submit("x", 1, priority=p, logits_processor=lambda *_, p=p: order.append(p)) for p in (9, 0, 5)]
    for text in [begun, *pending]:
        text.result()
    assert order == [9, 0, 5]


def test_errors_belong_to_whoever_asked(llm: LLM) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("mine")

    def exits(*_: Any) -> None:
        raise SystemExit

    bad, worse, good = (
        llm.submit("x", 2, logits_processor=fails),
        llm.submit("x", 2, logits_processor=exits),
        llm.submit("x", 2),
    )
    with pytest.raises(ZeroDivisionError, match="mine"):
        bad.result()
    with pytest.raises(ZeroDivisionError):
        bad.result()
    with pytest.raises(RuntimeError, match="SystemExit"):
        worse.result()
    assert len(good.result().tokens) == 2
    with pytest.raises(ValueError, match="min_tokens"):  # only the engine knows
        llm.submit("x", 2, min_tokens=5).result()
    with pytest.raises(ValueError, match="priority: found 10"):
        llm.submit("x", 2, priority=10)
    with pytest.raises(TypeError, match="unknown keyword argument 'tmperature'"):
        llm.submit("x", 2, tmperature=1)  # type: ignore[call-arg]


def test_cancelling(llm: LLM) -> None:
    with llm._lock:
        begun = llm.submit("x", 500, ignore_eos=True)
        waits = llm.submit("x", 5)
        behind = llm.submit("x", 5)
        while not llm._texts.running():
            pass
        waits.cancel()
        begun.cancel()
    with pytest.raises(Cancelled):
        waits.result()
    text = begun.result()
    assert text.finish_reason == "cancelled"
    assert len(text.tokens) < 500
    assert len(behind.result().tokens) == 5
    behind.cancel()  # that has ended


def waits_for_cancel(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A logits processor that lets a text go on only once the LLM cancels it."""
    gate = threading.Event()
    cancel = llm.cancel

    def cancelled() -> None:
        cancel()
        gate.set()

    monkeypatch.setattr(llm, "cancel", cancelled)
    return lambda *_: gate.wait(60) and None


def test_closing_with_texts_in_the_queue(demo_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(demo_target, n_threads=1, n_parallel=1)
    processor = waits_for_cancel(llm, monkeypatch)
    pending = [llm.submit("x", 400, ignore_eos=True, logits_processor=processor) for _ in range(3)]
    assert isinstance(next(pending[0].events()), Started)
    llm.close()
    assert pending[0].result().finish_reason == "cancelled"
    for text in pending[1:]:
        with pytest.raises(RuntimeError, match="closed"):
            text.result()


def test_nothing_keeps_an_llm(demo_target: Path) -> None:
    """Its memory is free when nobody has it and its texts are written."""
    llm = LLM(demo_target, n_threads=1)
    gc.disable()
    try:
        pending = llm.submit("x", 3)
        pending.result()
        while threading.active_count() > 1 and any(t.name == "frspec-texts" for t in threading.enumerate()):
            pass
        gone = weakref.ref(llm)
        del llm, pending
        assert gone() is None
    finally:
        gc.enable()


def test_a_forked_process_has_a_queue_of_its_own(demo_target: Path) -> None:
    code = """
        import os, sys
        import frspec_cpp
        llm = frspec_cpp.LLM(sys.argv[1], n_threads=1)
        expected = llm.submit("x", 5).result().tokens
        llm._texts._lock.acquire()  # as a thread might that the child does not have
        child = os.fork()
        if child == 0:
            os._exit(llm.submit("x", 5).result().tokens != expected)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code), demo_target], timeout=120, check=False)
    assert result.returncode == 0


def test_a_conversation(chatty: LLM) -> None:
    chat = chatty.conversation("Be brief.", max_tokens=8, ignore_eos=True)
    system = {"role": "system", "content": "Be brief."}
    first = chat.ask("Hello")
    messages: list[dict[str, Any]] = [system, {"role": "user", "content": "Hello"}]
    assert first.text == chatty.chat(messages, 8, ignore_eos=True).text
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "More"}]
    expected = chatty.chat(messages, 5, ignore_eos=True).text
    assert "".join(chat.stream("More", max_tokens=5)) == expected
    messages.append({"role": "assistant", "content": expected})
    assert chat.messages == messages
    pieces = chat.stream({"role": "user", "content": "And?"})
    begin = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert chat.messages[len(messages) :] == [
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": begin},
    ]
    with pytest.raises(ValueError, match="image"):
        chat.ask({"role": "user", "content": [{"type": "image_url"}]})
    assert len(chat.messages) == len(messages) + 2
    chat.reset()
    assert chat.messages == [system]
    assert chatty.conversation().messages == []


def test_asyncio(chatty: LLM) -> None:
    prompts = ["def f(", "Once upon", "import "]
    alone = [chatty.generate(prompt, 9, temperature=0.8, seed=4) for prompt in prompts]
    messages = [{"role": "user", "content": "Hello"}]
    answer = chatty.chat(messages, 6).text

    async def joined(pieces: AsyncIterator[str]) -> str:
        return "".join([piece async for piece in pieces])

    async def run() -> None:
        async with AsyncLLM(chatty) as llm:
            texts = await asyncio.gather(*(llm.generate(p, 9, temperature=0.8, seed=4) for p in prompts))
            assert [text.tokens for text in texts] == [text.tokens for text in alone]
            streams = [joined(llm.stream(p, 9, temperature=0.8, seed=4, priority=3)) for p in prompts]
            assert await asyncio.gather(*streams) == [text.text for text in alone]
            assert (await llm.chat(messages, 6)).text == answer
            assert await joined(llm.stream_chat(messages, 6)) == answer
            text = llm.submit("def f(", 9, temperature=0.8, seed=4)
            assert "".join([piece async for piece in text]) == alone[0].text

    asyncio.run(run())
    assert chatty.generate("x", 2).tokens  # it was not the AsyncLLM's own


def test_asyncio_loads_and_closes(demo_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        llm = AsyncLLM(demo_target, n_threads=1, n_parallel=1)
        with pytest.raises(RuntimeError, match="not loaded"):
            llm.submit("x")
        async with llm:
            assert llm.is_loaded
            processor = waits_for_cancel(llm.llm, monkeypatch)
            pending = llm.submit("x", 400, ignore_eos=True, logits_processor=processor)
            waits = llm.submit("x", 5)
            while not llm.running():
                await asyncio.sleep(0)
        assert (await pending.result()).finish_reason == "cancelled"
        with pytest.raises(NotAccepting):
            await waits.result()
        with pytest.raises(NotAccepting):
            llm.submit("x")
        with pytest.raises(RuntimeError, match="closed"):
            llm.llm.generate("x")

    asyncio.run(run())
    with pytest.raises(FileNotFoundError):
        asyncio.run(AsyncLLM("/none.gguf").load())


def test_leaving_a_loop_or_a_task_ends_its_text(llm: LLM) -> None:
    async def run() -> None:
        texts = AsyncLLM(llm)
        stream = texts.stream("x", 500, ignore_eos=True)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        gate = threading.Event()
        slow = texts.generate("x", 500, ignore_eos=True, logits_processor=lambda *_: gate.wait(60) and None)
        task = asyncio.create_task(slow)
        while not texts.running():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert len((await texts.generate("x", 3)).tokens) == 3  # behind both

    asyncio.run(run())


def test_limits_of_the_queue(llm: LLM) -> None:
    async def run() -> None:
        texts = AsyncLLM(llm, max_queue=2, max_queued_tokens=10)
        with llm._lock:
            pending = [texts.submit([5], 2)]
            while not texts.running():
                await asyncio.sleep(0)
            pending += [texts.submit([5] * 4, 2), texts.submit([5] * 4, 2)]
            with pytest.raises(QueueFull, match="found 2 texts") as full:
                texts.submit([5], 2)
            assert 1 <= full.value.retry_after <= 60
            pending.pop().cancel()
            with pytest.raises(QueueFull, match="4 prompt tokens"):
                texts.submit([5] * 7, 2)
            late = texts.submit([5], 2, timeout=0.0)
            with pytest.raises(QueueTimeout):
                await late.result()
        for text in pending:
            assert len((await text.result()).tokens) == 2
        long = await texts.submit("x", 500, ignore_eos=True, max_seconds=0.0).result()
        assert long.finish_reason == "length"
        assert 0 < len(long.tokens) < 500

    asyncio.run(run())


def test_a_loop_that_ends_before_its_texts(llm: LLM) -> None:
    """Nobody can be told any more; the next one is written."""

    async def run() -> None:
        AsyncLLM(llm).submit("x", 300, ignore_eos=True)

    asyncio.run(run())
    assert len(llm.submit("x", 3).result().tokens) == 3
