"""The run: whose turn it is, what is compared, what is kept, and what is left out."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluations import ScriptedEngine, lines, make_manifest
from frspec_cpp.tools.evaluate import runner
from frspec_cpp.tools.evaluate.prompts import Question, turn_name
from frspec_cpp.tools.evaluate.records import Prompt
from frspec_cpp.tools.evaluate.runner import NotLossless, Runner, order
from frspec_cpp.tools.evaluate.storage import read_failure, read_manifest, read_runs, write_manifest

from frspec_cpp import _core

METHODS = ["plain", "eagle2", "peer", "ngram"]
QUESTIONS = [Question("f:1", "a", ("One.",)), Question("f:2", "b", ("Two.", "Three."))]


class Bar:
    """Counts as a tqdm bar does."""

    def __init__(self) -> None:
        self.total, self.n = 1000, 0

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        """Nothing is shown."""

    def update(self, count: int) -> None:
        """So many texts more."""
        self.n += count


@pytest.fixture(scope="module")
def tokenizer(demo_target: Path) -> _core.Tokenizer:
    """The demo target's."""
    return _core.Tokenizer(str(demo_target))


class Bench:
    """A folder, engines and a way to run them."""

    def __init__(self, folder: Path, tokenizer: _core.Tokenizer, limit: int = 1000) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.engines = {name: ScriptedEngine(name, self.calls) for name in METHODS}
        self.prompts_made: list[tuple[list[str], list[str]]] = []
        self.bar = Bar()
        self._tokenizer = tokenizer
        self._limit = limit
        turns = [(number, turn) for number, one in enumerate(QUESTIONS) for turn in range(1, len(one.turns) + 1)]
        prompts = [
            Prompt(index, turn_name(QUESTIONS[number].name, turn), "a", 0, number, turn)
            for index, (number, turn) in enumerate(turns)
        ]
        if not (folder / "run.json").exists():
            write_manifest(folder, make_manifest(METHODS, prompts))

    def runner(self) -> Runner:
        """A new one, as a command makes it."""
        builder: Any = SimpleNamespace(tokens=self._tokens)
        manifest = read_manifest(self.folder)
        return Runner(self.folder, manifest, QUESTIONS, self.engines, builder, self._tokenizer, self._limit)

    def run(self, warmup: int = 0) -> None:
        """Writes what is missing."""
        self.runner().run(warmup, self.bar)

    def _tokens(self, turns: tuple[str, ...], answers: list[str], system: str) -> list[int]:
        self.prompts_made.append((list(turns), list(answers)))
        return list(range(len("".join([*turns, *answers]))))


