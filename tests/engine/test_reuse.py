"""What earlier texts have left in the caches saves reading, and changes nothing: neither the text nor the drafts."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.make_random_model import make_random_model
from qwen35 import write_hybrid
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import LLM, Generation, _core

TOKENS = 30
FIXED = {"tree": (2, 4, 12), "head": "full"}
PAGE = 64


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
    checkpoint = make_checkpoint(folder / "other", "qwen2", seed=5)
    convert(checkpoint, folder / "other.gguf", "f32", quiet=True)
    return folder / "other.gguf"


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with recurrent layers and a drafter of its own."""
    return write_hybrid(tmp_path_factory.mktemp("hybrid"))


HYBRID = ["hybrid", "hybrid ngram", "mtp"]
KINDS = ["plain", "eagle2", "eagle3", "contextual", "ngram", "eagle and ngram", "model", "tli", "slem", *HYBRID]


@pytest.fixture
def make(eagle2: TinyPair, eagle3: TinyPair, model: Path, other: Path, hybrid: Path) -> Callable[..., LLM]:
    def made(kind: str, **options: Any) -> LLM:
        of: dict[str, tuple[Path, dict[str, Any]]] = {
            "plain": (eagle2.target_gguf, {}),
            "eagle2": (eagle2.target_gguf, {"drafter": eagle2.drafter_gguf, **FIXED}),
            "eagle3": (eagle3.target_gguf, {"drafter": eagle3.drafter_gguf, **FIXED}),
            "contextual": (eagle2.target_gguf, {"drafter": eagle2.drafter_gguf, **FIXED, "head": "contextual:60"}),
            "ngram": (eagle2.target_gguf, {"ngram": 4, "tree": (2, 4, 12)}),
            "eagle and ngram": (eagle2.target_gguf, {"drafter": eagle2.drafter_gguf, **FIXED, "ngram": 3}),
            "model": (eagle2.target_gguf, {"drafter": model, **FIXED}),
            "tli": (eagle2.target_gguf, {"drafter": other, **FIXED, "translate": "tli"}),
            "slem": (eagle2.target_gguf, {"drafter": other, **FIXED, "translate": "slem"}),
        }
        of["hybrid"] = hybrid, {}
        of["hybrid ngram"] = hybrid, {"ngram": 4, "tree": (2, 4, 12)}
        of["mtp"] = hybrid, {"drafter": "mtp", **FIXED}
        path, own = of[kind]
        return LLM(path, **{"n_ctx": 500, "n_threads": 1, **own, **options})

    return made


def write(llm: LLM, prompt: list[int], **options: Any) -> Generation:
    return llm.generate(prompt, **{"max_tokens": TOKENS, "ignore_eos": True, "draft": True, "trace": True, **options})


def what(text: Generation) -> tuple[Any, ...]:
    """The text and the drafts: all that must not depend on what was reused."""
    steps = [(step.tokens, step.accepted, step.nodes, step.offered) for step in text.trace or []]
    return text.tokens, text.drafted, steps


