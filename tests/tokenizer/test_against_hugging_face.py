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


# Names of llama.cpp's table beside one of PATTERNS that splits as they do. Where llama.cpp has a pattern of its own for
# a name, it is the same one: starcoder's for refact and its kin, gpt-2's for mpt, olmo and its kin.
ALIASES = {
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    "smaug-bpe": "dbrx chatglm-bpe",
    "glm4": "glm5",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2",
    "bailingmoe": "bailingmoe2 llada-moe",
    "gpt-2": "phi-2 mpt olmo jais gigachat exaone4 trillion granite-docling a.x-4.0 mellum jina-es jina-de jina-v2-es "
    "jina-v2-de jina-v2-code jina-v1-en roberta-bpe modern-bert",
    "starcoder": "refact command-r smollm codeshell exaone minerva-7b mellum2",
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
    "tiny_aya": "cohere2moe",
    "deepseek-v3": "hunyuan-dense joyai-llm hy_v4",
    "bloom": "gpt3-finnish poro-chat",
}
# Patterns that no text tells apart: names differ in what else they mean.
SAME = [
    {"llama-bpe", "smaug-bpe", "glm4"},
    {"qwen2", "bailingmoe"},
    {"gpt-4o", "granite-embed-multi-97m"},
]
# Each two of PATTERNS split it differently, but for SAME.
TELLING = (
    "It's IT'Sx 1234567   12 \u0663\u0664 \u8a9e\u5b57\u306e \ud55c\uae00AbCDe HelloWorld e\u0301a \u0301! \u3105 "
    "a.bc #x $<=` f/\n !!\r\n \n\n  y   z       b\tq (a, b.) a b c e\u0301 \u3002\u2026 <sentinel:12> IMGIMGABZ "
    "\u0e01\u0e02 \u00c9\u0416x\u00bd  \u05d0 \u2167a\r \n"
)


def test_aliases_split_as_the_name_they_are_grouped_with() -> None:
    found: dict[tuple[str, ...], set[str]] = {}
    for pre in PATTERNS:
        found.setdefault(tuple(pretokenize(pre, TELLING)), set()).add(pre)
    assert [names for names in found.values() if len(names) > 1] == SAME  # a name in the wrong row shows
    aliases = {alias: name for name, others in ALIASES.items() for alias in others.split()}
    assert sorted(pretokenizers()) == sorted([*PATTERNS, *aliases])
    for alias, name in aliases.items():
        assert pretokenize(alias, TELLING) == hf_words(name, TELLING), alias


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
