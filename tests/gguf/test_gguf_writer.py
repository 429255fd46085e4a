"""The GGUF writer: its bytes, against the format's description and the gguf package; and that files appear whole."""

from __future__ import annotations

import os
import resource
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf_values import metadata, tensors, types

from frspec_cpp import GgufFile, _testing

NUMBERS = {"frspec.small": 7, "frspec.large": 1 << 40}
STRINGS = {"frspec.text": "déjà vu", "frspec.empty": ""}
VECTORS = {"ids": [3, -1, 2**31 - 1], "counts": [2**62, 0, -(2**33), 5, 6], "one": [9]}


def write(path: Path, temporary: Path | None = None, vectors: dict[str, list[int]] | None = None) -> None:
    _testing.write_gguf(
        path, temporary or path.with_name(".new.part"), "frspec_ranks", NUMBERS, STRINGS, vectors or VECTORS
    )


def test_what_the_gguf_package_reads(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    assert metadata(tmp_path / "a.gguf") == {"general.architecture": "frspec_ranks", **NUMBERS, **STRINGS}
    assert types(tmp_path / "a.gguf") == {"ids": "I32", "counts": "I64", "one": "I32"}
    found = tensors(tmp_path / "a.gguf")
    for name, values in VECTORS.items():
        np.testing.assert_array_equal(found[name], values)
    ours = GgufFile(tmp_path / "a.gguf")
    assert ours.version == 3
    assert ours.metadata == {"general.architecture": "frspec_ranks", **NUMBERS, **STRINGS}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def test_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    expected = b"GGUF" + struct.pack("<IQQ", 3, 3, 5)
    expected += text("general.architecture") + struct.pack("<I", 8) + text("frspec_ranks")
    expected += text("frspec.small") + struct.pack("<II", 4, 7)
    expected += text("frspec.large") + struct.pack("<IQ", 10, 1 << 40)
    for key, value in STRINGS.items():
        expected += text(key) + struct.pack("<I", 8) + text(value)
    # Name, one dimension, its size, the type (26: I32, 27: I64), where the data begin: at multiples of 32.
    expected += text("ids") + struct.pack("<IQIQ", 1, 3, 26, 0)
    expected += text("counts") + struct.pack("<IQIQ", 1, 5, 27, 32)
    expected += text("one") + struct.pack("<IQIQ", 1, 1, 26, 96)
    expected += bytes(-len(expected) % 32)
    expected += struct.pack("<3i", *VECTORS["ids"]).ljust(32, b"\0")
    expected += struct.pack("<5q", *VECTORS["counts"]).ljust(64, b"\0")
    expected += struct.pack("<i", 9).ljust(32, b"\0")
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_an_old_file_and_a_temporary_one_that_was_left_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"old" * 10_000)
    (tmp_path / ".new.part").write_bytes(b"left by a crash" * 10_000)
    write(tmp_path / "a.gguf")
    assert tensors(tmp_path / "a.gguf")["ids"].tolist() == VECTORS["ids"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_name_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileNotFoundError, match=r"absent/a\.gguf: cannot be written, and is what it was: No such file"):
        write(tmp_path / "absent" / "a.gguf")
    with pytest.raises(ValueError, match=r"file/a\.gguf: cannot be written.*Not a directory"):
        write(tmp_path / "file" / "a.gguf")
    with pytest.raises(ValueError, match=r"folder: cannot be written.*[Ii]s a directory"):
        write(tmp_path / "folder")  # only the renaming fails
    assert sorted(tmp_path.rglob("*")) == before, "no temporary file is left"


def test_a_full_disk(tmp_path: Path) -> None:
    """Simulated by a limit on the size of files, in a process of its own: the old file stays, and nothing else."""
    write(tmp_path / "a.gguf")
    old = (tmp_path / "a.gguf").read_bytes()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            write(tmp_path / "a.gguf", vectors={"ids": list(range(10_000))})
        except RuntimeError as error:
            status = 0 if "a.gguf: cannot be written, and is what it was: File too large" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "a.gguf").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
