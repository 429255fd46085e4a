"""Many texts at once, by several threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from frspec_cpp import Tokenizer

from .conftest import CONTROL, VocabularyWriter


@pytest.fixture
def tokenizer(write: VocabularyWriter) -> Tokenizer:
    words = [" the", "Hello", " world", " caf\u00e9", "\u4e2d\u6587", "123"]
    path, tokens = write.bpe(words, {"<s>": CONTROL}, add_bos_token=True, bos_token_id=256)
    assert len(tokens) > 256
    return Tokenizer(path)


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_batches_equal_single_texts(tokenizer: Tokenizer, random_texts: list[str], threads: int) -> None:
    batch = tokenizer.encode_batch(random_texts, threads=threads)
    assert all(ids.dtype == np.int32 for ids in batch)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in random_texts]

    counts = np.ones(len(tokenizer), np.int64)
    total = tokenizer.count(random_texts, counts, threads=threads)
    expected = np.ones(len(tokenizer), np.int64)
    for text in random_texts:
        ids = tokenizer.encode(text, add_special=False)
        np.add.at(expected, ids, 1)
        total -= len(ids)
    assert total == 0
    np.testing.assert_array_equal(counts, expected)


def test_texts_may_come_from_any_iterable(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode_batch((text for text in ("Hello", b" world")), add_special=False)
    assert [tokenizer.decode(ids) for ids in batch] == ["Hello", " world"]
    assert tokenizer.encode_batch([]) == []


def test_counts_must_be_countable(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=f"counts: found 3 elements, expected {len(tokenizer)}"):
        tokenizer.count(["a"], np.zeros(3, np.int64))
    for wrong in (np.zeros(len(tokenizer), np.int32), np.zeros(2 * len(tokenizer), np.int64)[::2]):
        with pytest.raises(TypeError):
            tokenizer.count(["a"], wrong)
    frozen = np.zeros(len(tokenizer), np.int64)
    frozen.flags.writeable = False
    with pytest.raises(TypeError):
        tokenizer.count(["a"], frozen)
    with pytest.raises(ValueError, match="threads: found -1"):
        tokenizer.count(["a"], np.zeros(len(tokenizer), np.int64), threads=-1)


def test_a_bad_text_changes_no_counts(tokenizer: Tokenizer) -> None:
    counts = np.zeros(len(tokenizer), np.int64)
    with pytest.raises(ValueError, match="byte offset 2"):
        tokenizer.count([b"fine"] * 100 + [b"ab\xff"], counts)
    with pytest.raises(ValueError, match="surrogates"):
        tokenizer.count(["\ud800"], counts)
    with pytest.raises(TypeError):
        tokenizer.count(["a", 5], counts)
    assert counts.sum() == 0


def test_one_tokenizer_serves_many_threads(tokenizer: Tokenizer, write: VocabularyWriter) -> None:
    # Threads take turns between two vocabularies, whose words share the cache of each thread.
    other = Tokenizer(write.bpe(["He", "llo", " wor"])[0])
    texts = ["Hello world caf\u00e9 " * 3, "123 the \u4e2d\u6587" * 5, "Hello"] * 20
    expected = [(tokenizer.encode(text), other.encode(text)) for text in texts]
    assert expected[2][0] != expected[2][1]
    failures: list[str] = []

    def work() -> None:
        for _ in range(50):
            for text, ids in zip(texts, expected, strict=True):
                if (tokenizer.encode(text), other.encode(text)) != ids:
                    failures.append(text)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
