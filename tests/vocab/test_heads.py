"""Every head policy: the text is that of plain decoding, and the rows are those that the policy promises."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
from frspec_cpp.tools.sketch import write_sketch
from gguf_edit import GgufEditor
from reference_steps import write_random_sketch, write_vocabulary_ranks
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import LLM, _core

VOCAB = 400
SHAPE = {"tree_depth": 3, "tree_branch": 5, "tree_size": 20}
POLICIES = [
    "full",
    "ranked:60",
    "speculated:40",
    "contextual:50",
    "ranked:50+contextual:40",
    "speculated:30+ranked:50",
    "contextual:30+speculated:20",
    "speculated:20+ranked:30+contextual:30",
    "auto",
]
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 5},
    {"temperature": 1.0, "seed": 6, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 0.9, "seed": 7, "top_k": 8, "repeat_penalty": 1.2},
]


def prompts(count: int = 6) -> list[list[int]]:
    rng = random.Random(4)
    return [[rng.randrange(VOCAB) for _ in range(rng.randrange(1, 30))] for _ in range(count)]


def fingerprint_of(target: Path) -> str:
    return vocabulary_fingerprint(GgufEditor(target).entries["tokenizer.ggml.tokens"].value)


def make_files(folder: Path, pair: TinyPair, rank: int = 32) -> dict[str, str]:
    """Ranks and a sketch for a pair; options of an engine."""
    order = np.random.default_rng(1).permutation(VOCAB).astype(np.int32)
    write_vocabulary_ranks(folder / "ranks.gguf", pair.target_gguf, order)
    write_random_sketch(folder / "sketch.gguf", pair.target_gguf, pair.drafter_gguf, rank)
    return {"ranks": str(folder / "ranks.gguf"), "sketch": str(folder / "sketch.gguf")}


@pytest.fixture(scope="module", params=["eagle2", "eagle3", "reduced"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "eagle2":
        return make_tiny_pair(folder)
    ids = random.Random(4).sample(range(VOCAB), 300) if request.param == "reduced" else None
    return make_tiny_eagle3(folder, **({} if ids is None else {"head_ids": sorted({0, 1, *ids})}))


@pytest.fixture(scope="module")
def files(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_files(tmp_path_factory.mktemp("files"), pair)


def make_engine(pair: TinyPair, files: dict[str, str], head: str, **options: Any) -> _core.Engine:
    used = {
        "ranks": files["ranks"] if "ranked" in head or "contextual" in head or head == "auto" else None,
        "sketch": files["sketch"] if "speculated" in head or head == "auto" else None,
    }
    return _core.Engine(str(pair.target_gguf), str(pair.drafter_gguf), head=head, **{**SHAPE, **used, **options})


def write(engine: _core.Engine, prompt: list[int], **options: Any) -> list[list[tuple[int, bool, str]]]:
    """The steps of a text."""
    generation = engine.begin(prompt, **{"max_tokens": 40, "ignore_eos": True, "draft": "always", **options})
    steps = []
    while generation.finish_reason is None:
        steps.append(generation.step())
    return steps


def tokens(steps: list[list[tuple[int, bool, str]]]) -> list[int]:
    return [token for step in steps for token, _, _ in step]


@pytest.mark.parametrize("head", POLICIES)
def test_the_text_is_that_of_plain_decoding(pair: TinyPair, files: dict[str, str], head: str) -> None:
    plain, engine = _core.Engine(str(pair.target_gguf)), make_engine(pair, files, head, n_batch=11)
    accepted = 0
    for number, prompt in enumerate(prompts()):
        for sampling in SAMPLINGS[number % 2 :: 2]:
            expected = tokens(write(plain, prompt, **sampling))
            for draft in ("always", "sparse", "auto"):
                steps = write(engine, prompt, draft=draft, **sampling)
                assert tokens(steps) == expected
                accepted += len(expected) - len(steps) if draft == "always" else 0
    assert accepted > 50


@pytest.mark.parametrize("verify", ["rejection", "block"])
@pytest.mark.parametrize("head", ["contextual:50", "speculated:40", "auto"])
def test_a_seed_gives_one_text_by_rejection_sampling(
    pair: TinyPair, files: dict[str, str], head: str, verify: str
) -> None:
    """What was written before decides nothing, though drafts decide the text."""
    options = {"tree_branch": 1, "tree_depth": 3, "tree_size": 5}
    used, fresh = make_engine(pair, files, head, **options), make_engine(pair, files, head, **options)
    sampling: dict[str, Any] = {"temperature": 0.9, "seed": 3, "verify": verify}
    for prompt in prompts(3):
        write(used, prompt[::-1], **{**sampling, "seed": 8})
    for prompt in prompts(2):
        assert tokens(write(used, prompt, **sampling)) == tokens(write(fresh, prompt, **sampling))


@pytest.mark.parametrize("head", ["speculated:400", "contextual:400", "ranked:60+contextual:340"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_all_rows_are_the_full_head(tmp_path: Path, head: str, temperature: float) -> None:
    pair = make_tiny_pair(tmp_path / "pair")
    files = make_files(tmp_path, pair)
    full, other = make_engine(pair, files, "full"), make_engine(pair, files, head)
    sampling = {"temperature": temperature, "seed": 2}
    for prompt in prompts():
        assert [len(step) for step in write(other, prompt, **sampling)] == [
            len(step) for step in write(full, prompt, **sampling)
        ]


def test_learned_is_all_that_a_reduced_head_has(tmp_path: Path) -> None:
    pair = make_tiny_eagle3(tmp_path, head_ids=random.Random(4).sample(range(VOCAB), 240))
    engines = [
        _core.Engine(str(pair.target_gguf), str(pair.drafter_gguf), head=head, **SHAPE) for head in ("learned", "full")
    ]
    for prompt in prompts():
        assert write(engines[0], prompt) == write(engines[1], prompt)


def test_a_sketch_finds_what_the_full_head_finds(tmp_path: Path) -> None:
    """A good sketch and a tenth of the rows draft almost what all rows do; a useless one does not.

    Not quite: log-probabilities are those within the rows, so other nodes may be expanded.
    """
    pair = make_tiny_pair(tmp_path / "pair")
    files = make_files(tmp_path, pair, rank=64)  # as wide as the states: exact
    lengths = {}
    for head in ("full", "speculated:40"):
        engine = make_engine(pair, files, head)
        lengths[head] = [len(step) for prompt in prompts() for step in write(engine, prompt)]
    assert abs(np.mean(lengths["speculated:40"]) - np.mean(lengths["full"])) < 0.2
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((64, 64)).astype(np.float32), rng.standard_normal((VOCAB, 64)).astype(np.float32)
    write_sketch(Path(files["sketch"]), *noise, "f32", fingerprint_of(pair.target_gguf), "noise", [])
    engine = make_engine(pair, files, "speculated:40")
    blind = [len(step) for prompt in prompts() for step in write(engine, prompt)]
    assert np.mean(blind) < 0.5 * (1 + np.mean(lengths["full"]))


def test_contextual_rows_follow_the_text(tmp_path: Path) -> None:
    """Of rows that nobody ranked, those come in that the prompt holds, or the target names."""
    pair = make_tiny_pair(tmp_path / "pair")
    plain = _core.Engine(str(pair.target_gguf))
    engine = _core.Engine(str(pair.target_gguf), str(pair.drafter_gguf), head="contextual:30", **SHAPE)
    own, foreign = [], []
    for prompt in prompts():
        continued = prompt + tokens(write(plain, prompt, max_tokens=60))
        expected = tokens(write(plain, continued, max_tokens=30))
        own.append(len(write(engine, continued, max_tokens=30)))
        assert tokens(write(engine, continued, max_tokens=30)) == expected
        foreign.append(len(write(engine, [continued[-1]], max_tokens=30)))
    assert np.mean(own) < 29  # drafts are accepted, although the rows began as the first ids of the vocabulary


def test_a_text_begins_as_if_it_were_the_first(tmp_path: Path) -> None:
    pair = make_tiny_pair(tmp_path / "pair")
    used, fresh = (
        _core.Engine(str(pair.target_gguf), str(pair.drafter_gguf), head="contextual:40", **SHAPE) for _ in range(2)
    )
    first = write(fresh, prompts()[0])
    for prompt in reversed(prompts()):
        last = write(used, prompt)
    assert last == first


@pytest.mark.every_device
def test_heads_one_after_the_other(tmp_path: Path) -> None:
    pair = make_tiny_pair(tmp_path / "pair")
    files = make_files(tmp_path, pair)
    engine = make_engine(pair, files, "auto")
    plain = tokens(write(_core.Engine(str(pair.target_gguf)), prompts()[1], max_tokens=12))
    for head in [*POLICIES, "auto"]:
        engine.set_head(head)
        assert tokens(write(engine, prompts()[1], max_tokens=12)) == plain


def test_a_drafter_with_fewer_rows_than_the_target(tmp_path: Path) -> None:
    """The target's last ids are unused, and the drafter, a model of the same tokens, has no rows for them."""
    pair = make_tiny_pair(tmp_path / "pair")
    target = GgufEditor(pair.target_gguf)
    kinds = list(target.entries["tokenizer.ggml.token_type"].value)
    target.entries["tokenizer.ggml.token_type"].value[320:] = [5] * 80
    assert len(kinds) == VOCAB
    padded = target.write(tmp_path / "padded.gguf")
    small = GgufEditor(padded)
    for key in ("tokens", "token_type"):
        small.entries[f"tokenizer.ggml.{key}"].value[320:] = []
    kept = set(small.entries["tokenizer.ggml.tokens"].value)
    merges = small.entries["tokenizer.ggml.merges"].value
    merges[:] = [merge for merge in merges if {*merge.split(), merge.replace(" ", "")} <= kept]
    small.set("llama.vocab_size", 320)
    for name in ("token_embd.weight", "output.weight"):
        small.set_floats(name, small.floats(name).reshape(VOCAB, -1)[:320])
    drafter = small.write(tmp_path / "small.gguf")
    order = np.random.default_rng(1).permutation(VOCAB).astype(np.int32)
    write_vocabulary_ranks(tmp_path / "ranks.gguf", padded, order)
    plain = tokens(write(_core.Engine(str(padded)), [5, 6, 7]))
    for head in ("contextual:50", "ranked:100+contextual:50", "ranked:60", "full", "auto"):
        ranks = None if head == "full" else str(tmp_path / "ranks.gguf")
        engine = _core.Engine(str(padded), str(drafter), head=head, ranks=ranks, **SHAPE)
        assert tokens(write(engine, [5, 6, 7])) == plain


