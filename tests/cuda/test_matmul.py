"""Matrix products of the CUDA backend: their definition, and that a row's bits depend on nothing but the row."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from cuda_device import DEVICE
from matrices import FLOATS, MULTIPLIED, block_width, random_matrix, rounded_to_f16, set_scales, write_matrices

from frspec_cpp import _testing

# Tensor cores cut off what they add up; the emulation rounds.
TOLERANCE = 5e-7 if DEVICE == "cuda-emulated" else 5e-6
TYPES = [*FLOATS, *MULTIPLIED]


def odd_width(kind: str) -> int:
    """A width that fills no tile, where the type allows that."""
    return {1: 75, 32: 96, 256: 256}[block_width(kind)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matrices of every type: 53 rows of odd width, 70 rows of 2048 columns (two to four slices), and of integers."""
    path = tmp_path_factory.mktemp("weights") / "weights.gguf"
    rng = np.random.default_rng(5)
    matrices = {}
    for kind in TYPES:
        matrices[f"{kind}.odd"] = kind, random_matrix(kind, 53, odd_width(kind), rng)
        matrices[f"{kind}.long"] = kind, random_matrix(kind, 70, 2048, rng)
        matrices[f"{kind}.other"] = kind, random_matrix(kind, 150, 512, rng)
        matrices[f"{kind}.same"] = kind, random_matrix(kind, 33, 512, rng)
        if kind in FLOATS:
            integers = rng.integers(-8, 9, (40, 512)).astype(np.float32)
            data = np.asarray(gguf.quants.quantize(integers, gguf.GGMLQuantizationType[kind]))
        else:
            data = random_matrix(kind, 40, 512, rng)
            set_scales(kind, data, rng, whole=True)
        matrices[f"{kind}.integers"] = kind, data
    write_matrices(path, matrices)
    return path


def values_of(path: Path, name: str) -> np.ndarray:
    """The tensor as float64."""
    return _testing.ops.dequantize(str(path), name, device="cpu").astype(np.float64)


def seen_by(kind: str, x: np.ndarray) -> np.ndarray:
    if kind == "F32":
        return x.astype(np.float64)
    if kind == "BF16":
        number = gguf.GGMLQuantizationType.BF16
        return gguf.quants.dequantize(gguf.quants.quantize(x, number), number).astype(np.float64)
    return rounded_to_f16(x)


