"""A target's states on disk: computed once, read in every epoch, and by other runs.

The folder holds

    states.json       what the states are of: the target, the layers, the width
    documents.jsonl   a line for each finished group of documents (the turns of a conversation)
    states-NNNNN.bin  a record for each token, one document behind the other

A line is written when its records are, so what an interruption leaves behind the last line is cut off. Groups are found
by a key that says how they were made: a run takes those that it would make itself.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import append, atomic_output
from ..config import read_json

_VERSION = 1
_INFO, _INDEX = "states.json", "documents.jsonl"
_SHARD_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class StateFormat:
    """What the states are of.

    `target` is its fingerprint, `layers` are those whose inputs are kept, `width` is all of them side by side; `best`:
    tokens of the target's distribution.
    """

    target: str
    layers: tuple[int, ...]
    width: int
    best: int

    @property
    def record(self) -> np.dtype[Any]:
        """Of a token: its id, the most probable tokens behind it, their log-probabilities, its states as bfloat16."""
        return np.dtype(
            [
                ("token", "<i4"),
                ("best", "<i4", (self.best,)),
                ("log_probs", "<f2", (self.best,)),
                ("states", "<u2", (self.width,)),
            ]
        )


@dataclasses.dataclass(frozen=True)
class Document:
    """Where a document lies: `length` records from `first` on; the first `prompt` tokens are not the target's own."""

    shard: int
    first: int
    length: int
    prompt: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Documents that were made together; `new_tokens` of them are the target's own."""

    documents: tuple[Document, ...]

    @property
    def new_tokens(self) -> int:
        """Tokens that the target wrote, or that were learned from as they are."""
        return sum(document.length - document.prompt for document in self.documents)


class StatesFile:
    """The folder `path`, which is made where it is not there; one run at a time may use it.

    Raises:
        ValueError: it holds the states of another target or of other layers, another run uses it, or it is damaged.
    """

    def __init__(self, path: Path, wanted: StateFormat) -> None:
        self.path, self.format = path, wanted
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ValueError(f"{path}: is in use by another run, expected a folder for this one (--data)") from error
        self._groups: dict[str, Group] = {}
        self._maps: dict[int, Any] = {}
        self._end = Document(0, 0, 0, 0)
        try:
            self._check()
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> StatesFile:
        return self

    def __exit__(self, *unused: Any) -> None:
        self._maps.clear()
        self._lock.close()

    @property
    def bytes(self) -> int:
        """Of all states."""
        count = sum(document.length for group in self._groups.values() for document in group.documents)
        return count * self.format.record.itemsize

    def find(self, key: str) -> Group | None:
        """The group that was made under `key`."""
        return self._groups.get(key)

    def add(self, key: str, documents: Sequence[tuple[int, np.ndarray]]) -> Group:
        """Appends a group: for each document the tokens of its prompt, and its records.

        Raises OSError where the disk is full; what was there before is whole, and is found again.
        """
        placed = []
        shard, first = self._end.shard, self._end.first + self._end.length
        for prompt, records in documents:
            if first and (first + len(records)) * self.format.record.itemsize > _SHARD_BYTES:
                shard, first = shard + 1, 0
            append(self._shard(shard), np.ascontiguousarray(records).view(np.uint8).data, anew=first == 0)
            placed.append(Document(shard, first, len(records), prompt))
            first += len(records)
        line = json.dumps({"key": key, "documents": [dataclasses.astuple(document) for document in placed]}) + "\n"
        append(self.path / _INDEX, line.encode())
        self._end = placed[-1]
        self._maps.pop(shard, None)  # it has grown
        self._groups[key] = Group(tuple(placed))
        return self._groups[key]

    def read(self, document: Document) -> np.ndarray:
        """The records of a document: a view of the mapped file."""
        if document.shard not in self._maps:
            self._maps[document.shard] = np.memmap(self._shard(document.shard), dtype=self.format.record, mode="r")
        records: np.ndarray = self._maps[document.shard][document.first : document.first + document.length]
        return records

    def records(self, tokens: Sequence[int], best: np.ndarray, log_probs: np.ndarray, states: np.ndarray) -> np.ndarray:
        """The records of a document: `states` float32 (n, width), `best`, `log_probs` (m, best) of the last m tokens.

        Of the others the distribution is not known: all probabilities are 0.
        """
        if not np.isfinite(states).all():
            raise ValueError(f"layers {list(self.format.layers)}: found states that are not finite")
        result = np.empty(len(tokens), dtype=self.format.record)
        first = len(tokens) - len(best)
        result["token"] = tokens
        result["best"][:first], result["log_probs"][:first] = 0, -np.inf
        result["best"][first:] = best
        result["log_probs"][first:] = np.maximum(log_probs, np.finfo(np.float16).min)
        result["states"] = to_bfloat16(states)
        return result

    def _shard(self, number: int) -> Path:
        return self.path / f"states-{number:05}.bin"

    def _check(self) -> None:
        file = self.path / _INFO
        wanted = {"version": _VERSION, **dataclasses.asdict(self.format), "layers": list(self.format.layers)}
        if not file.is_file():
            with atomic_output(file) as temporary:
                temporary.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
            return
        found = read_json(file)
        for name, expected in wanted.items():
            if found.get(name) != expected:
                what = "the states of another target: " if name == "target" else ""
                raise ValueError(f"{file}: {what}found {name} {found.get(name)!r}, expected {expected!r}")

    def _recover(self) -> None:
        """Reads the index, and cuts off what an interrupted run has left behind its last line."""
        index = self.path / _INDEX
        lines = index.read_bytes().split(b"\n") if index.is_file() else [b""]
        for number, line in enumerate(lines[:-1], 1):  # behind the last newline: torn
            try:
                record = json.loads(line)
                group = Group(tuple(Document(*map(int, place)) for place in record["documents"]))
                self._groups[str(record["key"])] = group
                self._end = group.documents[-1]
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(f"{index}: line {number}: found no place of documents: {error!r}") from error
        if lines[-1]:
            with index.open("r+b") as file:
                file.truncate(index.stat().st_size - len(lines[-1]))
        ends: dict[int, int] = {}
        for group in self._groups.values():
            for document in group.documents:
                ends[document.shard] = max(ends.get(document.shard, 0), document.first + document.length)
        size = self.format.record.itemsize
        for shard, end in ends.items():
            path = self._shard(shard)
            found = path.stat().st_size if path.is_file() else 0
            if found < end * size:
                raise ValueError(f"{path}: found {found} bytes, expected {end * size}, as {_INDEX} says")
            if found > end * size:
                with path.open("r+b") as file:
                    file.truncate(end * size)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Float32 rounded to the nearest bfloat16, as uint16 of the same shape."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.asarray(rounded >> np.uint32(16), dtype=np.uint16)
