"""Draft trees and rejection sampling on the CUDA backend: the same integers as on the CPU.

Everything here is a decision or a sum in the CPU's order, so equality is asserted; only where probabilities are divided
do the last digits differ, and they decide nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda_device import DEVICE

from frspec_cpp import _testing

OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def children(
    random: np.random.Generator, branch: int, levels: int, kind: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The ids and log-probabilities of every level's children, best first, as a head gives them."""
    rows = 1 + (levels - 1) * branch
    ids = np.stack([random.permutation(4 * branch)[:branch] for _ in range(rows)]).astype(np.int32)
    scores = -random.exponential(2.0, (rows, branch)).astype(np.float32)
    if kind == "ties":
        scores = np.round(scores)
    if kind == "one score":
        scores[:] = 0.0
    if kind == "-inf":
        scores[random.random(scores.shape) < 0.5] = -np.inf
    return ids, -np.sort(-scores, axis=1)


SHAPES = [
    (1, 1, 1),
    (1, 1, 2),
    (1, 6, 7),
    (2, 3, 8),
    (3, 1, 4),
    (10, 6, 60),
    (10, 6, 511),
    (10, 2, 33),
    (33, 2, 300),
    (32, 2, 200),  # more candidates than are ranked by counting
    (64, 3, 300),
    (64, 2, 4096),
]


KINDS = ["scores", "ties", "one score", "-inf"]


# Each shape with two kinds of scores, so that each kind meets small trees and large ones.
@pytest.mark.parametrize(
    ("branch", "levels", "size", "kind"),
    [(*shape, KINDS[(i + j) % 4]) for i, shape in enumerate(SHAPES) for j in (0, 1)],
)
def test_grown_trees(branch: int, levels: int, size: int, kind: str) -> None:
    random = np.random.default_rng(branch * levels)
    ids, scores = children(random, branch, levels, kind)
    translation = random.permutation(4 * branch).astype(np.int32).tolist() if levels % 2 == 0 else None
    expected = _testing.tree_ops.grow(branch, levels, size, 7, ids, scores, translation, device="cpu")
    found = _testing.tree_ops.grow(branch, levels, size, 7, ids, scores, translation, device=DEVICE)
    assert found == expected


@pytest.mark.parametrize("branch", [4, 40])
def test_scores_that_are_no_numbers(branch: int) -> None:
    """They come last, their children with them; the tree is one."""
    random = np.random.default_rng(1)
    ids, scores = children(random, branch, 3, "scores")
    scores[random.random(scores.shape) < 0.3] = np.nan
    scores[random.random(scores.shape) < 0.1] = np.inf
    for size in (2, 17, branch + 2 * branch**2 + 1):
        found = _testing.tree_ops.grow(branch, 3, size, 7, ids, scores, device=DEVICE)
        assert len(found["tokens"]) == size
        assert found["parents"][0] == -1
        for node in range(1, size):
            assert 0 <= found["parents"][node] < node
            assert found["depth"][node] == found["depth"][found["parents"][node]] + 1
    kept = _testing.tree_ops.grow(
        branch, 1, branch // 2 + 1, 7, ids[:1], np.array([[np.nan, -1.0] * (branch // 2)]), device=DEVICE
    )
    assert kept["tokens"][1:] == ids[0, 1::2].tolist()


def random_tree(random: np.random.Generator, size: int) -> tuple[list[int], list[int]]:
    parents = [-1] + [int(random.integers(max(0, node - 40), node)) for node in range(1, size)]
    return random.integers(0, 6, size).tolist(), parents


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 34, 60, 65, 300, 1000])
def test_walks(size: int) -> None:
    random = np.random.default_rng(size)
    for _ in range(5):
        tokens, parents = random_tree(random, size)
        # The target often says what the first child is.
        sampled = random.integers(-1, 7, size).tolist()
        for node in range(size - 1, 0, -1):
            if random.random() < 0.7:
                sampled[parents[node]] = tokens[node]
        expected = _testing.tree_ops.verify(tokens, parents, sampled, device="cpu")
        assert _testing.tree_ops.verify(tokens, parents, sampled, device=DEVICE) == expected
        room = len(expected[0]) + max(size, 8)
        nodes, walked = expected
        looked_up = [max(token, 0) for token in walked]  # a token that is none is looked up as token 0
        for device in ("cpu", DEVICE):
            text, length, path, path_tokens, last = _testing.tree_ops.commit(
                tokens, parents, sampled, 5, 2 * room + 6, 3, device=device
            )
            accepted = len(nodes)
            assert text[:6] == [-1] * 6  # the root was there
            assert text[6 : 6 + accepted] == looked_up
            assert set(text[6 + accepted :]) == {-1}
            assert (length, last) == (5 + accepted, accepted - 1)
            assert path[:accepted] == nodes
            assert path_tokens[:accepted] == looked_up
            assert not any(path[accepted:] + path_tokens[accepted:])


