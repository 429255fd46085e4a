"""The converter's recognition of a tokenizer.json's splitting rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hf_tokenizers import read
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models, pre_tokenizers

from frspec_cpp import Tokenizer

from .conftest import PATTERNS, VocabularyWriter, byte_characters

IGNORE_MERGES = ("llama-bpe", "glm4", "minicpm5", "granite-embed-multi-97m", "tekken", "youtu")
# Names for the same rules: the first of them is written.
WRITTEN = {"glm4": "llama-bpe", "bailingmoe": "qwen2", "starcoder": "smollm"}


def write(folder: Path, splits: list[dict[str, Any]], ignore_merges: bool = False, use_regex: bool = False) -> Path:
    """A tokenizer.json that splits so, with bytes and two longer tokens."""
    vocabulary = {character: number for number, character in enumerate([*byte_characters(), "ab", "abc"])}
    merges = [("a", "b"), ("ab", "c")]
    tokenizer = HfTokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.save(str(folder / "tokenizer.json"))
    value = json.loads((folder / "tokenizer.json").read_text())
    byte_level = value["pre_tokenizer"]
    value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return folder


def split(expression: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}


@pytest.mark.parametrize("pre", PATTERNS)
def test_every_expression(tmp_path: Path, write_once: VocabularyWriter, random_texts: list[str], pre: str) -> None:
    """Its tokenizer.json gets the name under which the engine has the same tokens."""
    write(tmp_path, [split(expression) for expression in PATTERNS[pre]], ignore_merges=pre in IGNORE_MERGES)
    found = read(tmp_path).pre
    assert found == WRITTEN.get(pre, pre)
    ours = Tokenizer(write_once.from_tokenizer_json(tmp_path / "tokenizer.json", pre=found))
    theirs = HfTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["abcabc abab 12345 ab", *random_texts[:100]]:
        assert ours.encode(text, add_special=False) == theirs.encode(text).ids, repr(text)


def test_digits_and_the_expression_of_byte_level(tmp_path: Path) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    assert read(write(tmp_path, [], use_regex=True)).pre == "gpt-2"
    assert read(write(tmp_path, [digits], use_regex=True)).pre == "smollm"
    assert read(write(tmp_path, [split(r"\p{N}{1}")], use_regex=True)).pre == "smollm"


SPELLINGS = {  # of the same expression, as checkpoints have them
    "cases spelled out": lambda e: e.replace(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    ),
    "line ends as they are": lambda e: e.replace(r"\r", "\r").replace(r"\n", "\n"),
    "possessive": lambda e: e.replace(r"\p{N}]+[", r"\p{N}]++["),
}


@pytest.mark.parametrize("pre", ["smaug-bpe", "qwen2", "gpt-4o"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(tmp_path: Path, pre: str, spelling: str) -> None:
    (expression,) = PATTERNS[pre]
    changed = SPELLINGS[spelling](expression)
    assert changed != expression
    assert read(write(tmp_path, [split(changed)])).pre == pre


def test_what_lies_between_matches(tmp_path: Path) -> None:
    """Dropping it is as good as keeping it where there is nothing; else it is refused."""
    (gpt4o,) = PATTERNS["gpt-4o"]
    assert read(write(tmp_path, [split(gpt4o, "Removed", invert=True)])).pre == "gpt-4o"
    (bloom,) = PATTERNS["bloom"]
    for wrong in (split(bloom, "Removed", invert=True), split(gpt4o, "Removed"), split(gpt4o, "MergedWithNext")):
        with pytest.raises(ValueError, match=r"tokenizer\.json: no known pre-tokenizer splits like this: .*'Split'"):
            read(write(tmp_path, [wrong]))


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe", "deepseek-v3", "tekken"])
def test_refused(tmp_path: Path, pre: str) -> None:
    """A rule less, a rule more, another expression, and the other way to merge."""
    rules, ignores = PATTERNS[pre], pre in IGNORE_MERGES
    wrong = [rules[:-1], [*rules, r"\p{Nd}"], [*rules[:-1], rules[-1].replace(r"\s+", r"\h+")]]
    for expressions in wrong:
        with pytest.raises(ValueError, match="no known pre-tokenizer splits like this"):
            read(write(tmp_path, [split(e) for e in expressions], ignores))
    if pre != "llama-bpe":  # which has a name for both
        with pytest.raises(ValueError, match=rf"ignore_merges {str(not ignores).lower()}\); expected the rules of one"):
            read(write(tmp_path, [split(e) for e in rules], not ignores))
