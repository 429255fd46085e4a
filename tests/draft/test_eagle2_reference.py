"""The engine drafts what an independent EAGLE-2 in torch drafts: the same tokens accepted, step by step.

The engine keeps keys and values in half precision and the reference does not, so a near-tie may fall the other way.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from eagle2_reference import Drafter, Shape, Text, continue_greedily, load_target
from frspec_cpp.tools.convert import convert
from reference_steps import compare, make_engine, write_vocabulary_ranks
from tiny_pair import make_tiny_pair

pytestmark = pytest.mark.usefixtures("one_torch_thread")
LARGE = Shape(depth=5, branch=10, size=60)
SMALL = Shape(depth=3, branch=8, size=30)


@dataclass(frozen=True)
class Demo:
    """The demo pair from its checkpoints, in full precision, with ranks that it was not trained with."""

    folder: Path
    target: Any
    texts: list[Text]
    order: np.ndarray  # token ids by rank
    control: list[int]


@pytest.fixture(scope="session")
def demo(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    torch.set_num_threads(1)
    pair, folder = shared / "data/pair", tmp_path_factory.mktemp("demo_f32")
    convert(pair / "target", folder / "target.gguf", "f32", quiet=True)
    convert(pair / "eagle2", folder / "drafter.gguf", "f32", target=folder / "target.gguf", quiet=True)
    tokenizer = json.loads((pair / "target/tokenizer.json").read_text(encoding="utf-8"))
    control = [token["id"] for token in tokenizer["added_tokens"] if token["special"]]
    # Merges are learned in order of frequency, so ids are ranks of a kind; the noise makes them no mere prefix.
    noise = np.random.default_rng(0).lognormal(sigma=0.7, size=65536)
    order = np.argsort((1 + np.arange(65536)) * noise).astype(np.int32)
    write_vocabulary_ranks(folder / "ranks.gguf", folder / "target.gguf", order)
    target = load_target(pair / "target")
    encode = tokenizers.Tokenizer.from_file(str(pair / "target/tokenizer.json")).encode
    prompts = [encode(prompt).ids[:40] for prompt in mixed_prompts(shared / "data/prompts")]
    texts = [continue_greedily(target, prompt, 24) for prompt in prompts]
    return Demo(folder, target, texts, order, control)


def mixed_prompts(folder: Path) -> list[str]:
    """Python, arithmetic, a short question, a request for code: their beginnings are used."""
    code = json.loads((folder / "human_eval.jsonl").open(encoding="utf-8").readline())["prompt"]
    rows = [json.loads(line) for line in (folder / "spec_bench.jsonl").open(encoding="utf-8")]
    first = {row["category"]: row["turns"][0] for row in reversed(rows)}
    return [code, first["math_reasoning"], first["qa"], first["coding"]]


@pytest.mark.parametrize(("shape", "rows"), [(LARGE, 4096), (SMALL, 65536)], ids=["5-10-60", "3-8-30"])
def test_demo_pair(demo: Demo, shared: Path, shape: Shape, rows: int) -> None:
    kept = None
    options: dict[str, Any] = {}
    if rows < 65536:
        kept = demo.control + [token for token in demo.order.tolist() if token not in demo.control]
        kept = kept[:rows]
        options = {"head": f"ranked:{rows}", "ranks": str(demo.folder / "ranks.gguf")}
    engine = make_engine(demo.folder / "target.gguf", demo.folder / "drafter.gguf", shape, **options)
    drafter = Drafter(shared / "data/pair/eagle2", demo.target, kept)
    mean = compare(engine, drafter, demo.texts, shape)
    assert mean > 1.5  # the pair is trained: a comparison of nothing but rejected drafts would say little


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "biases": {"bias": True, "qkv_bias": True},
    "own embedding": {"own_embedding": True},
    "2 layers, own rope": {"num_hidden_layers": 2, "rope_theta": 300.0},
    "all": {"bias": True, "qkv_bias": True, "own_embedding": True, "num_hidden_layers": 3, "rope_theta": 300.0},
}
FEW_TREES = [Shape(0, 1, 2), Shape(3, 4, 12)]
TREES = [*FEW_TREES, Shape(3, 1, 4), Shape(1, 6, 43), Shape(6, 12, 80), Shape(1, 40, 30)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_pair(tmp_path: Path, variant: str) -> None:
    """Every optional part of the network, and all together with many tree shapes; chunks divide no prompt."""
    pair = make_tiny_pair(tmp_path, disturbance=0.3, **VARIANTS[variant])
    target = load_target(pair.target)
    drafter = Drafter(pair.drafter, target)
    rng = random.Random(variant)
    prompts = [[rng.randrange(400) for _ in range(rng.randrange(1, 20))] for _ in range(6)]
    texts = [continue_greedily(target, prompt, 20) for prompt in prompts]
    means = []
    for shape in TREES if variant == "all" else FEW_TREES:
        engine = make_engine(pair.target_gguf, pair.drafter_gguf, shape, n_batch=7)
        means.append(compare(engine, drafter, texts, shape))
    assert 1.1 < min(means) < max(means) - 0.15, "some drafts are accepted and some are not, and trees matter"


@pytest.mark.every_isa
@pytest.mark.every_device
def test_every_device(tmp_path: Path) -> None:
    pair = make_tiny_pair(tmp_path, disturbance=0.3, **VARIANTS["all"])
    target = load_target(pair.target)
    texts = [continue_greedily(target, prompt, 12) for prompt in ([5, 6, 7], [9, 8, 7, 6] * 3)]
    engine = make_engine(pair.target_gguf, pair.drafter_gguf, Shape(3, 4, 12), n_batch=7)
    assert compare(engine, Drafter(pair.drafter, target), texts, Shape(3, 4, 12)) > 1.1


def test_ranked_head_of_a_random_pair(tmp_path: Path) -> None:
    """Ids of a subset are mapped back to the vocabulary, probabilities are those within the subset."""
    pair = make_tiny_pair(tmp_path, disturbance=0.3)
    target = load_target(pair.target)
    rng = random.Random(1)
    texts = [continue_greedily(target, [rng.randrange(400) for _ in range(5)], 20) for _ in range(6)]
    order = np.random.default_rng(2).permutation(400).astype(np.int32)
    write_vocabulary_ranks(tmp_path / "ranks.gguf", pair.target_gguf, order)
    ranked = [0, 1] + [token for token in order.tolist() if token > 1]  # 0 and 1 are control tokens
    means = []
    for rows in (40, 200, 399):
        options = {"head": f"ranked:{rows}", "ranks": str(tmp_path / "ranks.gguf")}
        engine = make_engine(pair.target_gguf, pair.drafter_gguf, SMALL, **options)
        means.append(compare(engine, Drafter(pair.drafter, target, ranked[:rows]), texts, SMALL))
    assert means[0] < means[1] < means[2]
