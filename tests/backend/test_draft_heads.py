"""What draft heads are made of: rows picked one by one, candidates, what two heads say together, rows replaced."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from matrices import FLOATS, MULTIPLIED, random_matrix, write_matrices

from frspec_cpp import _testing

pytestmark = [pytest.mark.every_isa, pytest.mark.every_device, pytest.mark.threads]

ROWS, COLS = 3000, 512
NARROW = 41  # columns that fill no vector; of the formats without blocks only


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("heads") / "heads.gguf"
    rng = np.random.default_rng(5)
    matrices = {kind: (kind, random_matrix(kind, ROWS, COLS, rng)) for kind in FLOATS + MULTIPLIED}
    matrices |= {f"narrow.{kind}": (kind, random_matrix(kind, 90, NARROW, rng)) for kind in FLOATS}
    # A sketch: narrow rows, and values that repeat, so that scores tie.
    sketch = np.round(2 * rng.standard_normal((ROWS, 32))).astype(np.float32)
    matrices["sketch"] = "F32", sketch
    matrices["sketch.Q8_0"] = "Q8_0", gguf.quants.quantize(sketch, gguf.GGMLQuantizationType.Q8_0)
    # For a state that begins with infinity: some scores are infinite, the others NaN.
    matrices["overflow"] = "F32", rng.choice([-1.0, 0.0, 1.0], (ROWS, 32), p=[0.5, 0.49, 0.01]).astype(np.float32)
    write_matrices(path, matrices)
    return str(path)


def states(rows: int, cols: int = COLS) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, cols), dtype=np.float32)


def lists(rows: int, count: int, most: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(count)
    return np.stack([np.sort(rng.choice(most, count, replace=False)) for _ in range(rows)]).astype(np.int32)


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@pytest.mark.pairwise
@pytest.mark.parametrize("kind", FLOATS + MULTIPLIED)
@pytest.mark.parametrize(("rows", "count"), [(1, 1), (1, 700), (7, 65)])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_picked_rows(file: str, kind: str, rows: int, count: int, n_threads: int) -> None:
    """The logits of the rows that each state lists are x . row, whatever the format."""
    x, listed = states(rows), lists(rows, count)
    weight = _testing.ops.dequantize(file, kind).astype(np.float64)
    logits = np.stack([weight[some] @ state for some, state in zip(listed, x, strict=True)])
    k = min(10, count)
    ids, scores, sums = _testing.head_ops.top_k(file, kind, x, k, listed=listed.ravel().tolist(), n_threads=n_threads)
    scale = np.abs(logits).max()
    found = scores + sums[:, None]  # logits again
    best = -np.sort(-logits, axis=1)[:, :k]
    np.testing.assert_allclose(found, best, atol=2e-5 * scale)
    for r in range(rows):
        own = {int(row): float(value) for row, value in zip(listed[r], logits[r], strict=True)}
        np.testing.assert_allclose([own[int(i)] for i in ids[r]], best[r], atol=2e-5 * scale)
    exact = logits.max(axis=1) + np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
    np.testing.assert_allclose(sums, exact, atol=2e-5 * scale)


@pytest.mark.parametrize("kind", FLOATS)
def test_picked_rows_that_fill_no_vector(file: str, kind: str) -> None:
    x, listed = states(3, NARROW), lists(3, 20, 90)
    weight = _testing.ops.dequantize(file, f"narrow.{kind}")
    ids, scores, sums = _testing.head_ops.top_k(file, f"narrow.{kind}", x, 20, listed=listed.ravel().tolist())
    for r in range(3):
        np.testing.assert_allclose(scores[r] + sums[r], weight[ids[r]] @ x[r], rtol=1e-4, atol=1e-3)


def test_a_row_depends_on_its_list_only(file: str) -> None:
    """Contract 1: states together give the bits that each gives alone."""
    x, listed = states(9), lists(9, 130)
    together = _testing.head_ops.top_k(file, "Q4_K", x, 10, listed=listed.ravel().tolist(), n_threads=3)
    for r in range(9):
        alone = _testing.head_ops.top_k(file, "Q4_K", x[r : r + 1], 10, listed=listed[r].tolist(), n_threads=1)
        for a, b in zip(together, alone, strict=True):
            assert np.array_equal(a[r], b[0])


def test_tokens_of_picked_rows(file: str) -> None:
    """Ids name the rows; the noise is that of the tokens, not of the rows."""
    x, listed = states(4), lists(4, 200)
    ids = np.random.default_rng(1).permutation(2 * ROWS)[:ROWS].astype(np.int32)
    plain = _testing.head_ops.top_k(file, "Q8_0", x, 200, listed=listed.ravel().tolist())
    named = _testing.head_ops.top_k(file, "Q8_0", x, 200, listed=listed.ravel().tolist(), ids=ids.tolist())
    assert np.array_equal(ids[plain[0]], named[0])
    noisy, _, _ = _testing.head_ops.top_k(
        file, "Q8_0", x, 5, listed=listed.ravel().tolist(), ids=ids.tolist(), temperature=2.0, seed=9, position=7
    )
    for r in range(4):
        gumbel = _testing.ops.gumbel(9, 7, named[0][r].tolist())
        order = np.argsort(-((plain[1][r] + plain[2][r]) / 2.0 + gumbel), kind="stable")
        assert np.array_equal(noisy[r], named[0][r][order[:5]])


@pytest.mark.pairwise
@pytest.mark.parametrize("tensor", ["sketch", "sketch.Q8_0", "Q5_K"])
@pytest.mark.parametrize("count", [1, 40, 600, 2999, 3000])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_candidates(file: str, tensor: str, count: int, n_threads: int) -> None:
    """The best columns, ascending, ties to the lower one."""
    x = np.round(states(5, COLS if tensor == "Q5_K" else 32))
    logits = _testing.ops.matmul(file, tensor, x, n_threads=1)
    found = _testing.head_ops.candidates(file, tensor, x, count, n_threads=n_threads)
    for r in range(5):
        expected = np.sort(np.argsort(-logits[r], kind="stable")[:count])
        assert np.array_equal(found[r], expected)


def test_candidates_of_scores_that_are_all_the_same(file: str) -> None:
    found = _testing.head_ops.candidates(file, "sketch", np.zeros((2, 32), dtype=np.float32), 700)
    assert np.array_equal(found, np.stack([np.arange(700)] * 2))


@pytest.mark.parametrize("count", [1, 15, 40, 600, 2999])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_candidates_of_scores_that_are_no_numbers(file: str, count: int, temperature: float) -> None:
    """NaN counts as -infinity, also where that is good enough."""
    x = states(2, 32)
    x[:, 0] = np.inf
    scores = _testing.ops.matmul(file, "overflow", x)
    assert np.isnan(scores).any()
    assert np.isneginf(scores).any()
    if temperature > 0.0:
        scores = scores / np.float32(temperature) + _testing.ops.gumbel(3, 11, list(range(ROWS)))
    scores = np.where(np.isnan(scores), -np.inf, scores)
    found = _testing.head_ops.candidates(file, "overflow", x, count, temperature=temperature, seed=3, position=11)
    for r in range(2):
        assert np.array_equal(found[r], np.sort(np.argsort(-scores[r], kind="stable")[:count]))


@pytest.mark.parametrize("with_ids", [False, True])
def test_candidates_under_noise(file: str, with_ids: bool) -> None:
    """The noise lifts tokens of the tail, too; where the target's chain leaves a few, it does not decide."""
    x = states(3, 32)
    ids = np.random.default_rng(1).permutation(ROWS) if with_ids else np.arange(ROWS)
    logits = _testing.ops.matmul(file, "sketch", x)
    options = {"temperature": 1.5, "seed": 3, "position": 11, "ids": ids.tolist() if with_ids else None}
    noisy = logits / np.float32(1.5) + _testing.ops.gumbel(3, 11, ids.tolist())
    found = _testing.head_ops.candidates(file, "sketch", x, 100, **options)
    for r in range(3):
        assert np.array_equal(found[r], np.sort(np.argsort(-noisy[r], kind="stable")[:100]))
    few = _testing.head_ops.candidates(file, "sketch", x, 100, top_k=40, **options)
    assert np.array_equal(few, _testing.head_ops.candidates(file, "sketch", x, 100))


