"""SPM: merging by score, bytes for characters without a token, spaces."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from sentencepiece_files import BYTE_FALLBACK, sentencepiece_model

from frspec_cpp import Tokenizer

from .conftest import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, VocabularyWriter, read_metadata

SPACE = "\u2581"


class Reference:
    """SentencePiece's BPE as its definition reads: look at all neighbours, merge the best, begin again."""

    def __init__(self, path: Path) -> None:
        metadata = read_metadata(path)
        tokens, scores, types = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
        self.ids = {text: i for i, text in enumerate(tokens)}
        self.scores = {text: scores[i] for i, text in enumerate(tokens) if types[i] == NORMAL}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without BOS."""
        pieces = list((" " + text).replace(" ", SPACE))
        while True:
            pairs = [left + right for left, right in itertools.pairwise(pieces)]
            best = max(
                (i for i in range(len(pairs)) if pairs[i] in self.scores),
                key=lambda i: (self.scores[pairs[i]], -i),
                default=None,
            )
            if best is None:
                break
            pieces[best : best + 2] = [pairs[best]]
        ids = []
        for piece in pieces:
            if piece in self.scores:
                ids.append(self.ids[piece])
            else:
                ids.extend(self.ids[f"<0x{byte:02X}>"] for byte in piece.encode())
        return ids


def test_llama_2(vocabularies: Path, random_texts: list[str]) -> None:
    path = vocabularies / "llama-spm.gguf"
    tokenizer, reference = Tokenizer(path), Reference(path)
    for text in random_texts[:1500]:
        ids = tokenizer.encode(text, add_special=False)
        assert ids == reference.encode(text), repr(text)
        assert tokenizer.encode(text) == [1, *ids]
        if SPACE not in text:
            assert tokenizer.decode(ids) == tokenizer.decode([1, *ids]) == text


def test_gemma_3(real_model: Callable[[str], Path], random_texts: list[str]) -> None:
    """Beside SentencePiece itself: 262,144 tokens, runs of spaces and of newlines and HTML among them."""
    path = real_model("gemma-3-270m.q4_k_m.gguf")
    metadata = read_metadata(path)
    tokens, scores, types = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    # GGUF writes the spaces of those that its users defined as they are.
    pieces = zip((token.replace(" ", SPACE) for token in tokens), scores, types, strict=True)
    reference = SentencePieceProcessor(model_proto=sentencepiece_model(pieces, trainer=BYTE_FALLBACK))
    tokenizer = Tokenizer(path)
    assert tokenizer.size == reference.vocab_size() == 262144
    marked = ["<b>bold</b>", "a\n\n\nb", "  x" + 40 * " ", "\t\t", "[multimodal]", "\u2581a"]
    for text in [*marked, *random_texts[:2500]]:
        ids = tokenizer.encode(text, add_special=False)
        assert ids == reference.encode(text), repr(text)
        assert tokenizer.encode(text) == [2, *ids]
        if SPACE not in text:
            assert tokenizer.decode(ids) == text


def random_vocabulary(source: random.Random, write: VocabularyWriter) -> Path:
    """Few letters and few different scores, so that ties and rivals are everywhere."""
    words = {"a", "b"}
    while len(words) < 40:
        words.add("".join(source.choice("ab\u00e9" + SPACE) for _ in range(source.randrange(1, 6))))
    tokens = ["<unk>", *sorted(words), *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN, *[NORMAL] * len(words), *[BYTE] * 256]
    scores = [float(source.randrange(4)) for _ in tokens]
    return write("llama", tokens, scores=scores, token_type=types, add_bos_token=False)


def test_random_vocabularies(write: VocabularyWriter) -> None:
    source = random.Random(7)
    for _ in range(30):
        path = random_vocabulary(source, write)
        tokenizer, reference = Tokenizer(path), Reference(path)
        for _ in range(60):
            length = source.choice((1, 5, 20, 150))
            text = "".join(source.choice("ab \u00e9c") for _ in range(length))
            assert tokenizer.encode(text) == reference.encode(text), repr(text)


def spm_tokens() -> tuple[list[str], list[int]]:
    """A small vocabulary without bytes."""
    tokens = ["<unk>", "<s>", "</s>", SPACE, "a", "b", "ab", SPACE + "a", "<x>", "zz"]
    return tokens, [UNKNOWN, CONTROL, CONTROL, *[NORMAL] * 5, USER_DEFINED, UNUSED]


def test_unknown_characters_without_byte_tokens(write: VocabularyWriter) -> None:
    tokens, types = spm_tokens()
    path = write("llama", tokens, scores=[0.0] * len(tokens), token_type=types)
    tokenizer = Tokenizer(path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("a\u00e9\u00e8b\u00e9") == [1, 7, 0, 5, 0]
    assert tokenizer.encode("zz", add_special=False) == [3, 0]  # unused tokens never come out
    without = write("llama", tokens[1:], scores=[0.0] * 9, token_type=types[1:], bos_token_id=0)
    with pytest.raises(ValueError, match=r"no token for .*unknown"):
        Tokenizer(without).encode("\u00e9")


def test_spaces_around_special_tokens(write: VocabularyWriter) -> None:
    tokens, types = spm_tokens()
    tokenizer = Tokenizer(write("llama", tokens, scores=[0.0] * len(tokens), token_type=types))
    # Every piece of text gets a space before it, as at the beginning.
    assert tokenizer.encode("a<x>a", add_special=False) == [7, 8, 7]
    assert tokenizer.encode("<s>a</s>b", add_special=False, parse_special=True) == [1, 7, 2, 3, 5]
    assert tokenizer.encode(f"a{SPACE}a a", add_special=False) == [7, 7, 7]
    assert tokenizer.encode("", add_special=True) == [1]
    assert tokenizer.decode([1, 7, 8, 7, 2]) == "a<x> a"
    assert tokenizer.decode([1, 7], special=True) == "<s> a"
    assert tokenizer.token_bytes(7) == b" a"

    bare = Tokenizer(write("llama", tokens, scores=[0.0] * len(tokens), token_type=types, add_space_prefix=False))
    assert bare.encode("a a", add_special=False) == [4, 7]
    assert bare.decode([7]) == " a"


def test_long_texts_take_no_quadratic_time(vocabularies: Path, write: VocabularyWriter) -> None:
    tokenizer = Tokenizer(vocabularies / "llama-spm.gguf")
    for text in ("a" * 1_000_000, " " * 1_000_000, "\u00e9" * 500_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text
