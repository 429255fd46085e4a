"""Engines whose ranks adapt: the text is plain decoding's whatever the rows, and the rows follow the texts."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frspec_cpp.tools.ranks_file import Ranks, write_ranks
from frspec_cpp.tools.sketch import write_sketch
from gguf_edit import GgufEditor
from gguf_values import metadata, tensors
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import LLM, Tokenizer, _core

VOCAB = 400
CONTROL = [0, 1]
Steps = list[list[tuple[int, bool, str]]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"))


def requests(count: int, seed: int = 4) -> list[list[int]]:
    """Prompts of a user who writes about one thing: they begin with few tokens."""
    rng = random.Random(seed)
    subjects = [rng.randrange(2, VOCAB) for _ in range(6)]
    return [[rng.choice(subjects) for _ in range(rng.randrange(1, 5))] for _ in range(count)]


def steps(engine: _core.Engine, prompt: list[int], **options: Any) -> tuple[Steps, Any]:
    options = {"max_tokens": 24, "ignore_eos": True, "draft": "always", **options}
    generation = engine.begin(prompt, **options)
    result = []
    while generation.finish_reason is None:
        result.append(generation.step())
    return result, generation.stats


def tokens_of(found: Steps) -> list[int]:
    return [token for step in found for token, _, _ in step]


def make_engine(pair: TinyPair, **options: Any) -> _core.Engine:
    shape = {"head": "full", "tree_depth": 3, "tree_branch": 5, "tree_size": 20}
    return _core.Engine(str(pair.target_gguf), **{"drafter": str(pair.drafter_gguf), **shape, **options})


def write_order(path: Path, target: Path, order: Any) -> str:
    """Ranks of a corpus that consists of its first token nearly: a text soon knows better than that."""
    tokenizer = Tokenizer(target)
    counts = np.empty(tokenizer.size, dtype=np.int64)
    counts[np.array(order)] = np.arange(tokenizer.size, 0, -1)
    counts[order[0]] = 10**12
    write_ranks(path, Ranks(np.array(order, dtype=np.int32), tokenizer.size, tokenizer.fingerprint, counts))
    return str(path)


@pytest.fixture(scope="module")
def misleading(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ranks of a corpus that is nothing like the requests: what they use comes last."""
    plain = _core.Engine(str(pair.target_gguf))
    used = Counter(token for prompt in requests(40) for token in tokens_of(steps(plain, prompt)[0]))
    order = sorted(range(VOCAB), key=lambda token: (used[token], token))
    return write_order(tmp_path_factory.mktemp("ranks") / "misleading.gguf", pair.target_gguf, order)


