"""Attention over chains and trees against numpy in double precision, and its bits against themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matrices import random_attention

from frspec_cpp import _testing

# What tests/cuda does not try on a GPU already, with references of its own, is repeated there.
pytestmark = [pytest.mark.every_isa, pytest.mark.threads]

SEGMENT = 1024  # keys whose partial results are merged; long texts have several


def seen_by(row: int, rows: int, length: int, parents: list[int] | None) -> list[int]:
    """The slots that a row sees, in their logical order."""
    prefix = length - rows
    path: list[int] = []
    node = row
    while node >= 0:
        path.append(prefix + node)
        node = node - 1 if parents is None else parents[node]
    return [*range(prefix), *path[::-1]]


def stored(x: np.ndarray, cache_type: str) -> np.ndarray:
    """Keys or values as the cache gives them back."""
    if cache_type in ("f16", "f32"):
        return x.astype(np.float16 if cache_type == "f16" else np.float32).astype(np.float64)
    blocks = x.reshape(x.shape[0], -1, 32)
    scale = np.abs(blocks).max(2, keepdims=True) / np.float32(127)
    codes = np.rint(blocks * (np.float32(1) / np.where(scale > 0, scale, np.float32(1))))
    return (codes * scale.astype(np.float16)).astype(np.float64).reshape(x.shape)


def reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    head_dim: int,
    parents: list[int] | None,
    cache_type: str,
    window: int = 0,
    cap: float = 0.0,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    rows, heads, kv_heads = q.shape[0], q.shape[1] // head_dim, k.shape[1] // head_dim
    keys = stored(k, cache_type).reshape(-1, kv_heads, head_dim)
    values = stored(v, cache_type).reshape(-1, kv_heads, head_dim)
    out = np.zeros((rows, heads, head_dim))
    for row in range(rows):
        slots = seen_by(row, rows, k.shape[0], parents)[-window:]
        for head in range(heads):
            of = head // (heads // kv_heads)
            scores = keys[slots, of] @ q[row].reshape(heads, head_dim)[head].astype(np.float64) / np.sqrt(head_dim)
            if cap:
                scores = cap * np.tanh(scores / cap)
            weights = np.exp(scores - scores.max())
            sink = np.exp(float(sinks[head]) - scores.max()) if sinks is not None else 0.0
            out[row, head] = weights @ values[slots, of] / (weights.sum() + sink)
    return out.reshape(rows, -1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, head_dim: int, **options: Any) -> np.ndarray:
    found: np.ndarray = _testing.ops.attend(q, k, v, head_dim, 1 / float(np.sqrt(head_dim)), **options)
    return found


def random_parents(nodes: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [-1, *(int(rng.integers(max(0, i - 5), i)) for i in range(1, nodes))]


SHAPES = [(64, 8, 2), (128, 4, 4), (80, 3, 1), (24, 4, 2), (96, 6, 3)]  # head_dim, heads, kv_heads
CASES = [(*shape, kind) for shape in SHAPES for kind in ("f16", "q8_0") if kind == "f16" or shape[0] % 32 == 0]
PASSES = [(1, 1), (1, 63), (1, 65), (3, 40), (17, 200), (64, 130), (1, SEGMENT + 1), (20, 2 * SEGMENT + 70)]


@pytest.mark.parametrize(("head_dim", "heads", "kv_heads", "cache_type"), CASES)
@pytest.mark.parametrize(
    ("rows", "length", "shape"),
    [(*some, "chain") for some in PASSES] + [(*some, "tree") for some in PASSES if some[0] > 1],
)
def test_against_numpy(
    rows: int, length: int, head_dim: int, heads: int, kv_heads: int, cache_type: str, shape: str
) -> None:
    q, k, v = random_attention(rows, length, head_dim, heads, kv_heads)
    parents = random_parents(rows, rows) if shape == "tree" else None
    found = attend(q, k, v, head_dim, parents=parents, cache_type=cache_type)
    # Tensor cores meet queries, weights and unpacked codes as f16 (tests/cuda has that rounding in its reference).
    tolerance = 4e-3 if "cuda" in _testing.ops.device() else 1e-5
    assert np.abs(found - reference(q, k, v, head_dim, parents, cache_type)).max() < tolerance


@pytest.mark.cpu_only
@pytest.mark.parametrize(("head_dim", "heads", "kv_heads"), SHAPES)
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_exact_keys_and_values(head_dim: int, heads: int, kv_heads: int, shape: str) -> None:
    """The f32 cache, which comparisons of accuracy want."""
    q, k, v = random_attention(17, 2 * SEGMENT + 70, head_dim, heads, kv_heads)
    parents = random_parents(17, 17) if shape == "tree" else None
    whole = attend(q, k, v, head_dim, parents=parents, cache_type="f32", n_threads=1)
    assert np.abs(whole - reference(q, k, v, head_dim, parents, "f32")).max() < 1e-5
    assert np.array_equal(attend(q, k, v, head_dim, parents=parents, cache_type="f32", n_threads=3), whole)
    if shape == "chain":
        alone = attend(q[:1], k[:-16], v[:-16], head_dim, cache_type="f32")
        assert np.array_equal(alone[0], whole[0])


RULES: list[dict[str, Any]] = [
    {"window": 1},
    {"window": 8},
    {"window": 70},
    {"window": 1000, "cap": 2.0},
    {"cap": 1.5},
    {"sinks": np.array([0.5, -2.0, 9.0, 1.0], np.float32)},
    {"window": 100, "cap": 3.0, "sinks": np.array([0.5, -2.0, 9.0, 1.0], np.float32)},
]


@pytest.mark.pairwise
@pytest.mark.every_device
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule) + str(rule.get("window", "")))
@pytest.mark.parametrize(("rows", "length"), [(1, 3), (17, 200), (40, 130), (20, 2 * SEGMENT + 70)])
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_windows_caps_and_sinks(rows: int, length: int, rule: dict[str, Any], shape: str) -> None:
    """Against numpy; and a row's bits are those that it has alone, whatever part of its text it sees."""
    head_dim = 64
    q, k, v = random_attention(rows, length, head_dim, 4, 2)
    parents = random_parents(rows, rows) if shape == "tree" else None
    found = attend(q, k, v, head_dim, parents=parents, n_threads=1, **rule)
    tolerance = 4e-3 if "cuda" in _testing.ops.device() else 1e-5
    assert np.abs(found - reference(q, k, v, head_dim, parents, "f16", **rule)).max() < tolerance
    assert np.array_equal(attend(q, k, v, head_dim, parents=parents, n_threads=5, **rule), found)
    for row in (0, rows // 2, rows - 1):
        slots = seen_by(row, rows, length, parents)
        alone = attend(q[row : row + 1], k[slots], v[slots], head_dim, n_threads=3, **rule)
        assert np.array_equal(alone[0], found[row])


@pytest.mark.every_device
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("length", [90, SEGMENT, 3 * SEGMENT + 5])
def test_bits_depend_on_nothing_else(length: int, cache_type: str) -> None:
    """Threads, the number of rows, and whether a row stands in a chain or in a tree do not change its bits."""
    rows, head_dim = 40, 64
    q, k, v = random_attention(rows, length, head_dim, 4, 2)
    whole = attend(q, k, v, head_dim, cache_type=cache_type, n_threads=1)
    for n_threads in (2, 3, 16):
        assert np.array_equal(attend(q, k, v, head_dim, cache_type=cache_type, n_threads=n_threads), whole)
    as_tree = attend(q, k, v, head_dim, parents=list(range(-1, rows - 1)), cache_type=cache_type)
    assert np.array_equal(as_tree, whole)
    for row in (0, 1, 21, rows - 1):
        end = length - rows + row + 1
        alone = attend(q[row : row + 1], k[:end], v[:end], head_dim, cache_type=cache_type, n_threads=5)
        assert np.array_equal(alone[0], whole[row])


@pytest.mark.every_device
def test_a_branch_sees_its_ancestors_only() -> None:
    """Two branches of a tree, each as a chain of its own, whose keys lie in other slots."""
    q, k, v = random_attention(9, 100, 64, 4, 2)
    parents = [-1, 0, 0, 1, 2, 3, 4, 5, 6]  # two interleaved branches below the root
    tree = attend(q, k, v, 64, parents=parents)
    for branch in ([0, 1, 3, 5, 7], [0, 2, 4, 6, 8]):
        slots = [*range(91), *(91 + node for node in branch)]
        chain = attend(q[branch], k[slots], v[slots], 64)
        assert np.array_equal(tree[branch], chain)


@pytest.mark.every_device
def test_errors() -> None:
    q, k, v = random_attention(1, 4, 24, 2, 1)
    with pytest.raises(ValueError, match=r"type of the K/V cache: found q8_0.*24 elements, no multiple of 32"):
        attend(q, k, v, 24, cache_type="q8_0")
    with pytest.raises(ValueError, match="'q4_0', expected f16, q8_0 or f32"):
        attend(q, k, v, 24, cache_type="q4_0")
