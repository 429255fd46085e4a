"""Reads a SentencePiece `tokenizer.model` (a protobuf message) without the sentencepiece package.

Of ModelProto it needs field 1 (pieces: text 1, score 2, type 3), field 2 (trainer: model_type 3) and field 3
(normalizer: add_dummy_prefix 3). A field is a key (number << 3 | wire type) and its value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from .vocabulary import TokenType, Vocabulary

_BPE, _UNIGRAM = 2, 1


def read_sentencepiece(path: Path) -> Vocabulary:
    """The vocabulary; raises ValueError naming the file where it is damaged or no BPE model."""
    tokens: list[str] = []
    scores: list[float] = []
    types: list[TokenType] = []
    model_type, add_dummy_prefix = _UNIGRAM, True  # the defaults of the format
    try:
        for number, _, message in _fields(path.read_bytes()):
            if number == 1:
                text, score, kind = _piece(message)
                tokens.append(text)
                scores.append(score)
                types.append(TokenType(kind))
            elif number == 2:
                model_type = _number(message, 3, _UNIGRAM)
            elif number == 3:
                add_dummy_prefix = bool(_number(message, 3, 1))
    except (IndexError, ValueError, struct.error) as error:
        raise ValueError(f"{path}: not a whole SentencePiece model: {error}") from error
    if not tokens:
        raise ValueError(f"{path}: holds no tokens, expected a SentencePiece model")
    if model_type != _BPE:
        raise ValueError(f"{path}: found SentencePiece model type {model_type}, expected {_BPE} (BPE)")
    return Vocabulary(path, "llama", tokens, types, scores=scores, add_space_prefix=add_dummy_prefix)


def _piece(message: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, int(TokenType.NORMAL)
    for number, value, data in _fields(message):
        if number == 1:
            text = data.decode("utf-8")
        elif number == 2:
            score = struct.unpack("<f", data)[0]
        elif number == 3:
            kind = value
    return text, score, kind


def _number(message: bytes, wanted: int, default: int) -> int:
    return next((value for number, value, _ in _fields(message) if number == wanted), default)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]  # IndexError where the data ends
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(field number, value of a number, data of anything else)."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire, value, size = key & 7, 0, 0
        if wire == 0:
            value, at = _varint(message, at)
        elif wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} is not known")
        if size > len(message) - at:
            raise ValueError("a field lies past the end")
        yield key >> 3, value, message[at : at + size]
        at += size
