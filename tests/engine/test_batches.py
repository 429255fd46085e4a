"""Texts that are written together are what they are alone, bit for bit, whoever joins or leaves."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.make_random_model import make_random_model
from qwen35 import write_hybrid
from text_options import ENDS, SAMPLERS
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import LLM, _core
from frspec_cpp.options import Options, native

FIXED = {"tree": (2, 3, 8), "head": "full"}
KINDS = ["plain", "eagle2", "eagle3", "contextual", "ngram", "eagle and ngram", "model", "tli", "slem", "auto"]
HYBRID = ["hybrid", "mtp"]  # a model with recurrent layers, and its own drafter


@pytest.fixture(scope="module")
def eagle2(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("eagle2"))


@pytest.fixture(scope="module")
def eagle3(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_eagle3(tmp_path_factory.mktemp("eagle3"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, eagle2: TinyPair) -> Path:
    """A smaller model with the target's vocabulary."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    make_random_model(path, "tiny", "f32", eagle2.target_gguf, quiet=True)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another vocabulary."""
    folder = tmp_path_factory.mktemp("other")
    convert(make_checkpoint(folder / "other", "qwen2", seed=5), folder / "other.gguf", "f32", quiet=True)
    return folder / "other.gguf"


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hybrid(tmp_path_factory.mktemp("hybrid"))


@pytest.fixture
def make(eagle2: TinyPair, eagle3: TinyPair, model: Path, other: Path, hybrid: Path) -> Callable[..., LLM]:
    def made(kind: str, **options: Any) -> LLM:
        of: dict[str, tuple[Path, dict[str, Any]]] = {
            "plain": (eagle2.target_gguf, {}),
            "eagle2": (eagle2.target_gguf, {"drafter": eagle2.drafter_gguf, **FIXED}),
            "eagle3": (eagle3.target_gguf, {"drafter": eagle3.drafter_gguf, **FIXED}),
            "contextual": (eagle2.target_gguf, {"drafter": eagle2.drafter_gguf, **FIXED, "head": "contextual:60"}),
            "ngram": (eagle2.target_gguf, {"ngram": 4, "tree": (2, 3, 8)}),
            "eagle and ngram": (eagle2.target_gguf, {"drafter": eagle2.drafter_gguf, **FIXED, "ngram": 3}),
            "model": (eagle2.target_gguf, {"drafter": model, **FIXED}),
            "tli": (eagle2.target_gguf, {"drafter": other, **FIXED, "translate": "tli"}),
            "slem": (eagle2.target_gguf, {"drafter": other, **FIXED, "translate": "slem"}),
            "auto": (eagle2.target_gguf, {"drafter": other}),
            "hybrid": (hybrid, {}),
            "mtp": (hybrid, {"drafter": "mtp", **FIXED}),
        }
        path, own = of[kind]
        return LLM(path, **{"n_ctx": 320, "n_threads": 1, "n_batch": 48, **own, **options})

    return made


def quiet_tail(ids: Any, logits: Any) -> None:
    """A pure function of the text that changes what is said."""
    logits[(int(ids[-1]) * 7 + len(ids)) % 50 :: 9] += 1.5


@dataclass
class Request:
    """What is asked for, and when: in which step it comes, and in which it is cancelled."""

    prompt: list[int]
    options: dict[str, Any]
    comes: int = 0
    leaves: int | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    text: str = ""
    reason: str | None = None


