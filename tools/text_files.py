"""Streams texts out of .txt, .jsonl (plain, .gz, .zst) and .parquet files, in bounded memory."""

from __future__ import annotations

import codecs
import errno
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .console import require

_CHUNK = 1 << 20  # bytes read at once, and characters of one piece of a long text
_LONGEST_LINE = 1 << 28  # bytes
# Where no field is named: the first group of which a record has a field; all fields of the group are counted.
_COMMON_FIELDS = (("text",), ("content",), ("prompt", "completion"))
_LISTED = "'text', 'content', 'prompt' or 'completion'"

Advance = Callable[[int], object]  # is told how many more bytes of the file have been read


def read_texts(path: Path, field: str | None, advance: Advance) -> Iterator[str]:
    """The texts of a file; long ones come in pieces of about a million characters, cut between lines.

    Raises ValueError naming file and line (or byte, or row) of bad input; FileNotFoundError.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".zst") else ""
    kind = suffixes[-1] if suffixes else ""
    if kind == ".txt":
        return pieces(_decoded(path, _chunks(path, compression, advance)))
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(path, field, _chunks(path, compression, advance))
    if kind == ".parquet" and not compression:
        return _parquet(path, field, advance)
    raise ValueError(
        f"{path}: found the name ending '{kind}{compression}', "
        "expected .txt, .jsonl (both also .gz or .zst) or .parquet"
    )


def check_input(path: Path) -> int:
    """The size of an input file in bytes; raises FileNotFoundError or IsADirectoryError."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file", str(path))
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return path.stat().st_size


def pieces(parts: Iterable[str]) -> Iterator[str]:
    """Joins `parts` of one text and cuts it anew into pieces of about _CHUNK characters.

    A cut falls after a newline that a letter or other visible character follows: no pre-tokenizer joins the
    two, so cutting there leaves all tokens as they are. Only a text without such places for long is cut
    elsewhere.
    """
    held = ""
    for part in parts:
        held += part
        while len(held) >= 2 * _CHUNK:
            cut = _cut(held)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _cut(text: str) -> int:
    at = text.rfind("\n", 0, 2 * _CHUNK - 1)
    while at >= _CHUNK // 2:
        if not text[at + 1].isspace():
            return at + 1
        at = text.rfind("\n", 0, at)
    space = text.rfind(" ", _CHUNK, 2 * _CHUNK)
    return space if space > 0 else _CHUNK


def _chunks(path: Path, compression: str, advance: Advance) -> Iterator[bytes]:
    """The bytes of a file, decompressed, a chunk at a time."""
    with path.open("rb") as file:
        if compression == ".zst":
            yield from _zstd_chunks(path, file, advance)
            return
        stream: Any = gzip.GzipFile(fileobj=file) if compression == ".gz" else file
        done = 0
        while True:
            try:
                chunk = stream.read(_CHUNK)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(f"{path}: damaged gzip data: {error}") from error
            advance(file.tell() - done)
            done = file.tell()
            if not chunk:
                return
            yield chunk


def _zstd_chunks(path: Path, file: Any, advance: Advance) -> Iterator[bytes]:
    zstandard = require("zstandard", f"reading {path.name}", "zstandard")
    decompressor, whole = zstandard.ZstdDecompressor().decompressobj(), True
    while data := file.read(_CHUNK // 8):
        advance(len(data))
        while data:
            try:
                chunk = decompressor.decompress(data)
            except zstandard.ZstdError as error:
                raise ValueError(f"{path}: damaged zstd data: {error}") from error
            if chunk:
                yield chunk
            whole, data = decompressor.eof, decompressor.unused_data
            if whole:  # a file may hold several frames
                decompressor = zstandard.ZstdDecompressor().decompressobj()
    if not whole:
        raise ValueError(f"{path}: damaged zstd data: it ends too early")


def _decoded(path: Path, chunks: Iterator[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0  # of the bytes that the decoder has taken, without those it holds back
    for chunk in chunks:
        held = len(decoder.getstate()[0])
        yield _decode(path, decoder, chunk, offset - held)
        offset += len(chunk)
    _decode(path, decoder, b"", offset - len(decoder.getstate()[0]), final=True)


def _decode(path: Path, decoder: Any, chunk: bytes, start: int, final: bool = False) -> str:
    try:
        return str(decoder.decode(chunk, final))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {start + error.start}: not valid UTF-8 ({error.reason})") from error


def _lines(path: Path, chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line), without the newline."""
    held, number = b"", 0
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        held += first
        if len(held) > _LONGEST_LINE:
            raise ValueError(f"{path}: line {number + 1}: longer than {_LONGEST_LINE >> 20} MiB")
        for following in rest:
            number += 1
            yield number, held
            held = following
    if held:
        yield number + 1, held


def _json_lines(path: Path, field: str | None, chunks: Iterator[bytes]) -> Iterator[str]:
    for number, line in _lines(path, chunks):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: not valid UTF-8 (byte {error.start} of the line)") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not valid JSON: {error}") from error
        for text in _texts(where, value, field):
            # JSON can spell halves of UTF-16 pairs, which are no text.
            if b"\\u" in line and not _encodable(text):
                raise ValueError(f"{where}: holds an unpaired UTF-16 surrogate, which is no text")
            yield from pieces([text])


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _texts(where: str, value: Any, field: str | None) -> list[str]:
    """The texts in one record: a string, or the named (or a common) field of an object."""
    if isinstance(value, str) and field is None:
        return [value]
    if not isinstance(value, dict):
        expected = f"an object with the field '{field}'" if field else "a string or an object"
        raise ValueError(f"{where}: found a {type(value).__name__}, expected {expected}")
    result: list[str] = []
    for name in _fields(where, value, field):
        texts = value[name] if isinstance(value[name], list) else [value[name]]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: field '{name}': found {value[name]!r:.60}, expected a string or a list of them")
        result += texts
    return result


def _fields(where: str, names: Iterable[str], field: str | None) -> list[str]:
    """The fields to count, of those there are."""
    there = list(names)
    groups = ((field,),) if field is not None else _COMMON_FIELDS
    for group in groups:
        found = [name for name in group if name in there]
        if found:
            return found
    expected = f"'{field}'" if field is not None else f"{_LISTED} (or name one with --field)"
    listed = ", ".join(repr(name) for name in there[:8]) or "none"
    raise ValueError(f"{where}: found the fields {listed}, expected {expected}")


def _parquet(path: Path, field: str | None, advance: Advance) -> Iterator[str]:
    parquet = require("pyarrow.parquet", f"reading {path.name}", "pyarrow")
    arrow = require("pyarrow", f"reading {path.name}", "pyarrow")
    try:
        file = parquet.ParquetFile(path)
        names = _fields(str(path), file.schema_arrow.names, field)
        total, row = path.stat().st_size, 0
        rows = max(1, file.metadata.num_rows)
        for batch in file.iter_batches(batch_size=1024, columns=names):
            for record in batch.to_pylist():
                row += 1
                for text in _texts(f"{path}: row {row}", record, names[0] if len(names) == 1 else None):
                    yield from pieces([text])
            advance(total * row // rows - total * (row - batch.num_rows) // rows)
    except arrow.ArrowException as error:
        raise ValueError(f"{path}: not a whole Parquet file: {error}") from error
