"""Qwen3.5: gated delta layers beside gated attention, as transformers has them, and the same bits however cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen35 import Qwen35, make_qwen35

from frspec_cpp import _core

torch = pytest.importorskip("torch")

PREFIX = 70  # tokens before the trees: more than a page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Qwen35:
    return make_qwen35(tmp_path_factory.mktemp("qwen35"))


@pytest.fixture(scope="module")
def gguf(made: Qwen35, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write(tmp_path_factory.mktemp("whole") / "model.gguf", "trunk", "nextn")


def random_ids(count: int, vocab: int, seed: int = 3) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(2, vocab, count)]


def expected_logits(made: Qwen35, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(made.model(torch.tensor([tokens])).logits[0])


@pytest.mark.every_isa
@pytest.mark.parametrize(
    "options",
    [{}, {"tied": True, "seed": 1}, {"value_heads": 2, "seed": 2}, {"value_heads": 4, "layers": 5, "interval": 2}],
    ids=str,
)
def test_logits(tmp_path: Path, options: dict[str, Any]) -> None:
    """Three value heads to a key head, one and two; 150 rows are more than two pages."""
    made = make_qwen35(tmp_path, **options)
    engine = _core.Engine(str(made.write(tmp_path / "model.gguf", "trunk")), cache_type="f32", n_batch=33)
    tokens = random_ids(150, engine.vocab_size)
    expected = expected_logits(made, tokens)
    found = engine.forward(tokens)
    assert np.abs(found - expected).max() < 3e-4 * max(1.0, float(expected.std()))


def test_logits_of_llama_cpp(made: Qwen35, gguf: Path) -> None:
    """Another engine reads the same file, with its nextn block, to the same logits."""
    llama_cpp = pytest.importorskip("llama_cpp")
    engine = _core.Engine(str(gguf), cache_type="f32")
    tokens = random_ids(70, engine.vocab_size)
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    other = llama_cpp.Llama(str(gguf), n_ctx=128, n_threads=1, logits_all=True, verbose=False, **exact)
    try:
        other.eval(tokens)
        expected = np.array(other.scores[: len(tokens)])
    finally:
        other.close()
    assert np.abs(engine.forward(tokens) - expected).max() < 3e-4 * max(1.0, float(expected.std()))


@pytest.mark.parametrize(
    "flags", [[True, False, True, True, False], [False, True, True, True, True]], ids=["mixed", "attention first"]
)
def test_layers_one_by_one(tmp_path: Path, flags: list[bool]) -> None:
    """The flags of newer files win over the interval."""
    kinds = ["linear_attention" if flag else "full_attention" for flag in flags]
    made = make_qwen35(tmp_path, layers=5, kinds=kinds)
    path = made.write(tmp_path / "model.gguf", "trunk", "nextn", attention__recurrent_layers=[*flags, False])
    engine = _core.Engine(str(path), cache_type="f32")
    tokens = random_ids(40, engine.vocab_size)
    expected = expected_logits(made, tokens)
    assert np.abs(engine.forward(tokens) - expected).max() < 3e-4 * max(1.0, float(expected.std()))


def mutate(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Qwen35], None]:
    def apply(made: Qwen35) -> None:
        for key in made.trunk:
            if key.endswith(name):
                made.trunk[key] = np.ascontiguousarray(change(made.trunk[key]))

    return apply


@pytest.mark.parametrize(
    "change",
    [
        mutate("ssm_a", lambda a: a[[1, 0, 2, 3, 4, 5]]),  # value heads of another key head
        mutate("ssm_norm.weight", lambda w: w + 1),
        mutate("ssm_conv1d.weight", lambda w: w[:, ::-1]),
        mutate("attn_q.weight", lambda w: w.reshape(2, -1, w.shape[-1]).swapaxes(0, 1).reshape(w.shape)),
        mutate("post_attention_norm.weight", lambda w: w - 1),
    ],
)
def test_logits_show_a_wrong_file(tmp_path: Path, change: Callable[[Qwen35], None]) -> None:
    """What the tests above compare would tell a converter's usual mistakes apart."""
    made = make_qwen35(tmp_path, layers=4)
    change(made)
    engine = _core.Engine(str(made.write(tmp_path / "model.gguf", "trunk")), cache_type="f32")
    tokens = random_ids(30, engine.vocab_size)
    expected = expected_logits(made, tokens)
    assert np.abs(engine.forward(tokens) - expected).max() > 0.02 * float(expected.std())


@pytest.mark.every_isa
@pytest.mark.every_device
@pytest.mark.threads
def test_cuts_and_threads_do_not_change_bits(gguf: Path) -> None:
    engine = _core.Engine(str(gguf), n_threads=1, n_batch=512)
    tokens = random_ids(600, engine.vocab_size)
    expected = engine.forward(tokens)
    for n_threads, n_batch in [(1, 1), (2, 7), (2, 64), (3, 97), (2, 512)]:
        found = _core.Engine(str(gguf), n_threads=n_threads, n_batch=n_batch).forward(tokens)
        assert np.array_equal(found, expected), (n_threads, n_batch)
    assert np.array_equal(engine.forward(tokens), expected), "a text begins anew"


@pytest.mark.every_isa
@pytest.mark.every_device
@pytest.mark.threads
@pytest.mark.parametrize(("nodes", "reach"), [(1, 1), (2, 1), (9, 1), (17, 17), (64, 5), (65, 2), (130, 130)])
@pytest.mark.parametrize("prefix_length", [1, 2, PREFIX])
def test_tree_rows_equal_chain_rows(gguf: Path, nodes: int, reach: int, prefix_length: int) -> None:
    """Trees deeper than the window of the convolution, and behind texts that are shorter than it."""
    rng = np.random.default_rng(nodes)
    engine = _core.Engine(str(gguf))
    prefix, tokens = random_ids(prefix_length, engine.vocab_size), random_ids(nodes, engine.vocab_size, nodes)
    parents = [-1] + [int(rng.integers(max(0, i - reach), i)) for i in range(1, nodes)]
    tree = engine.forward_tree(prefix, tokens, parents)
    for node in {0, nodes // 2, nodes - 1}:
        path = [node]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        path.reverse()
        chain = engine.forward(prefix + [tokens[i] for i in path])
        assert np.array_equal(tree[path], chain[prefix_length:]), node