@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
def test_scaled_and_capped_logits(file: str, kind: str) -> None:
    """A model's scale and soft cap are in all that its head is asked for: numbers, sums, and what noise chooses."""
    x, count = states(5), 200
    products = _testing.ops.matmul(file, kind, x)
    rule = {"scale": 2.0 / float(products.std()), "cap": 1.5}
    logits = 1.5 * np.tanh(products * np.float32(rule["scale"]) / np.float32(1.5))
    assert np.abs(logits).max() > 1.49  # the cap bites
    normed = log_softmax(logits)
    sums = (logits - normed)[:, 0]
    ids, scores, found = _testing.head_ops.top_k(file, kind, x, 10, **rule)
    np.testing.assert_allclose(found, sums, atol=1e-4)
    np.testing.assert_allclose(scores, np.take_along_axis(normed, ids, 1), atol=1e-4)
    every = list(range(ROWS))
    _, merged, _ = _testing.head_ops.merged_top_k(file, kind, x, 10, every[::2], every[1::2], **rule)
    np.testing.assert_allclose(merged, -np.sort(-normed, axis=1)[:, :10], atol=1e-4)
    listed = lists(5, count)
    _, _, found = _testing.head_ops.top_k(file, kind, x, 1, listed=listed.ravel().tolist(), **rule)
    some = np.take_along_axis(logits, listed, 1)
    np.testing.assert_allclose(found, (some - log_softmax(some))[:, 0], atol=1e-3)  # no activations are rounded there
    draw = {"temperature": 0.7, "seed": 3, "position": 11}
    noisy = logits / np.float32(0.7) + _testing.ops.gumbel(3, 11, every)
    order = np.argsort(-noisy, axis=1)
    ids, _, _ = _testing.head_ops.top_k(file, kind, x, 1, **rule, **draw)
    tokens, best = _testing.head_ops.sample_with_best(file, kind, x, 3, **rule, **draw)
    columns = _testing.head_ops.candidates(file, kind, x, 8, **rule, **draw)
    assert ids[:, 0].tolist() == tokens.tolist() == order[:, 0].tolist()
    assert np.array_equal(columns, np.sort(order[:, :8], axis=1))
    np.testing.assert_allclose(np.take_along_axis(logits, best, 1), -np.sort(-logits, axis=1)[:, :3], atol=1e-5)
    plain = _testing.head_ops.candidates(file, kind, x, 8, **draw)
    assert not np.array_equal(columns, plain)


