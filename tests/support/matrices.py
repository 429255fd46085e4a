"""GGUF files that hold nothing but matrices, for tests of the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

FLOATS = ["F32", "F16", "BF16"]
QUANTIZED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]


def random_matrix(kind: str, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    """A matrix of the GGUF type `kind`: (rows, bytes per row), or float32 for F32.

    Quantized ones are random bits with sane scales: every bit pattern of the quants and packed scales occurs.
    """
    number = gguf.GGMLQuantizationType[kind]
    if kind in FLOATS:
        values = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(rng.uniform(0.01, 10))
        return np.asarray(gguf.quants.quantize(values, number))
    block, size = gguf.GGML_QUANT_SIZES[number]
    data = rng.integers(0, 256, (rows, cols // block, size), dtype=np.uint8)
    for at in {"Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0]}.get(kind, [0, 2]):
        scale = rng.uniform(-0.01, 0.01, data.shape[:2]).astype(np.float16)
        data[:, :, at : at + 2] = scale[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def write_matrices(path: Path, matrices: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Writes matrices, each with the name of its GGUF type."""
    writer = gguf.GGUFWriter(path, "test")
    for name, (kind, data) in matrices.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded_to_f16(x: np.ndarray) -> np.ndarray:
    """Activations (rows, cols) as the CUDA backend rounds them: to f16, the row's largest in [512, 1024) (float64)."""
    largest = np.abs(x).max(1, keepdims=True)
    scale = np.exp2(9 - np.floor(np.log2(np.where(largest > 0, largest, 1))))
    return (x * scale).astype(np.float16) / scale.astype(np.float64)


def random_attention(
    rows: int, length: int, head_dim: int, heads: int, kv_heads: int, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Queries (rows, heads * head_dim), keys and values (length, kv_heads * head_dim)."""
    rng = np.random.default_rng(seed)
    q = 2 * rng.standard_normal((rows, heads * head_dim), dtype=np.float32)
    k, v = (rng.standard_normal((length, kv_heads * head_dim), dtype=np.float32) for _ in range(2))
    return q, k, v