@pytest.mark.parametrize("size", [1, 60, 300])
@pytest.mark.parametrize("probability", [0.0, 0.6, 1.0])
def test_pretended_acceptance(size: int, probability: float) -> None:
    random = np.random.default_rng(size)
    tokens, parents = random_tree(random, size)
    sampled = random.integers(0, 6, size).tolist()
    both = [
        _testing.tree_ops.pretend_acceptance(tokens, parents, sampled, 11, probability, 3, device=device)
        for device in ("cpu", DEVICE)
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_k": 5}, {"min_p": 0.1}], ids=str
)
def test_walks_by_logits(options: dict[str, Any]) -> None:
    random = np.random.default_rng(4)
    tokens, parents = random_tree(random, 40)
    logits = random.standard_normal((40, 50)).astype(np.float32)
    logits[:, :6] += 3
    for seed in range(4):
        both = [
            _testing.tree_ops.verify_logits(logits, tokens, parents, 9, device, **{**OFF, **options}, seed=seed)
            for device in ("cpu", DEVICE)
        ]
        assert both[0] == both[1]


SAMPLERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.6},
    {"top_k": 3},
    {"top_p": 0.7},
    {"min_p": 0.2, "temperature": 1.5},
]


@pytest.mark.parametrize(
    ("options", "count", "width"),
    [
        *((options, 64, 64) for options in SAMPLERS),
        *((options, 200, 64) for options in SAMPLERS[:4:3]),
        *((options, 64, 300) for options in SAMPLERS[2::2]),
        *((options, 5, 64) for options in SAMPLERS[:2]),
        ({}, 1, 1),
    ],
    ids=str,
)
def test_drawn_proposals(options: dict[str, Any], count: int, width: int) -> None:
    random = np.random.default_rng(count)
    ids = random.permutation(1000)[:count].tolist()
    logits = np.sort(random.standard_normal(count))[::-1]
    log_probs = (logits - np.log(np.exp(logits).sum())).astype(np.float32).tolist()
    tokens = set()
    for seed in range(20):
        arguments = (ids, log_probs, width, 30, 2)
        expected = _testing.tree_ops.draw_proposal(*arguments, "cpu", **{**OFF, **options}, seed=seed)
        found = _testing.tree_ops.draw_proposal(*arguments, DEVICE, **{**OFF, **options}, seed=seed)
        assert found == expected
        tokens.add(found[0])
    assert len(tokens) == 1 if count == 1 or options.get("temperature") == 0.0 else len(tokens) > 1


def test_proposals_of_no_numbers() -> None:
    for log_probs in ([float("nan")] * 8, [float("-inf")] * 8, [0.0] + [float("nan")] * 7):
        found = _testing.tree_ops.draw_proposal(list(range(8)), log_probs, 16, 3, 0, DEVICE, **OFF)
        assert 0 <= found[0] < 8
        assert found[1] <= 0.0


def chain(
    random: np.random.Generator, drafts: int, vocab: int, width: int
) -> tuple[npt.NDArray[np.float32], list[int], npt.NDArray[np.int32] | None, npt.NDArray[np.float32] | None]:
    """Logits, tokens and what they were drawn from: something near the target's probabilities."""
    logits = (2 * random.standard_normal((drafts + 1, vocab))).astype(np.float32)
    tokens = [0]
    if width == 0:
        tokens += [int(row.argmax()) for row in logits[:-1]]
        return logits, tokens, None, None
    ids = np.zeros((drafts, width), dtype=np.int32)
    probs = np.zeros((drafts, width), dtype=np.float32)
    for level in range(drafts):
        near = logits[level] + random.standard_normal(vocab)
        used = int(random.integers(1, width + 1))
        ids[level] = ids[level, 0] = np.argsort(-near)[0]
        ids[level, :used] = np.argsort(-near)[:used]
        weights = np.exp(near[ids[level, :used]])
        probs[level, :used] = weights / weights.sum()
        tokens.append(int(random.choice(ids[level, :used], p=weights / weights.sum())))
    return logits, tokens, ids, probs