def random_request(rng: random.Random, shared: list[int], drafts: bool) -> Request:
    prompt = [rng.randrange(5, 400) for _ in range(rng.choice([1, 2, 9, 40, 64, 65, 130]))]
    if rng.random() < 0.4:
        prompt = shared[: rng.choice([20, 64, 100, 128])] + prompt[:40]
    if rng.random() < 0.3:
        prompt = (prompt * 3)[-100:]
    options: dict[str, Any] = {
        "max_tokens": rng.choice([1, 2, 7, 20, 45]),
        "ignore_eos": rng.random() < 0.7,
        "seed": rng.randrange(1 << 40),
        "temperature": rng.choice([0.0, 0.0, 0.7, 1.3]),
        "reuse": rng.random() < 0.8,
        "salt": rng.choice(["", "", "other"]),
    }
    extra: list[dict[str, Any]] = [
        *SAMPLERS,
        {"logit_bias": {7: 4.0, 11: float("-inf")}},
        {"logprobs": 3},
        *ENDS,
        {"logits_processor": quiet_tail},
        {"trace": True},
    ]
    for more in rng.sample(extra, rng.randrange(4)):
        options.update(more)
    if drafts:
        options["draft"] = rng.choice(["auto", "always", "always", "sparse"])
    return Request(prompt, options, comes=rng.randrange(25), leaves=rng.choice([None, None, None, rng.randrange(40)]))


def begin(engine: _core.Engine, request: Request, **changed: Any) -> _core.Generation:
    options = {**request.options, **changed}
    most = options.pop("max_tokens")
    draft = options.pop("draft", "auto")
    known = native(engine.vocab_size, **Options(**options))  # type: ignore[typeddict-item]
    return engine.begin(request.prompt, max_tokens=most, **{**known, "draft": draft})


def alone(engine: _core.Engine, request: Request, **changed: Any) -> Request:
    """The same request, and nobody else."""
    text = begin(engine, request, reuse=False, **changed)
    given = text.run()
    return Request(
        request.prompt,
        request.options,
        tokens=[token for token, _, _ in given],
        logprobs=text.logprobs,
        text="".join([piece for _, _, piece in given]) + text.closing_text,
        reason=text.finish_reason,
    )


@dataclass
class Course:
    """What happened while texts were written together."""

    shared: int = 0  # steps that gave tokens to several
    drafted: int = 0  # steps of texts, with drafts
    read: int = 0  # tokens of prompts that others had left in the cache


def write_together(engine: _core.Engine, requests: list[Request], most: int) -> Course:
    """All of them, each from the step on in which it comes, and at most so many at once."""
    waiting = sorted(requests, key=lambda request: request.comes)
    running: list[tuple[Request, _core.Generation]] = []
    course = Course()
    for step in range(4000):
        while waiting and waiting[0].comes <= step and len(running) < most:
            request = waiting.pop(0)
            running.append((request, begin(engine, request)))
        if not waiting and not running:
            return course
        for request, text in running:
            if request.leaves is not None and step >= request.comes + request.leaves:
                text.cancel()
        given = _core.Generation.step_together([text for _, text in running])
        course.shared += sum(bool(fresh) for fresh in given) > 1
        for (request, text), fresh in zip(running, given, strict=True):
            if fresh is None:
                text.raise_error()
                raise AssertionError
            request.tokens += [token for token, _, _ in fresh]
            request.text += "".join([piece for _, _, piece in fresh])
            if text.finish_reason is not None:
                request.text += text.closing_text
                request.reason = text.finish_reason
                request.logprobs = text.logprobs
                assert text.stats.drafter_error == ""
                assert text.stats.generated_tokens == len(request.tokens)
                course.drafted += text.stats.drafted_steps
                course.read += text.stats.cached_tokens
        running = [(request, text) for request, text in running if text.finish_reason is None]
    raise AssertionError("the texts have no end")


def check(found: Request, expected: Request) -> None:
    assert found.reason in (expected.reason, "cancelled"), found.options
    if found.reason == "cancelled":
        assert found.tokens == expected.tokens[: len(found.tokens)], found.options
        return
    assert found.tokens == expected.tokens, found.options
    assert found.text == expected.text
    assert found.logprobs == expected.logprobs


def plain_of(kind: str) -> str:
    """The kind that has the same target and no drafter, or does not use it."""
    return "eagle3" if kind == "eagle3" else "hybrid" if kind in HYBRID else "plain"


