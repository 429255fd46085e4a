"""Token ranks: the GGUF file that frspec-rank writes, FR-Spec's freq_*.pt lists, and their checks."""

from __future__ import annotations

import dataclasses
import errno
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .console import require
from .gguf_output import Entry, OutputTensor, string, u32, u64, write_gguf
from .target import open_gguf

ARCHITECTURE = "frspec_ranks"
RANKS = "token_ranks"
COUNTS = "token_counts"
_KEY = "frspec.ranks."
_MAX_PICKLE = 1 << 28  # bytes; a list of a million ids takes a few megabytes


@dataclasses.dataclass(frozen=True)
class Ranks:
    """`tokens` are token ids, most frequent first: int32, (R) with R <= vocabulary.

    `counts`, int64, (vocabulary), are by token id; None where they are not known (an imported list).
    `fingerprint` is that of the vocabulary, None where the source does not tell it.
    """

    tokens: np.ndarray
    vocabulary: int | None
    fingerprint: str | None
    counts: np.ndarray | None = None
    tokens_counted: int = 0
    source: str = ""

    def entries(self) -> list[Entry]:
        """The metadata that goes with the ranks, in a file of their own and inside a drafter."""
        assert self.vocabulary is not None
        assert self.fingerprint is not None
        return [
            u32(f"{_KEY}vocab_size", self.vocabulary),
            string(f"{_KEY}vocab_fingerprint", self.fingerprint),
            u64(f"{_KEY}tokens_counted", self.tokens_counted),
            string(f"{_KEY}source", self.source),
        ]

    def checked(self, source: Path, vocabulary: int, fingerprint: str, target: Path) -> Ranks:
        """The ranks as those of the target's vocabulary; raises ValueError where they are another's."""
        if self.vocabulary is not None and self.vocabulary != vocabulary:
            raise ValueError(f"{source}: ranks {self.vocabulary} tokens, but {target} has {vocabulary}")
        if self.fingerprint is not None and self.fingerprint != fingerprint:
            raise ValueError(
                f"{source}: found ranks for the vocabulary {self.fingerprint}, expected {fingerprint}, that of {target}"
            )
        check_ids(source, self.tokens, vocabulary)
        return dataclasses.replace(self, vocabulary=vocabulary, fingerprint=fingerprint)


def check_ids(source: Path, tokens: np.ndarray, vocabulary: int) -> None:
    """Raises ValueError unless `tokens` are distinct ids below `vocabulary`, at least one."""
    if tokens.size == 0:
        raise ValueError(f"{source}: holds no token ids")
    wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if wrong.size:
        raise ValueError(f"{source}: found token id {int(wrong[0])}, expected ids below {vocabulary}")
    ids, times = np.unique(tokens, return_counts=True)
    if ids.size != tokens.size:
        raise ValueError(f"{source}: token id {int(ids[times > 1][0])} is ranked more than once")


def write_ranks(path: Path, ranks: Ranks) -> None:
    """Writes the ranks as a GGUF file of their own."""
    tensors = [OutputTensor(RANKS, values=ranks.tokens.astype("<i4"))]
    if ranks.counts is not None:
        tensors.append(OutputTensor(COUNTS, values=ranks.counts.astype("<i8")))
    write_gguf(path, ARCHITECTURE, ranks.entries(), tensors)


def read_ranks(path: Path) -> Ranks:
    """Reads a ranks GGUF or a freq_*.pt list; raises FileNotFoundError, or ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    return _from_gguf(path) if is_gguf else _from_pt(path)


def _from_gguf(path: Path) -> Ranks:
    reader = open_gguf(path)
    tensor = next((t for t in reader.tensors if t.name == RANKS), None)
    if tensor is None or tensor.tensor_type.name != "I32" or tensor.data.ndim != 1:
        found = "nothing" if tensor is None else f"{tensor.tensor_type.name} {tuple(tensor.shape.tolist())}"
        raise ValueError(f"{path}: tensor '{RANKS}': found {found}, expected a vector of I32")
    values: dict[str, Any] = {
        name.removeprefix(_KEY): field.contents() for name, field in reader.fields.items() if name.startswith(_KEY)
    }
    for key, kind in (("vocab_size", int), ("vocab_fingerprint", str)):
        if not isinstance(values.get(key), kind):
            raise ValueError(f"{path}: key '{_KEY}{key}' is missing or of another type")
    return Ranks(
        tokens=np.array(tensor.data, dtype=np.int32),
        vocabulary=values["vocab_size"],
        fingerprint=values["vocab_fingerprint"],
        tokens_counted=int(values.get("tokens_counted", 0)),
        source=str(values.get("source", "")),
    )


class _PlainUnpickler(pickle.Unpickler):
    """Lists, numbers and strings only: nothing in the file can name code to run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to a tensor")


def _from_pt(path: Path) -> Ranks:
    """FR-Spec's lists: a Python list (or a tensor) of token ids, saved with torch.save."""
    value = _unpickle_list(path)
    if value is None:
        value = _load_with_torch(path)
    if not isinstance(value, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        raise ValueError(f"{path}: found a {type(value).__name__}, expected a list of token ids")
    if any(not -(2**31) <= n < 2**31 for n in value):
        raise ValueError(f"{path}: holds numbers that cannot be token ids")
    return Ranks(np.array(value, dtype=np.int32), None, None, source=path.name)


def _unpickle_list(path: Path) -> Any:
    """The saved value where it is plain data in torch's zip format, else None."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")), None)
            if name is None or archive.getinfo(name).file_size > _MAX_PICKLE:
                return None
            return _PlainUnpickler(io.BytesIO(archive.read(name))).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError):
        return None
    except (EOFError, IndexError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: damaged, expected a list of token ids saved with torch.save") from error


def _load_with_torch(path: Path) -> Any:
    torch = require("torch", f"reading {path.name}, which is neither a ranks GGUF nor a plain saved list,", "torch")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise ValueError(f"{path}: not a ranks GGUF, and torch cannot read it: {str(error).splitlines()[0]}") from error
    return value.tolist() if isinstance(value, torch.Tensor) and value.ndim == 1 else value