def both_verdicts(*arguments: Any, **options: Any) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    logits, tokens, prefix, ids, probs, step, block = arguments
    expected = _testing.tree_ops.verify_rejection(logits, tokens, prefix, ids, probs, step, block, "cpu", **options)
    found = _testing.tree_ops.verify_rejection(logits, tokens, prefix, ids, probs, step, block, DEVICE, **options)
    return found, expected


WIDTHS = [0, 1, 8, 64]
CHAINS = [(0, 100), (1, 64), (2, 65), (5, 513), (5, 10_000), (70, 70)]


# Each chain with each width, by one of the two ways to verify, in turn.
@pytest.mark.parametrize(
    ("block", "width", "drafts", "vocab"),
    [((i + j) % 2 == 0, width, *chain) for i, width in enumerate(WIDTHS) for j, chain in enumerate(CHAINS)],
)
def test_rejection(block: bool, width: int, drafts: int, vocab: int) -> None:
    random = np.random.default_rng(vocab + width)
    lengths = set()
    for seed in range(12):
        logits, tokens, ids, probs = chain(random, drafts, vocab, width if drafts > 0 else 0)
        for temperature in (1.0, 0.0):
            options = {**OFF, "temperature": temperature, "seed": seed}
            found, expected = both_verdicts(logits, tokens, 20, ids, probs, 3, block, **options)
            assert found == expected
            lengths.add(len(found[0]))
    assert drafts < 2 or len(lengths) > 1


@pytest.mark.parametrize("block", [False, True], ids=["rejection", "block"])
@pytest.mark.parametrize(
    "options", [{"temperature": 0.6}, {"top_k": 3, "temperature": 1.4}, {"top_p": 0.8}, {"min_p": 0.2}], ids=str
)
def test_rejection_behind_a_chain(block: bool, options: dict[str, Any]) -> None:
    random = np.random.default_rng(8)
    for seed in range(8):
        logits, tokens, ids, probs = chain(random, 4, 300, 20)
        found, expected = both_verdicts(logits, tokens, 20, ids, probs, 1, block, **{**OFF, **options}, seed=seed)
        assert found == expected


@pytest.mark.parametrize("block", [False, True], ids=["rejection", "block"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rejection_of_no_numbers(block: bool, bad: float) -> None:
    random = np.random.default_rng(9)
    for seed in range(6):
        for where in ("row", "first", "some"):
            logits, tokens, ids, probs = chain(random, 4, 300, 20)
            row = int(random.integers(0, 5))
            if where == "row":
                logits[row] = bad
            elif where == "first":
                logits[row, 0] = bad
            else:
                logits[row, random.random(300) < 0.5] = bad
            found, expected = both_verdicts(logits, tokens, 20, ids, probs, 3, block, **OFF, seed=seed)
            assert found == expected


@pytest.mark.parametrize("block", [False, True], ids=["rejection", "block"])
def test_a_drafter_that_is_the_target(block: bool) -> None:
    """Where q is p to the last digit there is no residual: then the token comes from p."""
    logits = np.log(np.array([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]) + 1e-300).astype(
        np.float32
    )
    ids = np.array([[0, 1], [0, 1]], dtype=np.int32)
    probs = np.full((2, 2), 0.5, dtype=np.float32)
    for seed in range(20):
        found, expected = both_verdicts(logits, [0, 1, 0], 20, ids, probs, 3, block, **OFF, seed=seed)
        assert found == expected


@pytest.mark.parametrize("block", [False, True], ids=["rejection", "block"])
def test_simulated_texts(block: bool) -> None:
    """Some thousand texts come out as on the CPU, one by one: the statistics of tests/verify hold here, too."""
    random = np.random.default_rng(5)
    target = (1.2 * random.standard_normal((5, 5))).astype(np.float32)
    drafter = (target + 0.8 * random.standard_normal((5, 5))).astype(np.float32)
    counts = [
        _testing.ops.simulate_rejection(target, drafter, 3, 3, 2, 500, block, device, **OFF)
        for device in ("cpu", DEVICE)
    ]
    np.testing.assert_array_equal(counts[0], counts[1])
