"""Q2_0 and Q1_0, as ggml defines them, for the gguf package: it lacks their dequantizers, and the number of Q2_0."""

from __future__ import annotations

import gguf
import numpy as np

Type = gguf.GGMLQuantizationType


class _Narrow:
    """Blocks of a scale and codes of `bits` bits, the lowest first: a code q stands for step * q - 1 scales."""

    def __init__(self, name: str, number: int, elements: int, step: int) -> None:
        self.bits, self.step = 128 // elements, step
        if name not in Type.__members__:
            kind = int.__new__(Type, number)
            kind._name_, kind._value_ = name, number
            Type._member_map_[name] = Type._value2member_map_[number] = kind
        gguf.GGML_QUANT_SIZES[Type(number)] = (elements, 18)
        gguf.quants._type_traits.setdefault(Type(number), self)

    def dequantize(self, data: np.ndarray) -> np.ndarray:
        """Values (..., elements) of rows of blocks (..., bytes), float32."""
        scale, codes = np.split(data.view(np.uint8).reshape(-1, 18), [2], axis=1)
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        values = (codes[..., None] >> shifts & (1 << self.bits) - 1).reshape(len(codes), -1) * np.float32(self.step) - 1
        return (scale.view(np.float16).astype(np.float32) * values).reshape(*data.shape[:-1], -1)


def install() -> None:
    """For this process."""
    _Narrow("Q2_0", 42, 64, 1)
    _Narrow("Q1_0", 41, 128, 2)