def test_every_method_writes_every_prompt(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    assert bench.runner().missing == 4 * 3 * 3
    bench.run()
    found = Counter((run.method, run.prompt, run.repeat) for run in read_runs(tmp_path))
    assert found == Counter(itertools.product(METHODS, range(3), range(3)))
    assert bench.runner().missing == 0
    assert bench.bar.n == 36


def test_what_a_line_holds(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    Bench(tmp_path, tokenizer).run()
    for run in read_runs(tmp_path):
        if run.repeat:
            assert (run.tokens, run.pieces, run.trace, run.said) == (None, None, None, None)
            continue
        assert run.tokens is not None
        assert run.pieces is not None
        assert len(run.tokens) == len(run.pieces) == run.generated == 3
        assert "".join(run.pieces) == tokenizer.decode(run.tokens)
        if run.method == "peer":
            assert run.trace is None
            continue
        assert run.trace is not None
        assert run.trace[0].tokens == run.tokens[1:]
        assert run.said == {"60": tokenizer.token_bytes(60).decode()}


def test_later_turns_hold_the_plain_answers(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.run()
    plain = next(run for run in read_runs(tmp_path) if (run.method, run.prompt, run.repeat) == ("plain", 1, 0))
    assert bench.prompts_made[-1] == (["Two.", "Three."], ["".join(plain.pieces or [])])
    assert [prompt.name for prompt in read_manifest(tmp_path).prompts] == ["f:1", "f:2", "f:2 turn 2"]
    assert read_manifest(tmp_path).prompts[2].tokens == len("Two.Three.") + len("".join(plain.pieces or []))


def test_methods_take_turns_in_changing_order(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.run()
    rounds = [bench.calls[i : i + 4] for i in range(0, len(bench.calls), 4)]
    assert all(sorted(each) == sorted(METHODS) for each in rounds)
    assert all(each[0] == "plain" for each in rounds[::3])  # the traced texts
    assert len({tuple(each) for each in rounds}) > 4
    firsts = Counter(order(0, prompt, repeat, METHODS)[0] for prompt in range(100) for repeat in (1, 2))
    assert all(30 < firsts[name] < 70 for name in METHODS)
    assert order(0, 3, 1, METHODS) == order(0, 3, 1, METHODS)


def test_warm_up_texts_are_not_kept(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.run(warmup=2)
    assert bench.calls[:8] == METHODS * 2
    assert len(bench.calls) == 8 + 36
    assert len(lines(tmp_path)) == 36


def test_a_run_goes_on_at_every_byte(
    tmp_path: Path, tokenizer: _core.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # some thousand times
    Bench(tmp_path, tokenizer).run()
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    cuts = [0, *ends, *(end - 1 for end in ends), *(end - 40 for end in ends)]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        bench = Bench(tmp_path, tokenizer)
        bench.run()
        assert path.read_bytes() == whole
        assert len(bench.calls) == 36 - whole[:cut].count(b"\n")


@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_the_first_difference_stops_the_run(tmp_path: Path, tokenizer: _core.Tokenizer, call: int) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.engines["eagle2"].change = (call, 1)
    with pytest.raises(NotLossless) as caught:
        bench.run()
    name = ["f:1", "f:1", "f:1", "", "f:2"][call - 1]
    message = str(caught.value)
    assert f"method 'eagle2' differs from plain decoding: prompt {name}, token 1 of the text" in message
    expected = (
        next(run for run in read_runs(tmp_path) if run.prompt == call // 4 and run.method == "plain").tokens or []
    )
    right, wrong = expected[1], expected[1] + 1
    for token, word in ((wrong, "found"), (right, "expected")):
        assert f"{word} {token} ({tokenizer.token_bytes(token).decode()!r})" in message
    kept = read_runs(tmp_path)
    assert sum(run.method == "eagle2" for run in kept) == call - 1
    assert all(run.prompt <= call // 4 for run in kept)


def test_what_failed_is_told_until_it_goes_well(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.engines["eagle2"].change = (2, 1)
    for _ in range(2):
        with pytest.raises(NotLossless) as caught:
            bench.run()
        failure = read_failure(tmp_path)
        assert failure is not None
        plain = next(run for run in read_runs(tmp_path) if run.method == "plain")
        expected = (plain.tokens or [])[1]
        assert dataclasses.asdict(failure) == {
            "method": "eagle2",
            "prompt": 0,
            "name": "f:1",
            "repeat": 1,
            "position": 1,
            "expected": expected,
            "found": expected + 1,
            "message": str(caught.value),
        }
        assert not any(run.method == "eagle2" and run.repeat for run in read_runs(tmp_path))
    again = Bench(tmp_path, tokenizer)
    again.engines["eagle2"].change = (2, 0)  # that text goes well, the next does not
    with pytest.raises(NotLossless):
        again.run()
    failure = read_failure(tmp_path)
    assert failure is not None
    assert (failure.prompt, failure.repeat, failure.position) == (0, 2, 0)
    Bench(tmp_path, tokenizer).run()
    assert not (tmp_path / "failed.json").exists()
    assert len(read_runs(tmp_path)) == 36


def test_a_run_without_the_failed_text_leaves_the_file(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.engines["eagle2"].change = (1, 1)
    with pytest.raises(NotLossless):
        bench.run()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    bench.engines["eagle2"].write = interrupted  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert read_failure(tmp_path) is not None


def test_a_full_disk_does_not_hide_the_difference(
    tmp_path: Path, tokenizer: _core.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(runner, "write_failure", full)
    bench = Bench(tmp_path, tokenizer)
    bench.engines["eagle2"].change = (1, 1)
    with pytest.raises(NotLossless):
        bench.run()


def test_a_text_that_ends_otherwise_differs(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    write = bench.engines["eagle2"].write
    bench.engines["eagle2"].write = lambda *given: dataclasses.replace(  # type: ignore[method-assign]
        write(*given), finish_reason="stop"
    )
    with pytest.raises(NotLossless, match="end of the text, after 3 tokens: found 'stop', expected 'length'"):
        bench.run()
    failure = read_failure(tmp_path)
    assert failure is not None
    assert (failure.position, failure.expected, failure.found) == (3, None, None)


def test_a_text_that_ends_early_differs(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.engines["ngram"].shorter = True
    with pytest.raises(NotLossless, match=r"'ngram'.*prompt f:1, token 2 .*found the end of the text, expected \d+"):
        bench.run()


def test_plain_decoding_must_repeat_itself(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.engines["plain"].change = (2, 0)
    with pytest.raises(NotLossless, match="method 'plain' differs"):
        bench.run()


def test_peers_may_differ(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)
    bench.engines["peer"].change = (1, 0)
    bench.run()
    assert bench.runner().missing == 0


def test_a_resumed_run_still_compares(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    Bench(tmp_path, tokenizer).run()
    path = tmp_path / "results.jsonl"
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if b'"method":"ngram","prompt":2' not in line]
    path.write_bytes(b"".join(kept))
    bench = Bench(tmp_path, tokenizer)
    bench.engines["ngram"].change = (1, 0)
    with pytest.raises(NotLossless, match="prompt f:2 turn 2, token 0"):
        bench.run()
    assert bench.calls == ["ngram"]


def test_a_later_turn_that_does_not_fit_is_left_out(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer, limit=11)
    bench.run()
    manifest = read_manifest(tmp_path)
    found = manifest.prompts[2].tokens
    assert found > 11
    assert manifest.left_out == {
        "f:2 turn 2": f"found {found} tokens, expected at most 11, so that the text fits into the context"
    }
    assert {run.prompt for run in read_runs(tmp_path)} == {0, 1}
    assert Bench(tmp_path, tokenizer, limit=11).runner().missing == 0


def test_errors_name_method_and_prompt(tmp_path: Path, tokenizer: _core.Tokenizer) -> None:
    bench = Bench(tmp_path, tokenizer)

    def broken(*_: object) -> None:
        raise RuntimeError("no luck")

    bench.engines["eagle2"].write = broken  # type: ignore[assignment,method-assign]
    with pytest.raises(RuntimeError, match=r"method 'eagle2', prompt f:1: no luck"):
        bench.run()
