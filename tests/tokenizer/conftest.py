"""Vocabularies for the tokenizer tests: GGUF files written by the `gguf` package, Hugging Face tokenizers, texts."""

from __future__ import annotations

import json
import random
import struct
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# The expressions as the checkpoints' tokenizer.json have them.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES
QWEN2 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES
QWEN35 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + SPACES
SEED_CODER = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + SPACES
MINICPM5 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES

PATTERNS = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "llama-bpe": [LLAMA3],
    "smaug-bpe": [LLAMA3],
    "glm4": [LLAMA3],
    "qwen2": [QWEN2],
    "qwen35": [QWEN35],
    "seed-coder": [SEED_CODER],
    "gpt-2": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "minicpm5": [r"\p{N}{1,3}", MINICPM5],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
}


def hf_splits(pre: str) -> list[Any]:
    """The splitting of a pre-tokenizer, by Hugging Face's regular expressions."""
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[pre]]


def byte_characters() -> list[str]:
    """How byte-level vocabularies write each of the 256 bytes."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x144))
    return [chr(byte if byte in own else next(rest)) for byte in range(256)]


def byte_level(text: str | bytes) -> str:
    """A text as byte-level vocabularies write it."""
    characters = byte_characters()
    return "".join(characters[byte] for byte in (text.encode() if isinstance(text, str) else text))


class VocabularyWriter:
    """Writes GGUF files that hold a vocabulary and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0

    def __call__(self, model: str, tokens: list[str | bytes] | None, **metadata: Any) -> Path:
        """Each keyword is a key below `tokenizer.ggml.`; None leaves it out."""
        self.number += 1
        path = self.folder / f"vocabulary-{self.number}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model(model)
        if tokens is not None:
            writer.add_array("tokenizer.ggml.tokens", tokens)
        for name, value in metadata.items():
            key = f"tokenizer.ggml.{name}"
            if value is None:
                continue
            if name == "chat_template":
                writer.add_string("tokenizer.chat_template", value)
            elif isinstance(value, (list, tuple)):
                writer.add_array(key, value)
            elif isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                (writer.add_int32 if value < 2**31 else writer.add_uint32)(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            else:
                writer.add_string(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    def bpe(
        self, words: list[str] = (), special: dict[str, int] | None = None, **metadata: Any
    ) -> tuple[Path, list[str]]:
        """Byte-level BPE: all bytes, then `words` as left-to-right merges, then special tokens of given types."""
        tokens = byte_characters()
        merges = []
        for word in words:
            pieces = byte_level(word)
            for end in range(2, len(pieces) + 1):
                if pieces[:end] not in tokens:
                    tokens.append(pieces[:end])
                    merges.append(f"{pieces[: end - 1]} {pieces[end - 1]}")
        types = [NORMAL] * len(tokens)
        for text, kind in (special or {}).items():
            tokens.append(text)
            types.append(kind)
        metadata = {"pre": "gpt-2", "merges": merges or ["a b"], "token_type": types, **metadata}
        if not merges:
            tokens.insert(256, "ab")
            types.insert(256, NORMAL)
        return self("gpt2", tokens, **metadata), tokens

    def from_tokenizer_json(self, source: Path, **metadata: Any) -> Path:
        """A tokenizer.json (byte-level BPE, or BPE like SentencePiece's) as a GGUF vocabulary."""
        description = json.loads(source.read_text(encoding="utf-8"))
        model = description["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        added = {token["id"] for token in description["added_tokens"]}
        types = [CONTROL if i in added else NORMAL for i in range(len(tokens))]
        if description["pre_tokenizer"] is not None:
            joined = [" ".join(merge) for merge in merges]
            return self("gpt2", tokens, merges=joined, token_type=types, **metadata)
        for i, text in enumerate(tokens):
            if text == model["unk_token"]:
                types[i] = UNKNOWN
            elif len(text) == 6 and text.startswith("<0x"):
                types[i] = BYTE
        rank = {left + right: i for i, (left, right) in reversed(list(enumerate(merges)))}
        scores = [-float(rank.get(text, len(merges))) for text in tokens]
        return self("llama", tokens, scores=scores, token_type=types, **metadata)


@pytest.fixture
def write(tmp_path: Path) -> VocabularyWriter:
    return VocabularyWriter(tmp_path)


@pytest.fixture(scope="session")
def write_once(tmp_path_factory: pytest.TempPathFactory) -> VocabularyWriter:
    return VocabularyWriter(tmp_path_factory.mktemp("vocabularies"))


def read_metadata(path: Path) -> dict[str, Any]:
    """Keys and values of a GGUF file (version 3); the gguf package takes many seconds for a large vocabulary."""
    data = path.read_bytes()
    at = 16

    def number(code: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(f"<{code}", data, at)
        at += struct.calcsize(code)
        return value

    def value(kind: int) -> Any:
        nonlocal at
        if kind == 8:
            length = number("Q")
            at += length
            return data[at - length : at].decode()
        if kind == 9:
            element, count = number("I"), number("Q")
            return [value(element) for _ in range(count)]
        return number("BbHhIif?xxQqd"[kind])

    return {value(8): value(number("I")) for _ in range(number("Q"))}


def hf_from_gguf(path: Path) -> Tokenizer:
    """The vocabulary of a GGUF file as a Hugging Face tokenizer without special tokens."""
    metadata = read_metadata(path)
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    pre = metadata["tokenizer.ggml.pre"]
    model = models.BPE({text: i for i, text in enumerate(tokens)}, merges, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(model)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*hf_splits(pre), last])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def assigned(first: int, last: int) -> list[str]:
    """Characters of a range that this Python's Unicode knows: versions differ in newer ones."""
    return [chr(c) for c in range(first, last + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def make_random_text() -> Callable[[random.Random], str]:
    """A function that makes texts of mixed scripts, spaces, digits, contractions, emoji and marks."""
    pools = [
        assigned(0x20, 0x7E),
        assigned(0x61, 0x7A),
        [" ", " ", " ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\x0b", "\u200b", "\u1680"],
        [*"0123456789", "\u0663", "\u00bd", "\u2167", "\u0967", "\u4e03", "\U0001d7d9"],
        ["'s", "'S", "'t", "'RE", "'ve", "'Ll", "'d", "'M", "'", "\u2019s", "'\u017f", "'x", "''", "'l"],
        assigned(0xA0, 0x17F),
        assigned(0x370, 0x52F),
        assigned(0x590, 0x6FF),
        assigned(0x900, 0xDFF),
        assigned(0x300, 0x36F),
        assigned(0x3040, 0x30FF),
        assigned(0x4E00, 0x4FFF),
        assigned(0xAC00, 0xACFF),
        assigned(0x1F300, 0x1F6FF),
        ["\u200d", "\ufe0f", "\U0001f3fd", "\U0001f468", "\U0001f469", "\U0001f466", "\U0001f1e9"],
        [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")],
        [*'{}[]()<>=+-*/.,;:!?#@&|^~`$%"\\'],
        ["the ", "Hello", " world", "def ", "return", "\n    ", "http://", "www.", "Fran\u00e7ais", " na\u00efve"],
    ]

    def random_text(source: random.Random) -> str:
        parts = []
        for _ in range(source.randrange(1, 8)):
            pool = source.choice(pools)
            parts.extend(source.choice(pool) for _ in range(source.choice((1, 1, 2, 3, 5, 8, 40))))
        return "".join(parts)

    return random_text


@pytest.fixture(scope="session")
def random_texts() -> list[str]:
    """4,000 texts, always the same ones."""
    source = random.Random(20240)
    random_text = make_random_text()
    return [random_text(source) for _ in range(4000)]


@pytest.fixture(scope="session")
def vocabularies(shared: Path) -> Path:
    return shared / "data" / "vocabularies"
