"""Gated delta layers: outputs as numpy computes them, and states with the same bits however a text came to be.

A text may come as one chain, in pieces, or as the accepted nodes of trees, whose rows the states are brought along
afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from frspec_cpp import _testing

pytestmark = [pytest.mark.every_isa, pytest.mark.every_device]

LAYERS, KEY_HEADS, VALUE_HEADS, SIZE, TAPS = 2, 2, 6, 64, 4
KEYS, VALUES = KEY_HEADS * SIZE, VALUE_HEADS * SIZE
CHANNELS = 2 * KEYS + VALUES
EPSILON = 1e-6
ROWS = 40
KINDS = ["usual", "small keys", "signed zeros", "decays to nothing", "denormal"]


def length(x: np.ndarray) -> np.ndarray:
    """What keys and queries (heads, SIZE) are divided by: (heads, 1)."""
    return np.sqrt((x**2).sum(-1, keepdims=True) + EPSILON)


Group = tuple[int, list[int], list[int], list[int]]  # state, rows, parents (none: a chain), accepted nodes


@dataclasses.dataclass
class Texts:
    """Projections of rows, (LAYERS, ROWS, columns), and weights."""

    mixed: np.ndarray
    gate: np.ndarray
    decay: np.ndarray
    strength: np.ndarray
    taps: np.ndarray
    rate: np.ndarray
    bias: np.ndarray
    norm: np.ndarray

    def run(self, *passes: list[Group], n_threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (LAYERS, rows of all passes, VALUES), and states (LAYERS, states, floats of a state)."""
        rows = {
            name: np.concatenate(getattr(self, name)).astype(np.float32)
            for name in ("mixed", "gate", "decay", "strength")
        }
        weights = {name: getattr(self, name).astype(np.float32) for name in ("taps", "rate", "bias", "norm")}
        out, states = _testing.delta_ops.run(
            **rows, **weights, key_heads=KEY_HEADS, passes=list(passes), layers=LAYERS, n_threads=n_threads
        )
        return out.reshape(LAYERS, -1, VALUES), states.reshape(LAYERS, -1, states.shape[-1])

    def along(self, layer: int, rows: list[int], length: Callable[[np.ndarray], np.ndarray] = length) -> np.ndarray:
        """The outputs of rows that follow one another from the beginning of a text, in float64: (rows, VALUES)."""
        window, out = np.zeros((TAPS - 1, CHANNELS)), []
        matrix = np.zeros((VALUE_HEADS, SIZE, SIZE))  # keys, values
        of_key = np.arange(VALUE_HEADS) % KEY_HEADS
        for r in rows:
            seen = np.vstack([window, self.mixed[layer, r]])
            window, summed = seen[1:], (seen * self.taps).sum(0)
            heads = (summed / (1 + np.exp(-summed))).reshape(-1, SIZE)
            query, key = (part / length(part) for part in np.split(heads[: 2 * KEY_HEADS], 2))
            query, key, value = query[of_key], key[of_key], heads[2 * KEY_HEADS :]
            kept = np.exp(self.rate * np.logaddexp(0, self.decay[layer, r] + self.bias))[:, None]
            taken = 1 / (1 + np.exp(-self.strength[layer, r]))[:, None]
            delta = (value - kept * np.einsum("hkv,hk->hv", matrix, key)) * taken
            matrix = kept[..., None] * matrix + key[..., None] * delta[:, None]
            found = np.einsum("hkv,hk->hv", matrix, query) / np.sqrt(SIZE)
            found /= np.sqrt((found**2).mean(-1, keepdims=True) + EPSILON)
            gate = self.gate[layer, r].reshape(VALUE_HEADS, SIZE)
            out.append((found * self.norm * gate / (1 + np.exp(-gate))).ravel())
        return np.array(out)


