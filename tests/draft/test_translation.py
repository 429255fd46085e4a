"""Vocabularies that are aligned, and texts that another tokenizer reads while they grow."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from gguf_edit import GgufEditor

from frspec_cpp import Tokenizer, _core, _testing

NAMES = ["gpt-2", "llama-bpe", "llama-spm", "qwen2"]
TEXTS = [
    "Once upon a time, there was a little girl named Lily. She   loved tabs\tand\n\nnew lines.\r\n",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "Übermut tut selten gut; 猫が好き 🐈‍⬛ — ¿qué? ½ naïve façade Ελληνικά",
    "1234567890 0.5e-7 a1b2 _snake_case_ CamelCase don't we'll IT'S",
]


@pytest.fixture(scope="module")
def tokenizers(shared: Path) -> dict[str, Tokenizer]:
    return {name: Tokenizer(shared / f"data/vocabularies/{name}.gguf") for name in NAMES}


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("drafter", NAMES)
def test_aligned_tokens_spell_the_same(tokenizers: dict[str, Tokenizer], target: str, drafter: str) -> None:
    left, right = tokenizers[target], tokenizers[drafter]
    aligned = _core.align_vocabularies(left, right)
    found = [other for other in aligned if other >= 0]
    assert len(aligned) == left.vocab_size
    assert len(set(found)) == len(found), "no two tokens are aligned with the same one"
    roles = {(left.bos_id, right.bos_id), (left.eos_id, right.eos_id)}
    for token, other in enumerate(aligned):
        if other >= 0 and (token, other) not in roles:
            assert left.token_bytes(token) == right.token_bytes(other)
    if target == drafter:
        assert len(found) > 0.99 * left.vocab_size
        assert all(other in (token, -1) for token, other in enumerate(aligned))
    # Every byte and every common word is there.
    by_bytes = {right.token_bytes(token): token for token in range(right.vocab_size)}
    for word in (b" the", b" time", b"e", b"\n", b"0"):
        assert any(left.token_bytes(i) == word and aligned[i] >= 0 for i in range(left.vocab_size)), word
        assert word in by_bytes
    if left.eos_id is not None and right.eos_id is not None:
        assert aligned[left.eos_id] == right.eos_id


def in_pieces(ids: list[int], seed: int) -> list[list[int]]:
    shuffle, pieces = random.Random(seed), []
    while ids:
        size = shuffle.choice([1, 1, 2, 3, 7])
        pieces.append(ids[:size])
        ids = ids[size:]
    return pieces


def test_models_that_end_texts_with_different_tokens_of_one_vocabulary(shared: Path, tmp_path: Path) -> None:
    """A base model and its chat version: the same ids, another end of text."""
    path = shared / "data/vocabularies/llama-bpe.gguf"
    edited = GgufEditor(path)
    base = Tokenizer(path)
    other = base.find("<|eot_id|>")
    assert other is not None
    edited.set("tokenizer.ggml.eos_token_id", other)
    chat = Tokenizer(edited.write(tmp_path / "chat.gguf"))
    assert chat.eos_id != base.eos_id
    assert _core.align_vocabularies(base, chat) == list(range(base.vocab_size))


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("drafter", NAMES)
def test_a_growing_text_reads_as_the_other_tokenizer_has_it(
    tokenizers: dict[str, Tokenizer], target: str, drafter: str
) -> None:
    left, right = tokenizers[target], tokenizers[drafter]
    same = total = 0
    for seed, text in enumerate(TEXTS * 2):
        ids = list(left.encode(text))
        before = [right.bos_id] if right.adds_bos else []
        for kept, tokens in _testing.retokenize(left, right, in_pieces(ids, seed)):
            assert tokens[:kept] == before[:kept], "what was kept is what was there"
            before = tokens
        assert right.decode(before) == text
        canonical = list(right.encode(text))
        total += len(canonical)
        same += len(canonical) if before == canonical else sum(a == b for a, b in zip(before, canonical, strict=False))
    # A word longer than the window may be cut otherwise; what is common is not.
    assert same >= 0.98 * total


def test_what_is_kept_is_most_of_a_long_text(tokenizers: dict[str, Tokenizer]) -> None:
    """The drafter's cache stays: a new token changes the end only."""
    left, right = tokenizers["llama-spm"], tokenizers["qwen2"]
    ids = list(left.encode(" ".join(TEXTS[:2] * 10)))
    results = _testing.retokenize(left, right, [[token] for token in ids])
    for (_, before), (kept, _) in itertools.pairwise(results):
        assert kept >= len(before) - 12


def test_control_tokens_are_translated_by_role_and_cut_the_text(tokenizers: dict[str, Tokenizer]) -> None:
    left, right = tokenizers["llama-spm"], tokenizers["llama-bpe"]
    assert left.bos_id is not None
    assert left.eos_id is not None
    pieces = [[left.bos_id, *left.encode("Hello world", False)], [left.eos_id], list(left.encode("again", False))]
    tokens = _testing.retokenize(left, right, pieces)[-1][1]
    hello, again = list(right.encode("Hello world", False)), list(right.encode("again", False))
    assert tokens[: len(hello) + 2] == [right.bos_id, *hello, right.eos_id]
    assert right.decode(tokens[len(hello) + 2 :]).strip() == "again"
    assert len(tokens) <= len(hello) + 2 + len(again) + 1


def test_bytes_that_are_no_whole_character_are_held_back(tokenizers: dict[str, Tokenizer]) -> None:
    left, right = tokenizers["llama-spm"], tokenizers["gpt-2"]
    ids = list(left.encode("a 🐈‍⬛ b"))
    results = _testing.retokenize(left, right, [[token] for token in ids])
    for _, tokens in results:
        right.decode(tokens).encode()  # whole characters only
        assert "\ufffd" not in right.decode(tokens)
    assert right.decode(results[-1][1]) == "a 🐈‍⬛ b"


def test_bytes_that_can_never_be_text_are_left_out(tokenizers: dict[str, Tokenizer]) -> None:
    left, right = tokenizers["llama-spm"], tokenizers["gpt-2"]
    bad = next(i for i in range(left.vocab_size) if left.token_bytes(i) == b"\xff")
    ids = [*left.encode("good"), bad, *left.encode(" text", False)]
    tokens = _testing.retokenize(left, right, [ids])[-1][1]
    assert right.decode(tokens).replace(" ", "") == "goodtext"
