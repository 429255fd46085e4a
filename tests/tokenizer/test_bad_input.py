"""Vocabularies and texts that cannot be used: one clear error each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from frspec_cpp._core import pretokenize

from frspec_cpp import Tokenizer

from .conftest import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, VocabularyWriter

TOKENS = ["a", "b", "ab"]


def bpe(**changes: Any) -> dict[str, Any]:
    """A small sound vocabulary, with changes."""
    return {"pre": "gpt-2", "merges": ["a b"], "token_type": [NORMAL] * 3, **changes}


def test_the_unchanged_one_loads(write: VocabularyWriter) -> None:
    assert Tokenizer(write("gpt2", TOKENS, **bpe())).encode("abab") == [2, 2]


@pytest.mark.parametrize(
    ("model", "tokens", "changes", "message"),
    [
        ("bert", TOKENS, {}, r"tokenizer.ggml.model.*found \"bert\", expected one of gpt2, llama"),
        ("gpt2", TOKENS, {"pre": "no-such"}, r"pre.*found \"no-such\", expected one of default, llama-bpe.*qwen2"),
        ("gpt2", TOKENS, {"pre": 3}, "tokenizer.ggml.pre"),
        ("gpt2", None, {}, "tokenizer.ggml.tokens"),
        ("gpt2", [], {}, "tokens"),
        ("gpt2", [1, 2, 3], {}, "tokenizer.ggml.tokens"),
        ("gpt2", ["a", "b", "a"], {"merges": ["a b"]}, 'found "a" as token 0 and as token 2'),
        ("gpt2", TOKENS, {"merges": None}, "tokenizer.ggml.merges"),
        ("gpt2", TOKENS, {"merges": [1]}, "tokenizer.ggml.merges"),
        ("gpt2", TOKENS, {"token_type": [1, 1]}, "token_type.*found 2 elements, expected 3"),
        ("gpt2", TOKENS, {"token_type": ["a", "b", "c"]}, "token_type"),
        ("gpt2", TOKENS, {"token_type": [1, 1, BYTE]}, 'found "ab" as token 2, which is of type byte'),
        ("gpt2", TOKENS, {"bos_token_id": "x"}, "bos_token_id"),
        ("gpt2", TOKENS, {"add_bos_token": True}, "add_bos_token.*without the key 'tokenizer.ggml.bos_token_id'"),
        ("gpt2", TOKENS, {"add_eos_token": True}, "add_eos_token"),
        ("gpt2", TOKENS, {"add_bos_token": "yes"}, "add_bos_token"),
        ("llama", TOKENS, {"scores": [0.0, float("nan"), 0.0]}, "scores.*found NaN for token 1"),
        ("llama", TOKENS, {"scores": [0.0]}, "scores.*found 1 elements, expected 3"),
        ("llama", ["a", "b", "x" * 5000], {}, "found 5000 bytes in token 2"),
    ],
)
def test_bad_vocabularies(
    write: VocabularyWriter, model: str, tokens: Any, changes: dict[str, Any], message: str
) -> None:
    path = write(model, tokens, **bpe(**changes))
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer(path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_raw_texts_of_special_types_are_fine(write: VocabularyWriter) -> None:
    for kind in (CONTROL, USER_DEFINED, UNUSED):
        path = write("gpt2", [*TOKENS, "<\uff5cx y\uff5c>", "", b"\xff"], **bpe(token_type=[1, 1, 1, kind, 1, kind]))
        tokenizer = Tokenizer(path)
        assert tokenizer.token_bytes(3) == "<\uff5cx y\uff5c>".encode()
        assert tokenizer.token_bytes(4) == b""
        assert tokenizer.token_text(5) == "\ufffd"


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        Tokenizer(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        (b"\xff", 0),
        (b"ab\x80", 2),
        (b"abcdefghijkl\xc3", 12),
        (b"\xc3\xa9\xed\xa0\x80", 2),
        (b"\xf4\x90\x80\x80", 0),
        (b"a\xc0\x80", 1),
        (b"12345678\xe2\x82", 8),
    ],
)
def test_invalid_utf8(write: VocabularyWriter, text: bytes, offset: int) -> None:
    for path in (write.bpe()[0], write("llama", TOKENS, scores=[0.0] * 3)):
        with pytest.raises(ValueError, match=rf"text: found .* at byte offset {offset}, expected valid UTF-8"):
            Tokenizer(path).encode(text)
    with pytest.raises(ValueError, match=f"byte offset {offset}"):
        pretokenize("gpt-2", text)


def test_texts_of_wrong_kinds(write: VocabularyWriter) -> None:
    tokenizer = Tokenizer(write.bpe()[0])
    with pytest.raises(ValueError, match="surrogates"):
        tokenizer.encode("a\ud800b")
    for wrong in (None, 5, bytearray(b"a"), ["a"]):
        with pytest.raises(TypeError):
            tokenizer.encode(wrong)
    with pytest.raises(ValueError, match="pre: found 'nothing'"):
        pretokenize("nothing", "a")


def test_bytes_without_a_token(write: VocabularyWriter) -> None:
    path = write("gpt2", TOKENS, **bpe())
    with pytest.raises(ValueError, match=r"no token for byte 99 of \"abc\""):
        Tokenizer(path).encode("abc")
    known = write("gpt2", TOKENS, **bpe(unknown_token_id=1))
    assert Tokenizer(known).encode("abc") == [2, 1]


def test_long_words_take_no_quadratic_time(write: VocabularyWriter) -> None:
    tokenizer = Tokenizer(write.bpe(["aaaaaaaa", "        "])[0])
    for text in ("a" * 1_000_000, " " * 1_000_000, "\u00e9" * 500_000, "a1" * 500_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_token_that_repeats_itself(write: VocabularyWriter) -> None:
    # Merges always make longer tokens, so even merges that feed each other end.
    tokens = ["a", *("a" * n for n in range(2, 65))]
    merges = [f"{'a' * left} {'a' * (n - left)}" for n in range(2, 65) for left in range(1, n)]
    path = write("gpt2", tokens, merges=merges, pre="gpt-2")
    assert (
        Tokenizer(path).encode("a" * 128) == [1] * 64
        or sum(len(tokens[i]) for i in Tokenizer(path).encode("a" * 128)) == 128
    )
