"""Reads safetensors files without copies and without torch; NumPy has no bfloat16, so such tensors stay raw.

A file is: u64 header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the data.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .source_tensor import SourceTensor

# Raw element types; those that NumPy lacks are read as unsigned integers of their size.
_RAW_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.uint8,
}  # fmt: skip
_MAX_HEADER = 100_000_000


def read_safetensors(path: Path) -> dict[str, SourceTensor]:
    """All tensors of the file at `path`, as views into a memory map.

    Raises ValueError naming the file, the tensor, what was found and what was expected; FileNotFoundError.
    """
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"{path}: has {size} bytes, too few for a safetensors file")
    mapping = np.memmap(path, mode="r", dtype=np.uint8)
    header_bytes = int(mapping[:8].view("<u8")[0])
    if header_bytes > min(size - 8, _MAX_HEADER):
        raise ValueError(f"{path}: the header claims {header_bytes} bytes, but the file has {size}")
    try:
        header = json.loads(bytes(mapping[8 : 8 + header_bytes]))
    except ValueError as error:
        raise ValueError(f"{path}: the safetensors header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is not a JSON object")
    data = mapping[8 + header_bytes :]
    return {name: _view(path, name, entry, data) for name, entry in header.items() if name != "__metadata__"}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _view(path: Path, name: str, entry: Any, data: np.ndarray) -> SourceTensor:
    where = f"{path}: tensor '{name}'"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: the header entry is not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if dtype not in _RAW_TYPES:
        raise ValueError(f"{where}: element type {dtype!r} is not known")
    if not isinstance(shape, list) or not all(_is_size(n) for n in shape):
        raise ValueError(f"{where}: found shape {shape!r}, expected a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        raise ValueError(f"{where}: found data_offsets {offsets!r}, expected two offsets")
    begin, end = offsets
    if begin > end or end > data.size:
        raise ValueError(f"{where}: lies at bytes {begin} to {end}, but the file has {data.size} bytes of data")
    raw_type = np.dtype(_RAW_TYPES[dtype]).newbyteorder("<")
    expected = math.prod(shape) * raw_type.itemsize
    if end - begin != expected:
        raise ValueError(f"{where}: has {end - begin} bytes, expected {expected} for {dtype} {tuple(shape)}")
    raw = np.frombuffer(data[begin:end], dtype=raw_type).reshape(shape)
    return SourceTensor(name, path, dtype, raw)
