"""Tokens chosen on CUDA: the same ids as on the CPU from the same logits, whatever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda_device import DEVICE
from matrices import write_matrices

from frspec_cpp import _testing

Row = npt.NDArray[np.float32]

# Sizes around the width of a warp, of a chunk (512, 1024, 2048 columns), and those of real vocabularies.
VOCABS = [1, 31, 32, 33, 512, 513, 1025, 2049]
LARGE = [65536, 131072]
KINDS = ["random", "ties", "equal", "nan", "infinite", "lowest", "denormal", "ascending"]
# Many columns are looked at in more pieces, whatever is in them: some kinds are enough there.
ROWS_OF_LOGITS = [(vocab, kind) for vocab in VOCABS for kind in KINDS]
ROWS_OF_LOGITS += [(vocab, kind) for vocab in LARGE for kind in ("random", "ties", "nan")]
OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


def logits(kind: str, vocab: int, rows: int = 3, seed: int = 0) -> Row:
    random = np.random.default_rng([seed, vocab, KINDS.index(kind)])
    x = (4 * random.standard_normal((rows, vocab))).astype(np.float32)
    some = random.integers(0, vocab, max(1, vocab // 10))
    if kind == "ties":
        x = x.round()
        x[0] *= np.float32(0.0)  # zeros of both signs
    elif kind == "equal":
        x[:] = np.float32(1.5)
    elif kind == "nan":
        x[:, some] = np.nan
        x[-1] = np.nan
    elif kind == "infinite":
        x[0, some[0]] = np.inf
        x[1, some] = -np.inf
    elif kind == "lowest":
        x[:] = -np.inf
        x[0, some] = np.float32(3.0)
    elif kind == "denormal":
        x *= np.float32(1e-40)
    elif kind == "ascending":
        x.sort(axis=1)
    return x


@pytest.mark.parametrize(("vocab", "kind"), ROWS_OF_LOGITS)
def test_top_k(kind: str, vocab: int) -> None:
    x = logits(kind, vocab)
    for k in [1, 2, 10, 64, 300, 3000] if vocab < 3000 else [10, 64]:
        if k > vocab:
            continue
        ids, scores = _testing.ops.top_k(x, k, device=DEVICE)
        expected_ids, expected = _testing.ops.top_k(x, k, device="cpu")
        assert np.array_equal(ids, expected_ids)
        assert (scores <= 0).all()
        if kind != "nan":  # how much a chunk with a NaN counts is nobody's definition
            np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=2e-6)


def test_top_k_of_named_columns() -> None:
    x = logits("ties", 700)
    names = np.sort(np.random.default_rng(0).choice(5000, 700, replace=False)).tolist()
    found = _testing.ops.top_k(x, 20, column_ids=names, device=DEVICE)
    assert np.array_equal(found[0], _testing.ops.top_k(x, 20, column_ids=names, device="cpu")[0])


@pytest.mark.parametrize(("vocab", "kind"), ROWS_OF_LOGITS)
def test_sample(kind: str, vocab: int) -> None:
    x = logits(kind, vocab, rows=4)
    for temperature in (0.0, 0.05, 1.0, 30.0) if vocab not in LARGE else (0.0, 1.0):
        options = {"temperature": temperature, "seed": 2**40 + 5, "positions": [7, 1, 7, 2**30]}
        found = _testing.ops.sample(x, **options, device=DEVICE)
        assert np.array_equal(found, _testing.ops.sample(x, **options, device="cpu"))


@pytest.mark.parametrize("vocab", VOCABS + LARGE)
def test_log_probs(vocab: int) -> None:
    x = logits("random", vocab)
    tokens = np.random.default_rng(1).integers(0, vocab, len(x)).tolist()
    exact = x.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    found = _testing.ops.log_probs(x, tokens, device=DEVICE)
    np.testing.assert_allclose(found, exact[np.arange(len(x)), tokens], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab", [33, 513, 5000])
def test_a_row_alone_gives_the_same_bits(vocab: int) -> None:
    """Contract 1; rows of odd lengths begin at all kinds of addresses."""
    x = logits("random", vocab, rows=7)
    together = _testing.ops.top_k(x, 10, device=DEVICE)
    chain = {"temperature": 0.8, "top_p": 0.9, "min_p": 0.01, "dynatemp_range": 0.3, "repeat_penalty": 1.2}
    processed = _testing.ops.process(x, [1, 2, 1], DEVICE, **{**OFF, **chain})
    chosen = _testing.ops.log_probs(x, [3] * 7, device=DEVICE)
    for r in range(7):
        alone = _testing.ops.top_k(x[r : r + 1], 10, device=DEVICE)
        assert np.array_equal(alone[0][0], together[0][r])
        assert np.array_equal(alone[1][0], together[1][r])
        assert np.array_equal(
            _testing.ops.process(x[r : r + 1], [1, 2, 1], DEVICE, **{**OFF, **chain})[0], processed[r]
        )
        assert np.array_equal(_testing.ops.log_probs(x[r : r + 1], [3], device=DEVICE)[0], chosen[r])


def check_chain(found: Row, expected: Row) -> None:
    """The same columns are in, with values that differ by the rounding of a temperature at most."""
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)


def random_chain(random: np.random.Generator, vocab: int) -> dict[str, Any]:
    chain = {**OFF, "temperature": float(random.choice([0.0, 0.5, 1.0, 1.7]))}
    if random.random() < 0.5:
        chain["top_k"] = int(random.integers(1, vocab + 3) if random.random() < 0.5 else random.integers(1, 80))
    if random.random() < 0.5:
        chain["top_p"] = float(random.choice([0.01, 0.5, 0.9, 0.95, 0.999]))
    if random.random() < 0.3:
        chain["typical_p"] = float(random.choice([0.1, 0.5, 0.95]))
    if random.random() < 0.4:
        chain["min_p"] = float(random.choice([0.001, 0.05, 0.5, 1.0]))
    if random.random() < 0.3:
        chain |= {"dynatemp_range": 0.4, "dynatemp_exponent": 1.3}
    if random.random() < 0.3:
        chain |= {"repeat_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.1}
        chain["repeat_last_n"] = int(random.choice([-1, 4, 64]))
    if random.random() < 0.3:  # some columns have two
        columns = random.integers(0, vocab, 9).tolist()
        chain["logit_bias"] = [(column, 0.7 if i % 2 == 0 else -1.5) for i, column in enumerate(columns)]
    if random.random() < 0.2:
        chain |= {"stop_token_ids": [0, vocab - 1], "min_tokens": 50, "max_tokens": 60}
    return chain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [1, 2, 33, 512, 700, 5000])
def test_chains_leave_in_what_the_cpu_leaves_in(kind: str, vocab: int) -> None:
    random = np.random.default_rng(vocab)
    for seed in range(12):
        x, chain = logits(kind, vocab, seed=seed), random_chain(random, vocab)
        x *= np.float32(random.choice([0.1, 0.5, 1.0]))
        history = random.integers(0, vocab, random.integers(0, 100)).tolist()
        found = _testing.ops.process(x, history, DEVICE, **chain)
        check_chain(found, _testing.ops.process(x, history, "cpu", **chain))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "filters", [{"top_k": 40}, {"top_k": 3000}, {"top_p": 0.95}, {"min_p": 0.05}, {"typical_p": 0.9}, {"top_p": 0.5}]
)
def test_chains_of_a_large_vocabulary(flat: bool, filters: dict[str, Any]) -> None:
    """Peaked rows, of which few columns are looked at, and flat ones, which do not fit into shared memory."""
    x = logits("random", 50001, rows=2) * np.float32(0.05 if flat else 1.0)
    options = {**OFF, **filters, "temperature": 0.7}
    check_chain(_testing.ops.process(x, [], DEVICE, **options), _testing.ops.process(x, [], "cpu", **options))


def test_penalties_follow_the_paths_of_a_tree() -> None:
    random = np.random.default_rng(4)
    parents, tokens = [-1, 0, 0, 1, 1, 3, 2], random.integers(0, 20, 7).tolist()
    x, history = logits("random", 20, rows=7), random.integers(0, 20, 9).tolist()
    for last_n in (1, 3, 8, -1):
        chain = {**OFF, "frequency_penalty": 0.5, "repeat_penalty": 1.4, "repeat_last_n": last_n}
        found = _testing.ops.process_tree(x, history, tokens, parents, DEVICE, **chain)
        check_chain(found, _testing.ops.process_tree(x, history, tokens, parents, "cpu", **chain))
        for node in range(7):
            path, at = [], node
            while at >= 0:
                path.insert(0, tokens[at])
                at = parents[at]
            plain = _testing.ops.process(x[node : node + 1], history + path, DEVICE, **chain)
            assert np.array_equal(plain[0], found[node])


# --- Heads: weights and states are small integers, so that every backend finds the same logits ---

ROWS, COLS = 3000, 32


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("choosing") / "head.gguf"
    weight = np.round(2 * np.random.default_rng(0).standard_normal((ROWS, COLS))).astype(np.float32)
    write_matrices(path, {"head": ("F32", weight)})
    return str(path)


def states(rows: int, seed: int) -> Row:
    return (np.random.default_rng(seed).integers(-2, 3, (rows, COLS)) / 4).astype(np.float32)


@pytest.mark.pairwise
@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 256, 300])
@pytest.mark.parametrize("shape", ["all", "first", "ids", "listed"])
def test_best_tokens_of_heads(head: str, temperature: float, top_k: int, shape: str) -> None:
    x, random = states(4, top_k), np.random.default_rng(top_k)
    options: dict[str, Any] = {"temperature": temperature, "seed": 11, "position": 5, "top_k": top_k}
    if shape == "first":
        options["first"] = 1024
    if shape in ("ids", "listed"):
        options["ids"] = random.permutation(2 * ROWS)[:ROWS].tolist()
    if shape == "listed":
        options["listed"] = np.stack([np.sort(random.choice(ROWS, 700, replace=False)) for _ in x]).ravel().tolist()
    for k in (1, 10, 64):
        found = _testing.head_ops.top_k(head, "head", x, k, **options, device=DEVICE)
        expected = _testing.head_ops.top_k(head, "head", x, k, **options, device="cpu")
        assert np.array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("count", [1, 40, 512, 2048, 2999, 3000])
def test_candidates_of_heads(head: str, temperature: float, count: int) -> None:
    x = states(5, count)
    options = {"temperature": temperature, "seed": 3, "position": 8}
    found = _testing.head_ops.candidates(head, "head", x, count, **options, device=DEVICE)
    assert np.array_equal(found, _testing.head_ops.candidates(head, "head", x, count, **options, device="cpu"))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_samples_of_heads_and_the_best_without_noise(head: str, temperature: float) -> None:
    x = states(6, 1)
    x[1, 0] = np.nan  # logits that are no numbers
    for k in (1, 8, 64):
        options = {"temperature": temperature, "seed": 9, "position": 77}
        found = _testing.head_ops.sample_with_best(head, "head", x, k, **options, device=DEVICE)
        expected = _testing.head_ops.sample_with_best(head, "head", x, k, **options, device="cpu")
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])
        assert (found[1][1] == -1).all()
