"""The test vectors that come with the shared vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest

from frspec_cpp import Tokenizer

NAMES = ["gpt-2", "llama-bpe", "qwen2", "llama-spm"]


@pytest.mark.parametrize("name", NAMES)
def test_vectors(vocabularies: Path, name: str) -> None:
    path = vocabularies / f"{name}.gguf"
    with Path(f"{path}.inp").open(encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    expected = [
        [int(number) for number in line.split()] for line in Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    ][: len(texts)]
    tokenizer = Tokenizer(path)
    assert len(texts) == len(expected) >= 40
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.encode(text.encode(), add_special=False) == ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("name", "size", "model", "pre", "bos", "eos", "adds_bos", "ends"),
    [
        ("gpt-2", 50257, "gpt2", "gpt-2", 50256, 50256, False, {"<|endoftext|>"}),
        ("llama-bpe", 128256, "gpt2", "llama-bpe", 128000, 128001, True, {"<|end_of_text|>", "<|eot_id|>"}),
        ("qwen2", 151936, "gpt2", "qwen2", 151643, 151643, False, {"<|endoftext|>", "<|im_end|>"}),
        ("llama-spm", 32000, "llama", "", 1, 2, True, {"</s>"}),
    ],
)
def test_properties(
    vocabularies: Path,
    name: str,
    size: int,
    model: str,
    pre: str,
    bos: int,
    eos: int,
    adds_bos: bool,
    ends: set[str],
) -> None:
    tokenizer = Tokenizer(vocabularies / f"{name}.gguf")
    assert len(tokenizer) == tokenizer.size == tokenizer.vocab_size == size
    assert (tokenizer.model, tokenizer.pre) == (model, pre)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (bos, eos, adds_bos)
    assert {tokenizer.token_text(i) for i in range(size) if tokenizer.is_eog(i)} == ends
    assert tokenizer.encode("")[:1] == ([bos] if adds_bos else [])
    assert (tokenizer.chat_template is not None) == (name == "qwen2")
    for i in range(0, size, 997):
        assert tokenizer.find(tokenizer.token_text(i)) == i
