"""The target model that a drafter is converted for: its sizes, tokenizer and embedding."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .._core import GgufFile
from .architectures import ARCHITECTURES
from .checkpoint import Checkpoint
from .console import require
from .gguf_output import Entry
from .hf_tokenizer import read_tokenizer
from .source_tensor import SourceTensor, StackedTensor

OWN_DRAFTER = "mtp"  # instead of a drafter's file: the MTP block in the target's own

_TOKENS = "tokenizer.ggml.tokens"
# Relative error that a copy of the embedding may have and still be the same: what storing it in 16 bits
# loses, and what the target's own type loses (4 bits: about 0.1).
_FLOAT_TOLERANCE = 0.001
_TOLERANCES = {"F32": _FLOAT_TOLERANCE, "F16": _FLOAT_TOLERANCE, "BF16": 0.004, "Q8_0": 0.02}
_QUANTIZED_TOLERANCE = 0.15


@dataclasses.dataclass(frozen=True)
class Rows:
    """A matrix of the target. `rows(start, stop)`: as float32, None where the file does not hold them."""

    rows: Callable[[int, int], np.ndarray | None]
    tolerance: float

    def same_as(self, own: SourceTensor | StackedTensor) -> bool:
        """Whether a copy, which has the same shape, is the target's, up to the rounding of the target's type."""
        step = 4096  # rows at a time
        for start in range(0, own.shape[0], step):
            theirs = self.rows(start, start + step)
            if theirs is None:
                return False
            ours = own.floats(start, start + step)
            error = float(np.square(ours - theirs, dtype=np.float64).sum())
            scale = float(np.square(ours, dtype=np.float64).sum())
            if error > self.tolerance**2 * scale:
                return False
        return True


@dataclasses.dataclass(frozen=True)
class Target:
    """A target model, as far as drafters need to know it."""

    path: Path
    hidden: int
    vocabulary: int
    layers: int | None  # None: the file does not say
    tokenizer: list[Entry]  # all metadata below `tokenizer.`
    embedding: Rows
    head: Rows

    @property
    def tokens(self) -> list[str]:
        """The text of each token."""
        return next(list(entry.value) for entry in self.tokenizer if entry.key == _TOKENS)


def read_target(path: Path) -> Target:
    """Reads a GGUF file or a Hugging Face folder; raises FileNotFoundError, or ValueError naming the file."""
    if path.is_dir():
        return _from_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file or folder", str(path))
    return _from_gguf(path)


def _from_checkpoint(path: Path) -> Target:
    checkpoint = Checkpoint(path)
    if checkpoint.architecture not in ARCHITECTURES:
        raise checkpoint.config.wrong("architectures", f"one of {', '.join(ARCHITECTURES)}")
    hidden, vocabulary = checkpoint.text_config.integer("hidden_size"), checkpoint.text_config.integer("vocab_size")
    embedding = checkpoint.tensors.get("model.embed_tokens.weight")
    if embedding is None or embedding.shape != (vocabulary, hidden):
        found = "nothing" if embedding is None else f"shape {embedding.shape}"
        raise ValueError(
            f"{path}: tensor 'model.embed_tokens.weight': found {found}, expected shape ({vocabulary}, {hidden})"
        )
    head = checkpoint.tensors.get("lm_head.weight", embedding)
    if head.shape != embedding.shape:
        raise ValueError(f"{path}: tensor 'lm_head.weight': found shape {head.shape}, expected {embedding.shape}")
    tokenizer = read_tokenizer(path, checkpoint.text_config)
    return Target(
        path,
        hidden,
        vocabulary,
        checkpoint.text_config.integer("num_hidden_layers"),
        tokenizer.entries(),
        Rows(embedding.floats, _FLOAT_TOLERANCE),
        Rows(head.floats, _FLOAT_TOLERANCE),
    )


def _from_gguf(path: Path) -> Target:
    reader = open_gguf(path)
    arch = _value(reader, path, "general.architecture", str)
    if arch.startswith("eagle"):
        raise ValueError(f"{path}: found architecture '{arch}', expected a target model, not a drafter")
    hidden = _value(reader, path, f"{arch}.embedding_length", int)
    tokenizer = [_entry(field) for name, field in reader.fields.items() if name.startswith("tokenizer.")]
    tokens = next((entry.value for entry in tokenizer if entry.key == _TOKENS), None)
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(f"{path}: key '{_TOKENS}' is missing or no array of strings")
    embedding = _matrix(reader, path, "token_embd.weight", (len(tokens), hidden))
    head = _matrix(reader, path, "output.weight", (len(tokens), hidden))
    return Target(
        path,
        hidden,
        len(tokens),
        _layers(reader, path, arch),
        tokenizer,
        _rows_of(embedding),
        _rows_of(embedding if head is None else head),
    )


def _layers(reader: Any, path: Path, arch: str) -> int | None:
    """The number of layers, without MTP blocks."""
    if f"{arch}.block_count" not in reader.fields:
        return None
    mtp = f"{arch}.nextn_predict_layers"
    mtp_blocks = _value(reader, path, mtp, int) if mtp in reader.fields else 0
    return int(_value(reader, path, f"{arch}.block_count", int)) - int(mtp_blocks)


def _matrix(reader: Any, path: Path, name: str, shape: tuple[int, int]) -> Any:
    """A tensor of the file, None where it is absent; raises ValueError where it has another shape."""
    tensor = next((t for t in reader.tensors if t.name == name), None)
    if tensor is not None and (found := tuple(int(n) for n in tensor.shape[::-1])) != shape:
        raise ValueError(f"{path}: tensor '{name}': found shape {found}, expected {shape}")
    return tensor


def _rows_of(tensor: Any) -> Rows:
    if tensor is None:
        return Rows(lambda start, stop: None, _FLOAT_TOLERANCE)
    tolerance = _TOLERANCES.get(tensor.tensor_type.name, _QUANTIZED_TOLERANCE)
    return Rows(lambda start, stop: dequantized(tensor, tensor.data[start:stop]), tolerance)


def open_gguf(path: Path) -> Any:
    """A gguf.GGUFReader; raises ValueError naming the file where it is not a whole GGUF file."""
    gguf = require("gguf", "reading GGUF files")
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        return gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, MemoryError) as error:
        raise ValueError(f"{path}: not a whole GGUF file: {error}") from error


def dequantized(tensor: Any, data: np.ndarray) -> np.ndarray | None:
    """Rows of a GGUFReader's tensor as float32, a copy; None: they are of a type that the gguf package only stores."""
    dequantize = require("gguf", "reading GGUF files").quants.dequantize
    try:
        return np.array(dequantize(data, tensor.tensor_type), dtype=np.float32)
    except NotImplementedError:
        return None


