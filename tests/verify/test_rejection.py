"""Rejection sampling and block verification: exact in distribution, by chi-square and total variation.

The same statistics must find a verification that is biased on purpose; a reference of it in numpy has the usual
mistakes built in.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.convert import convert
from tiny_pair import make_tiny_pair

from frspec_cpp import LLM, _testing

Array = npt.NDArray[np.float64]

VOCAB = 5
TRIALS = 200_000  # a bias of 1 % of the probability moves chi-square by 80 or more
OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def softmax(logits: npt.NDArray[Any]) -> Array:
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def tables(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Logits after each token, of a target and of a drafter that is like it."""
    random = np.random.default_rng(seed)
    target = 1.2 * random.standard_normal((VOCAB, VOCAB))
    drafter = target + 0.8 * random.standard_normal((VOCAB, VOCAB))
    return target.astype(np.float32), drafter.astype(np.float32)


def text_probabilities(p: Array, length: int) -> Array:
    """Of every text of `length` tokens behind token 0."""
    result = p[0]
    for _ in range(length - 1):
        result = (result.reshape(-1, VOCAB, 1) * p[np.newaxis]).reshape(-1)
    return result


def deviation(counts: npt.NDArray[Any], probabilities: Array) -> tuple[float, float]:
    """Chi-square in standard deviations from its mean, and the total variation; rare outcomes are taken together."""
    total = counts.sum()
    assert counts[probabilities == 0].sum() == 0, "an impossible text"
    expected = probabilities * total
    common = expected >= 10
    found = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    chi_square = ((found - wanted) ** 2 / wanted).sum()
    degrees = len(wanted) - 1
    return float((chi_square - degrees) / np.sqrt(2 * degrees)), float(np.abs(found - wanted).sum() / total / 2)


def processed(logits: npt.NDArray[np.float32], options: dict[str, Any]) -> Array:
    return softmax(_testing.ops.process(logits, [], "cpu", **options))


# Each width with both ways to verify; the chain of samplers comes before either.
@pytest.mark.parametrize(
    ("block", "width", "options"),
    [
        (False, 1, {}),
        (True, 1, {"min_p": 0.2}),
        (False, 2, {"top_p": 0.8}),
        (True, 2, {"temperature": 0.6}),
        (False, 5, {"top_k": 3, "temperature": 1.4}),
        (True, 5, {}),
    ],
    ids=str,
)
def test_the_distribution_is_the_targets(block: bool, width: int, options: dict[str, Any]) -> None:
    options = {**OFF, **options}
    target, drafter = tables(width)
    counts = _testing.ops.simulate_rejection(target, drafter, 3, 3, width, TRIALS, block, **options)
    sigmas, variation = deviation(counts, text_probabilities(processed(target, options), 3))
    assert abs(sigmas) < 5, (sigmas, variation)
    assert variation < 0.012


