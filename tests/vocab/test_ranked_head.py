"""Ranked heads: which rows they hold, and that they change nothing but the drafts."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
from frspec_cpp.tools.ranks_file import Ranks, write_ranks
from gguf_edit import GgufEditor
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import _core

VOCAB = 400
CONTROL = [0, 1]
Steps = list[list[tuple[int, bool, str]]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"))


def prompts(count: int = 12) -> list[list[int]]:
    rng = random.Random(4)
    return [[rng.randrange(VOCAB) for _ in range(rng.randrange(1, 9))] for _ in range(count)]


def write_order(path: Path, target: Path, order: Any) -> str:
    tokens = GgufEditor(target).entries["tokenizer.ggml.tokens"].value
    write_ranks(path, Ranks(np.array(order, dtype=np.int32), VOCAB, vocabulary_fingerprint(tokens)))
    return str(path)


def steps(engine: _core.Engine, prompt: list[int], **options: Any) -> Steps:
    generation = engine.begin(prompt, max_tokens=24, ignore_eos=True, draft="always", **options)
    result = []
    while generation.finish_reason is None:
        result.append(generation.step())
    return result


def make_engine(pair: TinyPair, **options: Any) -> _core.Engine:
    shape = {"head": "full", "tree_depth": 3, "tree_branch": 5, "tree_size": 20}
    return _core.Engine(str(pair.target_gguf), drafter=str(pair.drafter_gguf), **{**shape, **options})


@pytest.mark.every_isa
@pytest.mark.parametrize("order", ["by id", "backwards", "random"])
def test_all_rows_are_the_full_head(pair: TinyPair, tmp_path: Path, order: str) -> None:
    """With N = V every step drafts what the full head drafts, in whatever order the tokens are ranked."""
    orders = {
        "by id": np.arange(VOCAB),
        "backwards": np.arange(VOCAB)[::-1],
        "random": np.random.default_rng(0).permutation(VOCAB),
    }
    ranks = write_order(tmp_path / "ranks.gguf", pair.target_gguf, orders[order])
    full, ranked = make_engine(pair), make_engine(pair, head=f"ranked:{VOCAB}", ranks=ranks)
    lengths = set()
    for prompt in prompts():
        expected = steps(full, prompt)
        assert steps(ranked, prompt) == expected
        lengths |= {len(step) for step in expected}
    assert len(lengths) > 1  # drafts are accepted


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("rows", [5, 37, 200, 399])
def test_the_text_is_that_of_plain_decoding(pair: TinyPair, tmp_path: Path, rows: int, temperature: float) -> None:
    ranks = write_order(tmp_path / "r.gguf", pair.target_gguf, np.random.default_rng(1).permutation(VOCAB))
    ranked = make_engine(pair, head=f"ranked:{rows}", ranks=ranks)
    plain = _core.Engine(str(pair.target_gguf))
    for prompt in prompts():
        options = {"temperature": temperature, "seed": 5}
        found = [token for step in steps(ranked, prompt, **options) for token, _, _ in step]
        expected = [token for step in steps(plain, prompt, **options) for token, _, _ in step]
        assert found == expected


@pytest.mark.parametrize("rows", [5, 100, 399])
def test_only_tokens_of_the_subset_are_drafted(pair: TinyPair, tmp_path: Path, rows: int) -> None:
    order = np.random.default_rng(2).permutation(VOCAB)
    ranks = write_order(tmp_path / "ranks.gguf", pair.target_gguf, order)
    engine = make_engine(pair, head=f"ranked:{rows}", ranks=ranks)
    kept = (CONTROL + [token for token in order.tolist() if token not in CONTROL])[:rows]
    drafted = {token for prompt in prompts(30) for step in steps(engine, prompt) for token, was, _ in step if was}
    assert drafted <= set(kept)
    assert drafted or rows == 5


def pair_that_ends(pair: TinyPair, folder: Path) -> TinyPair:
    """The pair with a head in which every token's successor is 1, a control token, by far."""
    target = GgufEditor(pair.target_gguf)
    head = target.floats("output.weight")
    head[:] *= 1e-3
    # States are normalised, so a constant component of the residual stream decides.
    embedding = target.floats("token_embd.weight")
    embedding[:, 0] = 300.0
    norm = target.floats("output_norm.weight")
    norm[0] = 1.0
    head[:, 0] = 0.0
    head[1, 0] = 10.0
    for name, values in {
        "output.weight": head,
        "token_embd.weight": embedding,
        "output_norm.weight": norm,
    }.items():
        target.set_floats(name, values)
    return TinyPair(pair.target, pair.drafter, target.write(folder / "ends.gguf"), pair.drafter_gguf)


def test_control_tokens_are_kept(pair: TinyPair, tmp_path: Path) -> None:
    """A subset holds the control tokens although they are ranked last, or not at all."""
    ends = pair_that_ends(pair, tmp_path)
    plain = [token for step in steps(_core.Engine(str(ends.target_gguf)), [7, 8, 9]) for token, _, _ in step]
    assert plain == [1] * 24
    for number, order in enumerate([np.arange(VOCAB)[::-1], np.arange(50, 300)]):
        ranks = write_order(tmp_path / f"{number}.gguf", ends.target_gguf, order)
        engine = make_engine(ends, head="ranked:20", ranks=ranks)
        found = steps(engine, [7, 8, 9])
        assert [token for step in found for token, _, _ in step] == plain
        assert any(was for step in found for _, was, _ in step), "the end-of-text token was never drafted"


def test_ranks_inside_the_drafter_are_used(pair: TinyPair, tmp_path: Path) -> None:
    """As those of a file of their own; such a file goes before them."""
    order = np.random.default_rng(3).permutation(VOCAB).astype(np.int32)
    drafter = GgufEditor(pair.drafter_gguf)
    drafter.set_ints("token_ranks", order)
    with_ranks = replace(pair, drafter_gguf=drafter.write(tmp_path / "drafter.gguf"))
    inside = make_engine(with_ranks, head="ranked:100")
    ranks = write_order(tmp_path / "ranks.gguf", pair.target_gguf, order)
    beside = make_engine(pair, head="ranked:100", ranks=ranks)
    other = write_order(tmp_path / "other.gguf", pair.target_gguf, order[::-1])
    outranked = make_engine(with_ranks, head="ranked:100", ranks=other)
    expected = [steps(beside, prompt) for prompt in prompts()]
    assert [steps(inside, prompt) for prompt in prompts()] == expected
    assert [steps(outranked, prompt) for prompt in prompts()] != expected


def test_ranks_that_no_head_uses(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    """A ranks file beside the full head is a mistake, and is not passed over in silence."""
    with pytest.raises(ValueError, match=r"my-ranks\.gguf.*head 'full'.*'ranked:N'"):
        _core.Engine(str(demo_target), drafter=str(demo_drafter), head="full", ranks=str(tmp_path / "my-ranks.gguf"))
