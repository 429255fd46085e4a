"""Reads a SentencePiece `tokenizer.model` (a protobuf message) without the sentencepiece package.

Of ModelProto it needs field 1 (pieces: text 1, score 2, type 3), field 2 (trainer: model_type 3,
treat_whitespace_as_suffix 24) and field 3 (normalizer: precompiled_charsmap 2, add_dummy_prefix 3,
remove_extra_whitespaces 4, escape_whitespaces 5). A field is a key (number << 3 | wire type) and its value.
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
    trainer = normalizer = b""
    try:
        for number, _, message in _fields(path.read_bytes()):
            if number == 1:
                text, score, kind = _piece(message)
                tokens.append(text)
                scores.append(score)
                types.append(TokenType(kind))
            elif number == 2:
                trainer = message
            elif number == 3:
                normalizer = message
        # The defaults are those of the format.
        model_type, is_suffix = _number(trainer, 3, _UNIGRAM), _number(trainer, 24, 0)
        prefix, escapes = _number(normalizer, 3, 1), _number(normalizer, 5, 1)
        remarks = _remarks(normalizer)
    except (IndexError, ValueError, struct.error) as error:
        raise ValueError(f"{path}: not a whole SentencePiece model: {error}") from error
    if not tokens:
        raise ValueError(f"{path}: holds no tokens, expected a SentencePiece model")
    if model_type != _BPE:
        raise ValueError(f"{path}: found SentencePiece model type {model_type}, expected {_BPE} (BPE)")
    for key, found, expected in (("treat_whitespace_as_suffix", is_suffix, 0), ("escape_whitespaces", escapes, 1)):
        if bool(found) != bool(expected):
            raise ValueError(f"{path}: found {key} {found}, expected {expected}: GGUF's SPM puts U+2581 before words")
    return Vocabulary(path, "llama", tokens, types, scores=scores, add_space_prefix=bool(prefix), remarks=remarks)


def _remarks(normalizer: bytes) -> list[str]:
    """On what SentencePiece does to texts, and neither GGUF's SPM nor llama.cpp does."""
    result = []
    if any(number == 2 and data for number, _, data in _fields(normalizer)):
        result.append(
            "texts are not normalized (SentencePiece's precompiled_charsmap), as llama.cpp does not either: full-width "
            "letters, ligatures and the like become other tokens than with SentencePiece"
        )
    if _number(normalizer, 4, 1):
        result.append(
            "runs of spaces stay as they are, as with llama.cpp; SentencePiece would make one of them "
            "(remove_extra_whitespaces)"
        )
    return result


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
    return [default, *(value for number, value, _ in _fields(message) if number == wanted)][-1]  # the last one counts


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
