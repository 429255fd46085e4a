"""Makes the gguf package read arrays at once: element by element, as it does, a vocabulary takes seconds each time.

And many rows of a matrix at once: 16 by 16, as it does, they take five times as long. A block is read and written by
itself, so that changes no bit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np

Parts = tuple[int, list[Any], list[int], list[gguf.GGUFValueType]]

_one_by_one: Callable[[Any, int, int], Parts] = gguf.GGUFReader._get_field_parts


def _at_once(reader: Any, start: int, kind: int) -> Parts:
    """Size, pieces, which of these are values, types: what GGUFReader._get_field_parts gives."""
    element = reader._get(start, np.uint32) if kind == gguf.GGUFValueType.ARRAY else None
    if element is None or reader.byte_order != "I" or element[0] == gguf.GGUFValueType.ARRAY:
        return _one_by_one(reader, start, kind)
    count = reader._get(start + 4, np.uint64)
    types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(element[0])]
    at = start + 12
    if element[0] != gguf.GGUFValueType.STRING:
        values = reader._get(at, reader.gguf_scalar_to_np[types[1]], count[0])
        return 12 + int(values.nbytes), [element, count, values], [2], types
    data = np.asarray(reader.data)  # a slice of a memmap takes ten times as long
    pieces: list[Any] = [element, count]
    for _ in range(int(count[0])):
        if at + 8 > len(data):
            return _one_by_one(reader, start, kind)  # it says what a file that ends here deserves
        (length,) = struct.unpack_from("<Q", data, at)
        pieces += (data[at : at + 8], data[at + 8 : at + 8 + length])
        at += 8 + length
    return at - start, pieces, list(range(3, len(pieces), 2)), types


_GROUP_BYTES = 1 << 18  # what is computed from them fits into a cache


def _in_large_groups(func: Any, arr: Any, otype: Any, oshape: tuple[int, ...]) -> Any:
    """What gguf.quants._apply_over_grouped_rows gives."""
    rows = arr.reshape(-1, arr.shape[-1])
    groups = np.array_split(rows, max(1, min(len(rows), rows.nbytes // _GROUP_BYTES)))
    return np.concatenate([func(group).ravel() for group in groups]).astype(otype, copy=False).reshape(oshape)


def install() -> None:
    """For this process."""
    gguf.GGUFReader._get_field_parts = _at_once
    gguf.quants._apply_over_grouped_rows = _in_large_groups