@pytest.mark.parametrize("count", [1024, 1001])
def test_the_first_rows_alone(file: str, count: int) -> None:
    """A prefix of a packed weight is the head of its rows."""
    x = states(11)
    for kind in ("Q6_K", "F32"):
        first = _testing.head_ops.top_k(file, kind, x, 10, first=count)
        ids, scores = _testing.ops.top_k(_testing.ops.matmul(file, kind, x, rows=list(range(count))), 10)
        assert np.array_equal(first[0], ids)
        assert np.array_equal(first[1], scores)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_two_heads_together(file: str, temperature: float) -> None:
    """Their best tokens are those of the union, a token that both have counts once."""
    x = states(6) / 40
    rng = np.random.default_rng(2)
    one = np.sort(rng.choice(ROWS, 900, replace=False)).tolist()
    other = np.sort(np.concatenate([rng.choice(one, 300, replace=False), np.setdiff1d(np.arange(ROWS), one)[::5]]))
    union = sorted(set(one) | set(other.tolist()))
    draw = {"temperature": temperature, "seed": 4, "position": 2}
    ids, scores, _ = _testing.head_ops.merged_top_k(file, "BF16", x, 10, one, other.tolist(), **draw)
    logits = _testing.ops.matmul(file, "BF16", x, rows=union)
    if temperature > 0:
        logits = logits + _testing.ops.gumbel(4, 2, union)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :10]
    best = np.take_along_axis(logits, order, 1)
    assert np.array_equal(ids, np.array(union)[order])
    if temperature > 0:
        np.testing.assert_allclose(scores, log_softmax(best), atol=1e-4)
    else:
        # Of what both have, only the best is known to be counted twice.
        exact = np.take_along_axis(log_softmax(logits), order, 1)
        doubled = np.isin(union, one) & np.isin(union, other)
        twice = np.log1p((np.exp(log_softmax(logits)) * doubled).sum(axis=1, keepdims=True))
        assert (scores <= exact + 1e-4).all()
        assert (scores >= exact - twice - 1e-4).all()


@pytest.mark.parametrize("kind", FLOATS + MULTIPLIED)
def test_rows_replaced_in_place(file: str, kind: str) -> None:
    """As if they had been packed there at once, bit for bit."""
    rng = np.random.default_rng(8)
    rows = rng.choice(ROWS, 77, replace=False).tolist()
    places, new = [0, 15, 16, 31, 32, 63, 64, 76, 40], rng.choice(ROWS, 9, replace=False).tolist()
    wanted = list(rows)
    for place, row in zip(places, new, strict=True):
        wanted[place] = row
    x = states(3)
    assert np.array_equal(
        _testing.head_ops.replaced_matmul(file, kind, x, rows, places, new),
        _testing.ops.matmul(file, kind, x, rows=wanted),
    )
