"""What the command line tools share: optional packages, one-line errors, progress bars, processors."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any


class MissingPackage(RuntimeError):
    """An optional package that the requested work needs is not installed."""


def require(package: str, why: str, install: str = "frspec_cpp[tools]") -> ModuleType:
    """The imported optional `package`; raises MissingPackage with the pip command where it is absent."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # A package that is there but lacks one of its own dependencies says so itself.
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise MissingPackage(f"the '{package}' package cannot be imported: {error}") from error
        raise MissingPackage(f"{why} needs the '{package}' package: pip install '{install}'") from error


def progress_bar(total: int, description: str, quiet: bool, unit: str = "B") -> Any:
    """A tqdm bar over `total` bytes (or `unit`s) on stderr; silent where `quiet` or where stderr is no terminal."""
    tqdm = require("tqdm", "a progress bar")
    # With disable=None tqdm shows nothing unless stderr is a terminal, so logs and pipes stay clean.
    return tqdm.tqdm(total=total, desc=description, unit=unit, unit_scale=True, leave=False, disable=quiet or None)


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def whole(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def note(message: str) -> None:
    """One line for the user on stderr."""
    print(message, file=sys.stderr)


def describe(error: BaseException) -> str:
    """The error in one line, with the file where the operating system names one."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename
        text = f"{name}: {error.strerror}" if name else error.strerror
    elif isinstance(error, MemoryError):
        text = f"not enough memory{': ' + str(error) if str(error) else ''}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def run(program: str, command: Callable[[], None]) -> int:
    """Runs `command`; its errors become one line on stderr and exit code 1, Ctrl-C exit code 130.

    Warnings become one line each, too: what they say of a file matters, not where the tool's source opened it.
    """

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        note(f"{program}: warning: {' '.join(str(message).split())}")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            command()
    except KeyboardInterrupt:
        note(f"{program}: interrupted")
        return 130
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        note(f"{program}: error: {describe(error)}")
        return 1
    return 0


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
