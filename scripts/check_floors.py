#!/usr/bin/env python3
"""Checks that includes only point down: the floors of docs/architecture.md, section 1.

Usage: check_floors.py [ROOT]

Prints one `file:line: message` for each arrow that points up or sideways and exits with 1 if there is any.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Folder of the include root (and `cuda`, `bindings`, `testing`) -> its floor.
FLOORS = {
    "base": 0,
    "tensor": 1,
    "gguf": 1,
    "tokenizer": 1,
    "backend": 2,
    "cpu": 2,
    "cuda": 2,
    "model": 3,
    "vocab": 3,
    "tree": 3,
    "draft": 4,
    "verify": 4,
    "engine": 5,
    "cli": 6,
    "bindings": 6,
    "testing": 7,
}

# Arrows within a floor, each with its reason.
SAME_FLOOR = {
    ("gguf", "tensor"): "a file's tensor directory speaks of data types",
    ("tokenizer", "gguf"): "a vocabulary is read from a file's metadata",
    ("cpu", "backend"): "an implementation knows the interface",
    ("cuda", "backend"): "an implementation knows the interface",
}

# Arrows that point down and are wrong all the same, each with its reason.
FORBIDDEN = {
    ("engine", "vocab"): "a head subset never leaks: a drafter says what can be chosen (draft/drafting.h)",
    ("verify", "vocab"): "a head subset never leaks: any tree of the target's tokens is verified alike",
}

# Implementations that nobody may include, whatever the floor: they are reached through backend/registry.h.
HIDDEN = {"cpu", "cuda"}

SOURCE_FOLDERS = ("cpp", "cuda", "python/bindings", "python/testing")
SUFFIXES = {".h", ".hpp", ".inl", ".inc", ".cpp", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
INCLUDE_LINES = re.compile(INCLUDE.pattern, re.MULTILINE)


def sources(root: Path) -> Iterator[tuple[Path, str]]:
    """Yields every source file below `root` with the name of the folder it belongs to."""
    for top in SOURCE_FOLDERS:
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                inner = path.relative_to(root / top).parts
                yield path, (inner[0] if len(inner) > 1 else "") if top == "cpp" else Path(top).name


def included_folder(path: Path, folder: str, name: str) -> str:
    """The folder that `#include "name"` in `path` reaches; `folder` is the one that `path` belongs to."""
    if (path.parent / name).resolve().is_file() and not name.startswith(".."):
        return folder
    return name.split("/")[0] if "/" in name else ""


def complaint(folder: str, target: str, name: str) -> str | None:
    """Says what is wrong with a file of `folder` including `name` of `target`; None if nothing is."""
    if target not in FLOORS:
        return f'"{name}" is in no known folder; expected a path from the include root, like "base/error.h"'
    if target == folder or (folder, target) in SAME_FLOOR:
        return None
    if target in HIDDEN:
        return f'{folder} includes "{name}", but {target} is an implementation that nobody may know'
    if (folder, target) in FORBIDDEN:
        return f'{folder} includes "{name}" of {target}: {FORBIDDEN[folder, target]}'
    if FLOORS[target] >= FLOORS[folder]:
        return (
            f'{folder} (floor {FLOORS[folder]}) includes "{name}" of {target} (floor {FLOORS[target]}); '
            "includes must point to a lower floor"
        )
    return None


@functools.cache  # a header is asked about for each file above it
def own_includes(root: Path, name: str) -> list[str]:
    """The files of `cpp/` that the file `name` includes."""
    found = INCLUDE_LINES.findall((root / "cpp" / name).read_text(encoding="utf-8"))
    return [include for include in found if (root / "cpp" / include).is_file()]


def reached(root: Path, name: str, folders: set[str], seen: set[str]) -> list[str]:
    """The includes by which the file `name` reaches one of `folders`; none if it does not."""
    for include in own_includes(root, name):
        if include in seen:
            continue
        seen.add(include)
        if include.split("/")[0] in folders:
            return [name, include]
        if rest := reached(root, include, folders, seen):
            return [name, *rest]
    return []


def check_reach(root: Path) -> list[str]:
    """One message for each file that reaches, through others, a folder that it must not include."""
    problems = []
    for path, folder in sources(root):
        folders = {target for source, target in FORBIDDEN if source == folder}
        if not folders:
            continue
        way = reached(root, path.relative_to(root / "cpp").as_posix(), folders, set())
        if len(way) > 2:  # what a file includes itself check() names
            shown = path.relative_to(root).as_posix()
            problems.append(f"{shown}:1: {folder} reaches {way[-1]}: {' -> '.join(way[1:])}")
    return problems


def check(root: Path) -> list[str]:
    """Returns one `file:line: message` for every violation in the tree at `root`."""
    problems = check_reach(root)
    for path, folder in sources(root):
        shown = path.relative_to(root).as_posix()
        if folder not in FLOORS:
            problems.append(f"{shown}:1: folder '{folder}' has no floor; expected one of {', '.join(FLOORS)}")
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            match = INCLUDE.match(line)
            if match is None:
                continue
            name = match.group(1)
            message = complaint(folder, included_folder(path, folder, name), name)
            if message is not None:
                problems.append(f"{shown}:{number}: {message}")
    return problems


def main(arguments: list[str]) -> int:
    """Checks the tree at `arguments[0]` (default: this repository); returns the exit status."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    problems = check(root)
    for problem in problems:
        print(problem)
    count = sum(1 for _ in sources(root))
    if count == 0:
        print(f"{root}: no source files found below {', '.join(SOURCE_FOLDERS)}")
        return 1
    print(f"floors: {count} files, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
