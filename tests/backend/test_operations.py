"""The backend's operations against numpy and gguf's own dequantizer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from matrices import (
    FLOATS,
    MULTIPLIED,
    NARROW,
    QUANTIZED,
    block_width,
    random_matrix,
    rewritten,
    rounded_to_f16,
    set_scales,
    write_matrices,
)

from frspec_cpp import _core, _testing

# Products and choices have tests of their own for GPUs, in tests/cuda.
pytestmark = [pytest.mark.every_isa, pytest.mark.threads]

TYPES = [*FLOATS, *QUANTIZED]
BLOCK = 32  # activations that share a scale where they meet quantized weights
SPIKE = np.float32(6)  # blocks that stand out so far from the row's usual ones have a second term

# Widths: whole groups of 256, a shorter last group (not for K-quants, whose blocks are 256 long; longer where they have
# 64 or 128), an odd number.
WIDTHS = {"": 512, ".short": 352, ".long": 384, ".odd": 37}
# Names of all tensors of the file.
ALL = [
    name + suffix
    for name in TYPES
    for suffix, width in WIDTHS.items()
    if width % block_width(name) == 0 and (suffix != ".long" or name in NARROW)
]
PRODUCTS = [name for name in ALL if name.split(".")[0] in FLOATS + MULTIPLIED]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with random matrices of every type: 53 rows in each width that the type can have."""
    path = tmp_path_factory.mktemp("weights") / "weights.gguf"
    rng = np.random.default_rng(0)
    matrices = {}
    for name in ALL:
        kind, _, width = name.partition(".")
        matrices[name] = kind, random_matrix(kind, 53, WIDTHS[f".{width}" if width else ""], rng)
    write_matrices(path, matrices)
    return path


def reference(path: Path, name: str) -> np.ndarray:
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == name:
            return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    raise KeyError(name)


def test_the_types_are_those_that_load() -> None:
    assert set(_core.weight_types()) == set(TYPES)