def ids(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(5, 400) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_hits_equal_misses(make: Callable[..., LLM], kind: str) -> None:
    """Turns of a chat, the same again, beginnings that part within a page and at its border: as a fresh engine."""
    llm, fresh = make(kind), make(kind)
    first = ids(150, 1)
    answer = write(llm, first)
    second = [*first, *answer.tokens, *ids(9, 2)]
    prompts = [
        second,
        second,
        [*first[:100], *ids(30, 3)],
        [*first[:PAGE], *ids(30, 4)],
        [*first[: PAGE + 1], *ids(100, 5)],
        [*first[: 2 * PAGE - 1], *ids(3, 6)],
        first[:PAGE],
        first[: PAGE + 1],
        ids(5, 7),
        second[:-4],
    ]
    assert answer.stats.cached_tokens == 0
    for number, prompt in enumerate(prompts):
        options: dict[str, Any] = {"temperature": 0.8 * (number % 2), "seed": number}
        found, expected = write(llm, prompt, **options), write(fresh, prompt, reuse=False, **options)
        assert what(found) == what(expected), number
        assert expected.stats.cached_tokens == 0
        if number < 2:
            # All of the first text, but for what a drafter reads of the next token.
            more = 0 if kind in HYBRID else number * 9  # its states were kept where the texts ended
            assert found.stats.cached_tokens >= len(first) + TOKENS - 2 + more
        elif number < 6:
            agrees = next(i for i, (a, b) in enumerate(zip(prompt, first, strict=False)) if a != b)
            if kind in HYBRID:  # a state is kept where texts part, at the border of a page: the next one finds it
                is_kept = number > 2 and agrees - (kind == "mtp") >= PAGE
                assert found.stats.cached_tokens == (PAGE if is_kept else 0)
            else:
                assert agrees - 1 <= found.stats.cached_tokens <= agrees
    if kind in ("eagle2", "eagle3", "mtp"):
        assert any(step.accepted for step in found.trace or []), "drafts were accepted"


@pytest.mark.parametrize("kind", KINDS)
def test_few_pages(make: Callable[..., LLM], kind: str) -> None:
    """Many texts through little memory: pages are forgotten and taken again, in whatever order."""
    llm, fresh = make(kind, n_ctx=160), make(kind, n_ctx=160)
    rng = random.Random(3)
    texts = [ids(90, 0)]
    hits = 0
    for number in range(25):
        prompt = [*(old := rng.choice(texts))[: rng.randrange(len(old))], *ids(rng.randrange(1, 40), number)][:150]
        options: dict[str, Any] = {"max_tokens": rng.choice([1, 8]), "seed": number, "temperature": rng.choice([0, 1])}
        found, expected = write(llm, prompt, **options), write(fresh, prompt, reuse=False, **options)
        assert what(found) == what(expected), number
        texts.append(prompt + found.tokens)
        hits += found.stats.cached_tokens > 0
    assert hits > (1 if kind in HYBRID else 8)  # texts that part within their first page leave a hybrid nothing


@pytest.mark.parametrize("cache_type", ["q8_0", "f32"])
def test_cache_types(demo_target: Path, demo_drafter: Path, cache_type: str) -> None:
    llm = LLM(demo_target, drafter=demo_drafter, cache_type=cache_type, n_ctx=500, **FIXED)
    prompt = ids(200, 1)
    expected = write(llm, prompt, reuse=False)
    write(llm, prompt[:150])
    found = write(llm, prompt)
    assert found.stats.cached_tokens == 149  # the drafter's pair 149 has another successor
    assert what(found) == what(expected)


@pytest.mark.parametrize("kind", ["plain", "eagle2", "model", "hybrid", "mtp"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_text_can_be_continued_anywhere(make: Callable[..., LLM], kind: str, temperature: float) -> None:
    """Contract 8: cut after any number of tokens and begun again from what there is, it goes on as it would have."""
    llm = make(kind)
    prompt = ids(50, 1)
    options: dict[str, Any] = {"temperature": temperature, "seed": 7, "repeat_penalty": 1.2, "frequency_penalty": 0.3}
    whole = write(llm, prompt, reuse=False, **options).tokens
    for cut in (1, 2, 13, 14, 15, 29):
        for again in ({"draft": True}, {"draft": False}, {"reuse": False}):
            rest = write(llm, prompt + whole[:cut], max_tokens=TOKENS - cut, **options, **again)
            assert rest.tokens == whole[cut:], (cut, again)


def test_without_reuse_nothing_is_read_nor_left(make: Callable[..., LLM]) -> None:
    llm = make("eagle2")
    prompt = ids(100, 1)
    assert write(llm, prompt, reuse=False).stats.cached_tokens == 0
    assert write(llm, prompt).stats.cached_tokens == 0
    assert write(llm, prompt, reuse=False).stats.cached_tokens == 0
    assert write(llm, prompt).stats.cached_tokens == 99


def test_salts(make: Callable[..., LLM]) -> None:
    llm = make("eagle2")
    prompt = ids(100, 1)
    texts = [write(llm, prompt, salt=salt) for salt in ("a", "b", "a", "")]
    assert [text.stats.cached_tokens for text in texts] == [0, 0, 99, 0]
    assert len({tuple(text.tokens) for text in texts}) == 1
    with pytest.raises(TypeError, match="salt: found 5"):
        llm.generate(prompt, salt=5)  # type: ignore[arg-type]


def test_drafts_behind_plain_text(make: Callable[..., LLM]) -> None:
    """A drafter takes what it was told of only; plain text takes what drafted text has left."""
    llm, fresh = make("eagle2"), make("eagle2")
    prompt = ids(150, 1)
    plain = write(llm, prompt, draft=False)
    drafted = write(llm, prompt)
    assert drafted.stats.cached_tokens == 0
    assert what(drafted) == what(write(fresh, prompt))
    assert write(llm, prompt, draft=False).stats.cached_tokens == 149
    assert write(llm, prompt).stats.cached_tokens == 149
    assert plain.tokens == drafted.tokens


def test_what_the_drafter_was_told_late(eagle2: TinyPair) -> None:
    """Pauses of the drafter: what it was not told yet when a text ends, it is told when the next one needs it."""
    engine, fresh = (
        _core.Engine(
            str(eagle2.target_gguf), str(eagle2.drafter_gguf), head="full", n_ctx=500, tree_depth=2, tree_size=12
        )
        for _ in range(2)
    )
    prompt = ids(70, 1)

    def run(engine: _core.Engine, prompt: list[int], **options: Any) -> tuple[list[tuple[int, bool]], int]:
        text = engine.begin(prompt, max_tokens=100, ignore_eos=True, **options)
        tokens = [(token, drafted) for token, drafted, _ in text.run()]
        assert not text.stats.drafter_error
        return tokens, text.stats.cached_tokens

    tokens, _ = run(engine, prompt, draft="sparse")
    longer = prompt + [token for token, _ in tokens]
    found, cached = run(engine, longer, draft="always")
    assert cached >= len(longer) - 2
    assert (found, 0) == run(fresh, longer, draft="always")


@pytest.mark.parametrize("kind", ["plain", "eagle2", "model", "hybrid", "mtp"])
def test_texts_that_were_left(make: Callable[..., LLM], kind: str) -> None:
    """What an interrupted text has read, or a cancelled one, or one that another text has ended, is there as far."""
    llm, fresh = make(kind, n_batch=32), make(kind, n_batch=32)
    prompt = ids(200, 1)
    engine = llm._engine
    asked = 0

    class Later(threading.Event):
        def is_set(self) -> bool:
            nonlocal asked
            asked += 1
            return asked > 5

    write(llm, prompt, cancel=Later())  # perhaps in its prompt, perhaps later: that is a matter of time
    found = write(llm, prompt)
    assert what(found) == what(write(fresh, prompt))
    stream = llm.stream(prompt, 20, ignore_eos=True, draft=True)
    for _ in range(3):
        next(stream)
    longer = prompt + found.tokens[:10] + ids(9, 2)
    assert what(write(llm, longer)) == what(write(fresh, longer, reuse=False))
    engine.forward(ids(40, 3))  # uses the cache for itself
    assert what(write(llm, longer)) == what(write(fresh, longer, reuse=False))


def test_another_head_knows_nothing_of_what_the_last_one_read(make: Callable[..., LLM]) -> None:
    llm, fresh = make("eagle2"), make("eagle2")
    prompt = ids(150, 1)
    write(llm, prompt)
    llm.set_head("full")
    found = write(llm, prompt)
    assert found.stats.cached_tokens == 0
    assert what(found) == what(write(fresh, prompt))
    with pytest.raises(ValueError, match="ranked:401"):
        llm.set_head("ranked:401")
    assert what(write(llm, prompt)) == what(found)


def test_rejection_sampling_draws_the_same(make: Callable[..., LLM]) -> None:
    llm = make("eagle2", tree=(3, 1, 5))
    prompt = ids(150, 1)
    options: dict[str, Any] = {"verify": "rejection", "temperature": 0.8, "seed": 3}
    expected = write(llm, prompt, reuse=False, **options)
    write(llm, prompt[:130], **options)
    found = write(llm, prompt, **options)
    assert found.stats.cached_tokens > 100
    assert what(found) == what(expected)


@pytest.mark.every_isa
@pytest.mark.every_device
@pytest.mark.parametrize("kind", ["plain", "eagle2", "hybrid", "mtp"])
def test_every_device(make: Callable[..., LLM], kind: str) -> None:
    prompt, llm = ids(150, 1), make(kind, n_ctx=400)
    expected = write(llm, prompt, reuse=False, max_tokens=8)
    write(llm, prompt[:140], max_tokens=2)
    found = write(llm, prompt, max_tokens=8)
    assert found.stats.cached_tokens >= (128 if kind in HYBRID else 139)
    assert what(found) == what(expected)
