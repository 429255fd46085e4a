"""The target model that a drafter is converted for: its sizes, tokenizer and embedding."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .architectures import ARCHITECTURES
from .checkpoint import Checkpoint
from .console import require
from .gguf_output import Entry
from .hf_tokenizer import read_tokenizer

_TOKENS = "tokenizer.ggml.tokens"
# Relative error that a copy of the embedding may have and still be the same: what storing it in 16 bits
# loses, and what the target's own type loses (4 bits: about 0.1).
_FLOAT_TOLERANCE = 0.001
_TOLERANCES = {"F32": _FLOAT_TOLERANCE, "F16": _FLOAT_TOLERANCE, "BF16": 0.004, "Q8_0": 0.02}
_QUANTIZED_TOLERANCE = 0.15


@dataclasses.dataclass(frozen=True)
class Target:
    """`embedding_rows(start, stop)`: rows as float32, None where the file does not hold them."""

    path: Path
    hidden: int
    vocabulary: int
    tokenizer: list[Entry]  # all metadata below `tokenizer.`
    embedding_rows: Callable[[int, int], np.ndarray | None]
    embedding_tolerance: float

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
    hidden, vocabulary = checkpoint.config.integer("hidden_size"), checkpoint.config.integer("vocab_size")
    embedding = checkpoint.tensors.get("model.embed_tokens.weight")
    if embedding is None or embedding.shape != (vocabulary, hidden):
        found = "nothing" if embedding is None else f"shape {embedding.shape}"
        raise ValueError(
            f"{path}: tensor 'model.embed_tokens.weight': found {found}, expected shape ({vocabulary}, {hidden})"
        )
    tokenizer = read_tokenizer(path, checkpoint.config)
    return Target(path, hidden, vocabulary, tokenizer.entries(), embedding.floats, _FLOAT_TOLERANCE)


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
    embedding = next((t for t in reader.tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        return Target(path, hidden, len(tokens), tokenizer, lambda start, stop: None, _FLOAT_TOLERANCE)
    rows, cols = (int(n) for n in embedding.shape[::-1])
    if (rows, cols) != (len(tokens), hidden):
        raise ValueError(
            f"{path}: tensor 'token_embd.weight': found shape ({rows}, {cols}), expected ({len(tokens)}, {hidden})"
        )
    tolerance = _TOLERANCES.get(embedding.tensor_type.name, _QUANTIZED_TOLERANCE)
    return Target(path, hidden, len(tokens), tokenizer, _rows_of(embedding), tolerance)


def _rows_of(embedding: Any) -> Callable[[int, int], np.ndarray | None]:
    def rows(start: int, stop: int) -> np.ndarray | None:
        dequantize = require("gguf", "reading GGUF files").quants.dequantize
        try:
            return np.asarray(dequantize(embedding.data[start:stop], embedding.tensor_type), dtype=np.float32)
        except NotImplementedError:  # a type that the gguf package only stores
            return None

    return rows


def open_gguf(path: Path) -> Any:
    """A gguf.GGUFReader; raises ValueError naming the file where it is not a whole GGUF file."""
    gguf = require("gguf", "reading GGUF files")
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        return gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, MemoryError) as error:
        raise ValueError(f"{path}: not a whole GGUF file: {error}") from error


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
