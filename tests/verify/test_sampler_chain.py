"""The sampler chain, row by row: against Hugging Face's warpers and a plain reading of llama.cpp's samplers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from frspec_cpp import _testing

Row = npt.NDArray[np.float32]

# Everything off: each test switches on what it is about.
OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


def rows(count: int = 40, vocab: int = 700, seed: int = 0) -> Row:
    """Rows that are flat and peaked, without equal values."""
    random = np.random.default_rng(seed)
    spread = random.uniform(0.3, 6.0, (count, 1))
    return (spread * random.standard_normal((count, vocab))).astype(np.float32)


def process(logits: Row, history: list[int] | None = None, **options: Any) -> Row:
    return _testing.ops.process(logits, history or [], "cpu", **{**OFF, **options})


def check_same(found: Row, expected: Row) -> None:
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_allclose(found[~np.isinf(found)], expected[~np.isinf(expected)], rtol=2e-6, atol=1e-6)


def warp(logits: Row, *warpers: Any) -> Row:
    scores = torch.from_numpy(logits.astype(np.float64))
    for warper in warpers:
        scores = warper(torch.zeros((len(logits), 1), dtype=torch.long), scores)
    return scores.numpy().astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 40, 300, 699])
def test_top_k(k: int) -> None:
    check_same(process(rows(), top_k=k), warp(rows(), TopKLogitsWarper(k)))


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_top_p(p: float) -> None:
    check_same(process(rows(), top_p=p), warp(rows(), TopPLogitsWarper(p)))


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 1.0])
def test_min_p(p: float) -> None:
    check_same(process(rows(), min_p=p), warp(rows(), MinPLogitsWarper(p)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_typical_p(p: float) -> None:
    check_same(process(rows(), typical_p=p), warp(rows(), TypicalLogitsWarper(p)))


def test_all_together_in_llama_cpp_order() -> None:
    """Top-k, typical-p, top-p, min-p; the temperature comes last, so it changes no set."""
    options = {"top_k": 60, "typical_p": 0.95, "top_p": 0.9, "min_p": 0.02}
    warpers = [TopKLogitsWarper(60), TypicalLogitsWarper(0.95), TopPLogitsWarper(0.9), MinPLogitsWarper(0.02)]
    expected = warp(rows(), *warpers)
    check_same(process(rows(), **options), expected)
    check_same(process(rows(), **options, temperature=0.5), expected / np.float32(0.5))
    check_same(process(rows(), **options, temperature=1.7), expected / np.float32(1.7))


@pytest.mark.parametrize("k", [2, 30, 0])
def test_dynamic_temperature(k: int) -> None:
    """T - range to T + range, by the entropy over its largest value, to the power of the exponent."""
    found = process(rows(), top_k=k, temperature=0.9, dynatemp_range=0.6, dynatemp_exponent=1.5)
    for row, out in zip(rows(), found, strict=True):
        kept = ~np.isinf(out)
        p = np.exp(row[kept].astype(np.float64) - row.max())
        p /= p.sum()
        share = -(p * np.log(p)).sum() / np.log(kept.sum())
        temperature = 0.3 + 1.2 * share**1.5
        np.testing.assert_allclose(out[kept], row[kept] / temperature, rtol=1e-5)
        assert kept.sum() == (k or row.size)


def test_temperature_zero_keeps_values_and_the_best_token() -> None:
    np.testing.assert_array_equal(process(rows(), temperature=0.0, top_k=5, top_p=0.1, min_p=0.9), rows())
    typical = process(rows(), temperature=0.0, typical_p=0.3)
    check_same(typical, warp(rows(), TypicalLogitsWarper(0.3)))


def test_repeat_penalty_against_hugging_face() -> None:
    history = [3, 5, 5, 699, 0, 3]
    processor = RepetitionPenaltyLogitsProcessor(1.3)
    ids = torch.tensor([history] * 40)
    expected = processor(ids, torch.from_numpy(rows())).numpy()
    check_same(process(rows(), history, repeat_penalty=1.3), expected)


@pytest.mark.parametrize(("last_n", "recent"), [(-1, [9, 4, 4, 7]), (4, [9, 4, 4, 7]), (2, [4, 7]), (1, [7]), (0, [])])
def test_frequency_and_presence_penalties_look_at_the_last_tokens(last_n: int, recent: list[int]) -> None:
    expected = rows()
    for token in set(recent):
        expected[:, token] -= recent.count(token) * 0.25 + 0.5
    found = process(rows(), [9, 4, 4, 7], frequency_penalty=0.25, presence_penalty=0.5, repeat_last_n=last_n)
    check_same(found, expected)


def test_penalties_come_after_the_bias_and_before_top_k() -> None:
    logits = np.array([[1.0, 3.0, 2.0, -1.0]], dtype=np.float32)
    found = process(logits, [1], logit_bias=[(3, 2.75), (0, float("-inf"))], repeat_penalty=2.0, top_k=2)
    check_same(found, np.array([[-np.inf, -np.inf, 2.0, 1.75]], dtype=np.float32))


def test_tokens_are_held_below_a_position() -> None:
    early = process(rows(), [1, 2, 3], stop_token_ids=[6, 8], min_tokens=4, max_tokens=9)
    expected = rows()
    expected[:, [6, 8]] = -np.inf
    check_same(early, expected)
    check_same(process(rows(), [1, 2, 3, 4], stop_token_ids=[6, 8], min_tokens=4, max_tokens=9), rows())


def test_equal_values_keep_the_lower_ids() -> None:
    logits = np.zeros((1, 10), dtype=np.float32)
    kept = [0, 1, 2]
    assert np.flatnonzero(process(logits, top_k=3)[0] == 0).tolist() == kept
    assert np.flatnonzero(process(logits, top_p=0.25)[0] == 0).tolist() == kept


@pytest.mark.every_device  # which draws; chains on a GPU are those of tests/cuda
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_do_no_harm(bad: float) -> None:
    """A model that overflows must be reported, not hidden: nothing is drawn from such a row."""
    logits = rows(4)
    logits[1] = np.nan
    logits[2, 5] = bad
    logits[3] = -np.inf
    for options in ({"top_k": 5}, {"top_p": 0.5}, {"typical_p": 0.5}, {"min_p": 0.5}, {"repeat_penalty": 1.5}):
        found = process(logits, [5], **options)
        tokens = _testing.ops.sample(found, temperature=1.0)
        assert tokens[1] == tokens[3] == -1
        assert tokens[0] == _testing.ops.sample(process(rows(4), [5], **options), temperature=1.0)[0]