def seen_by(name: str, x: np.ndarray, device_name: str) -> np.ndarray:
    """The activations as the weight's type meets them: rounded to 8 bits, 16 bits, or as they are (float64)."""
    if device_name.startswith("cuda") and not name.startswith(("F32", "BF16")):
        return rounded_to_f16(x)
    if name.split(".")[0] in QUANTIZED:
        rows, cols = x.shape
        padded = np.zeros((rows, -(-cols // BLOCK) * BLOCK), dtype=np.float32)
        padded[:, :cols] = x
        blocks = padded.reshape(rows, -1, BLOCK)
        largest = np.abs(blocks).max(2, keepdims=True)
        scale = (largest / np.float32(127)).astype(np.float64)
        values = np.rint(blocks * (np.float32(127) / largest)) * scale
        below = 2 * largest.mean(1, keepdims=True)
        usual = np.nanmean(np.where(largest <= below, largest, np.nan), 1, keepdims=True)
        values += np.where(largest > SPIKE * usual, np.rint((blocks - values) / (scale / 254)) * (scale / 254), 0)
        return values.reshape(rows, -1)[:, :cols]
    if name.startswith("BF16") and ("bf16" in device_name or "amx" in device_name or "cuda" in device_name):
        return gguf.quants.dequantize(
            gguf.quants.quantize(x, gguf.GGMLQuantizationType.BF16), gguf.GGMLQuantizationType.BF16
        ).astype(np.float64)
    return x.astype(np.float64)


@pytest.mark.parametrize("name", ALL)
def test_dequantize_equals_gguf(weights: Path, name: str) -> None:
    assert np.array_equal(_testing.ops.dequantize(str(weights), name), reference(weights, name))


@pytest.mark.every_device
@pytest.mark.parametrize("name", ALL)
def test_embed_equals_gguf(weights: Path, name: str) -> None:
    """Rows looked up in the packed form are the file's, to the bit."""
    ids = [52, 0, 17, 16, 15, 31, 32, 17]
    expected = reference(weights, name)[ids]
    assert np.array_equal(_testing.ops.embed(str(weights), name, ids), expected)
    assert np.array_equal(_testing.ops.embed(str(weights), name, ids, packed=False), expected)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("rows", [1, 2, 5, 64, 131])
def test_matmul(weights: Path, name: str, rows: int) -> None:
    weight = reference(weights, name)
    x = np.random.default_rng(rows).standard_normal((rows, weight.shape[1]), dtype=np.float32)
    found = _testing.ops.matmul(str(weights), name, x)
    expected = seen_by(name, x, _testing.ops.device()) @ weight.T.astype(np.float64)
    scale = np.abs(x).astype(np.float64) @ np.abs(weight.T).astype(np.float64)
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= 1e-6 * scale + 1e-30).all()


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", MULTIPLIED)
def test_matmul_of_activations_that_stand_out(weights: Path, name: str) -> None:
    """Blocks far above the others of their row keep 16 bits, in some rows none, in some all groups; and bits stay."""
    weight = reference(weights, name)
    x = np.random.default_rng(5).standard_normal((131, 512), dtype=np.float32)
    for row, at, factor in [(0, 0, 1000), (0, 300, 30), (1, 511, 7), (2, 31, 1e6), (2, 32, 1e6), (64, 100, -90)]:
        x[row, at] = factor * 3
    found = _testing.ops.matmul(str(weights), name, x)
    expected = seen_by(name, x, "cpu") @ weight.T.astype(np.float64)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    scale = np.abs(x).astype(np.float64) @ np.abs(weight.T).astype(np.float64)
    assert (np.abs(found - expected) <= 1e-6 * scale).all()
    # Eight bits alone would lose five to eleven times as much of these rows.
    for row in (0, 2, 64):
        assert np.sqrt(np.mean((found - exact)[row] ** 2)) <= 1e-3 * scale[row].mean()
    for first, count in [(0, 1), (0, 2), (2, 1), (1, 5), (64, 17)]:
        few = _testing.ops.matmul(str(weights), name, x[first : first + count])
        assert np.array_equal(few, found[first : first + count])


@pytest.mark.parametrize("name", PRODUCTS)
def test_matmul_rows_are_independent(weights: Path, name: str) -> None:
    """Row r has the same bits whatever the number of rows and threads."""
    cols = reference(weights, name).shape[1]
    x = np.random.default_rng(1).standard_normal((131, cols), dtype=np.float32)
    together = _testing.ops.matmul(str(weights), name, x, n_threads=3)
    for first, count in [(0, 1), (130, 1), (3, 2), (7, 3), (60, 17), (1, 64)]:
        alone = _testing.ops.matmul(str(weights), name, x[first : first + count], n_threads=1)
        assert np.array_equal(alone, together[first : first + count])


@pytest.mark.every_device
@pytest.mark.parametrize("kind", ["IQ4_NL", "MXFP4", "Q3_K", *NARROW])
def test_types_that_say_the_same_give_the_same_bits(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    data = random_matrix(kind, 37, 512, rng)
    set_scales(kind, data, rng, whole=True)
    write_matrices(tmp_path / "w.gguf", {"w": (kind, data), "other": rewritten(kind, data)})
    assert np.array_equal(reference(tmp_path / "w.gguf", "w"), reference(tmp_path / "w.gguf", "other"))
    x = rng.standard_normal((20, 512), dtype=np.float32)
    x[3, 40] = 1000
    found, expected = (_testing.ops.matmul(str(tmp_path / "w.gguf"), name, x) for name in ("w", "other"))
    assert np.array_equal(found, expected)


@pytest.mark.every_device
@pytest.mark.parametrize("name", FLOATS + MULTIPLIED)
def test_matmul_of_a_subset_of_rows(weights: Path, name: str) -> None:
    """A packed subset of a head gives the bits of the same columns of the full head.

    Of one panel and of three: the last one is alone.
    """
    for rows in (1, 10, 70):
        x = np.random.default_rng(2).standard_normal((rows, 512), dtype=np.float32)
        full = _testing.ops.matmul(str(weights), name, x)
        for chosen in ([0, 1, 5, 17, 18, 19, 40, 52], list(range(7, 47))):
            assert np.array_equal(_testing.ops.matmul(str(weights), name, x, rows=chosen), full[:, chosen])


@pytest.mark.parametrize(("k", "vocab"), [(1, 1), (10, 10), (10, 5000), (64, 70001)])
def test_top_k(k: int, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = (5 * rng.standard_normal((7, vocab))).round(1).astype(np.float32)  # rounded: with ties
    ids, log_probs = _testing.ops.top_k(logits, k)
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact - exact.max(1, keepdims=True)).sum(1, keepdims=True)) + exact.max(1, keepdims=True)
    for row in range(7):
        best = np.lexsort((np.arange(vocab), -logits[row]))[:k]
        assert ids[row].tolist() == best.tolist()
        np.testing.assert_allclose(log_probs[row], exact[row, best], atol=2e-5)
    assert (log_probs <= 0).all()


@pytest.mark.every_device
def test_top_k_survives_logits_that_are_not_finite() -> None:
    logits = np.array([[np.nan, 1, np.inf, -np.inf], [np.nan] * 4, [-np.inf] * 4], dtype=np.float32)
    ids, log_probs = _testing.ops.top_k(logits, 3)
    assert ((ids >= 0) & (ids < 4)).all()
    assert all(len(set(row)) == 3 for row in ids.tolist())
    assert (log_probs <= 0).all()


@pytest.mark.every_device
def test_gumbel_noise_is_gumbel() -> None:
    """Moments and quantiles of a million draws; neighbours in token, position and seed are uncorrelated."""
    noise = np.concatenate(
        [_testing.ops.gumbel(seed, 100 + seed, np.arange(50000, dtype=np.int32)) for seed in range(20)]
    )
    assert np.isfinite(noise).all()
    assert abs(noise.mean() - 0.57721566) < 0.006
    assert abs(noise.var() - np.pi**2 / 6) < 0.02
    for quantile in (0.001, 0.1, 0.5, 0.9, 0.999, 0.99999):
        expected = -np.log(-np.log(quantile))
        assert abs(np.mean(noise <= expected) - quantile) < 5 * np.sqrt(quantile * (1 - quantile) / noise.size)
    tokens = np.arange(100000, dtype=np.int32)
    base = _testing.ops.gumbel(7, 1, tokens)
    for other in (_testing.ops.gumbel(7, 2, tokens), _testing.ops.gumbel(8, 1, tokens), np.roll(base, 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.015
    assert np.array_equal(_testing.ops.gumbel(7, 1, tokens[::-1].copy())[::-1], base)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_softmax(temperature: float) -> None:
    """Chi-square of 60,000 keyed samples against the exact distribution; 99.99 % quantile."""
    logits = np.array([2.0, 1.5, 0.0, -1.0, 0.5, -3.0, 1.0, 0.2, -0.5], dtype=np.float32)
    exact = np.exp(logits.astype(np.float64) / temperature)
    exact /= exact.sum()
    rows = np.tile(logits, (60000, 1))
    tokens = _testing.ops.sample(rows, temperature=temperature, seed=12)
    counts = np.bincount(tokens, minlength=logits.size)
    statistic = float(((counts - exact * len(rows)) ** 2 / (exact * len(rows))).sum())
    assert statistic < 31.8  # 8 degrees of freedom
    biased = exact * np.where(np.arange(logits.size) == 0, 1.03, 1.0)
    biased /= biased.sum()
    assert float(((counts - biased * len(rows)) ** 2 / (biased * len(rows))).sum()) > statistic


@pytest.mark.every_device
def test_greedy_ties_go_to_the_lower_id() -> None:
    logits = np.array([[0, 3, 3, 1], [2, 2, 2, 2]], dtype=np.float32)
    assert _testing.ops.sample(logits, temperature=0.0).tolist() == [1, 0]
