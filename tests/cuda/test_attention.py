"""Attention, the K/V cache and small layers on the CUDA emulation: against numpy, and their bits against themselves.

The rounding of the reference is that which cuda/attention.cu documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_device import DEVICE
from matrices import random_attention

from frspec_cpp import _testing

UNIT = 64  # keys that meet a query at once: cuda/attention.cu


def half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64)


def stored(x: np.ndarray, cache_type: str) -> np.ndarray:
    """Keys or values as the tensor cores meet them."""
    if cache_type == "f16":
        return half(x)
    blocks = x.reshape(x.shape[0], -1, 32)
    scale = np.abs(blocks).max(2, keepdims=True) / np.float32(127)
    codes = np.rint(blocks * (np.float32(1) / np.where(scale > 0, scale, np.float32(1))))
    return half(codes * half(scale)).reshape(x.shape)


def path_to(node: int, parents: list[int] | None) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = node - 1 if parents is None else parents[node]
    return path[::-1]


def reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, head_dim: int, parents: list[int] | None, cache_type: str
) -> np.ndarray:
    """Units of 64 keys: weights are rounded to f16 beside the largest one of their unit; all else is exact."""
    rows, heads, kv_heads = q.shape[0], q.shape[1] // head_dim, k.shape[1] // head_dim
    keys, values = (stored(x, cache_type).reshape(-1, kv_heads, head_dim) for x in (k, v))
    queries = half(q * np.float32(1 / float(np.sqrt(head_dim)))).reshape(rows, heads, head_dim)
    prefix = k.shape[0] - rows
    out = np.zeros((rows, heads, head_dim))
    for row in range(rows):
        slots = [*range(prefix), *(prefix + node for node in path_to(row, parents))]
        for head in range(heads):
            of = head // (heads // kv_heads)
            scores = keys[slots, of] @ queries[row, head]
            top = scores.max()
            total = 0.0
            for first in range(0, len(slots), UNIT):
                part = scores[first : first + UNIT]
                weights = half(np.exp(part - part.max())) * np.exp(part.max() - top)
                out[row, head] += weights @ values[slots[first : first + UNIT], of]
                total += weights.sum()
            out[row, head] /= total
    return out.reshape(rows, -1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, head_dim: int, **options: Any) -> np.ndarray:
    found: np.ndarray = _testing.ops.attend(q, k, v, head_dim, 1 / float(np.sqrt(head_dim)), device=DEVICE, **options)
    return found


def random_parents(nodes: int, seed: int, reach: int = 5) -> list[int]:
    rng = np.random.default_rng(seed)
    return [-1, *(int(rng.integers(max(0, i - reach), i)) for i in range(1, nodes))]


# head_dim, heads, kv_heads: groups of 1 to 8 and of more than one tile holds; heads that fill no tile, odd ones.
SHAPES = [(32, 4, 4), (64, 6, 2), (80, 3, 1), (96, 4, 1), (128, 8, 1), (256, 4, 2), (256, 8, 1)]
SHAPES += [(16, 20, 1), (24, 4, 2), (13, 2, 1), (8, 2, 2), (136, 2, 1)]
PASSES = [(1, 0), (2, 1), (1, 127), (17, 128), (9, 129), (1, 1000)]
HEADS = [(*shape, kind) for shape in SHAPES for kind in ("f16", "q8_0") if kind == "f16" or shape[0] % 32 == 0]
ROWS = [(*some, "chain") for some in PASSES] + [(*some, "tree") for some in PASSES if some[0] > 1]
# Three passes for each kind of heads, all of them in turn.
CASES = [(*heads, *ROWS[(2 * i + 3 * j) % len(ROWS)]) for i, heads in enumerate(HEADS) for j in range(3)]


@pytest.mark.parametrize(("head_dim", "heads", "kv_heads", "cache_type", "rows", "prefix", "shape"), CASES)
def test_against_numpy(
    rows: int, prefix: int, head_dim: int, heads: int, kv_heads: int, cache_type: str, shape: str
) -> None:
    q, k, v = random_attention(rows, prefix + rows, head_dim, heads, kv_heads)
    parents = random_parents(rows, rows) if shape == "tree" else None
    found = attend(q, k, v, head_dim, parents=parents, cache_type=cache_type)
    error = np.abs(found - reference(q, k, v, head_dim, parents, cache_type))
    # A weight that f32 and f64 round to different halves is off by 2^-12 at most.
    assert error.max() < 1e-3
    assert np.sqrt(np.mean(error**2)) < 1e-4


@pytest.mark.parametrize(
    ("rows", "prefix", "cache_type"), [(70, 3, "q8_0"), (130, 100, "f16"), (33, 1500, "q8_0"), (20, 2600, "f16")]
)
def test_many_rows_against_numpy(rows: int, prefix: int, cache_type: str) -> None:
    q, k, v = random_attention(rows, prefix + rows, 64, 4, 2)
    for parents in (None, random_parents(rows, 1), random_parents(rows, 2, reach=1)):
        error = np.abs(
            attend(q, k, v, 64, parents=parents, cache_type=cache_type) - reference(q, k, v, 64, parents, cache_type)
        )
        assert error.max() < 1e-3


# Each kind of heads with a short text and a long one.
@pytest.mark.parametrize(
    ("head_dim", "heads", "kv_heads", "cache_type", "rows", "prefix"),
    [
        *((64, 4, 2, "f16", *rows) for rows in ((9, 0), (70, 127), (6, 2700))),
        *((64, 4, 2, "q8_0", *rows) for rows in ((40, 60), (33, 700))),
        *((128, 4, 1, "f16", *rows) for rows in ((40, 60), (33, 700))),
        *((256, 2, 1, "q8_0", *rows) for rows in ((9, 0), (6, 2700))),
        *((24, 18, 1, "f16", *rows) for rows in ((9, 0), (70, 127))),
    ],
)
def test_bits_depend_on_the_logical_sequence_only(
    head_dim: int, heads: int, kv_heads: int, cache_type: str, rows: int, prefix: int
) -> None:
    """Every node of a tree as plain decoding computes it: alone, its ancestors in the prefix; and as a chain."""
    q, k, v = random_attention(rows, prefix + rows, head_dim, heads, kv_heads, seed=rows)
    for reach in (2, 30):
        parents = random_parents(rows, reach, reach)
        tree = attend(q, k, v, head_dim, parents=parents, cache_type=cache_type)
        for node in {0, 1, rows // 2, rows - 2, rows - 1}:
            path = path_to(node, parents)
            slots = [*range(prefix), *(prefix + i for i in path)]
            alone = attend(q[node : node + 1], k[slots], v[slots], head_dim, cache_type=cache_type)
            assert np.array_equal(alone[0], tree[node])
            if node == rows - 1:
                chain = attend(q[path], k[slots], v[slots], head_dim, cache_type=cache_type)
                assert np.array_equal(chain, tree[path])


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("length", [65, 200, 1300])
def test_chunks_of_any_size_have_the_same_bits(length: int, cache_type: str) -> None:
    q, k, v = random_attention(length, length, 32, 4, 2)
    whole = attend(q[-65:], k, v, 32, cache_type=cache_type)
    for first, count in [(0, 1), (64, 1), (1, 64), (60, 5), (10, 37)]:
        end = length - 65 + first + count
        part = attend(q[end - count : end], k[:end], v[:end], 32, cache_type=cache_type)
        assert np.array_equal(part, whole[first : first + count])


@pytest.mark.pairwise
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", ["chain", "tree", "brush"])
def test_what_is_not_finite_stays_where_it_is_seen(bad: float, cache_type: str, shape: str) -> None:
    rows, prefix, node = 40, 70, 7
    q, k, v = random_attention(rows, prefix + rows, 64, 4, 2)
    # A brush: rows that see few keys come after those that see more, in the same block.
    brush = [*range(-1, node), *([0] * (rows - node - 1))]
    parents = {"chain": None, "tree": random_parents(rows, 3), "brush": brush}[shape]
    expected = attend(q, k, v, 64, parents=parents, cache_type=cache_type)
    sees = np.array([node in path_to(row, parents) for row in range(rows)])
    for which in ("q", "k", "v"):
        arrays = {"q": q.copy(), "k": k.copy(), "v": v.copy()}
        arrays[which][node if which == "q" else prefix + node, 5] = bad
        found = attend(arrays["q"], arrays["k"], arrays["v"], 64, parents=parents, cache_type=cache_type)
        touched = np.arange(rows) == node if which == "q" else sees
        assert np.array_equal(found[~touched], expected[~touched])
        if cache_type == "f16" and which == "v":
            assert not np.isfinite(found[touched]).all(axis=1).any()


def test_scores_of_minus_infinity_count_for_nothing() -> None:
    """A whole unit of them, too."""
    q, k, v = random_attention(1, 200, 16, 1, 1)
    q[:] = np.abs(q)
    k[:100] = -np.inf
    found = attend(q, k, v, 16)
    expected = attend(q, np.where(np.arange(200)[:, None] < 100, -1e4, k).astype(np.float32), v, 16)
    assert np.array_equal(found, expected)


@pytest.mark.pairwise
@pytest.mark.parametrize("device", [DEVICE, "cpu"])
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize(("prefix", "spare", "layers"), [(0, 0, 1), (1, 5000, 2), (61, 7, 3), (130, 0, 70)])
def test_commit(prefix: int, spare: int, layers: int, cache_type: str, device: str) -> None:
    """Accepted nodes move to their place in every layer: a model of it in numpy, and plain decoding, to the bit."""
    head_dim, heads, kv_heads, size = 32, 2, 2, 30
    q, k, v = random_attention(layers, layers * (prefix + size + 1), head_dim, heads, kv_heads)
    k, v = (x.reshape(layers, prefix + size + 1, -1) for x in (k, v))
    parents = random_parents(size, 4, reach=3)
    scale = 1 / float(np.sqrt(head_dim))
    for node in (0, 1, size - 1):
        nodes = path_to(node, parents)
        found = _testing.cache_ops.committed(
            q, k.reshape(-1, k.shape[2]), v.reshape(-1, v.shape[2]), head_dim, scale, parents, nodes,
            cache_type=cache_type, spare=spare, device=device,
        )  # fmt: skip
        slots = [*range(prefix), *(prefix + i for i in nodes), prefix + size]
        for layer in {0, layers // 2, layers - 1}:
            plain = _testing.ops.attend(
                q[layer : layer + 1], k[layer, slots], v[layer, slots], head_dim, scale, cache_type=cache_type,
                device=device,
            )  # fmt: skip
            assert np.array_equal(found[layer], plain[0])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "dims"), [(64, 64), (80, 20), (13, 6), (256, 256)])
def test_rotation(head_dim: int, dims: int, interleaved: bool) -> None:
    rng = np.random.default_rng(dims)
    rows, prefix = 5, 9
    q, k = (rng.standard_normal((rows, heads * head_dim), dtype=np.float32) for heads in (6, 3))
    angles = rng.standard_normal((prefix + rows, dims // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for depths in (None, [0, 1, 1, 2, 1]):
        at = prefix + np.arange(rows) if depths is None else prefix + np.array(depths)
        found = _testing.cache_ops.rotated(q, k, head_dim, cos, sin, interleaved, prefix, depths, device=DEVICE)
        for x, y in zip((q, k), found, strict=True):
            expected = x.reshape(rows, -1, head_dim).copy()
            i = np.arange(dims // 2)
            one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + dims // 2)
            a, b, c, s = expected[..., one], expected[..., other], cos[at][:, None], sin[at][:, None]
            expected[..., one], expected[..., other] = a * c - b * s, a * s + b * c
            assert np.array_equal(y, expected.reshape(x.shape))


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 63), (70, 64), (9, 128), (5, 514), (4, 2048), (2, 4097)])
def test_norm(rows: int, cols: int) -> None:
    """In place in a part of wider rows, aligned or not, with the same bits as alone."""
    rng = np.random.default_rng(cols)
    x = rng.standard_normal((rows, cols + 9), dtype=np.float32)
    weight = rng.standard_normal(cols, dtype=np.float32)
    for first in (0, 4, 5):
        part = x[:, first : first + cols]
        found = _testing.cache_ops.norm_columns(x, first, weight, 1e-5, device=DEVICE)
        mean = np.mean(part.astype(np.float64) ** 2, axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, first : first + cols], part / np.sqrt(mean + 1e-5) * weight, rtol=3e-6)
        assert np.array_equal(found[:, :first], x[:, :first])
        assert np.array_equal(found[:, first + cols :], x[:, first + cols :])
        for row in {0, rows - 1}:
            alone = _testing.ops.rms_norm(np.ascontiguousarray(part[row : row + 1]), weight, 1e-5, device=DEVICE)
            assert np.array_equal(alone[0], found[row, first : first + cols])


@pytest.mark.parametrize("cols", [1, 64, 75, 5000])
def test_rows_are_copied(cols: int) -> None:
    x = np.random.default_rng(0).standard_normal((11, cols), dtype=np.float32)
    rows = [3, 3, 0, 10, 7]
    assert np.array_equal(_testing.cache_ops.gather_rows(x, rows, device=DEVICE), x[rows])
    assert np.array_equal(_testing.cache_ops.gather_rows(x, device=DEVICE), x)


def test_errors() -> None:
    q, k, v = random_attention(1, 4, 24, 2, 1)
    with pytest.raises(ValueError, match=r"type of the K/V cache: found q8_0.*24 elements, no multiple of 32"):
        attend(q, k, v, 24, cache_type="q8_0")
    q, k, v = random_attention(1, 4, 257, 1, 1)
    with pytest.raises(ValueError, match=r"heads of the model: found 257 elements, expected at most 256"):
        attend(q, k, v, 257)
