"""What tests of refused input share: edits of a GGUF file, and what an error message must say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_edit import GgufEditor

from frspec_cpp import _core

Edit = Callable[[GgufEditor], None]


def engine_error(target: Path, **options: Any) -> str:
    """The message of the ValueError that making the engine raises: one line."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        _core.Engine(str(target), **{"head": "full", **options})
    message = str(caught.value)
    assert "\n" not in message
    return message


def expect_parts(message: str, parts: tuple[str, ...]) -> None:
    """Each part stands in the message, outside folder names and not within a longer number or word."""
    message = re.sub(r"/\S*/", "", message)
    for part in parts:
        assert re.search(rf"(?<![\w.]){re.escape(part)}(?![\w])", message), (part, message)


def key(name: str, value: Any) -> Edit:
    """An edit that sets a metadata value."""
    return lambda file: file.set(name, value)


def without_key(name: str) -> Edit:
    """An edit that takes a metadata value away."""

    def edit(file: GgufEditor) -> None:
        del file.entries[name]

    return edit
