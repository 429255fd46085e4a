"""Writes GGUF files one tensor at a time: metadata, choice of element types, conversion."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import atomic_output
from .console import require
from .source_tensor import SourceTensor, StackedTensor

# Option name -> (name of the GGUF tensor type, general.file_type).
FILE_TYPES = {
    "f32": ("F32", 0),
    "f16": ("F16", 1),
    "bf16": ("BF16", 32),
    "q8_0": ("Q8_0", 7),
    "q4_0": ("Q4_0", 2),
}
MXFP4_EXPERTS = 38  # general.file_type where these are, whatever the others
_BLOCK = 32  # elements per block of Q8_0 and Q4_0, along a row
# Beyond these a value, or the 16-bit scale of its block, becomes infinite.
_LARGEST = {"F32": math.inf, "BF16": 3.38e38, "F16": 65504.0, "Q8_0": 65504.0 * 127, "Q4_0": 65504.0 * 8}
_ALWAYS_F32 = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d.weight")
_CHUNK_ELEMENTS = 1 << 22  # converted at once: bounds the memory that float32 copies take


@dataclasses.dataclass(frozen=True)
class Entry:
    """One metadata value; the types are names of gguf.GGUFValueType, `element` only for arrays."""

    key: str
    value: Any
    type: str
    element: str | None = None


def u32(key: str, value: int) -> Entry:
    """An unsigned 32-bit number."""
    if not 0 <= value < 2**32:
        raise ValueError(f"key '{key}': {value} does not fit an unsigned 32-bit number")
    return Entry(key, value, "UINT32")


def u64(key: str, value: int) -> Entry:
    """An unsigned 64-bit number."""
    return Entry(key, value, "UINT64")


def f32(key: str, value: float) -> Entry:
    """A 32-bit float."""
    return Entry(key, value, "FLOAT32")


def boolean(key: str, value: bool) -> Entry:
    """A truth value."""
    return Entry(key, value, "BOOL")


def string(key: str, value: str) -> Entry:
    """A string."""
    return Entry(key, value, "STRING")


def array(key: str, values: Sequence[Any], element: str) -> Entry:
    """An array of `element`s (a name of gguf.GGUFValueType)."""
    return Entry(key, list(values), "ARRAY", element)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A tensor that is made in its GGUF type: `make` gives its bytes, (rows, bytes per row) uint8."""

    kind: str  # name of the GGUF type
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class OutputTensor:
    """A tensor to write.

    One of: `weights` of a checkpoint, converted to the type asked for; finished `values`; an `encoded` tensor.
    """

    name: str
    weights: SourceTensor | StackedTensor | None = None
    values: np.ndarray | None = None
    encoded: Encoded | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension, slowest first."""
        if self.weights is not None:
            return self.weights.shape
        if self.encoded is not None:
            return self.encoded.shape
        assert self.values is not None
        return tuple(int(n) for n in self.values.shape)


def tensor_type(name: str, shape: tuple[int, ...], asked: str) -> str:
    """The GGUF type name for a weight, as llama.cpp's converter chooses it.

    Vectors, norms, biases, convolutions and the routers of experts stay F32; a row that is no multiple of the block
    becomes F16.
    """
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith(_ALWAYS_F32):
        return "F32"
    if asked in ("q8_0", "q4_0") and shape[-1] % _BLOCK != 0:
        return "F16"
    return FILE_TYPES[asked][0]


def write_gguf(
    path: Path,
    architecture: str,
    entries: Sequence[Entry],
    tensors: Sequence[OutputTensor],
    asked: str | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Writes the file at `path`, whole or not at all; returns the names of the weights that fell back to F16.

    `asked` is a key of FILE_TYPES, needed where there are weights. `advance` is told the source bytes done (of encoded
    tensors: the bytes made).
    Raises ValueError for weights that the type cannot hold, OSError where the file cannot be written.
    """
    gguf = require("gguf", "writing GGUF files")
    with atomic_output(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        try:
            for entry in entries:
                element = gguf.GGUFValueType[entry.element] if entry.element else None
                writer.add_key_value(entry.key, entry.value, gguf.GGUFValueType[entry.type], element)
            kinds = [_add_info(gguf, writer, tensor, asked) for tensor in tensors]
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor, kind in zip(tensors, kinds, strict=True):
                writer.write_tensor_data(_encode(gguf, tensor, kind, advance))
        except struct.error as error:
            raise ValueError(f"{path}: a metadata value does not fit its type: {error}") from error
        finally:
            writer.close()
    fell_back = asked in ("q8_0", "q4_0")
    return [t.name for t, kind in zip(tensors, kinds, strict=True) if fell_back and t.weights and kind.name == "F16"]


def _add_info(gguf: Any, writer: Any, tensor: OutputTensor, asked: str | None) -> Any:
    if tensor.values is not None:
        writer.add_tensor_info(tensor.name, tensor.shape, tensor.values.dtype, tensor.values.nbytes)
        return None
    if tensor.encoded is not None:
        kind = gguf.GGMLQuantizationType[tensor.encoded.kind]
    else:
        assert asked is not None, "weights need a type"
        kind = gguf.GGMLQuantizationType[tensor_type(tensor.name, tensor.shape, asked)]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    nbytes = math.prod(tensor.shape) // block * block_bytes
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    return kind


def _encode(gguf: Any, tensor: OutputTensor, kind: Any, advance: Callable[[int], None]) -> np.ndarray:
    """The bytes of a tensor in its GGUF type."""
    if tensor.encoded is not None:
        data = tensor.encoded.make()
        advance(data.nbytes)
        return data
    if tensor.weights is None:
        assert tensor.values is not None
        return tensor.values
    weights = tensor.weights
    rows = weights.shape[0]
    step = max(1, _CHUNK_ELEMENTS // max(1, math.prod(weights.shape[1:])))
    parts = []
    for start in range(0, rows, step):
        values = weights.floats(start, start + step)
        largest = float(np.abs(values).max(initial=0))
        if largest > _LARGEST[kind.name]:
            raise ValueError(
                f"{weights.file}: tensor '{weights.name}' holds {largest:g}, expected at most "
                f"{_LARGEST[kind.name]:g} for {kind.name}; use --type bf16 or f32"
            )
        encoded = gguf.quants.quantize(values, kind)
        parts.append(encoded.reshape(len(values), -1).view(np.uint8))
        advance(weights.nbytes * len(values) // rows)
    return np.concatenate(parts)
