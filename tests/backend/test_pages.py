"""Where a sequence's pages lie, and which sequences share a pass, changes no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matrices import random_attention

from frspec_cpp import _testing

pytestmark = [pytest.mark.every_isa, pytest.mark.every_device, pytest.mark.threads]

PAGE = 64
KINDS = [(64, "f16"), (64, "q8_0"), (80, "f16"), (96, "q8_0")]


def random_pages(slots: int, seed: int, among: int = 0) -> list[int]:
    """Pages of a sequence, out of order and with gaps."""
    needed = -(-slots // PAGE)
    return [int(page) for page in np.random.default_rng(seed).permutation(max(among, 2 * needed + 3))[:needed]]


def random_parents(nodes: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [-1, *(int(rng.integers(max(0, i - 5), i)) for i in range(1, nodes))]


def check_pages(rows: int, length: int, head_dim: int, **options: Any) -> None:
    q, k, v = random_attention(rows, length, head_dim, 4, 2)
    scale = 1 / float(np.sqrt(head_dim))
    for parents in (None, random_parents(rows, rows)):
        in_order = _testing.ops.attend(q, k, v, head_dim, scale, parents=parents, **options)
        for seed in (1, 2):
            anywhere = _testing.ops.attend(
                q, k, v, head_dim, scale, parents=parents, pages=random_pages(length, seed), **options
            )
            assert np.array_equal(anywhere, in_order)
        needed = -(-length // PAGE)
        ids = random_pages(2 * length + 2 * PAGE, 3)
        copied = _testing.ops.attend(
            q, k, v, head_dim, scale, parents=parents, pages=ids[:needed], copies=ids[needed : 2 * needed], **options
        )
        assert np.array_equal(copied, in_order)


@pytest.mark.parametrize(("head_dim", "cache_type"), KINDS)
@pytest.mark.parametrize(
    ("rows", "length"), [(1, 1), (1, 64), (1, 65), (3, 130), (20, 210), (64, 130), (5, 1030), (20, 2100)]
)
def test_random_pages(rows: int, length: int, head_dim: int, cache_type: str) -> None:
    """Chains and trees, whole pages and parts, one segment and several, a window that begins inside a page."""
    check_pages(rows, length, head_dim, cache_type=cache_type)
    check_pages(rows, length, head_dim, cache_type=cache_type, window=100, n_threads=3)


@pytest.mark.cpu_only
@pytest.mark.parametrize("length", [65, 1100])
def test_random_pages_of_exact_keys(length: int) -> None:
    check_pages(17, length, 64, cache_type="f32")


@pytest.mark.parametrize(("head_dim", "cache_type"), KINDS)
@pytest.mark.parametrize("prefix", [0, 50, 63, 64, 100])
def test_commit_over_page_borders(prefix: int, head_dim: int, cache_type: str) -> None:
    """Accepted nodes move within a page and from one to another."""
    layers, size = 2, 30
    length = prefix + size + 1
    q, k, v = random_attention(layers, layers * length, head_dim, 4, 2)
    parents = random_parents(size, 4)
    for last in (0, 7, size - 1):
        nodes = [last]
        while nodes[0] > 0:
            nodes.insert(0, parents[nodes[0]])
        found, expected = (
            _testing.cache_ops.committed(q, k, v, head_dim, 0.1, parents, nodes, cache_type=cache_type, pages=pages)
            for pages in (random_pages(length, prefix), None)
        )
        assert np.array_equal(found, expected)


def angles(positions: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(positions)[:, None] * 0.9 ** np.arange(head_dim // 2)
    return np.cos(x).astype(np.float32), np.sin(x).astype(np.float32)


@pytest.mark.pairwise
@pytest.mark.parametrize(("head_dim", "cache_type"), KINDS)
@pytest.mark.parametrize("window", [0, 70])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_groups(count: int, window: int, head_dim: int, cache_type: str) -> None:
    """Several sequences in a pass, chains and trees, long and short: each row has the bits that it has alone."""
    rng = np.random.default_rng(count)
    rows = [int(rng.choice([1, 1, 2, 17, 40])) for _ in range(count)]
    lengths = [n + int(rng.choice([0, 5, 63, 200, 1100])) for n in rows]
    parents = [random_parents(n, n) if i % 2 else None for i, n in enumerate(rows)]
    texts = [
        random_attention(n, at, head_dim, 4, 2, seed=i) for i, (n, at) in enumerate(zip(rows, lengths, strict=True))
    ]
    cos, sin = angles(max(lengths) + 1, head_dim)
    # Disjoint pages of one cache.
    needed = [-(-length // PAGE) for length in lengths]
    ends = np.cumsum(needed)
    ids = [int(page) for page in rng.permutation(int(ends[-1]) + 2)]
    pages = [ids[end - n : end] for end, n in zip(ends, needed, strict=True)]

    def attend(which: list[int], **options: Any) -> np.ndarray:
        q, k, v = ([texts[i][part] for i in which] for part in range(3))
        found: np.ndarray = _testing.cache_ops.attend_groups(
            q, k, v, head_dim, 0.1, [parents[i] for i in which], [pages[i] for i in which], cos, sin,
            cache_type=cache_type, window=window, **options,
        )  # fmt: skip
        return found

    together = attend(list(range(count)), n_threads=3)
    assert np.array_equal(together, np.concatenate([attend([i], n_threads=1) for i in range(count)]))
    cos, sin = np.ones_like(cos), np.zeros_like(sin)  # nothing is rotated: attention alone
    plain = [
        _testing.ops.attend(*text, head_dim, 0.1, parents=above, cache_type=cache_type, window=window)
        for text, above in zip(texts, parents, strict=True)
    ]
    assert np.array_equal(attend(list(range(count))), np.concatenate(plain))
