"""What was run and where: machine, files, settings."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import _core
from ..console import cores
from .prompts import Question
from .records import FORMAT, Method

_WHOLE = 64 << 20  # bytes up to which a file is hashed whole
_PART, _PARTS = 1 << 20, 48  # larger ones: so many parts of so many bytes, evenly spread, first and last included


def machine(device: str) -> dict[str, Any]:
    """This machine, for the report: ``cpu``, ``cores``, ``memory_gib``, ``device``, ``python``, ``system``."""
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": device,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def identity(
    settings: dict[str, Any],
    files: Iterable[Path],
    questions: Sequence[Question],
    methods: Sequence[Method],
    device: str,
) -> dict[str, Any]:
    """What must be equal where a run is continued: another machine, file or setting would be another run."""
    asked = json.dumps([asdict(question) for question in questions], sort_keys=True, allow_nan=False).encode()
    return {
        "format": FORMAT,
        "engine": file_hash(Path(_core.__file__)),
        "machine": {"cpu": _cpu_name(), "cores": cores(), "device": device},
        "settings": settings,
        "files": _identities(files),
        "prompts": {"questions": len(questions), "hash": hashlib.sha256(asked).hexdigest()[:16]},
        "methods": [asdict(method) for method in methods],
    }


def _identities(files: Iterable[Path]) -> dict[str, Any]:
    """By name, not by path: a folder may be moved, or a file named by another path."""
    found: dict[str, Any] = {}
    for path in dict.fromkeys(path.resolve() for path in files):
        name = path.name if path.name not in found else f"{path.name} ({len(found)})"
        found[name] = file_identity(path)
    return found


def file_identity(path: Path) -> dict[str, Any]:
    """Size and hash of a file, or of what stands in a checkpoint's folder."""
    if not path.is_dir():
        return {"size": path.stat().st_size, "hash": file_hash(path)}
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    hashes = "".join(f"{name} {file_hash(path / name)}\n" for name in names)
    return {"files": len(names), "hash": hashlib.sha256(hashes.encode()).hexdigest()[:16]}


def file_hash(path: Path) -> str:
    """16 hex digits. Of a large file the size and parts all over it are hashed: weights differ everywhere."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
        else:
            for i in range(_PARTS):
                file.seek((size - _PART) * i // (_PARTS - 1))
                digest.update(file.read(_PART))
    return digest.hexdigest()[:16]


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not on Linux
    return platform.processor() or platform.machine()