def make_texts(kind: str, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    texts = Texts(
        mixed=normal(LAYERS, ROWS, CHANNELS),
        gate=normal(LAYERS, ROWS, VALUES),
        decay=normal(LAYERS, ROWS, VALUE_HEADS),
        strength=normal(LAYERS, ROWS, VALUE_HEADS),
        taps=0.6 * normal(TAPS, CHANNELS),
        rate=-np.exp(normal(VALUE_HEADS)),
        bias=normal(VALUE_HEADS) - 1,
        norm=1 + 0.2 * normal(SIZE),
    )
    if kind == "small keys":  # and queries: their squares sum to about epsilon
        texts.mixed[:, :, : 2 * KEYS] *= 2e-4
    if kind == "signed zeros":  # in rows, and in states: nothing is added, or nothing stays
        texts.mixed = rng.choice([-1.0, -0.0, 0.0, 1.0], texts.mixed.shape)
        texts.strength = rng.choice([-200.0, 200.0], texts.strength.shape)
        texts.rate = np.array([-0.0, -1e4] * (VALUE_HEADS // 2))
    if kind == "decays to nothing":  # to denormal numbers, and below them
        texts.rate = -np.linspace(20, 300, VALUE_HEADS)
    if kind == "denormal":  # values, and so what the matrices hold
        texts.mixed[:, :, 2 * KEYS :] *= 1e-39
    return texts


def chain(rows: list[int], state: int = 0) -> Group:
    return state, rows, [], []


def path_to(parents: list[int], node: int) -> list[int]:
    path = [node]
    while path[0] > 0:
        path.insert(0, parents[path[0]])
    return path


def random_parents(nodes: int, seed: int, reach: int = 4) -> list[int]:
    rng = np.random.default_rng(seed)
    return [-1, *(int(rng.integers(max(0, i - reach), i)) for i in range(1, nodes))]


def tree_around(text: list[int], others: list[int], shift: int) -> Group:
    """A tree that a piece of a text is accepted of: behind each node of it another one, below it or beside it."""
    rows, parents = [], []
    for i, (row, other) in enumerate(zip(text, others, strict=False)):
        rows += [row, other]
        parents += [2 * i - 2 if i else -1, 2 * i - 2 if i and (i + shift) % 2 else 2 * i]
    return 0, rows, parents, list(range(0, len(rows), 2))


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    return np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def matrices(states: np.ndarray) -> np.ndarray:
    """States without the windows of the convolution."""
    return np.ascontiguousarray(states[..., (TAPS - 1) * CHANNELS :])


@pytest.mark.parametrize("kind", KINDS)
def test_outputs(kind: str) -> None:
    texts, rows = make_texts(kind), list(range(ROWS))
    out, states = texts.run([chain(rows)])
    assert np.isfinite(states).all()
    for layer in range(LAYERS):
        expected = texts.along(layer, rows)
        assert np.abs(out[layer] - expected).max() < 2e-5 * max(1.0, float(np.abs(expected).max()))
    held = matrices(states)
    if kind == "signed zeros":
        assert (np.signbit(held) & (held == 0)).any()
    if kind == "denormal":
        assert ((held != 0) & (np.abs(held) < np.finfo(np.float32).tiny)).any()


def test_small_keys_tell_where_epsilon_stands() -> None:
    """Not below the norm, nor in the mean of the squares."""
    texts, rows = make_texts("small keys"), list(range(ROWS))
    out, _ = texts.run([chain(rows)])
    others: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda x: np.maximum(np.sqrt((x**2).sum(-1, keepdims=True)), EPSILON),
        lambda x: np.sqrt(SIZE * ((x**2).mean(-1, keepdims=True) + EPSILON)),
    ]
    for other in others:
        assert np.abs(out[0] - texts.along(0, rows, other)).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", [0, 2, 9])
def test_accepted_nodes_are_a_chain(kind: str, prefix: int) -> None:
    """Of trees behind a text shorter and longer than the window, down to leaves, to inner nodes, to the root alone."""
    texts, nodes = make_texts(kind), 14
    before, rows, parents = list(range(prefix)), list(range(prefix, prefix + nodes)), random_parents(nodes, prefix)
    begin = [[chain(before)]] if before else []
    for last in (0, 5, nodes - 2, nodes - 1):
        path = path_to(parents, last)
        text = before + [rows[node] for node in path]
        out, replayed = texts.run(*begin, [(0, rows, parents, path)])
        alone, advanced = texts.run([chain(text)])
        assert same_bits(replayed, advanced), last
        assert same_bits(out[:, [prefix + node for node in path]], alone[:, prefix:]), last


def test_bits_tell_other_texts_apart() -> None:
    """What the tests here compare sees a wrong order, node, number of nodes or state, and a tree that was not left."""
    texts, parents = make_texts("usual"), [-1, 0, 1, 2, 2, 0]
    rows, path = list(range(10, 16)), [0, 1, 2, 3]
    begin = [chain([0, 1, 2])]
    _, expected = texts.run(begin, [(0, rows, parents, path)])
    others = {
        "another order": [begin, [(0, rows, parents, [0, 2, 1, 3])]],
        "another leaf": [begin, [(0, rows, parents, [0, 1, 2, 4])]],
        "one less": [begin, [(0, rows, parents, path[:-1])]],
        "the root twice": [begin, [(0, rows, parents, [0, *path[:-1]])]],
        "nothing": [begin, [(0, rows, parents, [])]],
        "another beginning": [[chain([0, 2, 1])], [(0, rows, parents, path)]],
        "none": [[(0, rows, parents, path)]],
    }
    for name, passes in others.items():
        _, found = texts.run(*passes)
        assert not same_bits(matrices(found), matrices(expected)), name
        assert (matrices(found) != matrices(expected)).mean() > 0.9, name
    _, untouched = texts.run(begin)
    assert same_bits(texts.run(*others["nothing"])[1], untouched), "a tree that is left leaves nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_text(kind: str) -> None:
    """One by one, in pieces, and as trees that other nodes stand in, of which a piece is accepted."""
    texts, text, others = make_texts(kind), list(range(24)), list(range(24, ROWS))
    out, expected = texts.run([chain(text)])
    for sizes in ([1] * 24, [7, 1, 9, 7], [2, 3, 4, 5, 4, 3, 2, 1]):
        ends = np.cumsum(sizes).tolist()
        pieces = [text[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        found, states = texts.run(*([chain(piece)] for piece in pieces))
        assert same_bits(states, expected), sizes
        assert same_bits(found, out), sizes
        trees = [[tree_around(piece, others, shift)] for shift, piece in enumerate(pieces)]
        assert same_bits(texts.run(*trees)[1], expected), sizes


def test_a_tree_that_was_left_is_forgotten() -> None:
    """A pass that failed behind the layers, or one that is only timed: the next tree is the first one's again."""
    texts, begin, parents = make_texts("usual"), [chain([0, 1])], random_parents(6, 1)
    path = path_to(parents, 5)
    accepted: Group = (0, list(range(10, 16)), parents, path)
    left: Group = (0, list(range(20, 29)), random_parents(9, 2), [])
    out, states = texts.run(begin, [left], [left], [accepted])
    alone, expected = texts.run(begin, [accepted])
    assert same_bits(states, expected)
    assert same_bits(out[:, -6:], alone[:, -6:])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_several_texts_in_a_pass(order: list[int]) -> None:
    """Trees and a chain in any order: each text's state is what it is alone, and a fourth one's what it was."""
    texts = make_texts("usual")
    begin = [[chain([state, state + 1], state)] for state in range(4)]
    first, second = random_parents(7, 1), random_parents(9, 2)
    groups: list[Group] = [
        (0, list(range(10, 17)), first, path_to(first, 6)),
        (1, list(range(20, 29)), second, path_to(second, 8)),
        chain([30, 31, 32, 33, 34], 2),
    ]
    out, states = texts.run(*begin, [groups[number] for number in order])
    at = 8  # rows of the beginnings
    for number in order:
        rows = len(groups[number][1])
        alone, expected = texts.run(*begin, [groups[number]])
        assert same_bits(states[:, number], expected[:, number])
        assert same_bits(out[:, at : at + rows], alone[:, 8:])
        at += rows
    assert same_bits(states[:, 3], texts.run(*begin)[1][:, 3])


@pytest.mark.cpu_only
@pytest.mark.threads
def test_threads_do_not_change_bits() -> None:
    texts, parents = make_texts("usual"), random_parents(20, 3)
    passes: list[list[Group]] = [[chain(list(range(9)))], [(0, list(range(10, 30)), parents, path_to(parents, 19))]]
    expected = texts.run(*passes)
    for n_threads in (2, 3):
        found: Any = texts.run(*passes, n_threads=n_threads)
        assert all(same_bits(one, other) for one, other in zip(found, expected, strict=True))
