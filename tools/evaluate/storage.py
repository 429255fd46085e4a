"""The folder of an evaluation: what was run, and a line for each text, so that a run may stop at any byte and go on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..atomic import atomic_output
from .records import FORMAT, Failure, Manifest, Run
from .values import build, parse

MANIFEST = "run.json"
RESULTS = "results.jsonl"
FAILURE = "failed.json"
_LOCK = ".lock"


def read_manifest(folder: Path) -> Manifest:
    """What `folder` holds the results of.

    Raises:
        FileNotFoundError: There is no ``run.json``.
        ValueError: It is damaged, or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file, expected the folder of an evaluation", str(path))
    try:
        values = parse(path.read_bytes())
        version = values["identity"]["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: not what frspec-eval writes: {error!r}") from None
    if version != FORMAT:
        raise ValueError(
            f"{path}: identity.format: found {json.dumps(version)}, expected {FORMAT}: written by another version of "
            "frspec-eval; give another folder"
        )
    try:
        return build(Manifest, values)
    except ValueError as error:
        raise ValueError(f"{path}: not what frspec-eval writes: {error}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``run.json``, whole or not at all."""
    _write(folder / MANIFEST, manifest)


def _write(file: Path, record: Manifest | Failure) -> None:
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_output(file) as path:
        path.write_text(text + "\n", encoding="utf-8")


def read_failure(folder: Path) -> Failure | None:
    """The text that ended the last run, in ``failed.json``; None where none did.

    Raises:
        ValueError: The file is malformed.
    """
    path = folder / FAILURE
    if not path.is_file():
        return None
    try:
        return build(Failure, parse(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not what frspec-eval writes: {error}") from None


def write_failure(folder: Path, failure: Failure) -> None:
    """Writes ``failed.json``, whole or not at all."""
    _write(folder / FAILURE, failure)


def remove_failure(folder: Path) -> None:
    """Removes ``failed.json``: its text is plain decoding's now."""
    (folder / FAILURE).unlink(missing_ok=True)


def read_runs(folder: Path) -> list[Run]:
    """The texts in ``results.jsonl``, a torn last line left out; none where the file is not there.

    Raises:
        ValueError: A line is malformed.
    """
    path = folder / RESULTS
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # behind the last line's end there is nothing, or a torn line
    return [_run_of(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


def _run_of(line: bytes, where: str) -> Run:
    try:
        return build(Run, parse(line))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: found {line[:60]!r}, expected a result of frspec-eval ({error})") from None


class Results:
    """``results.jsonl``, open to be continued; what is torn at its end is cut off."""

    def __init__(self, folder: Path) -> None:
        path = folder / RESULTS
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        data = path.read_bytes()
        os.ftruncate(self._file, data.rfind(b"\n") + 1)

    def append(self, run: Run) -> None:
        """Adds a line; it is on the disk when this returns. Raises OSError, with nothing of the line left behind."""
        line = json.dumps(asdict(run), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, "the disk is full, the last result was not written", RESULTS)
            os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, before)
            raise

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes `folder` where it is absent, and keeps other runs out of it.

    Raises:
        NotADirectoryError: There is a file of that name.
        ValueError: It holds something else than an evaluation.
        RuntimeError: Another run writes to it.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, expected a folder for the report", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    _check_content(folder)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{folder}: another frspec-eval is writing to this folder") from None
        yield


def _check_content(folder: Path) -> None:
    """Raises ValueError where `folder` is neither empty nor an evaluation's."""
    if (folder / MANIFEST).exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name != _LOCK and not path.name.endswith(".part"))
    if foreign:
        raise ValueError(
            f"{folder}: found '{foreign[0]}' and no {MANIFEST}, expected a new folder, an empty one, or the folder of "
            "an evaluation; nothing was changed"
        )


def check_same(folder: Path, found: Manifest, wanted: dict[str, Any]) -> None:
    """Raises ValueError, naming the first difference, where `folder` holds the results of another run."""
    difference = _difference(found.identity, json.loads(json.dumps(wanted, allow_nan=False)), "")
    if difference:
        raise ValueError(
            f"{folder}: found the results of another run ({difference}); nothing was changed; give another folder, or "
            "the options of that run"
        )


def _difference(found: Any, wanted: Any, where: str) -> str:
    """The first place where two values differ, in words; empty where they are equal."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            inner = _difference(found.get(key), wanted.get(key), f"{where}.{key}" if where else str(key))
            if inner:
                return inner
        return ""
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            inner = _difference(a, b, f"{where}[{i}]")
            if inner:
                return inner
        return ""
    return "" if found == wanted else f"{where}: found {_short(found)}, now {_short(wanted)}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        names = [str(item["name"]) if isinstance(item, dict) and "name" in item else str(item) for item in value]
        return f"{len(value)}: {', '.join(names)}"
    return json.dumps(value, ensure_ascii=False)
