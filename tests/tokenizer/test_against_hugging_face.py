"""Splitting and tokens beside Hugging Face tokenizers, on random Unicode."""

from __future__ import annotations

import functools
import sys
import unicodedata
from pathlib import Path

import pytest
from frspec_cpp._core import pretokenize, pretokenizers
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import pre_tokenizers

from frspec_cpp import Tokenizer

from .conftest import PATTERNS, VocabularyWriter, assigned, hf_from_gguf, hf_splits


def hf_words(pre: str, text: str) -> list[str]:
    """The words of Hugging Face's splitting."""
    return [word for word, _ in pre_tokenizers.Sequence(hf_splits(pre)).pre_tokenize_str(text)]


@pytest.mark.parametrize("pre", PATTERNS)
def test_words_of_random_texts(pre: str, random_texts: list[str]) -> None:
    assert pre in pretokenizers()
    splitter = pre_tokenizers.Sequence(hf_splits(pre))
    for text in random_texts[:800]:
        assert pretokenize(pre, text) == [word for word, _ in splitter.pre_tokenize_str(text)], repr(text)


@pytest.mark.parametrize("pre", PATTERNS)
def test_words_of_runs(pre: str) -> None:
    """Runs of one character, alone, before others and behind them; long ones take time in proportion."""
    splitter = pre_tokenizers.Sequence(hf_splits(pre))
    for character in ("1", "\u0663", "\u00bd", " ", "\n", "A", "a", "\u8a9e", "\u0301", "!", "\x01"):
        for length in (1, 2, 3, 4, 7, 100, 515):
            for text in (character * length, f"x{character * length}x", f" {character * length} 12{character}"):
                assert pretokenize(pre, text) == [word for word, _ in splitter.pre_tokenize_str(text)], repr(text)
        assert "".join(pretokenize(pre, character * 50_000)) == character * 50_000


def test_every_name_has_words() -> None:
    assert len(pretokenizers()) == len(set(pretokenizers())) == 87
    for pre in pretokenizers():
        assert "".join(pretokenize(pre, "It's 12345 \u8a9eAb!\n")) == "It's 12345 \u8a9eAb!\n"


@functools.cache
def telling_characters() -> list[str]:
    """Assigned ones: all at the ends of a run of one category, every 50th inside, where a table has only a range."""
    characters = assigned(0, sys.maxunicode)
    categories = [unicodedata.category(character) for character in characters]
    ends = [at for at in range(1, len(characters)) if categories[at] != categories[at - 1]]
    near = {at + step for at in (0, *ends, len(characters)) for step in (-2, -1, 0, 1)}
    return [character for at, character in enumerate(characters) if at in near or at % 50 == 0]


