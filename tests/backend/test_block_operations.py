"""What blocks of some architectures do beside products: activations, experts, sums of branches; against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrices import random_matrix, write_matrices

from frspec_cpp import _core, _testing

pytestmark = [pytest.mark.every_isa, pytest.mark.every_device]

SILU, GELU, CLAMPED = range(3)
EXPERTS, DIM, FF = 6, 64, 96


def activated(kind: int, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The activation of a gate, times `up`, in float64."""
    g, u = gate.astype(np.float64), up.astype(np.float64)
    if kind == GELU:
        return 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * u
    if kind == CLAMPED:
        g, u = np.minimum(g, 7), np.clip(u, -7, 7) + 1
        return g / (1 + np.exp(-1.702 * g)) * u
    return g / (1 + np.exp(-g)) * u


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A file with the matrices of six experts, and an identity; and their values."""
    path = tmp_path_factory.mktemp("experts") / "experts.gguf"
    rng = np.random.default_rng(0)
    values = {"identity": np.eye(DIM, dtype=np.float32)}
    for expert in range(EXPERTS):
        for name, shape in (("gate", (FF, DIM)), ("up", (FF, DIM)), ("down", (DIM, FF))):
            values[f"{name}.{expert}"] = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[1]))
    write_matrices(path, {name: ("F32", matrix) for name, matrix in values.items()})
    return path, values


@pytest.mark.parametrize("kind", [SILU, GELU, CLAMPED])
def test_activations(weights: tuple[Path, dict[str, np.ndarray]], kind: int) -> None:
    """From far below 0, where they vanish, to where they do nothing, and beyond both clamps."""
    gate = np.linspace(-40, 40, 5 * DIM, dtype=np.float32).reshape(5, DIM)
    up = np.random.default_rng(1).standard_normal((5, DIM), dtype=np.float32) * np.float32(5)
    (found,) = _testing.matmul_ops.project(str(weights[0]), ["identity"], gate, up=up, activation=kind)
    expected = activated(kind, gate, up)
    assert (np.abs(found - expected) <= 1e-6 * np.abs(expected) + 1e-6 * np.abs(up)).all()
    assert (np.abs(gate) > 7).any()
    assert (np.abs(up) > 7).any()


def names(part: str) -> list[str]:
    return [f"{part}.{expert}" for expert in range(EXPERTS)]


def run(path: Path, x: np.ndarray, scores: np.ndarray, used: int, **options: Any) -> np.ndarray:
    return _testing.matmul_ops.run_experts(
        str(path), names("gate"), names("up"), names("down"), x, scores, used, **options
    )


def by_hand(
    values: dict[str, np.ndarray], x: np.ndarray, scores: np.ndarray, used: int, kind: int, biases: list[np.ndarray]
) -> np.ndarray:
    """Row by row, expert by expert."""
    gate_bias, up_bias, down_bias = (bias.reshape(EXPERTS, -1) for bias in biases)
    out = np.zeros(x.shape)
    for row, own in enumerate(scores.astype(np.float64)):
        chosen = sorted(np.argsort(-own, kind="stable")[:used])
        shares = np.exp(own[chosen] - own[chosen].max())
        for expert, share in zip(chosen, shares / shares.sum(), strict=True):
            gate = x[row] @ values[f"gate.{expert}"].T.astype(np.float64) + gate_bias[expert]
            up = x[row] @ values[f"up.{expert}"].T.astype(np.float64) + up_bias[expert]
            inner = activated(kind, gate, up)
            out[row] += share * (values[f"down.{expert}"].astype(np.float64) @ inner + down_bias[expert])
    return out


@pytest.mark.parametrize("kind", [SILU, CLAMPED])
@pytest.mark.parametrize("used", [1, 3, EXPERTS])
def test_experts(weights: tuple[Path, dict[str, np.ndarray]], used: int, kind: int) -> None:
    path, values = weights
    rng = np.random.default_rng(used)
    x = rng.standard_normal((20, DIM), dtype=np.float32)
    scores = rng.standard_normal((20, EXPERTS), dtype=np.float32) * np.float32(3)
    scores[4] = 1.0  # ties go to the lower experts
    scores[5, 2:4] = scores[5].max() + 1
    biases = [rng.standard_normal(EXPERTS * size, dtype=np.float32) for size in (FF, FF, DIM)]
    none = [np.zeros_like(bias) for bias in biases]
    for given, expected in ((biases, biases), ([], none)):
        found = run(path, x, scores, used, activation=kind, biases=given)
        wanted = by_hand(values, x, scores, used, kind, expected)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.threads
def test_rows_of_experts_are_independent(weights: tuple[Path, dict[str, np.ndarray]]) -> None:
    """A row has the same bits whatever the others have chosen; experts that nobody wants are not looked at."""
    path, _ = weights
    rng = np.random.default_rng(9)
    x = rng.standard_normal((70, DIM), dtype=np.float32)
    scores = rng.standard_normal((70, EXPERTS), dtype=np.float32)
    scores[:, 5] = -100
    together = run(path, x, scores, 2, n_threads=3)
    for first, count in ((0, 1), (69, 1), (3, 7), (5, 64)):
        alone = run(path, x[first : first + count], scores[first : first + count], 2)
        assert np.array_equal(alone, together[first : first + count])
    others = scores.copy()
    others[1:] = np.roll(others[1:], 1, axis=1)
    assert np.array_equal(run(path, x, others, 2)[0], together[0])


@pytest.mark.parametrize("kind", ["Q8_0", "MXFP4", "Q4_K"])
def test_quantized_experts_are_their_matrices(tmp_path: Path, kind: str) -> None:
    """With one expert used, the result is what three products give."""
    rng = np.random.default_rng(4)
    matrices = {
        f"{part}.{expert}": (kind, random_matrix(kind, 256, 256, rng))
        for part in ("gate", "up", "down")
        for expert in range(EXPERTS)
    }
    path = tmp_path / "experts.gguf"
    write_matrices(path, matrices)
    x = rng.standard_normal((9, 256), dtype=np.float32)
    scores = rng.standard_normal((9, EXPERTS), dtype=np.float32)
    found = run(path, x, scores, 1)
    for row in range(9):
        expert = int(scores[row].argmax())
        gate, up = _testing.matmul_ops.project(str(path), [f"gate.{expert}", f"up.{expert}"], x[row : row + 1])
        (expected,) = _testing.matmul_ops.project(str(path), [f"down.{expert}"], gate, up=up)
        # A GPU brings the activations of experts into another form than those of a single product.
        most = 0.0 if _core.default_device() == "cpu" else 0.01 * float(np.abs(expected).max())
        np.testing.assert_allclose(found[row], expected[0], rtol=0, atol=most)


@pytest.mark.threads
@pytest.mark.parametrize("cols", [512, 37])
def test_add(cols: int) -> None:
    rng = np.random.default_rng(cols)
    x, y = rng.standard_normal((2, 70, cols), dtype=np.float32)
    norm = rng.standard_normal(cols, dtype=np.float32)
    scale = np.float32(0.22)
    found = _testing.matmul_ops.add(x, y, scale=scale, n_threads=3)
    np.testing.assert_allclose(found, x + scale * y, rtol=0, atol=1e-6)
    normed = y / np.sqrt((y.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-3) * norm
    found = _testing.matmul_ops.add(x, y, norm=norm, epsilon=1e-3, scale=scale, n_threads=3)
    np.testing.assert_allclose(found, x + scale * normed, rtol=0, atol=4e-6)
    for first, count in ((0, 1), (69, 1), (7, 64)):
        alone = _testing.matmul_ops.add(
            x[first : first + count], y[first : first + count], norm=norm, epsilon=1e-3, scale=scale
        )
        assert np.array_equal(alone, found[first : first + count])
