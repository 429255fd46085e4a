"""Vocabularies for the tokenizer tests: GGUF files written by the `gguf` package, Hugging Face tokenizers, texts."""

from __future__ import annotations

import json
import mmap
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

CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
)
GPT4O = CASED + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES
TEKKEN = GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
KIMI = r"[\p{Han}]+|" + GPT4O.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace("/", "")
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*" + SPACES
)
SPARK = DEEPSEEK3.replace(r"[\p{P}\p{S}]+[\r\n]*", r"[\p{P}\p{S}]+").replace(r"|\s*[\r\n]+", r"|[\r\n]")
JAIS2 = (
    LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
    + "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
    + r"|\s{1}"
)
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
EXAONE_MOE = (
    CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
# DeepSeek LLM's letters: those of scripts that have capitals.
CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
UNMARKED = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
CHINESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
YOUTU = "[\uac00-\ud7a3\u3131-\u318e]+|"
YOUTU += "[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
YOUTU += "|[\u3105-\u312f]+|" + CHINESE
ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    "\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)

PATTERNS = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "chameleon": [
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        GPT2.removesuffix(r"|\s+"),
    ],
    "llama-bpe": [LLAMA3],
    "smaug-bpe": [LLAMA3],
    "glm4": [LLAMA3],
    "jais-2": [JAIS2],
    "qwen2": [QWEN2],
    "qwen35": [QWEN35],
    "bailingmoe": [BAILING],
    "ufakzeka": [QWEN2.removeprefix(CONTRACTIONS)],
    "laguna": [r"[^\n]+|[\n]+", QWEN2],
    "seed-coder": [SEED_CODER],
    "gpt-2": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "minicpm5": [r"\p{N}{1,3}", MINICPM5],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "gpt-4o": [GPT4O],
    "granite-embed-multi-97m": [GPT4O],
    "tekken": [TEKKEN],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
    "youtu": [YOUTU, GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")],
    "kimi-k2": [KIMI],
    "deepseek-v3": [r"\p{N}{1,3}", CHINESE, DEEPSEEK3],
    "spark2_5": [r"\p{N}{1,3}", CHINESE, SPARK, r"\p{N}"],
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", ASIAN, DEEPSEEK3],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"],
    "deepseek-llm": [
        r"[\r\n]",
        rf"\s?[{CASED_LETTERS}]+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        EAST_ASIAN,
        r"\p{N}+",
    ],
    "exaone-moe": [EXAONE_MOE],
    "bloom": [UNMARKED],
    "viking": [UNMARKED, r"\p{N}"],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
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
        """Each keyword but chat_template and model_name is a key below `tokenizer.ggml.`; None leaves it out."""
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
            elif name == "model_name":
                writer.add_string("general.name", value)
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
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
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