@pytest.mark.parametrize("pre", PATTERNS)
def test_words_around_every_character(pre: str) -> None:
    characters = telling_characters()
    # Between them, these patterns tell all classes of characters apart; for the others a sample is enough.
    step = 2000 if pre in ("qwen35", "default", "tekken", "tiny_aya") else 10000
    for first in range(0, len(characters), step):
        # A line per character, so that what one of them does to its neighbours cannot spread.
        sample = characters[first : first + 2000]
        text = "".join(f"a{c}b {c}1{c}{c}  {c}\n{c}'s\n" for c in sample)
        assert pretokenize(pre, text) == hf_words(pre, text), repr(sample[0])


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "it's IT'S", ["it", "'s", " IT", "'", "S"]),
        ("llama-bpe", "it's IT'S 1234567", ["it", "'s", " IT", "'S", " ", "123", "456", "7"]),
        ("qwen2", "12 3", ["1", "2", " ", "3"]),
        ("llama-bpe", "a'\u017f!", ["a", "'\u017f", "!"]),
        ("gpt-2", "a   b\n\n c  ", ["a", "  ", " b", "\n\n", " c", "  "]),
        ("llama-bpe", "a   b\n\n c  ", ["a", "  ", " b", "\n\n", " c", "  "]),
        ("llama-bpe", "x = {\r\n\ty", ["x", " =", " {\r\n", "\ty"]),
        ("default", "don't 12345!?", ["don", "'", "t", " ", "123", "45", "!?"]),
        ("starcoder", " 42 cats", [" ", "4", "2", " cats"]),
        ("qwen35", "e\u0301a \u0301", ["e\u0301a", " \u0301"]),
        ("qwen2", "e\u0301a", ["e", "\u0301a"]),
        ("gpt-4o", "HelloWorld's ABCDe f/\n", ["Hello", "World's", " ABCDe", " f", "/\n"]),
        ("tekken", "HelloWorld's 12", ["Hello", "World", "'s", " ", "1", "2"]),
        ("deepseek-v3", "a.bc 1234", ["a", ".bc", " ", "123", "4"]),
        ("tiny_aya", "1234567 1234x", ["1", "234", "567", " ", "123", "4", "x"]),
        ("superbpe", "ab 1234567 c", ["ab ", "1", "234", "567", " c"]),
        ("kimi-k2", "\u6f22\u5b57ab", ["\u6f22\u5b57", "ab"]),
        ("bloom", "a, b.", ["a", ",", " b", "."]),
        (
            "chameleon",
            "a<sentinel:12> <sentinel:> IMGIMGABZa IMGIMGABCDEZ",
            [*"a<", "sentinel", *":12> <", "sentinel", ":", *"> ", "IMGIMGABZ", "a", " IMGIMGABCDEZ"],
        ),
        ("chameleon", "\tx     y;\n\n", ["\t", "x", "    ", " y", ";", "\n", "\n"]),
        ("jais-2", "a" + 7 * " " + "b", ["a", 4 * " ", 2 * " ", " b"]),
    ],
)
def test_known_words(pre: str, text: str, words: list[str]) -> None:
    assert pretokenize(pre, text) == words == hf_words(pre, text)


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_real_vocabularies(vocabularies: Path, name: str, random_texts: list[str]) -> None:
    path = vocabularies / f"{name}.gguf"
    ours, theirs = Tokenizer(path), hf_from_gguf(path)
    for text, encoding in zip(random_texts, theirs.encode_batch(random_texts), strict=True):
        ids = ours.encode(text, add_special=False)
        assert ids == encoding.ids, repr(text)
        assert ours.decode(ids) == text


def test_tokenizer_of_the_demo_pair(shared: Path, write_once: VocabularyWriter, random_texts: list[str]) -> None:
    source = shared / "data" / "pair" / "target" / "tokenizer.json"
    path = write_once.from_tokenizer_json(source, pre="smaug-bpe", bos_token_id=0, add_bos_token=True)
    ours, theirs = Tokenizer(path), HfTokenizer.from_file(str(source))
    for text, encoding in zip(random_texts, theirs.encode_batch(random_texts), strict=True):
        ids = ours.encode(text)
        assert ids == encoding.ids, repr(text)
        assert ours.decode(ids) == text


@pytest.mark.parametrize("folder", ["stories260K", "TinyStories-656K", "babyllama105-936K", "llama2xs-279K"])
def test_vocabularies_like_sentencepiece(
    shared: Path, write_once: VocabularyWriter, random_texts: list[str], folder: str
) -> None:
    source = shared / "data" / "models" / folder / "tokenizer.json"
    path = write_once.from_tokenizer_json(source, bos_token_id=1, eos_token_id=2, unknown_token_id=0)
    ours, theirs = Tokenizer(path), HfTokenizer.from_file(str(source))
    texts = [*random_texts, 'Once upon a time, there was a little girl named Lily.\nShe said: "Hi!"  Bye.']
    for text, encoding in zip(texts, theirs.encode_batch(texts), strict=True):
        assert ours.encode(text, parse_special=True) == encoding.ids, repr(text)


def test_long_words_merge_as_short_ones(vocabularies: Path) -> None:
    # Words of 96 bytes and more are merged with a heap.
    path = vocabularies / "gpt-2.gguf"
    ours, theirs = Tokenizer(path), hf_from_gguf(path)
    for length in [*range(80, 120), 1000]:
        for text in ("a" * length, "antidisestablishmentarianism" * (length // 20), "=" * length, " " * length):
            assert ours.encode(text) == theirs.encode(text).ids
