"""Output files that appear whole or not at all, and files that grow."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; renamed to `path` on success, removed on any failure, Ctrl-C included.

    An existing file at `path` is replaced only by a complete new one. Raises FileNotFoundError or
    IsADirectoryError before any work is done where `path` cannot be written, and OSError naming `path` where
    the disk is full.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected the name of a file to write", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder to write to does not exist", str(path.parent))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, "the disk is full, nothing was written", str(path)) from error
        raise


def append(path: Path, data: bytes | memoryview, anew: bool = False) -> None:
    """Appends `data` to a file, or begins it `anew`, wholly or not at all; raises OSError naming it (a full disk)."""
    try:
        with path.open("wb" if anew else "ab", buffering=0) as file:
            end = file.tell()
            try:
                left = memoryview(data)
                while len(left) > 0:
                    left = left[file.write(left) :]
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise
    except OSError as error:  # of a write that fails Python does not say in which file
        raise OSError(error.errno, error.strerror, str(path)) from error
