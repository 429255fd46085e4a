"""SentencePiece models, written field by field: SentencePiece itself makes them by training only."""

from __future__ import annotations

import struct
from collections.abc import Iterable

BYTE_FALLBACK = b"\x98\x02\x01"  # of the trainer
ADDS_SPACE, KEEPS_SPACES = b"\x18\x01", b"\x20\x00"  # of the normalizer


def sentencepiece_model(
    pieces: Iterable[tuple[str, float, int]],
    model_type: int = 2,
    trainer: bytes = b"",
    normalizer: bytes = KEEPS_SPACES,
) -> bytes:
    """A tokenizer.model.

    Args:
        pieces: text, score and type (numbered as in GGUF) of each token.
        model_type: 2 is BPE.
        trainer: more fields of the trainer's settings.
        normalizer: more of the normalizer's, which puts no space before a text; as it is, it removes none either.
    """

    def message(number: int, data: bytes) -> bytes:
        size, prefix = len(data), b""
        while size >= 0x80:
            prefix, size = prefix + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + prefix + bytes([size]) + data

    fields = [
        message(1, message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for text, score, kind in pieces
    ]
    return (
        b"".join(fields) + message(2, bytes([0x18, model_type]) + trainer) + message(3, bytes([0x18, 0]) + normalizer)
    )