@pytest.mark.parametrize("kind", [*KINDS, *HYBRID])
def test_random_requests(make: Callable[..., LLM], kind: str) -> None:
    rng = random.Random(10 if kind in HYBRID else KINDS.index(kind))
    together, single = make(kind, n_parallel=4)._engine, make(plain_of(kind))._engine
    shared = [rng.randrange(5, 400) for _ in range(150)]
    drafts = kind not in ("plain", "hybrid")
    requests = [random_request(rng, shared, drafts) for _ in range(24)]
    course = write_together(together, requests, 6)
    assert course.shared > 20
    assert course.read > 0
    if kind != "auto":  # which the clock decides
        assert (course.drafted > 5) == drafts
    for request in requests:
        check(request, alone(single, request, draft="never"))


@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if kind not in ("plain", "contextual", "auto")), "mtp"])
def test_drafts_are_the_same(make: Callable[..., LLM], kind: str) -> None:
    """A drafter that took one text for another would show in its drafts alone."""
    rng = random.Random(3)
    together, single = make(kind, n_parallel=4, n_batch=160), make(kind, n_parallel=1)
    prompts = [random_request(rng, [5] * 150, True).prompt for _ in range(7)]
    options: dict[str, Any] = {"temperature": 0.6, "draft": True, "ignore_eos": True, "reuse": False, "trace": True}
    expected = [single.generate(prompt, 25, **options) for prompt in prompts]
    found = together.generate(prompts, 25, **options)
    assert [text.tokens for text in found] == [text.tokens for text in expected]
    assert [text.drafted for text in found] == [text.drafted for text in expected]
    for text, other in zip(found, expected, strict=True):
        assert [(step.nodes, step.offered) for step in text.trace or []] == [
            (step.nodes, step.offered) for step in other.trace or []
        ]


@pytest.mark.parametrize("kind", ["plain", "model", "mtp"])
def test_few_pages(eagle2: TinyPair, model: Path, hybrid: Path, kind: str) -> None:
    """Pages for one text and a bit: those that came last make room, wait and go on."""
    target, drafter = (hybrid, "mtp") if kind == "mtp" else (eagle2.target_gguf, str(model))
    own: dict[str, Any] = {} if kind == "plain" else {"drafter": drafter, "head": "full", "tree": "2,3,8"}
    limits: dict[str, Any] = {"n_ctx": 300, "n_threads": 1, "n_batch": 48}
    engine = _core.Engine(str(target), **own, **limits, n_parallel=5, spare=0.4)
    rng = random.Random(5)
    requests = [random_request(rng, [5], kind != "plain") for _ in range(12)]
    for request in requests:
        request.comes, request.leaves = 0, None
        request.options = {**request.options, "max_tokens": 120, "ignore_eos": True, "stop": None, "min_tokens": 0}
        request.options.pop("stop_token_ids", None)
    write_together(engine, requests, 5)
    assert engine.displaced > 3
    single = _core.Engine(str(target), **limits)
    for request in requests:
        check(request, alone(single, request, draft="never"))


@pytest.mark.parametrize(
    ("kind", "options", "passes"),
    [
        ("plain", {"n_batch": 512}, 8),  # of 64 rows
        ("eagle2", {"n_batch": 32, "tree": (2, 3, 40)}, 15),
        ("plain", {"n_batch": 200, "step_ms": 10**9}, 3),  # of 64, and, when it is known what rows take, of all
    ],
)
def test_a_long_prompt_stops_nobody(make: Callable[..., LLM], kind: str, options: dict[str, Any], passes: int) -> None:
    """No piece of it is larger than what a drafter reads at once, however large trees are."""
    engine = make(kind, n_ctx=500, n_parallel=2, **options)._engine
    short = Request([7] * 4, {"max_tokens": 60, "ignore_eos": True, "draft": "never"})
    long = Request([9] * 450, {"max_tokens": 5, "ignore_eos": True, "draft": "never"})
    texts = [begin(engine, short)]
    _core.Generation.step_together(texts)
    texts.append(begin(engine, long))
    steps = 0
    found: list[int] = []
    while not found:
        first, second = _core.Generation.step_together(texts)
        assert first is not None
        assert second is not None
        assert len(first) == 1
        found = [token for token, _, _ in second]
        steps += 1
    assert steps == passes
    assert found == alone(engine, long).tokens[:1]