def test_a_head_that_is_refused_changes_nothing(pair: TinyPair, files: dict[str, str]) -> None:
    engine, other = (make_engine(pair, files, "auto", tree_branch=1, tree_depth=3, tree_size=5) for _ in range(2))
    for prompt in prompts(3):
        write(engine, prompt, draft="auto")
    with pytest.raises(ValueError, match="ranked:99999"):
        engine.set_head("ranked:99999")
    sampling: dict[str, Any] = {"temperature": 1.0, "seed": 3, "verify": "rejection"}
    assert tokens(write(engine, prompts()[0], **sampling)) == tokens(write(other, prompts()[0], **sampling))


@pytest.mark.parametrize("options", [{"n_ctx": 32}, {"n_batch": 16}, {"tree_size": 4096}])
def test_n_grams_alone_in_little_room(demo_target: Path, options: dict[str, int]) -> None:
    """Nothing that is timed is larger than what there is room for."""
    engine = _core.Engine(str(demo_target), ngram=3, **options)
    text = write(engine, [5, 6, 7, 5, 6], max_tokens=20, draft="auto")
    assert tokens(text) == tokens(write(_core.Engine(str(demo_target)), [5, 6, 7, 5, 6], max_tokens=20))


@pytest.mark.every_device
def test_states_are_those_of_the_texts(pair: TinyPair) -> None:
    engine = _core.Engine(str(pair.target_gguf), str(pair.drafter_gguf), head="full", states=1000, **SHAPE)
    assert engine.take_states().shape[0] == 0
    steps = write(engine, [5, 6, 7], max_tokens=10)
    rows = 1 + SHAPE["tree_branch"] * SHAPE["tree_depth"]
    assert engine.take_states().shape == ((len(steps) - 1) * rows, 64)


