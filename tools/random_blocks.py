"""Random weights made directly in the block formats of GGUF, as fast as random bits come."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Type -> elements per block, standard deviation of uniformly random codes in units of their scale.
_BLOCKS = {
    "Q8_0": (32, 73.9),
    "Q4_0": (32, 4.61),
    "Q4_1": (32, 4.61),
    "Q5_0": (32, 9.23),
    "Q5_1": (32, 9.23),
    "Q4_K": (256, 4.61),
    "Q5_K": (256, 9.23),
    "Q6_K": (256, 18.5),
    "Q2_K": (256, 1.118),
    "Q3_K": (256, 2.29),
    "IQ4_NL": (32, 67.2),
    "IQ4_XS": (256, 67.2),
    "MXFP4": (32, 5.85),
}
# What the minimum takes off, in scales.
_HALF_RANGE = {"Q4_1": 7.5, "Q5_1": 15.5, "Q4_K": 7.5, "Q5_K": 15.5, "Q2_K": 1.5}
_SCALES = (24, 41)  # the whole-number scales of K-quants are drawn from this range
_NIBBLES = (8, 16)  # or their low four bits from this one
# The mean of the whole numbers that a block's scale is multiplied by.
_MEAN_SCALES = {"Q4_K": 32.0, "Q5_K": 32.0, "Q6_K": 32.0, "Q2_K": 11.5, "Q3_K": 27.5, "IQ4_XS": 27.5}


def block_elements(kind: str) -> int:
    """Elements per block of a GGUF type name, along a row; 1 for unquantized types."""
    return _BLOCKS[kind][0] if kind in _BLOCKS else 1


def random_weights(kind: str, rows: int, cols: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """A matrix of about normal size `sigma` in the GGUF type `kind`: (rows, bytes per row) uint8.

    Quantized codes are uniform, each scale varies by a fifth around what gives the standard deviation `sigma`.
    """
    if kind not in _BLOCKS:
        return _floats(kind, rows, cols, sigma, rng)
    elements, spread = _BLOCKS[kind]
    count = rows * cols // elements
    scale = (sigma / spread * rng.uniform(0.8, 1.2, count)).astype(np.float32)
    scale /= np.float32(_MEAN_SCALES.get(kind, 1.0))
    minimum = scale * _HALF_RANGE.get(kind, 0)
    parts: dict[str, Callable[[], list[np.ndarray]]] = {
        "Q8_0": lambda: [_half(scale), _bits(count, 32, rng)],
        "Q4_0": lambda: [_half(scale), _bits(count, 16, rng)],
        "Q4_1": lambda: [_half(scale), _half(-minimum), _bits(count, 16, rng)],
        "Q5_0": lambda: [_half(scale), _bits(count, 20, rng)],
        "Q5_1": lambda: [_half(scale), _half(-minimum), _bits(count, 20, rng)],
        "Q4_K": lambda: [_half(scale), _half(minimum), _packed_scales(count, rng), _bits(count, 128, rng)],
        "Q5_K": lambda: [_half(scale), _half(minimum), _packed_scales(count, rng), _bits(count, 160, rng)],
        "Q2_K": lambda: [_twice(_nibbles(count, 16, rng)), _bits(count, 64, rng), _half(scale), _half(minimum)],
        # Scales of six bits, 32 more than they are: the two high bits are set.
        "Q3_K": lambda: [_bits(count, 96, rng), _pairs(count, 8, rng), _ones(count, 4), _half(scale)],
        "IQ4_XS": lambda: [_half(scale), _ones(count, 2), _pairs(count, 4, rng), _bits(count, 128, rng)],
        "IQ4_NL": lambda: [_half(scale), _bits(count, 16, rng)],
        "MXFP4": lambda: [np.rint(np.log2(scale) + 128).astype(np.uint8).reshape(-1, 1), _bits(count, 16, rng)],
        "Q6_K": lambda: [_bits(count, 192, rng), rng.integers(*_SCALES, (count, 16), dtype=np.uint8), _half(scale)],
    }
    return np.concatenate(parts[kind](), axis=1).reshape(rows, -1)


def _floats(kind: str, rows: int, cols: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal((rows, cols), dtype=np.float32)
    values *= np.float32(sigma)
    if kind == "F32":
        return values.view(np.uint8)
    if kind == "F16":
        return values.astype(np.float16).view(np.uint8)
    if kind == "BF16":  # cut off, not rounded: these are random numbers anyway
        return np.ascontiguousarray(values.view(np.uint16)[:, 1::2]).view(np.uint8)
    raise ValueError(f"found type {kind!r}, expected F32, F16, BF16 or one of {', '.join(_BLOCKS)}")


def _half(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2").reshape(-1, 1).view(np.uint8)


def _bits(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    return np.frombuffer(rng.bytes(count * size), dtype=np.uint8).reshape(count, size)


def _nibbles(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(*_NIBBLES, (count, size), dtype=np.uint8)


def _twice(nibbles: np.ndarray) -> np.ndarray:
    both: np.ndarray = nibbles | nibbles << 4
    return both


def _pairs(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    both: np.ndarray = _nibbles(count, size, rng) | _nibbles(count, size, rng) << 4
    return both


def _ones(count: int, size: int) -> np.ndarray:
    return np.full((count, size), 0xFF, dtype=np.uint8)


def _packed_scales(count: int, rng: np.random.Generator) -> np.ndarray:
    """The 12 bytes of Q4_K and Q5_K that hold eight 6-bit scales and as many minima, here equal to them."""
    values = rng.integers(*_SCALES, (count, 8), dtype=np.uint8)
    low, high = values[:, :4], values[:, 4:]
    first = low | (high >> 4) << 6
    return np.concatenate([first, first, (high & 0xF) | (high & 0xF) << 4], axis=1)
