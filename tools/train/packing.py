"""Tokenised documents, packed once into rows of one length and read back as a memory map.

A row is `length` little-endian uint32: 31 bits of token id and, in the highest, whether a document starts there.
Nothing is learned across a start. A document that a row's end cuts goes on in the next row, behind the tokenizer's own
first token (BOS) where it has one: models that were trained with BOS are lost without it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_output
from ..config import read_json_if_there
from ..console import progress_bar
from ..text_files import check_input, read_texts

_START = np.uint32(1 << 31)
_VALIDATION_EVERY = 100  # one document in so many is held out
_BATCH = 1 << 20  # characters tokenised in one call


class TextTokenizer:
    """The target's tokenizer: texts to ids, with what it adds (BOS), and with EOS behind each text.

    Raises ValueError where the folder has no tokenizer that transformers can load, or one that gives ids beyond
    `vocabulary`.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        import transformers

        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever its parts raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{folder}: the tokenizer cannot be loaded: {lines[0]}") from error
        self.folder, self.vocabulary = folder, vocabulary
        added = self._tokenizer("a")["input_ids"]
        bos = self._tokenizer.bos_token_id
        self.bos: int | None = bos if bos is not None and added[:1] == [bos] else None
        self.eos: int | None = self._tokenizer.eos_token_id

    @property
    def control_ids(self) -> list[int]:
        """Ids of all control tokens, ascending."""
        added = self._tokenizer.added_tokens_decoder
        ids = {int(i) for i, token in added.items() if token.special} | set(self._tokenizer.all_special_ids)
        return sorted(i for i in ids if i < self.vocabulary)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; control tokens that a text spells out (chat templates) are those tokens."""
        if not texts:
            return []
        result: list[list[int]] = self._tokenizer(list(texts), verbose=False)["input_ids"]
        largest = max((max(ids) for ids in result if ids), default=0)
        if largest >= self.vocabulary:
            raise ValueError(f"{self.folder}: the tokenizer gave id {largest}, expected ids below {self.vocabulary}")
        return result

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without control tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def documents(
        self, files: Sequence[Path], field: str | None, limit: int | None, quiet: bool
    ) -> Iterator[list[int]]:
        """The tokens of every text of `files`, EOS last, until `limit` tokens are reached."""
        taken = 0
        with progress_bar(sum(check_input(file) for file in files), "tokenising", quiet) as bar:
            for texts in text_batches((t for file in files for t in read_texts(file, field, bar.update)), _BATCH):
                for ids in self.encode(texts):
                    yield ids if self.eos is None or ids[-1:] == [self.eos] else [*ids, self.eos]
                    taken += len(ids) + 1
                    if limit is not None and taken >= limit:
                        return


def text_batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of consecutive texts of about `size` characters together; empty texts are left out."""
    batch: list[str] = []
    held = 0
    for text in texts:
        if not text:
            continue
        batch.append(text)
        held += len(text)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


class _RowFile:
    """Packs documents into rows and appends these to an open binary file."""

    def __init__(self, file: Any, length: int, bos: int | None) -> None:
        self._file, self._length, self._bos = file, length, bos
        self._held = np.empty(0, dtype=np.uint32)
        self.rows = self.tokens = 0

    def add(self, ids: Sequence[int]) -> None:
        """Appends one document."""
        fresh = np.asarray(ids, dtype=np.uint32)
        if fresh.size < 2:  # no pair of a token and the one behind it
            return
        self.tokens += int(fresh.size)
        while fresh.size:
            fresh = fresh.copy()
            fresh[0] |= _START
            room = self._length - self._held.size
            self._held = np.concatenate((self._held, fresh[:room]))
            fresh = fresh[room:]
            if self._held.size == self._length:
                self._write()
            if fresh.size and self._bos is not None:
                fresh = np.concatenate((np.array([self._bos], dtype=np.uint32), fresh))

    def finish(self) -> None:
        """Fills up the last row with starts, which nothing is learned from."""
        if self._held.size:
            padding = np.full(self._length - self._held.size, _START, dtype=np.uint32)
            self._held = np.concatenate((self._held, padding))
            self._write()

    def _write(self) -> None:
        self._file.write(self._held.astype("<u4").tobytes())
        self._held = np.empty(0, dtype=np.uint32)
        self.rows += 1


class Rows:
    """Packed rows of one file: `tokens` and `starts` of any of them."""

    def __init__(self, packed: np.ndarray) -> None:
        self._packed = packed  # uint32 (rows, length)

    def __len__(self) -> int:
        return int(self._packed.shape[0])

    def tokens(self, rows: Any) -> np.ndarray:
        """Token ids: int64, (rows, length)."""
        return np.asarray(self._packed[rows] & ~_START, dtype=np.int64)

    def starts(self, rows: Any) -> np.ndarray:
        """Where a document starts: bool, (rows, length)."""
        return np.asarray((self._packed[rows] & _START) != 0)

    def split(self, count: int) -> tuple[Rows, Rows]:
        """All rows but the first `count`, and these."""
        return Rows(self._packed[count:]), Rows(self._packed[:count])


def pack(
    folder: Path, documents: Iterable[list[int]], length: int, tokenizer: TextTokenizer, names: Sequence[str]
) -> tuple[Rows, Rows]:
    """Packs `documents` into `folder` unless that is done already; returns rows to train on and held-out rows.

    One document in 100 is held out; where there are too few documents, the first 1 % of the rows (at least one).

    Args:
        folder: for the packed files.
        documents: is not touched where the folder is complete.
        length: of a row, in tokens.
        tokenizer: says what goes before the rest of a document that was cut.
        names: of the sources, for the error message.

    Raises:
        ValueError: there is too little text to train on and to hold a row out.
    """
    info_file = folder / "rows.json"
    info = read_json_if_there(info_file)
    paths = (folder / "train.u32", folder / "validation.u32")
    if info.get("length") != length or not all(path.is_file() for path in paths):
        folder.mkdir(exist_ok=True)
        for left_over in folder.glob(".*.part"):  # of a run that was killed
            left_over.unlink()
        with contextlib.ExitStack() as stack:
            outputs = [
                _RowFile(
                    stack.enter_context(stack.enter_context(atomic_output(path)).open("wb")), length, tokenizer.bos
                )
                for path in paths
            ]
            for number, ids in enumerate(documents, start=1):
                outputs[number % _VALIDATION_EVERY == 0].add(ids)
            for output in outputs:
                output.finish()
            info = {"length": length, "rows": [o.rows for o in outputs], "tokens": [o.tokens for o in outputs]}
        with atomic_output(info_file) as temporary:
            temporary.write_text(json.dumps(info) + "\n", encoding="utf-8")
    train, validation = (_read(path, length) for path in paths)
    if not len(validation) and len(train) >= 2:
        train, validation = train.split(max(1, len(train) // _VALIDATION_EVERY))
    if not len(train) or not len(validation):
        raise ValueError(
            f"{', '.join(names)}: found {sum(info['tokens'])} tokens in documents, expected at least two rows of "
            f"{length} (--length)"
        )
    return train, validation


def _read(path: Path, length: int) -> Rows:
    if path.stat().st_size == 0:  # nothing to map
        return Rows(np.empty((0, length), dtype=np.uint32))
    return Rows(np.memmap(path, dtype="<u4", mode="r").reshape(-1, length))
