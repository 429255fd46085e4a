#!/usr/bin/env python3
"""Prints the lowest versions that pyproject.toml admits, as constraints for pip.

Usage: lowest.py GROUP...     A group is `runtime` or the name of an extra.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# tomllib comes with Python 3.11 only. Lists are all that is read: `name = [...]`, with or without a comment behind it.
_LIST = r"^{} = \[(.*?)\](?:[ ]*#[^\n]*)?$"
_BOUND = re.compile(r'"([\w.-]+(?:\[[\w,]+\])?)(?:>=|==)([\w.+]+)')


def lowest(project: str, group: str) -> dict[str, str]:
    """Name and lowest version of each package of a group, without our own extras.

    Raises:
        ValueError: There is no such group, or it has an entry without a lower bound.
    """
    found = re.search(_LIST.format("dependencies" if group == "runtime" else group), project, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"pyproject.toml: found no group {group!r}")
    entries = [line.strip() for line in re.findall(r'"[^"]*"', re.sub(r"#.*", "", found[1]))]
    bounds = {}
    for entry in entries:
        if entry.startswith('"frspec_cpp['):
            continue
        bound = _BOUND.match(entry)
        if bound is None:
            raise ValueError(f"pyproject.toml: {group}: found {entry}, expected a lower bound")
        bounds[bound[1].partition("[")[0]] = bound[2]
    return bounds


def main() -> None:
    """Prints the constraints of all groups."""
    project = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    bounds: dict[str, str] = {}
    for group in sys.argv[1:]:
        bounds |= lowest(project, group)
    for name, version in sorted(bounds.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