@pytest.mark.parametrize(("block", "drafts"), [(False, 1), (False, 6), (True, 2), (True, 6)])
def test_any_number_of_drafts(block: bool, drafts: int) -> None:
    target, drafter = tables(7)
    counts = _testing.ops.simulate_rejection(target, drafter, 4, drafts, 4, TRIALS // 2, block, **OFF)
    sigmas, variation = deviation(counts, text_probabilities(softmax(target), 4))
    assert abs(sigmas) < 5, (sigmas, variation)


def test_at_temperature_0_the_text_is_the_greedy_one() -> None:
    target, drafter = tables(3)
    greedy = [0]
    for _ in range(4):
        greedy.append(int(target[greedy[-1]].argmax()))
    for block in (False, True):
        counts = _testing.ops.simulate_rejection(target, drafter, 4, 3, 2, 50, block, **{**OFF, "temperature": 0.0})
        assert np.flatnonzero(counts).tolist() == [np.ravel_multi_index(greedy[1:], (VOCAB,) * 4)]


def draw(probabilities: Array, random: np.random.Generator) -> int:
    """As random.choice draws, in a fifth of its time."""
    sums = probabilities.cumsum()
    return int(sums.searchsorted(random.random() * sums[-1], side="right"))


def reference(p: Array, q: Array, drafts: int, length: int, random: np.random.Generator, mistake: str) -> list[int]:
    """A text by rejection sampling, with a mistake or none. The drafter draws from its two best tokens."""
    text = [0]
    while len(text) <= length:
        last = text[-1]
        for _ in range(drafts):
            best = np.argsort(-q[last])[:2]
            kept = q[last][best] / q[last][best].sum()
            at = draw(kept, random)
            token, share = int(best[at]), kept[at]
            if mistake == "not renormalised":
                share = q[last][token]
            if random.random() * share < p[last][token]:
                text.append(token)
                last = token
                continue
            residual = p[last].copy()
            # The second mistake: the sparse probabilities are taken away where they stand in their list.
            np.subtract.at(residual, np.arange(2) if mistake == "by index" else best, kept)
            residual = np.maximum(residual, 0)
            text.append(draw(residual, random))
            break
        else:
            text.append(draw(p[last], random))
    return text[1 : length + 1]


@pytest.mark.parametrize("mistake", ["none", "not renormalised", "by index"])
def test_mistakes_are_found(mistake: str) -> None:
    """The statistics above, on a tenth of the trials."""
    target, drafter = tables(2)
    p, q = softmax(target), softmax(drafter)
    random = np.random.default_rng(0)
    counts = np.zeros(VOCAB**2, dtype=np.int64)
    for _ in range(TRIALS // 10):
        text = reference(p, q, 2, 2, random, mistake)
        counts[text[0] * VOCAB + text[1]] += 1
    sigmas, variation = deviation(counts, text_probabilities(p, 2))
    if mistake == "none":
        assert abs(sigmas) < 5
    else:
        assert sigmas > 20, (mistake, sigmas, variation)


def exact_texts(llm: LLM, prompt: list[int], length: int, options: dict[str, Any]) -> dict[tuple[int, ...], float]:
    """Every text behind a prompt and its probability, from logits alone."""
    texts: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer = {}
        for text, probability in texts.items():
            tokens = [*prompt, *text]
            row = processed(llm.forward(tokens)[-1:], options)[0]
            longer |= {(*text, int(token)): probability * row[token] for token in np.flatnonzero(row)}
        texts = longer
    return texts


def check_drafter(llm: LLM, prompt: list[int], verify: str, trials: int = 1600) -> None:
    """Either way to verify asks the same of a drafter: the probabilities that it drew from."""
    options = {**OFF, "temperature": 1.3, "top_k": 3}
    exact = exact_texts(llm, prompt, 4, options)
    keys = list(exact)
    found: Counter[tuple[int, ...]] = Counter()
    steps = 0
    for seed in range(trials):
        text = llm.generate(prompt, 4, seed=seed, verify=verify, draft=True, ignore_eos=True, **options)
        found[tuple(text.tokens)] += 1
        steps += text.stats.steps
    assert not found.keys() - exact.keys(), "an impossible text"
    sigmas, variation = deviation(np.array([found[key] for key in keys]), np.array(list(exact.values())))
    assert abs(sigmas) < 5, (sigmas, variation)
    assert steps < 2.999 * trials, "no draft was accepted"


CHAIN: dict[str, Any] = {"tree_branch": 1, "tree_depth": 2, "tree_size": 16, "n_ctx": 64, "n_threads": 1}


@pytest.mark.parametrize(
    ("drafter", "options", "verify", "trials"),
    [
        ("llama2xs-279K", {}, "rejection", 1600),
        ("TinyStories-656K", {"translate": "tli"}, "block", 1300),
        ("TinyStories-656K", {"translate": "slem"}, "rejection", 1300),
        ("babyllama105-936K", {"translate": "slrs"}, "block", 500),  # character by character takes long
        (None, {"ngram": 3}, "block", 1600),
    ],
    ids=str,
)
def test_drafters_are_exact(
    shared: Path, tmp_path: Path, drafter: str | None, options: dict[str, Any], verify: str, trials: int
) -> None:
    paths = {}
    for name in ("stories260K", drafter):
        if name is not None:
            paths[name] = tmp_path / f"{name}.gguf"
            convert(shared / "data/models" / name, paths[name], "f32", quiet=True)
    llm = LLM(paths["stories260K"], drafter=None if drafter is None else paths[drafter], **CHAIN, **options)
    # N-grams need a text that repeats itself; for the others a short one is as good.
    prompt = "One day, there" if drafter else "Once upon a time, there was a little girl. One day, there"
    check_drafter(llm, llm.tokenize(prompt), verify, trials)


@pytest.mark.parametrize(("head", "verify"), [("full", "block"), ("ranked:100", "rejection")])
def test_eagle_heads_are_exact(tmp_path: Path, head: str, verify: str) -> None:
    pair = make_tiny_pair(tmp_path)
    from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
    from frspec_cpp.tools.ranks_file import Ranks, write_ranks
    from gguf_edit import GgufEditor

    ranks: dict[str, Any] = {}
    if head != "full":
        tokens = GgufEditor(pair.target_gguf).entries["tokenizer.ggml.tokens"].value
        order = np.arange(2, 400, dtype=np.int32)
        write_ranks(tmp_path / "ranks.gguf", Ranks(order, 400, vocabulary_fingerprint(tokens)))
        ranks["ranks"] = tmp_path / "ranks.gguf"
    check_drafter(LLM(pair.target_gguf, drafter=pair.drafter_gguf, head=head, **ranks, **CHAIN), [5, 6, 7], verify)


def test_reduced_heads_are_exact(tmp_path: Path) -> None:
    """EAGLE-3, whose head lacks half of the tokens: those are drawn by rejection alone."""
    pair = make_tiny_eagle3(tmp_path, head_ids=list(range(399, -1, -2)))
    check_drafter(LLM(pair.target_gguf, drafter=pair.drafter_gguf, **CHAIN), [5, 6, 7], "block")


def test_a_seed_gives_one_text(demo_target: Path, demo_drafter: Path) -> None:
    """Whatever the clock says: with rejection sampling drafting does not pause."""
    llm = LLM(demo_target, drafter=demo_drafter, tree_branch=1, tree_depth=2)
    for verify in ("rejection", "block"):
        texts = {
            tuple(llm.generate("def", 50, verify=verify, temperature=1.0, seed=7, ignore_eos=True).tokens)
            for _ in range(2)
        }
        assert len(texts) == 1


def test_refused(demo_target: Path, demo_drafter: Path) -> None:
    auto = LLM(demo_target, drafter=demo_drafter)
    with pytest.raises(ValueError, match="found tree 'auto', expected a fixed tree of branch 1"):
        auto.generate("x", verify="rejection")
    tree = LLM(demo_target, drafter=demo_drafter, tree="3,10,30")
    with pytest.raises(ValueError, match="found tree_branch 10, expected a fixed tree of branch 1"):
        tree.generate("x", verify="rejection")
    with pytest.raises(ValueError, match='verify: found "classical", expected keyed, rejection or block'):
        tree.generate("x", verify="classical")  # type: ignore[arg-type]
    both = LLM(demo_target, drafter=demo_drafter, ngram=3, tree_branch=1)
    with pytest.raises(ValueError, match="n-grams beside a drafter"):
        both.generate("x", verify="block")
    chain = LLM(demo_target, drafter=demo_drafter, tree_branch=1)
    with pytest.raises(ValueError, match="logits processor"):
        chain.generate("x", verify="block", logits_processor=lambda *_: None)
    deep = LLM(demo_target, drafter=demo_drafter, tree_branch=1, tree_depth=64, tree_size=10)
    with pytest.raises(ValueError, match="a smaller tree_depth"):
        deep.generate("x", verify="block")
