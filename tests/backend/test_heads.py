"""Heads whose logits are never stored choose what they would if the logits were."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from matrices import write_matrices

from frspec_cpp import _testing

pytestmark = [pytest.mark.every_isa, pytest.mark.every_device, pytest.mark.threads]

COLS = 96
SIZES = {"tiny": 7, "chunk": 512, "large": 5003}
KINDS = ["Q8_0", "Q4_0", "BF16", "F32"]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of each size and type; rows repeat now and then, so that logits tie."""
    path = tmp_path_factory.mktemp("heads") / "heads.gguf"
    rng = np.random.default_rng(3)
    matrices = {}
    for name, rows in SIZES.items():
        weight = rng.standard_normal((rows, COLS), dtype=np.float32)
        weight[rows // 2] = weight[1]
        weight[rows - 1] = weight[1]
        for kind in KINDS:
            data = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
            matrices[f"{name}.{kind}"] = kind, data
    write_matrices(path, matrices)
    return path


def hidden(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, COLS), dtype=np.float32)


@pytest.mark.pairwise
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [1, 10, 70])
@pytest.mark.parametrize("n_threads", [1, 3, 7])
def test_top_k_and_sample_equal_those_of_stored_logits(
    heads: Path, size: str, kind: str, rows: int, n_threads: int
) -> None:
    x = hidden(rows)
    logits = _testing.ops.matmul(str(heads), f"{size}.{kind}", x, n_threads=1)
    name = f"{size}.{kind}"
    for k in (1, 7) if size == "tiny" else (1, 10, 64):
        ids, log_probs = _testing.ops.head_top_k(str(heads), name, x, k, n_threads=n_threads)
        expected_ids, expected = _testing.ops.top_k(logits, k, n_threads=1)
        assert np.array_equal(ids, expected_ids)
        assert np.array_equal(log_probs, expected)
    positions = [5 + 3 * i for i in range(rows)]
    for temperature in (0.0, 0.3, 1.0, 5.0):
        found = _testing.ops.head_sample(
            str(heads), name, x, temperature=temperature, seed=4, positions=positions, n_threads=n_threads
        )
        expected = _testing.ops.sample(logits, temperature=temperature, seed=4, positions=positions, n_threads=1)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
def test_sample_is_the_argmax_of_logits_and_all_noise(heads: Path, temperature: float) -> None:
    """No token is passed over because it looks too unlikely."""
    rows = 40
    logits = _testing.ops.matmul(str(heads), "large.F32", hidden(rows))
    tokens = np.arange(SIZES["large"], dtype=np.int32)
    found = _testing.ops.sample(logits, temperature=temperature, seed=9)
    for row in range(rows):
        noise = _testing.ops.gumbel(9, row + 1, tokens)
        assert found[row] == np.argmax(logits[row] / np.float32(temperature) + noise)


def test_ties_go_to_the_lower_column(heads: Path) -> None:
    x = hidden(30)
    logits = _testing.ops.matmul(str(heads), "large.F32", x)
    assert np.array_equal(logits[:, 1], logits[:, SIZES["large"] // 2])  # the rows that were copied
    ids, _ = _testing.ops.head_top_k(str(heads), "large.F32", x, 5003)
    for row in range(30):
        order = ids[row].tolist()
        assert order.index(1) < order.index(SIZES["large"] // 2) < order.index(SIZES["large"] - 1)
        assert order == np.lexsort((np.arange(SIZES["large"]), -logits[row])).tolist()
