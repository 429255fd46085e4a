"""A tensor of a checkpoint: raw elements, turned into float32 a few rows at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class SourceTensor:
    """`raw` holds the elements as stored (BF16 as uint16), possibly inside a memory map.

    `rows` and `columns` say which one of the first and the last dimension each is taken from; None: as they are.
    """

    name: str
    file: Path
    dtype: str  # as safetensors names it: "F32", "BF16" ...
    raw: np.ndarray
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    change: Callable[[np.ndarray], np.ndarray] | None = None  # what becomes of the values, float32

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension, slowest first."""
        return tuple(int(n) for n in self.raw.shape)

    @property
    def nbytes(self) -> int:
        """Size in the checkpoint, in bytes."""
        return int(self.raw.nbytes)

    def with_rows(self, rows: np.ndarray) -> SourceTensor:
        """Those rows of it, in that order."""
        return dataclasses.replace(self, raw=self.raw[rows if self.rows is None else self.rows[rows]], rows=None)

    def floats(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `start` to `stop` as float32; raises ValueError for what is no finite float."""
        if self.dtype not in _FLOAT_TYPES:
            raise ValueError(
                f"{self.file}: tensor '{self.name}': found element type {self.dtype}, expected one of "
                f"{', '.join(_FLOAT_TYPES)} (an already quantized checkpoint cannot be converted)"
            )
        raw = self.raw[start:stop] if self.rows is None else self.raw[self.rows[start:stop]]
        if self.columns is not None:
            raw = raw[..., self.columns]
        if self.dtype == "BF16":
            values = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
                values = raw.astype(np.float32)
        if self.change is not None:
            values = self.change(values)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.file}: tensor '{self.name}' holds values that are not finite")
        return np.ascontiguousarray(values)

    def same_as(self, other: SourceTensor) -> bool:
        """Whether type, shape and all elements are the same, bit for bit."""
        return self.dtype == other.dtype and np.array_equal(self.raw, other.raw)


@dataclasses.dataclass(frozen=True)
class StackedTensor:
    """Several tensors of one shape as one with a dimension more; read one by one."""

    parts: list[SourceTensor]

    @property
    def name(self) -> str:
        """That of the first."""
        return self.parts[0].name

    @property
    def file(self) -> Path:
        """That of the first."""
        return self.parts[0].file

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension, slowest first."""
        return (len(self.parts), *self.parts[0].shape)

    @property
    def nbytes(self) -> int:
        """Size in the checkpoint, in bytes."""
        return sum(part.nbytes for part in self.parts)

    def floats(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Parts `start` to `stop` as float32; raises as SourceTensor.floats."""
        return np.stack([part.floats() for part in self.parts[start:stop]])
