"""From tokens back to text, at once and token by token."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from frspec_cpp._core import StreamDecoder

from frspec_cpp import Tokenizer

from .conftest import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, VocabularyWriter, byte_characters


def byte_strings(count: int) -> list[bytes]:
    """Mostly UTF-8 with bytes broken, cut and repeated; all lead bytes and limits of ranges occur."""
    source = random.Random(11)
    characters = ["a", "\u00e9", "\u07ff", "\u0800", "\u20ac", "\ud7ff", "\ue000", "\U00010000", "\U0010ffff"]
    broken = [b"\x80", b"\xbf", b"\xc0", b"\xc1", b"\xc2", b"\xe0\x9f", b"\xe0\xa0", b"\xed\xa0", b"\xed\x9f"]
    broken += [b"\xf0\x8f", b"\xf0\x90", b"\xf0\x90\x80", b"\xf4\x8f\xbf", b"\xf4\x90", b"\xf5", b"\xff", b"\xe2\x82"]
    result = []
    for _ in range(count):
        parts = [
            source.choice(broken) if source.random() < 0.4 else source.choice(characters).encode()
            for _ in range(source.randrange(0, 12))
        ]
        result.append(b"".join(parts))
    return result


@pytest.fixture
def bytes_only(write: VocabularyWriter) -> Tokenizer:
    return Tokenizer(write.bpe()[0])


def test_streams_of_bytes_are_as_in_python(bytes_only: Tokenizer) -> None:
    stream = StreamDecoder(bytes_only)
    token_of = [bytes_only.find(character) for character in byte_characters()]
    assert None not in token_of
    for data in [*byte_strings(3000), bytes(range(256))]:
        text = ""
        for end, byte in enumerate(data, 1):
            text += stream.push(token_of[byte])
            # Nothing is missing but the beginning of a character, which Python replaces at an end.
            assert data[:end].decode("utf-8", "replace") in (text, text + "\ufffd"), data
        text += stream.finish()
        ids = [token_of[byte] for byte in data]
        assert text == bytes_only.decode(ids) == data.decode("utf-8", "replace")
        assert bytes_only.decode_bytes(ids) == data


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "llama-spm"])
def test_streams_of_real_tokens(vocabularies: Path, name: str, random_texts: list[str]) -> None:
    tokenizer = Tokenizer(vocabularies / f"{name}.gguf")
    stream = StreamDecoder(tokenizer, begins_text=True)
    for text in random_texts[:1000]:
        ids = tokenizer.encode(text)
        pieces = [stream.push(i) for i in ids]
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)
        assert not any("\ufffd" in piece for piece in pieces if "\ufffd" not in text)


def test_streams_of_random_tokens(vocabularies: Path) -> None:
    source = random.Random(5)
    for name in ("qwen2", "llama-spm"):
        tokenizer = Tokenizer(vocabularies / f"{name}.gguf")
        for _ in range(500):
            ids = [source.randrange(len(tokenizer)) for _ in range(30)]
            for begins in (True, False):
                stream = StreamDecoder(tokenizer, begins_text=begins)
                text = "".join(stream.push(i) for i in ids) + stream.finish()
                # Behind another token, a text keeps its leading space.
                prefix = [] if begins else [tokenizer.encode("x", add_special=False)[0]]
                whole = tokenizer.decode_bytes(prefix + ids)
                before = tokenizer.decode_bytes(prefix)
                assert text == whole[len(before) :].decode("utf-8", "replace")


def test_leading_space_of_streams(write: VocabularyWriter) -> None:
    tokens = ["<unk>", "<s>", "</s>", "\u2581a", "<0x20>", "\u2581", " u"]
    types = [UNKNOWN, CONTROL, CONTROL, NORMAL, BYTE, NORMAL, USER_DEFINED]
    tokenizer = Tokenizer(write("llama", tokens, scores=[0.0] * 7, token_type=types))
    stream = StreamDecoder(tokenizer, begins_text=True)
    for _ in range(2):  # finish() begins anew
        assert [stream.push(i) for i in (1, 5, 3, 3)] == ["", "", " a", " a"]
        assert stream.finish() == ""
    assert StreamDecoder(tokenizer).push(3) == " a"
    # What a text itself begins with stays.
    assert tokenizer.decode([6, 3]) == " u a"


def test_a_stream_keeps_its_tokenizer_alive(write: VocabularyWriter) -> None:
    stream = StreamDecoder(Tokenizer(write.bpe()[0]))
    assert stream.push(0) == "\u0000"


def test_ids_outside_the_vocabulary(bytes_only: Tokenizer) -> None:
    for number in (-1, 257, 2**31, -(2**40), 2**62):
        for call in (
            lambda i: bytes_only.decode([0, i]),
            lambda i: bytes_only.decode_bytes([i]),
            bytes_only.token_bytes,
            bytes_only.token_text,
            bytes_only.token_type,
            bytes_only.is_eog,
            StreamDecoder(bytes_only).push,
        ):
            with pytest.raises(ValueError, match=f"token id: found {number}, expected"):
                call(number)
