"""The fingerprint of a vocabulary: tells whether two files speak of the same tokens (see docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterable

_OFFSET_BASIS = 0xCBF29CE484222325
_PRIME = 0x100000001B3
_MASK = 0xFFFFFFFFFFFFFFFF


def fnv1a64(pieces: Iterable[bytes]) -> int:
    """64-bit FNV-1a over the concatenation of `pieces`."""
    value = _OFFSET_BASIS
    for piece in pieces:
        for byte in piece:
            value = ((value ^ byte) * _PRIME) & _MASK
    return value


def vocabulary_fingerprint(tokens: list[str]) -> str:
    """16 hex digits for token texts in the order of their ids, as a GGUF file writes them."""
    texts = (token.encode("utf-8", "surrogatepass") + b"\0" for token in tokens)
    return f"{fnv1a64((str(len(tokens)).encode(), *texts)):016x}"