def activations(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Rows of very different magnitudes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, cols), dtype=np.float32)
    return x * np.exp2(rng.integers(-40, 40, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", ["odd", "long"])
def test_the_definition(weights: Path, kind: str, shape: str) -> None:
    """Only the activations are rounded, by row; all else is as exact as sums in f32 are."""
    w = values_of(weights, f"{kind}.{shape}")
    for rows in (1, 9, 20):
        x = activations(rows, w.shape[1], rows)
        found = _testing.ops.matmul(str(weights), f"{kind}.{shape}", x, device=DEVICE)
        expected = seen_by(kind, x) @ w.T
        # Minima are subtracted from sums that are as large: both count.
        scale = np.abs(x).astype(np.float64) @ np.abs(w.T) + np.abs(x).sum(1, keepdims=True) * np.abs(w).max()
        assert (np.abs(found - expected) <= TOLERANCE * scale).all()


@pytest.mark.parametrize("kind", TYPES)
def test_sums_of_integers_are_exact(weights: Path, kind: str) -> None:
    """Where every partial sum is an integer below 2^24, there is nothing to round: the same bits on every GPU."""
    w = values_of(weights, f"{kind}.integers")
    x = np.random.default_rng(1).integers(-1, 2, (17, w.shape[1])).astype(np.float32)
    expected = x.astype(np.float64) @ w.T
    assert np.abs(expected).max() < 2**24
    assert np.array_equal(_testing.ops.matmul(str(weights), f"{kind}.integers", x, device=DEVICE), expected)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", ["odd", "long"])
def test_rows_do_not_depend_on_each_other(weights: Path, kind: str, shape: str) -> None:
    """The bits of a row are the same alone, among 70, and beside rows that are huge, infinite or NaN."""
    name = f"{kind}.{shape}"
    cols = values_of(weights, name).shape[1]
    x = activations(70, cols)
    together = _testing.ops.matmul(str(weights), name, x, device=DEVICE)
    assert np.isfinite(together).all()
    for first, count in [(0, 1), (69, 1), (3, 2), (7, 8), (1, 9), (16, 17), (2, 33), (5, 64)]:
        alone = _testing.ops.matmul(str(weights), name, x[first : first + count], device=DEVICE)
        assert np.array_equal(alone, together[first : first + count])
    bad = x[:12].copy()
    bad[1] = bad[1] / np.abs(bad[1]).max() * np.float32(1e37)
    bad[2, cols // 2] = np.inf
    bad[3, 0] = np.nan
    bad[4] = 0
    bad[5, 1], bad[5, 2] = np.inf, -np.inf
    bad[6] = np.float32(1e-41)
    with np.errstate(all="ignore"):
        found = _testing.ops.matmul(str(weights), name, bad, device=DEVICE)
    good = [0, *range(7, 12)]
    assert np.array_equal(found[good], together[good])
    assert not np.isfinite(found[[2, 3, 5]]).any()
    assert (found[4] == 0).all()
    assert np.isfinite(found[6]).all()


def test_very_small_rows(weights: Path) -> None:
    """A row of denormal numbers is not lost."""
    w = values_of(weights, "Q8_0.same")
    x = (np.random.default_rng(2).integers(1, 1000, (1, 512)) * 2.0**-149).astype(np.float32)
    found = _testing.ops.matmul(str(weights), "Q8_0.same", x, device=DEVICE).astype(np.float64)
    expected = x.astype(np.float64) @ w.T
    assert np.abs(found - expected).max() <= 0.01 * np.abs(expected).max() + 2.0**-149


def test_several_projections_at_once(weights: Path) -> None:
    """Formats that share a launch and formats that do not; biases; results that are added to what was there."""
    names = ["Q4_K.other", "Q4_K.same", "Q6_K.same", "BF16.same", "F32.other", "F32.same", "Q4_1.same", "Q8_0.integers"]
    x = activations(5, 512)
    rng = np.random.default_rng(3)
    plain = [_testing.ops.matmul(str(weights), name, x, device=DEVICE) for name in names]
    together = _testing.matmul_ops.project(str(weights), names, x, device=DEVICE)
    assert all(np.array_equal(a, b) for a, b in zip(together, plain, strict=True))
    biases = [rng.standard_normal(p.shape[1], dtype=np.float32) for p in plain]
    starts = [rng.standard_normal(p.shape, dtype=np.float32) for p in plain]
    biased = _testing.matmul_ops.project(str(weights), names, x, biases=biases, device=DEVICE)
    assert all(np.array_equal(a, p + b) for a, p, b in zip(biased, plain, biases, strict=True))
    added = _testing.matmul_ops.project(str(weights), names, x, starts=starts, device=DEVICE)
    assert all(np.array_equal(a, s + p) for a, p, s in zip(added, plain, starts, strict=True))
    both = _testing.matmul_ops.project(str(weights), names, x, biases=biases, starts=starts, device=DEVICE)
    assert all(np.array_equal(a, s + (p + b)) for a, p, b, s in zip(both, plain, biases, starts, strict=True))


@pytest.mark.parametrize("kind", ["Q4_K", "BF16", "F32"])
def test_operands(weights: Path, kind: str) -> None:
    """RMS-normed rows, and silu(x) * up, are what they are when numpy makes them."""
    x = activations(3, 512)
    up = activations(3, 512, seed=1) / np.abs(activations(3, 512, seed=1)).max(1, keepdims=True)
    norm = np.random.default_rng(4).standard_normal(512, dtype=np.float32)
    name = f"{kind}.same"
    w = values_of(weights, name)
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-6) * norm
    small = np.clip(x, -30, 30)
    gated = small / (1 + np.exp(-small.astype(np.float64))) * up
    for found, operand in [
        (_testing.matmul_ops.project(str(weights), [name], x, norm=norm, epsilon=1e-6, device=DEVICE)[0], normed),
        (_testing.matmul_ops.project(str(weights), [name], small, up=up, device=DEVICE)[0], gated),
    ]:
        expected = seen_by(kind, operand.astype(np.float32)) @ w.T
        scale = np.abs(operand).sum(1, keepdims=True) * np.abs(w).max()
        # A last bit of f32 may change a rounding to 16 bits.
        assert (np.abs(found - expected) <= 2e-5 * scale).all()


@pytest.mark.parametrize("kind", TYPES)
def test_replaced_rows(weights: Path, kind: str) -> None:
    """A weight whose rows were replaced is the weight that was loaded with these rows."""
    path, name = str(weights), f"{kind}.other"
    x = activations(3, 512)
    rows = np.random.default_rng(6).permutation(150)[:37]
    full = _testing.ops.matmul(path, name, x, device=DEVICE)
    assert np.array_equal(_testing.ops.matmul(path, name, x, rows=rows.tolist(), device=DEVICE), full[:, rows])
    places, new = [36, 0, 15, 16, 5], [149, 3, 77, 0, 0]
    wanted = rows.copy()
    wanted[places] = new
    found = _testing.head_ops.replaced_matmul(path, name, x, rows.tolist(), places, new, device=DEVICE)
    assert np.array_equal(found, full[:, wanted])


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "F32"])
def test_packed_rows_are_the_files(weights: Path, kind: str) -> None:
    for shape in ("odd", "long"):
        expected = values_of(weights, f"{kind}.{shape}")
        ids = [0, 52, 7, 8, 15, 16, 31, 33, 7]
        for packed in (True, False):
            found = _testing.ops.embed(str(weights), f"{kind}.{shape}", ids, packed=packed, device=DEVICE)
            assert np.array_equal(found, expected[ids])


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    bad = np.ones((20, 64), dtype=np.float16)
    bad[17, 3] = np.inf
    write_matrices(path, {"bad": ("F16", bad)})
    for call in (
        lambda: _testing.ops.matmul(str(path), "bad", np.ones((1, 64), dtype=np.float32), device=DEVICE),
        lambda: _testing.ops.embed(str(path), "bad", [0], packed=False, device=DEVICE),
    ):
        with pytest.raises(ValueError, match="tensor 'bad', row 17: found a value that is NaN or infinite"):
            call()


def test_ceilings(weights: Path) -> None:
    reading, int8, bf16, f32, f16 = _testing.matmul_ops.ceilings(str(weights), ["Q4_K.long", "F32.odd"], device=DEVICE)
    assert reading > 0
    assert min(bf16, f32, f16) > 0
    assert int8 == 0
