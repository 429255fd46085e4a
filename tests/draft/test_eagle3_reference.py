"""The engine drafts what an independent EAGLE-3 in torch drafts: the same tokens accepted, step by step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eagle2_reference import Shape, continue_greedily, count_accepted, load_target
from eagle3_checkpoints import LAYERS, make_tiny_eagle3
from eagle3_reference import Drafter, with_taps
from reference_steps import compare, make_engine, write_vocabulary_ranks

from frspec_cpp import _core

pytestmark = pytest.mark.usefixtures("one_torch_thread")
ASCENDING = sorted(random.Random(3).sample(range(2, 400), 200))
SHUFFLED = random.Random(4).sample(range(400), 240)

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reduced head": {"head_ids": ASCENDING},
    "reduced head in any order": {"head_ids": SHUFFLED},
    "own head and embedding": {"own_head": True, "own_embedding": True},
    "norm before fc": {"norm_before_fc": True, "uneven_taps": True},
    "norm of each tap": {"fc_norm": True, "uneven_taps": True},
    "norm before residual": {"norm_before_residual": True},
    "norm of the output": {"norm_output": True},
    "narrow": {"hidden_size": 56},
    "wide, own rope": {"hidden_size": 96, "rope_theta": 300.0},
    "other taps": {"eagle_aux_hidden_state_layer_ids": [2, 1, 1]},
    "all": {
        "hidden_size": 96,
        "head_ids": SHUFFLED,
        "fc_norm": True,
        "norm_before_residual": True,
        "norm_output": True,
        "rope_theta": 300.0,
    },
}
FEW_TREES = [Shape(0, 1, 2), Shape(3, 4, 12)]
TREES = [*FEW_TREES, Shape(3, 1, 4), Shape(6, 12, 80)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_pair(tmp_path: Path, variant: str) -> None:
    """Every optional part of the network, and many together with several tree shapes; chunks divide no prompt."""
    pair = make_tiny_eagle3(tmp_path, **VARIANTS[variant])
    target = load_target(pair.target)
    drafter = Drafter(pair.drafter, target)
    layers = VARIANTS[variant].get("eagle_aux_hidden_state_layer_ids", LAYERS)
    rng = random.Random(variant)
    prompts = [[rng.randrange(400) for _ in range(rng.randrange(1, 20))] for _ in range(6)]
    texts = [with_taps(target, continue_greedily(target, prompt, 20), layers) for prompt in prompts]
    means = []
    for shape in TREES if variant == "all" else FEW_TREES:
        engine = make_engine(pair.target_gguf, pair.drafter_gguf, shape, n_batch=7)
        means.append(compare(engine, drafter, texts, shape))
    assert 1.1 < min(means) < max(means) - 0.15, "some drafts are accepted and some are not, and trees matter"


@pytest.mark.every_isa
@pytest.mark.every_device
def test_every_device(tmp_path: Path) -> None:
    pair = make_tiny_eagle3(tmp_path, **VARIANTS["all"])
    target = load_target(pair.target)
    prompts = ([5, 6, 7], [9, 8, 7, 6] * 3)
    texts = [with_taps(target, continue_greedily(target, prompt, 12), LAYERS) for prompt in prompts]
    engine = make_engine(pair.target_gguf, pair.drafter_gguf, Shape(3, 4, 12), n_batch=7)
    assert compare(engine, Drafter(pair.drafter, target), texts, Shape(3, 4, 12)) > 1.1


@pytest.mark.parametrize("drafter", [{}, {"own_head": True}, {"head_ids": SHUFFLED}], ids=["target", "own", "reduced"])
def test_ranked_head(tmp_path: Path, drafter: dict[str, Any]) -> None:
    """The best-ranked of the rows that the head has; control tokens (0 and 1) stay."""
    pair = make_tiny_eagle3(tmp_path, **drafter)
    target = load_target(pair.target)
    rng = random.Random(1)
    texts = [
        with_taps(target, continue_greedily(target, [rng.randrange(400) for _ in range(5)], 16), LAYERS)
        for _ in range(6)
    ]
    order = np.random.default_rng(2).permutation(400).astype(np.int32)
    write_vocabulary_ranks(tmp_path / "ranks.gguf", pair.target_gguf, order)
    known = set(drafter.get("head_ids", range(400)))
    ranked = [t for t in (0, 1) if t in known] + [t for t in order.tolist() if t > 1 and t in known]
    shape, means = Shape(3, 8, 30), []
    for rows in (20, 100, len(known)):
        options = {"head": f"ranked:{rows}", "ranks": str(tmp_path / "ranks.gguf")}
        engine = make_engine(pair.target_gguf, pair.drafter_gguf, shape, **options)
        means.append(compare(engine, Drafter(pair.drafter, target, ranked[:rows]), texts, shape))
    assert means[0] < means[1] < means[2]
    whole = make_engine(pair.target_gguf, pair.drafter_gguf, shape)
    assert means[2] == compare(whole, Drafter(pair.drafter, target), texts, shape)


def test_taps_are_those_of_the_reference(tmp_path: Path) -> None:
    """What the drafter reads is what Engine.forward hands out."""
    pair = make_tiny_eagle3(tmp_path)
    target = load_target(pair.target)
    text = with_taps(target, continue_greedily(target, [5, 6, 7], 4), LAYERS)
    engine = _core.Engine(str(pair.target_gguf), drafter=str(pair.drafter_gguf), taps=LAYERS)
    taps = engine.forward_taps(text.tokens)
    np.testing.assert_allclose(np.concatenate(taps, axis=1), text.hidden.numpy(), atol=2e-3)


@pytest.mark.parametrize("n_batch", [2, 512])
def test_after_pauses(tmp_path: Path, n_batch: int) -> None:
    """What the drafter is told late, while it was not asked for drafts, it has read before it drafts again."""
    pair = make_tiny_eagle3(tmp_path, norm_output=True)
    target = load_target(pair.target)
    drafter, shape = Drafter(pair.drafter, target), Shape(2, 4, 12)
    engine = make_engine(pair.target_gguf, pair.drafter_gguf, shape, n_batch=n_batch)
    found, expected, plain = [], [], 0
    for prompt in ([5, 6, 7], [8, 300, 9, 10, 11], [42], [7, 7], [9, 20, 31, 42]):
        text = with_taps(target, continue_greedily(target, prompt, 120), LAYERS)
        generation = engine.begin(prompt, max_tokens=120, ignore_eos=True, draft="sparse")
        start, drafted = len(prompt) + len(generation.step()), 0
        while generation.finish_reason is None:
            given = len(generation.step())
            if generation.stats.drafted_steps == drafted:
                plain += 1
            elif generation.finish_reason is None:
                tree = drafter.propose(text.tokens[:start], text.hidden[: start - 1], shape)
                found.append(given)
                expected.append(count_accepted(tree, text.tokens[start:]) + 1)
            start, drafted = start + given, generation.stats.drafted_steps
    assert plain > 100
    assert len(found) > 20
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 0.95 * len(found), (found, expected)
    assert sum(expected) > 1.2 * len(expected)
