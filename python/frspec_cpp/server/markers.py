"""Marks in a text that comes in pieces."""

from __future__ import annotations


def certain(text: str, marker: str) -> int:
    """How many characters at the beginning of `text` cannot belong to a marker to come, nor to the spaces before it."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return len(text[:-length].rstrip())
    return len(text.rstrip())