def test_trees_of_hybrids_that_find_little_room(make: Callable[..., LLM]) -> None:
    """What is kept of a pass's nodes is bounded: trees are cut to that, and drafts are made for who has room."""
    llm = make("mtp", n_parallel=8, n_batch=256, tree=(3, 4, 40))  # 128 nodes in a pass
    prompts = [[7, 8, 9, number] for number in range(5, 11)]
    options: dict[str, Any] = {"draft": True, "ignore_eos": True, "trace": True}
    found = llm.generate(prompts, 12, **options)
    assert [text.tokens for text in found] == [
        llm.generate(prompt, 12, draft=False, ignore_eos=True).tokens for prompt in prompts
    ]
    nodes = [[step.nodes for step in text.trace or []] for text in found]
    first = [steps[0] for steps in nodes]
    assert sorted(first, reverse=True) == [40, 40, 40, 8, 1, 1]


@pytest.mark.parametrize("kind", ["eagle2", "mtp"])
def test_what_fails_ends_one_text(make: Callable[..., LLM], kind: str) -> None:
    llm = make(kind, n_parallel=4)

    def fails(ids: Any, logits: Any) -> None:
        if len(ids) == 12:
            raise ZeroDivisionError("mine")
        if len(ids) == 14:
            logits[:] = float("-inf")

    expected = [llm.generate([5, 6, last], 20, ignore_eos=True).tokens for last in (7, 8)]
    good = [llm.submit([5, 6, last], 20, ignore_eos=True) for last in (7, 8)]
    bad = llm.submit([5] * 9, 20, logits_processor=fails, ignore_eos=True)
    none_left = llm.submit([5] * 13, 20, logits_processor=fails, ignore_eos=True)
    with pytest.raises(ZeroDivisionError, match="mine"):
        bad.result()
    with pytest.raises(RuntimeError, match="no finite largest value"):
        none_left.result()
    assert [text.result().tokens for text in good] == expected
    text = begin(llm._engine, Request([5, 6], {"max_tokens": 4}))
    with pytest.raises(ValueError, match="twice"):
        _core.Generation.step_together([text, text])
    with pytest.raises(ValueError, match="two engines"):
        _core.Generation.step_together([text, begin(make("plain")._engine, Request([5], {"max_tokens": 4}))])


def test_rejection_sampling_goes_alone(make: Callable[..., LLM]) -> None:
    llm = make("eagle2", tree=(3, 1, 5), n_parallel=3)
    options: dict[str, Any] = {"verify": "rejection", "temperature": 0.9, "seed": 3, "ignore_eos": True}
    prompts = [[5, 6, last] for last in (7, 8, 9)]
    expected = [llm.generate(prompt, 25, **options).tokens for prompt in prompts]
    keyed = llm.generate([5], 25, ignore_eos=True).tokens
    beside = llm.submit([5], 25, ignore_eos=True)
    assert [text.tokens for text in llm.generate(prompts, 25, **options)] == expected
    assert beside.result().tokens == keyed
    native_options = {**options, "seed": 3, "max_tokens": 3}
    texts = [begin(llm._engine, Request([5], more)) for more in (native_options, {"max_tokens": 3})]
    assert _core.Generation.step_together(texts)[0] is None
    with pytest.raises(ValueError, match="expected that it is alone"):
        texts[0].raise_error()


