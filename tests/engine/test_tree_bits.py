"""Contract 1: a token verified inside a tree gets the same bits as the token decoded alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frspec_cpp import _core

pytestmark = pytest.mark.threads


def random_tree(rng: np.random.Generator, nodes: int, vocab: int) -> tuple[list[int], list[int]]:
    """Random tokens and parents; shapes vary from bushes to chains."""
    reach = int(rng.integers(1, nodes + 1))  # how far back a parent may lie: 1 makes a chain
    parents = [-1] + [int(rng.integers(max(0, i - reach), i)) for i in range(1, nodes)]
    return [int(t) for t in rng.integers(2, vocab, nodes)], parents


def path_to(node: int, parents: list[int]) -> list[int]:
    """The nodes from the root down to `node`."""
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


REPEATED = [pytest.param(nodes, length, marks=pytest.mark.every_isa) for nodes, length in ((2, 5), (17, 40), (65, 63))]


@pytest.mark.parametrize(("nodes", "prefix_length"), [*REPEATED, (1, 1), (64, 70), (200, 130)])
def test_tree_rows_equal_chain_rows(demo_target: Path, nodes: int, prefix_length: int) -> None:
    rng = np.random.default_rng(nodes)
    engine = _core.Engine(str(demo_target))
    prefix = [0, *(int(t) for t in rng.integers(2, engine.vocab_size, prefix_length - 1))]
    tokens, parents = random_tree(rng, nodes, engine.vocab_size)
    tree = engine.forward_tree(prefix, tokens, parents)
    assert tree.shape == (nodes, engine.vocab_size)
    for node in {0, nodes // 2, nodes - 1, int(rng.integers(0, nodes))}:
        path = path_to(node, parents)
        chain = engine.forward(prefix + [tokens[i] for i in path])
        assert np.array_equal(tree[path], chain[len(prefix) :])


@pytest.mark.every_isa
def test_chunk_size_and_threads_do_not_change_bits(demo_target: Path) -> None:
    rng = np.random.default_rng(3)
    tokens = [0, *(int(t) for t in rng.integers(2, 65536, 79))]
    expected = _core.Engine(str(demo_target), n_threads=1, n_batch=512).forward(tokens)
    for n_threads, n_batch in [(1, 1), (2, 7), (3, 64), (5, 79)]:
        found = _core.Engine(str(demo_target), n_threads=n_threads, n_batch=n_batch).forward(tokens)
        assert np.array_equal(found, expected), (n_threads, n_batch)


@pytest.mark.every_isa
def test_a_row_does_not_depend_on_its_neighbours(demo_target: Path) -> None:
    """The same node beside different siblings, in trees of different size."""
    engine = _core.Engine(str(demo_target))
    prefix = [0, 404, 2220, 322]
    alone = engine.forward_tree(prefix, [263, 1000], [-1, 0])
    for siblings in (1, 3, 30, 99):
        tokens = [263, *range(2000, 2000 + siblings), 1000]
        crowd = engine.forward_tree(prefix, tokens, [-1] + [0] * (siblings + 1))
        assert np.array_equal(crowd[0], alone[0])
        assert np.array_equal(crowd[-1], alone[1])


@pytest.mark.parametrize("parents", [[0], [-1, 1], [-1, 2, 0], [-1, -1], [-1, -2]])
def test_bad_parents_are_errors(demo_target: Path, parents: list[int]) -> None:
    engine = _core.Engine(str(demo_target))
    with pytest.raises(ValueError, match="parent of node"):
        engine.forward_tree([0], [5] * len(parents), parents)
