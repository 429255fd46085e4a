"""The Python face: LLM and what it gives."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frspec_cpp
from frspec_cpp import LLM

PROMPTS = ["def fibonacci(n):", "Once upon a time", "# Größe, 日本語\n", "Question: how many apples? Answer:"]


def test_generation(llm: LLM) -> None:
    out = llm.generate(PROMPTS[0], max_tokens=30, ignore_eos=True)
    assert out.text == llm.detokenize(out.tokens)  # byte-level BPE: a continuation is spelled as a text of its own is
    assert len(out.tokens) == len(out.drafted) == out.stats.generated_tokens == 30
    assert out.finish_reason == "length"
    assert out.prompt_tokens == out.stats.prompt_tokens == len(llm.tokenize(PROMPTS[0]))
    assert out.drafted[0] is False  # the prompt's own pass gives the first token
    assert out.stats.steps == out.drafted.count(False) - 1 + out.drafted[-1]
    assert 0 < out.stats.prefill_seconds < out.stats.total_seconds
    assert out.stats.draft_seconds + out.stats.verify_seconds < out.stats.total_seconds
    with pytest.raises(dataclasses.FrozenInstanceError):
        out.text = ""  # type: ignore[misc]


def test_trace(llm: LLM) -> None:
    options: dict[str, Any] = {"max_tokens": 30, "ignore_eos": True, "draft": True}
    out = llm.generate(PROMPTS[0], trace=True, **options)
    assert out.tokens == llm.generate(PROMPTS[0], **options).tokens
    assert out.trace is not None
    assert all(isinstance(step, frspec_cpp.Step) for step in out.trace)
    assert [token for step in out.trace for token in step.tokens] == out.tokens[1:]
    assert "".join(llm.stream(PROMPTS[0], trace=True, **options)) == out.text
    with pytest.raises(dataclasses.FrozenInstanceError):
        out.trace[0].nodes = 1  # type: ignore[misc]


def test_greedy_text_is_the_argmax_of_forward(llm: LLM) -> None:
    prompt = llm.tokenize(PROMPTS[1])
    out = llm.generate(prompt, max_tokens=24, ignore_eos=True)
    logits = llm.forward(prompt + out.tokens)
    assert logits.shape == (len(prompt) + 24, llm.vocab_size)
    assert logits.dtype == np.float32
    assert logits.argmax(axis=1)[len(prompt) - 1 : -1].tolist() == out.tokens


@pytest.mark.parametrize(
    ("prompt", "options"),
    [(PROMPTS[0], {}), (PROMPTS[2], {}), (PROMPTS[1], {"temperature": 1.5, "seed": 5, "draft": False})],
    ids=["code", "unicode", "sampled"],  # sampled at random, the text has characters of several tokens
)
def test_stream_is_generate_in_pieces(llm: LLM, prompt: str, options: dict[str, Any]) -> None:
    out = llm.generate(prompt, max_tokens=60, ignore_eos=True, **options)
    pieces = list(llm.stream(prompt, max_tokens=60, ignore_eos=True, **options))
    assert "".join(pieces) == out.text
    assert len(pieces) > 3
    assert all(pieces)


def test_stream_may_be_left_early(llm: LLM) -> None:
    expected = llm.generate(PROMPTS[0], 20).tokens
    for piece in llm.stream(PROMPTS[1], 200):
        assert piece
        break
    assert llm.generate(PROMPTS[0], 20).tokens == expected


def test_streams_beside_each_other(llm: LLM) -> None:
    """Each goes on as if it were alone, whatever is written meanwhile."""
    expected = [llm.generate(prompt, 40).text for prompt in PROMPTS[:2]]
    older, newer = (llm.stream(prompt, 40) for prompt in PROMPTS[:2])
    found = [next(older), next(newer)]
    llm.forward([1, 2, 3])  # which takes all of the cache
    found[1] += next(newer, "")
    assert llm.generate(PROMPTS[1], 40).text == expected[1]
    found[0] += "".join(older)
    found[1] += "".join(newer)
    assert found == expected


def test_a_stream_that_cannot_go_on(demo_target: Path) -> None:
    """What rejection sampling draws depends on what was drafted: nothing could go on in another place."""
    small = LLM(demo_target, n_ctx=128, n_parallel=1)
    older = small.stream(PROMPTS[1], 100, verify="rejection", temperature=1.0)
    next(older)
    assert small.generate(PROMPTS[0], 5).tokens
    with pytest.raises(RuntimeError, match="took its place"):
        next(older)


def test_a_prompt_of_ids(llm: LLM) -> None:
    ids = llm.tokenize(PROMPTS[0])
    expected = llm.generate(PROMPTS[0], 12).tokens
    assert llm.generate(ids, 12).tokens == expected
    assert llm.generate(np.array(ids), 12).tokens == expected  # type: ignore[arg-type]


def test_end_of_generation(llm: LLM) -> None:
    """The engine stops where plain argmax decoding finds an end-of-generation token, which is not handed out."""
    for prompt in PROMPTS:
        out = llm.generate(prompt, 100)
        longer = llm.generate(prompt, 100, ignore_eos=True, draft=False)
        ends = [i for i, token in enumerate(longer.tokens) if llm.tokenizer.is_eog(token)]
        assert out.tokens == longer.tokens[: ends[0] if ends else None]
        assert out.finish_reason == ("stop" if ends else "length")
        assert longer.finish_reason == "length"


def test_context_ends_the_text(demo_target: Path, demo_drafter: Path) -> None:
    small = LLM(demo_target, drafter=demo_drafter, n_ctx=32)
    assert small.n_ctx == 32
    out = small.generate(PROMPTS[0], 500, ignore_eos=True)
    assert out.finish_reason == "length"
    assert len(out.tokens) + out.prompt_tokens == 32


def test_two_engines_in_two_threads(demo_target: Path, demo_drafter: Path, llm: LLM) -> None:
    expected = [llm.generate(prompt, 30, ignore_eos=True).tokens for prompt in PROMPTS[:2]]
    engines = [LLM(demo_target, drafter=demo_drafter, n_threads=1), LLM(demo_target, n_threads=2)]
    found: list[list[list[int]]] = [[], []]

    def work(i: int) -> None:
        for _ in range(3):
            found[i].append(engines[i].generate(PROMPTS[i], 30, ignore_eos=True).tokens)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[expected[0]] * 3, [expected[1]] * 3]


def test_threads_on_one_engine_take_turns(llm: LLM) -> None:
    expected = [llm.generate(prompt, 40).tokens for prompt in PROMPTS]
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: llm.generate(PROMPTS[i], 40).tokens}))  # type: ignore[misc]
        for i in range(len(PROMPTS))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(PROMPTS))] == expected


def test_the_gil_is_released(llm: LLM) -> None:
    """Another thread runs while a text is written, and ends it, though nobody is made to give up the GIL."""
    begin, end = threading.Event(), threading.Event()
    asked = 0

    class Asked(threading.Event):
        def is_set(self) -> bool:
            """Lets the other thread begin when the engine asks again, inside its call."""
            nonlocal asked
            asked += 1
            if asked == 2:
                begin.set()
            return end.is_set()

    def other() -> None:
        begin.wait()
        end.set()

    thread = threading.Thread(target=other)
    before = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    try:
        thread.start()
        out = llm.generate(PROMPTS[1], 2000, ignore_eos=True, cancel=Asked())
    finally:
        sys.setswitchinterval(before)
        begin.set()
        thread.join()
    assert out.finish_reason == "cancelled"


def test_demo_functions(demo_target: Path, llm: LLM) -> None:
    assert frspec_cpp.demo_paths() == (demo_target, demo_target.parent / "demo-eagle3.gguf")
    out = frspec_cpp.generate(PROMPTS[0], max_tokens=10)
    assert out.tokens == llm.generate(PROMPTS[0], 10).tokens
    assert len(out.tokens) == 10


def test_properties(llm: LLM, demo_target: Path) -> None:
    assert llm.architecture == "llama"
    assert llm.has_drafter
    assert not LLM(demo_target).has_drafter
    assert llm.vocab_size == llm.tokenizer.vocab_size == 65536
    assert llm.device.startswith("cpu (")
    assert str(demo_target) in repr(llm)
    sets = [name for name in frspec_cpp.cpu_instruction_sets() if name != "amx-emulated"]
    assert sets[-1] == "generic"
    assert f"cpu ({os.environ.get('FRSPEC_CPU', sets[0])}, " in llm.device


def test_tokenize_and_back(llm: LLM) -> None:
    for prompt in PROMPTS:
        ids = llm.tokenize(prompt)
        assert llm.detokenize(ids) == prompt
        assert ids == [llm.tokenizer.bos_id, *llm.tokenize(prompt, add_special=False)]