def test_rejection_sampling_of_a_long_prompt(make: Callable[..., LLM]) -> None:
    """One that is read in several passes, from the queue, too."""
    llm = make("eagle2", tree=(3, 1, 5), n_parallel=3, n_batch=8)
    options: dict[str, Any] = {"verify": "rejection", "temperature": 0.9, "seed": 3, "ignore_eos": True}
    prompt = list(range(5, 35))
    assert llm.submit(prompt, 10, **options).result().tokens == llm.generate(prompt, 10, **options).tokens


@pytest.mark.parametrize("kind", ["plain", "mtp"])
def test_a_single_place(make: Callable[..., LLM], kind: str) -> None:
    """Prompts of several passes from the queue, where there is nobody to share a pass with."""
    prompts = [[7] * 130, [9, 8] * 65, [5]]
    alone = make(kind, n_batch=512, n_parallel=4)
    expected = [alone.generate(prompt, 12, ignore_eos=True).tokens for prompt in prompts]
    found = make(kind, n_batch=48, n_parallel=1).generate(prompts, 12, ignore_eos=True)
    assert [text.tokens for text in found] == expected


def test_slrs_follows_one_text(shared: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.gguf" for name in ("stories260K", "babyllama105-936K")]
    for path in paths:
        convert(shared / "data/models" / path.stem, path, "f32", quiet=True)
    llm = LLM(paths[0], paths[1], translate="slrs", tree=(1, 2, 3), head="full", n_parallel=4)
    assert llm.n_parallel == 1
    found = llm.generate(["The dog", "Tom"], 12, draft=True)
    assert [text.tokens for text in found] == [llm.generate(p, 12, draft=False).tokens for p in ("The dog", "Tom")]


def test_calls_of_several_threads(make: Callable[..., LLM]) -> None:
    """They join one that runs already, and go on without it."""
    llm = make("eagle2", n_parallel=4)
    prompts = [[5, 6, last] for last in range(7, 13)]
    expected = [llm.generate(prompt, 40, ignore_eos=True).tokens for prompt in prompts]
    found: dict[int, list[int]] = {}
    together: list[int] = []
    all_there = threading.Barrier(len(prompts))

    def look(ids: Any, logits: Any) -> None:
        while not llm._texts.works and not together:  # the first one, alone: others are about to come
            time.sleep(0.001)
        together.append(len(llm._texts.running()))

    def write(number: int) -> None:
        all_there.wait()
        found[number] = llm.generate(prompts[number], 40, ignore_eos=True, logits_processor=look).tokens

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(prompts))] == expected
    assert max(together) > 1


@pytest.mark.every_device
@pytest.mark.parametrize("kind", ["plain", "eagle2", "mtp"])
def test_streams_in_turn(make: Callable[..., LLM], kind: str) -> None:
    """A step that a device has begun ahead is no other text's."""
    llm = make(kind, n_parallel=2)
    prompts = ([5, 6, 7], [9, 8, 7, 6])
    expected = [llm.generate(prompt, 16, ignore_eos=True, draft="always").text for prompt in prompts]
    streams = [llm.stream(prompt, 16, ignore_eos=True, draft="always") for prompt in prompts]
    found = ["", ""]
    for _ in range(17):
        for number, stream in enumerate(streams):
            found[number] += next(stream, "")
    assert found == expected


@pytest.mark.every_isa
@pytest.mark.every_device
@pytest.mark.parametrize("kind", ["plain", "eagle2", "hybrid", "mtp"])
def test_every_device(make: Callable[..., LLM], kind: str) -> None:
    rng = random.Random(7)
    engine, single = make(kind, n_parallel=3)._engine, make(plain_of(kind))._engine
    requests = [random_request(rng, [9] * 150, kind not in ("plain", "hybrid")) for _ in range(7)]
    for request in requests:
        request.comes = rng.randrange(3)
        request.options["max_tokens"] = min(request.options["max_tokens"], 8)
    assert write_together(engine, requests, 3).shared > 2
    for request in requests:
        check(request, alone(single, request, draft="never"))