def sketch_error(pair: TinyPair, path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as raised:
        _core.Engine(str(pair.target_gguf), str(pair.drafter_gguf), head="speculated:9", sketch=str(path), **SHAPE)
    return str(raised.value)


def test_sketches_of_something_else(tmp_path: Path) -> None:
    pair = make_tiny_pair(tmp_path / "pair")
    path, fingerprint = tmp_path / "sketch.gguf", fingerprint_of(pair.target_gguf)
    cases = {
        "(399, 32)": (np.ones((32, 64)), np.ones((399, 32)), fingerprint),
        "48 columns, expected 64": (np.ones((32, 48)), np.ones((VOCAB, 32)), fingerprint),
        "expected (400, 16)": (np.ones((16, 64)), np.ones((VOCAB, 32)), fingerprint),
        "0123456789abcdef, expected": (np.ones((32, 64)), np.ones((VOCAB, 32)), "0123456789abcdef"),
    }
    for part, (down, up, vocabulary) in cases.items():
        write_sketch(path, down.astype(np.float32), up.astype(np.float32), "f32", vocabulary, "test", [])
        assert part in sketch_error(pair, path)
    assert "sketch_down.weight" in sketch_error(pair, pair.drafter_gguf)


def test_what_auto_says(demo_target: Path, demo_drafter: Path) -> None:
    llm = LLM(demo_target, demo_drafter)
    out = llm.generate("def fibonacci(n):\n", 200, ignore_eos=True)
    tuning = out.stats.tuning
    assert tuning is not None
    assert tuning.head in ("full", "ranked:32768", "ranked:16384", "ranked:8192", "ranked:4096", "ranked:2048") or (
        tuning.head == "contextual:2048"
    )
    assert tuning.plain_tokens_per_second > 0
    assert 1 <= tuning.nodes <= 64
    assert tuning.summary.startswith(("drafting pays", "drafting does not pay"))
    assert "tokens/s expected" in tuning.summary
    assert out.tokens == LLM(demo_target).generate("def fibonacci(n):\n", 200, ignore_eos=True).tokens
    assert LLM(demo_target).generate("a", 3).stats.tuning is None