def drafter_file(target: Path, drafter: Path) -> Path:
    """The file of the drafter that an option `-d` names, the target's own for OWN_DRAFTER.

    Raises FileNotFoundError, or ValueError where the target is no GGUF file, or has no MTP block.
    """
    if str(drafter) != OWN_DRAFTER:
        return drafter
    if not has_mtp(tensor.name for tensor in GgufFile(target).tensors):
        raise ValueError(
            f"{target}: found no tensor 'blk.N.nextn.eh_proj.weight', expected one: drafter 'mtp' is the block in it"
        )
    return target


def has_mtp(tensors: Iterable[str]) -> bool:
    """Whether a file with these tensors has an MTP block."""
    return any(name.endswith(".nextn.eh_proj.weight") for name in tensors)


def mtp_head(tensors: Collection[str]) -> str | None:
    """The tensor of an MTP block's own head; None: the target's, of which its file may have a copy."""
    named = next((name for name in tensors if name.endswith(".nextn.shared_head_head.weight")), None)
    return named or ("output.weight" if "d2t" in tensors and "output.weight" in tensors else None)


def _value(reader: Any, path: Path, key: str, kind: type) -> Any:
    field = reader.fields.get(key)
    value = field.contents() if field is not None else None
    if not isinstance(value, kind):
        found = "nothing" if value is None else repr(value)
        raise ValueError(f"{path}: key '{key}': found {found}, expected {'a string' if kind is str else 'a number'}")
    return value


def _entry(field: Any) -> Entry:
    kind = field.types[0].name
    element = field.types[-1].name if kind == "ARRAY" else None
    return Entry(field.name, field.contents(), kind, element)
