"""Experts in MXFP4, as gpt-oss is published: from a checkpoint's blocks and scales to GGUF's blocks, bit for bit.

A block is 32 codes of 4 bits, along the inputs, and an exponent. In a checkpoint a byte holds two neighbouring codes,
the first in its low half; in GGUF it holds codes i and i + 16.
"""

from __future__ import annotations

import functools

import numpy as np

from .gguf_output import Encoded
from .source_tensor import SourceTensor

KIND = "MXFP4"
BLOCK = 32
_NOT_A_NUMBER = 255  # of an exponent


def encoded(parts: list[SourceTensor], count: int, rows: int, cols: int, first: int = 0, step: int = 1) -> Encoded:
    """The tensor (count, rows / step, cols) of the `blocks` and `scales` in `parts`: each `step`th row from `first` on.

    Raises ValueError for a tensor of another type or shape than so many experts of `rows` rows need.
    """
    blocks, scales = parts
    for tensor, shape in ((blocks, (count, rows, cols // BLOCK, BLOCK // 2)), (scales, (count, rows, cols // BLOCK))):
        if tensor.dtype != "U8" or tensor.shape != shape:
            raise ValueError(
                f"{tensor.file}: tensor '{tensor.name}': found {tensor.dtype} {tensor.shape}, expected U8 {shape}"
            )
    return Encoded(KIND, (count, rows // step, cols), functools.partial(_encode, blocks, scales, first, step))


def _encode(blocks: SourceTensor, scales: SourceTensor, first: int, step: int) -> np.ndarray:
    pairs, exponents = blocks.raw[:, first::step], scales.raw[:, first::step]
    if (exponents == _NOT_A_NUMBER).any():
        raise ValueError(f"{scales.file}: tensor '{scales.name}' holds a scale of {_NOT_A_NUMBER}, which is no number")
    codes = np.stack([pairs & 0xF, pairs >> 4], axis=-1).reshape(*pairs.shape[:-1], BLOCK)
    halves = codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4
    result = np.concatenate([exponents[..., None], halves], axis=-1)
    return np.ascontiguousarray(result.reshape(-1, result.shape[-2] * result.shape[-1]))
