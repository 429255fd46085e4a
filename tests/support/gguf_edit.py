"""Reads a GGUF file with the gguf package, lets a test change anything in it, and writes it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Value = gguf.GGUFValueType
Type = gguf.GGMLQuantizationType


@dataclass
class Entry:
    """A metadata value; `element` is the type of an array's elements."""

    value: Any
    kind: Value
    element: Value | None = None


@dataclass
class TensorData:
    """A tensor as stored: bytes (uint8) of quantized types, numbers of others; slowest dimension first."""

    data: np.ndarray
    kind: Type


class GgufEditor:
    """The contents of a GGUF file: `entries` by key, `tensors` by name."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.entries: dict[str, Entry] = {}
        for key, field in reader.fields.items():
            if not key.startswith("GGUF."):
                element = field.types[-1] if field.types[0] == Value.ARRAY else None
                self.entries[key] = Entry(field.contents(), field.types[0], element)
        self.tensors = {t.name: TensorData(np.array(t.data), t.tensor_type) for t in reader.tensors}

    def set(self, key: str, value: Any, kind: Value | None = None) -> None:
        """Changes a value, or adds one: as an unsigned, signed or float number, text, truth value or array."""
        element = None
        if kind is None:
            kind = _kind_of(value)
            if kind == Value.ARRAY:
                element = _kind_of(value[0])
        self.entries[key] = Entry(value, kind, element)

    def floats(self, name: str) -> np.ndarray:
        """A tensor's values as float32."""
        tensor = self.tensors[name]
        return np.array(gguf.quants.dequantize(tensor.data, tensor.kind), dtype=np.float32)

    def set_floats(self, name: str, values: np.ndarray, kind: Type = Type.F32) -> None:
        """Replaces or adds a tensor, encoded as `kind`."""
        self.tensors[name] = TensorData(gguf.quants.quantize(values.astype(np.float32), kind), kind)

    def set_ints(self, name: str, values: Any, kind: Type = Type.I32) -> None:
        """Replaces or adds a tensor of whole numbers."""
        self.tensors[name] = TensorData(np.array(values, dtype={"I32": "<i4", "I64": "<i8"}[kind.name]), kind)

    def set_zeros(self, name: str, rows: int, cols: int, kind: Type) -> None:
        """Replaces or adds a matrix of zero bytes of any type, also one the gguf package cannot encode."""
        block, size = gguf.GGML_QUANT_SIZES[kind]
        self.tensors[name] = TensorData(np.zeros((rows, cols // block * size), dtype=np.uint8), kind)

    def write(self, path: Path) -> Path:
        """Writes the file and returns its path."""
        architecture = self.entries["general.architecture"].value
        writer = gguf.GGUFWriter(path, architecture)
        for key, entry in self.entries.items():
            if key != "general.architecture":
                writer.add_key_value(key, entry.value, entry.kind, entry.element)
        for name, tensor in self.tensors.items():
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _kind_of(value: Any) -> Value:
    if isinstance(value, list):
        return Value.ARRAY
    if isinstance(value, bool):
        return Value.BOOL
    if isinstance(value, str):
        return Value.STRING
    if isinstance(value, float):
        return Value.FLOAT32
    if value < 0:
        return Value.INT64
    return Value.UINT32 if value < 2**32 else Value.UINT64