@pytest.fixture(scope="module")
def sketch(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sketch of the head that knows nothing."""
    path = tmp_path_factory.mktemp("sketch") / "sketch.gguf"
    rng = np.random.default_rng(0)
    down, up = rng.normal(size=(32, 64)), rng.normal(size=(VOCAB, 32))
    fingerprint = _core.Tokenizer(str(pair.target_gguf)).fingerprint
    write_sketch(path, down.astype(np.float32), up.astype(np.float32), "f32", fingerprint, "random", [])
    return str(path)


@pytest.mark.parametrize(
    ("head", "temperature"),
    [
        ("ranked:60", 0.0),
        ("ranked:60", 0.8),
        ("ranked:300", 0.8),
        ("contextual:60", 0.0),
        ("ranked:40+contextual:30", 0.8),
        ("ranked:60+speculated:20", 0.0),
    ],
)
def test_the_text_is_that_of_plain_decoding_while_rows_change(
    pair: TinyPair, misleading: str, sketch: str, tmp_path: Path, head: str, temperature: float
) -> None:
    options = {"head": head, "ranks": misleading, "sketch": sketch if "speculated" in head else None}
    adapting = make_engine(pair, adapt=str(tmp_path / "mine.gguf"), **options)
    static = make_engine(pair, **options)
    plain = _core.Engine(str(pair.target_gguf))
    changed, counted = [], 0
    accepted = {"adapting": [], "static": []}
    learns = head == "ranked:60" and temperature == 0.0
    for seed, prompt in enumerate(requests(40 if learns else 16)):
        sampling = {"temperature": temperature, "seed": seed}
        expected = tokens_of(steps(plain, prompt, **sampling)[0])
        for name, engine in (("adapting", adapting), ("static", static)):
            found, stats = steps(engine, prompt, **sampling)
            assert tokens_of(found) == expected, (name, seed)
            accepted[name].append(stats.accepted_length)
            if engine is adapting:
                changed.append(stats.adapted_rows)
        counted += len(expected)
    assert changed[0] == 0, "nothing is known yet"
    assert sum(changed) > 3
    assert sum(count > 0 for count in changed) > 1
    adapting.save_ranks()
    assert metadata(tmp_path / "mine.gguf")["frspec.ranks.tokens_counted"] == counted
    if learns:
        # What the requests use was drafted by nobody at first.
        assert np.mean(accepted["adapting"][:1]) == np.mean(accepted["static"][:1])
        assert np.mean(accepted["static"]) < 1.1
        assert np.mean(accepted["adapting"][20:]) > 1.5 * np.mean(accepted["static"][20:])


@pytest.mark.parametrize("drafter", ["eagle2", "itself", "eagle2 with n-grams"])
def test_rows_are_those_of_a_head_that_begins_with_the_saved_ranks(
    pair: TinyPair, misleading: str, tmp_path: Path, drafter: str
) -> None:
    """After they have changed one by one, the rows draft what rows drafted that were packed afresh."""
    options: dict[str, Any] = {"head": "ranked:60"}
    if drafter == "itself":
        options["drafter"] = str(pair.target_gguf)
    if drafter == "eagle2 with n-grams":
        options["ngram"] = 3
    adapting = make_engine(pair, ranks=misleading, adapt=str(tmp_path / "mine.gguf"), **options)
    for prompt in requests(12):
        steps(adapting, prompt)
    adapting.save_ranks()
    saved = shutil.copy(tmp_path / "mine.gguf", tmp_path / "saved.gguf")
    fresh = make_engine(pair, ranks=str(saved), **options)
    before = make_engine(pair, ranks=misleading, **options)
    prompts = requests(6, seed=9) + requests(2)
    expected = [steps(fresh, prompt)[0] for prompt in prompts]
    assert [steps(before, prompt)[0] for prompt in prompts] != expected
    assert steps(adapting, prompts[0])[0] == expected[0]
    # The rows follow the text that has just been written: ever the same file for each of the others.
    for prompt, steps_of_fresh in zip(prompts[1:], expected[1:], strict=True):
        again = make_engine(pair, adapt=str(shutil.copy(saved, tmp_path / "again.gguf")), **options)
        assert steps(again, prompt)[0] == steps_of_fresh


def test_all_rows_have_nothing_to_change(pair: TinyPair, misleading: str, tmp_path: Path) -> None:
    adapting = make_engine(pair, head=f"ranked:{VOCAB}", ranks=misleading, adapt=str(tmp_path / "a.gguf"))
    full = make_engine(pair)
    for prompt in requests(10):
        found, stats = steps(adapting, prompt)
        assert found == steps(full, prompt)[0]
        assert stats.adapted_rows == 0


def test_what_is_counted(pair: TinyPair, misleading: str, tmp_path: Path) -> None:
    """Tokens that were handed out, with and without drafts, of texts that ended or were left; no prompts."""
    path = tmp_path / "mine.gguf"
    engine = make_engine(pair, head="ranked:60", ranks=misleading, adapt=str(path))
    start = make_engine(pair, head="ranked:60", ranks=misleading, adapt=str(tmp_path / "other.gguf"))
    start.save_ranks()
    given: Counter[int] = Counter()
    given.update(tokens_of(steps(engine, [7, 8, 9])[0]))
    given.update(tokens_of(steps(engine, [5, 5], draft="never", max_tokens=5)[0]))
    left = engine.begin([8, 3], max_tokens=24, ignore_eos=True)
    given.update(token for _ in range(3) for token, _, _ in left.step())
    engine.begin([9], max_tokens=3)  # read by nobody
    engine.save_ranks()
    prior = tensors(tmp_path / "other.gguf")["token_counts"]
    gained = (tensors(path)["token_counts"] - prior) / 2**32
    expected = np.array([given[token] for token in range(VOCAB)])
    # Some 60 tokens of 200,000 have passed: a little of the prior has decayed.
    np.testing.assert_allclose(gained, expected, atol=0.01 + 3e-4 * prior.max() / 2**32)
    assert metadata(path)["frspec.ranks.tokens_counted"] == sum(given.values())
    assert sum(given.values()) > 30


def test_the_next_engine_goes_on(pair: TinyPair, misleading: str, tmp_path: Path) -> None:
    """Saved when the engine goes; the next one begins with these rows, without other ranks, too."""
    path = str(tmp_path / "mine.gguf")
    engine = make_engine(pair, head="ranked:60", ranks=misleading, adapt=path)
    for prompt in requests(12):
        steps(engine, prompt)
    del engine
    counted = metadata(Path(path))["frspec.ranks.tokens_counted"]
    assert counted == 12 * 24
    engine = make_engine(pair, head="ranked:60", adapt=path)
    found, stats = steps(engine, requests(1)[0])
    assert stats.adapted_rows == 0
    first = make_engine(pair, head="ranked:60", ranks=misleading)
    assert len(found) < len(steps(first, requests(1)[0])[0]), "fewer steps than with the first rows"
    del engine
    assert metadata(Path(path))["frspec.ranks.tokens_counted"] == counted + 24


def test_an_error_while_saving_does_not_lose_the_text(pair: TinyPair, misleading: str, tmp_path: Path) -> None:
    """Every 10,000 tokens the ranks are saved; an error is told once, and it is tried again after as many."""
    path = tmp_path / "mine.gguf"
    engine = make_engine(pair, head="ranked:60", ranks=misleading, adapt=str(path))
    path.write_bytes(b"damaged")
    plain = _core.Engine(str(pair.target_gguf))
    # Without drafts, but now and then: what is counted does not depend on them.
    options: list[dict[str, Any]] = [{"max_tokens": 500, "draft": "always" if i == 19 else "never"} for i in range(41)]
    expected = tokens_of(steps(plain, [7, 8], max_tokens=500)[0])
    errors = []
    for asked in options:
        found, stats = steps(engine, [7, 8], **asked)
        assert tokens_of(found) == expected
        errors.append(stats.adapt_error)
    assert [i for i, error in enumerate(errors) if error] == [19, 39]
    assert "mine.gguf: " in errors[19]
    assert path.read_bytes() == b"damaged"
    with pytest.raises(ValueError, match=r"mine\.gguf: "):
        engine.save_ranks()
    path.unlink()
    engine.save_ranks()
    assert metadata(path)["frspec.ranks.tokens_counted"] == 41 * 500
    for _ in range(20):
        assert steps(engine, [7, 8], max_tokens=500, draft="never")[1].adapt_error == ""
    assert metadata(path)["frspec.ranks.tokens_counted"] == 61 * 500


def test_another_head(pair: TinyPair, misleading: str, tmp_path: Path) -> None:
    """A new head begins with what has become frequent."""
    engine = make_engine(pair, head="ranked:60", ranks=misleading, adapt=str(tmp_path / "a.gguf"))
    for prompt in requests(10):
        steps(engine, prompt)
    engine.set_head("ranked:50")
    found, stats = steps(engine, requests(1)[0])
    assert stats.adapted_rows == 0
    assert any(was for step in found for _, was, _ in step)
    with pytest.raises(ValueError, match=r"adapt: found a ranks file, .*a\.gguf, and head 'full', none of whose rows"):
        engine.set_head("full")
    steps(engine, [7])


def test_combinations_that_are_refused(pair: TinyPair, misleading: str, tmp_path: Path) -> None:
    path = str(tmp_path / "mine.gguf")
    for head in ("full", "speculated:64"):
        with pytest.raises(ValueError, match=rf"adapt: .*mine\.gguf, and head '{head}', none of whose rows follow"):
            make_engine(pair, head=head, adapt=path)
    with pytest.raises(ValueError, match=r"adapt: found a ranks file, .*mine\.gguf, but there is no drafter"):
        _core.Engine(str(pair.target_gguf), adapt=path)
    with pytest.raises(ValueError, match=r"adapt: found a ranks file, .*mine\.gguf, but there is no drafter"):
        _core.Engine(str(pair.target_gguf), adapt=path, ngram=3)
    with pytest.raises(ValueError, match=r"misleading\.gguf: .*not made by adapting, and are not replaced"):
        make_engine(pair, head="ranked:60", adapt=misleading)
    with pytest.raises(FileNotFoundError, match=r"absent/a\.gguf: found no folder"):
        make_engine(pair, head="ranked:60", ranks=misleading, adapt=str(tmp_path / "absent" / "a.gguf"))
    chain = make_engine(pair, head="ranked:60", ranks=misleading, adapt=path, tree_branch=1, tree_size=4)
    for mode in ("rejection", "block"):
        with pytest.raises(ValueError, match=r"verify: found rejection sampling and ranks that adapt .*mine\.gguf"):
            chain.begin([7], verify=mode, temperature=1.0)
    steps(chain, [7])
    with pytest.raises(ValueError, match="save_ranks: found an engine whose ranks do not adapt"):
        make_engine(pair).save_ranks()


def test_ranks_of_another_vocabulary(pair: TinyPair, misleading: str, tmp_path: Path) -> None:
    engine = make_engine(pair, head="ranked:60", ranks=misleading, adapt=str(tmp_path / "a.gguf"))
    engine.save_ranks()
    edited = GgufEditor(tmp_path / "a.gguf")
    edited.set("frspec.ranks.vocab_fingerprint", "0123456789abcdef")
    edited.write(tmp_path / "other.gguf")
    with pytest.raises(
        ValueError, match=r"other\.gguf: key 'frspec\.ranks\.vocab_fingerprint': found 0123456789abcdef"
    ):
        make_engine(pair, head="ranked:60", ranks=misleading, adapt=str(tmp_path / "other.gguf"))


# --- The Python face and the binary ---


def test_llm(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    llm = LLM(demo_target, drafter=demo_drafter, head="ranked:512", adapt=path, tree=(5, 10, 60))
    plain = LLM(demo_target)
    prompt = "Translate into German: The river carries the snow of the mountains to the sea."
    first, second = (llm.generate(prompt, 60, ignore_eos=True, draft=True) for _ in range(2))
    assert first.tokens == second.tokens == plain.generate(prompt, 60, ignore_eos=True).tokens
    assert first.stats.adapted_rows == 0
    assert second.stats.adapted_rows > 0
    assert 0 < second.stats.adapt_seconds < second.stats.prefill_seconds
    assert second.stats.accepted_length > first.stats.accepted_length
    assert second.stats.adapt_error is None
    llm.save_ranks()
    assert metadata(path)["frspec.ranks.tokens_counted"] == 120
    llm.generate(prompt, 7, ignore_eos=True)
    del llm
    assert metadata(path)["frspec.ranks.tokens_counted"] == 127


DEMO_PROMPTS = [
    "Translate into German: The river carries the snow to the sea.",
    "Die Flüsse tragen den Schnee",
    "Un río",
]


@pytest.fixture(scope="module")
def demo_texts(demo_target: Path) -> list[list[int]]:
    """What the demo pair's target writes alone."""
    plain = LLM(demo_target)
    return [plain.generate(prompt, 60, ignore_eos=True).tokens for prompt in DEMO_PROMPTS]


@pytest.mark.parametrize(
    ("drafter", "head"), [("eagle2", "auto"), ("eagle3", "ranked:256"), ("eagle3", "contextual:256")]
)
def test_the_demo_drafters(
    demo_target: Path,
    demo_drafters: dict[str, Path],
    demo_texts: list[list[int]],
    tmp_path: Path,
    drafter: str,
    head: str,
) -> None:
    """With "auto", the rows that its ranked heads share follow, too. EAGLE-3's head is a reduced one."""
    llm = LLM(demo_target, drafter=demo_drafters[drafter], head=head, adapt=tmp_path / "mine.gguf")
    changed = 0
    for prompt, expected in zip(DEMO_PROMPTS * 2, demo_texts * 2, strict=True):
        found = llm.generate(prompt, 60, ignore_eos=True, draft=True)
        assert found.tokens == expected
        changed += found.stats.adapted_rows
        assert found.stats.drafter_error is None
    assert changed > 0
    llm.save_ranks()
    assert metadata(tmp_path / "mine.gguf")["frspec.ranks.tokens_counted"] == 6 * 60, "and nothing that was only timed"


def test_ranks_are_saved_when_python_ends(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from frspec_cpp import LLM\n"
        "kept = [LLM(sys.argv[1], drafter=sys.argv[2], head='ranked:512', adapt=sys.argv[3])]\n"
        "kept.append(kept)\n"
        "kept[0].generate('Once', 9, ignore_eos=True)\n"
        "raise SystemExit(0)"
    )
    arguments = [str(demo_target), str(demo_drafter), str(tmp_path / "mine.gguf")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=120, check=True)
    assert done.stderr == b""
    assert metadata(tmp_path / "mine.gguf")["frspec.ranks.tokens_counted"] == 9


def test_a_translated_drafter(shared: Path, demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    """A drafter of another vocabulary has rows for those of the target's tokens that it shares."""
    from frspec_cpp.tools.convert import convert

    drafter = tmp_path / "small.gguf"
    convert(shared / "data/models/TinyStories-656K", drafter, "f32", quiet=True)
    plain = LLM(demo_target, n_ctx=256)
    shared_tokens = _core.align_vocabularies(plain.tokenizer, Tokenizer(drafter))
    # Of the tokens that both have, the most frequent come last.
    listed = tensors(demo_drafter)["token_ranks"].tolist()
    rest = sorted(set(range(plain.vocab_size)) - set(listed))
    order = sorted(rest[::-1] + listed[::-1], key=lambda token: shared_tokens[token] < 0)
    ranks = write_order(tmp_path / "ranks.gguf", demo_target, order)
    options: dict[str, Any] = {"head": "ranked:256", "ranks": ranks, "n_ctx": 256, "translate": "tli"}
    llm = LLM(demo_target, drafter=drafter, tree_branch=4, adapt=tmp_path / "mine.gguf", **options)
    changed = 0
    for prompt in ("The little dog", "Lily and Tom went to the park. They") * 2:
        found = llm.generate(prompt, 24, ignore_eos=True, draft=True)
        assert found.tokens == plain.generate(prompt, 24, ignore_eos=True).tokens
        changed += found.stats.adapted_rows
    assert changed > 0
