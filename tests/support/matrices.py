"""GGUF files that hold nothing but matrices, for tests of the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

FLOATS = ["F32", "F16", "BF16"]
# Those that kernels read as they are, and those that are brought to another form before: Coded, or Q4_0.
BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
CODEBOOKS = ["IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0"]
NARROW = ["Q2_0", "Q1_0"]
QUANTIZED = BLOCKS + CODEBOOKS + NARROW
# Of each kind of arithmetic at least one.
MULTIPLIED = [*BLOCKS, "IQ3_S", "IQ1_M"]

# Where in a block the f16 scales are, and a minimum; others have one at its beginning.
_HALVES = {
    **{kind: [0, 2] for kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")},
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q6_K": [208],
    "TQ2_0": [64],
    "TQ1_0": [52],
    "MXFP4": [],
    "IQ1_M": [],
}


def block_width(kind: str) -> int:
    """Elements per block of the GGUF type `kind`; 1 for unquantized types."""
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0])


def set_scales(kind: str, data: np.ndarray, rng: np.random.Generator, whole: bool = False) -> None:
    """Gives all blocks of a matrix (rows, bytes per row) small random scales.

    With `whole` they are whole numbers, or powers of 2.
    """
    blocks = data.reshape(len(data), -1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1])

    def halves() -> np.ndarray:
        shape = blocks.shape[:2]
        values = rng.integers(-2, 3, shape) if whole else rng.uniform(-0.01, 0.01, shape)
        return values.astype(np.float16)[..., None].view(np.uint8)

    for at in _HALVES.get(kind, [0]):
        blocks[:, :, at : at + 2] = halves()
    if kind == "MXFP4":
        blocks[:, :, 0] = rng.integers(126, 130, blocks.shape[:2]) if whole else rng.integers(0, 130, blocks.shape[:2])
    if kind == "IQ1_M":  # a nibble on top of each of four 16-bit words
        scale = halves()
        for i in range(4):
            nibble = scale[:, :, i // 2] >> (4 * (i % 2)) & 15
            at = 48 + 2 * i + 1
            blocks[:, :, at] = blocks[:, :, at] & 15 | nibble << 4


def random_matrix(kind: str, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    """A matrix of the GGUF type `kind`: (rows, bytes per row), or float32 for F32.

    Quantized ones are random bits with sane scales: every bit pattern of the quants and packed scales occurs.
    """
    number = gguf.GGMLQuantizationType[kind]
    if kind in FLOATS:
        values = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(rng.uniform(0.01, 10))
        return np.asarray(gguf.quants.quantize(values, number))
    block, size = gguf.GGML_QUANT_SIZES[number]
    data = rng.integers(0, 256, (rows, cols // block * size), dtype=np.uint8)
    set_scales(kind, data, rng)
    return data


def rewritten(kind: str, data: np.ndarray) -> tuple[str, np.ndarray]:
    """A matrix of IQ4_NL, MXFP4, Q3_K, Q2_0 or Q1_0 in another type that says the same: its name, and its rows.

    The exponents of MXFP4 must be those of normal f16 numbers.
    """
    number = gguf.GGMLQuantizationType[kind]
    blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[number][1])
    if kind == "Q3_K":
        half = blocks[:, 108:110].copy().view(np.float16).astype(np.float32)
        packed = blocks[:, 96:108]
        index = np.arange(16)
        low = packed[:, index % 8] >> (4 * (index // 8)) & 15
        scales = (low | (packed[:, 8 + index % 4] >> (2 * (index // 4)) & 3) << 4).astype(np.int16) - 32
        i = np.arange(256)
        q = blocks[:, 32 + 32 * (i // 128) + i % 32] >> (2 * (i % 128 // 32)) & 3
        q = q + 4 * (blocks[:, i % 32] >> (i // 32) & 1) - 4 + 32
        q = q.reshape(len(q), 2, 4, 32).astype(np.uint8)  # halves, quarters, lanes
        lows = np.concatenate([q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4], axis=2)
        highs = sum((q[:, :, t] >> 4) << (2 * t) for t in range(4))
        parts = [lows, np.asarray(highs), scales.astype(np.int8).view(np.uint8), half.astype(np.float16).view(np.uint8)]
        return "Q6_K", np.concatenate([part.reshape(len(q), -1) for part in parts], axis=1).reshape(len(data), -1)
    if kind in NARROW:
        ones = blocks.copy()
        ones[:, :2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)  # scales of 1 leave the whole numbers
        codes = gguf.quants.dequantize(ones, number).astype(np.int8).reshape(-1, 32)
        scales = np.repeat(blocks[:, :2], len(codes) // len(blocks), axis=0)
        return "Q8_0", np.concatenate([scales, codes.view(np.uint8)], axis=1).reshape(len(data), -1)
    values = {"IQ4_NL": gguf.quants.IQ4_NL, "MXFP4": gguf.quants.MXFP4}[kind].kvalues
    quants = blocks[:, -16:]
    codes = np.array(values, dtype=np.int8)[np.concatenate([quants & 15, quants >> 4], axis=1)].view(np.uint8)
    scale = blocks[:, :2]
    if kind == "MXFP4":
        scale = np.exp2(blocks[:, :1].astype(np.float32) - 128).astype(np.float16).view(np.uint8)
    return "Q8_0", np.concatenate([scale, codes], axis=1).reshape(len(data), -1)


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
