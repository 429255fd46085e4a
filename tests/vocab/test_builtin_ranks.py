"""Ranks that no file brings: the library's own, by the vocabulary's ordinary tokens, and the vocabulary's order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frspec_cpp.tools.fingerprint import fnv1a64, vocabulary_fingerprint
from frspec_cpp.tools.ranks_file import Ranks, write_ranks
from gguf_edit import GgufEditor
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import _core, _testing

NAMES = ["gpt-2", "llama-spm", "llama-bpe", "qwen2"]
TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
NORMAL, CONTROL, UNUSED = 1, 3, 5


@pytest.fixture(scope="module")
def vocabularies(shared: Path) -> dict[str, _core.Tokenizer]:
    return {name: _core.Tokenizer(str(shared / "data/vocabularies" / f"{name}.gguf")) for name in NAMES}


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    """Questions that the ranks were not counted on."""
    lines = (shared / "data/prompts/spec_bench.jsonl").read_text().splitlines()
    return [turn for line in lines[::4] for turn in json.loads(line)["turns"]]


def share(tokenizer: _core.Tokenizer, texts: list[str], rows: list[int]) -> float:
    """Of the texts' tokens, those that are among `rows`."""
    counts = np.zeros(tokenizer.size, dtype=np.int64)
    tokenizer.count(texts, counts, threads=1)
    return float(counts[rows].sum() / counts.sum())


@pytest.mark.parametrize("name", NAMES)
def test_widespread_vocabularies(name: str, vocabularies: dict[str, _core.Tokenizer], texts: list[str]) -> None:
    tokenizer = vocabularies[name]
    source, ids = _testing.builtin_ranks(tokenizer)
    assert source == "built-in"
    assert sorted([*ids, *tokenizer.control_ids()]) == list(range(tokenizer.size))
    characters = [token for token in range(tokenizer.size) if len(tokenizer.token_bytes(token)) == 1]
    by_id = [*characters, *np.setdiff1d(np.arange(tokenizer.size), characters)]
    assert share(tokenizer, texts, ids[:2048]) > share(tokenizer, texts, by_id[:2048]) + 0.02
    assert share(tokenizer, texts, ids[:2048]) < 1.0  # there was something to miss


def test_the_fingerprint(shared: Path, vocabularies: dict[str, _core.Tokenizer]) -> None:
    """As its description says, from what the gguf package reads."""
    entries = GgufEditor(shared / "data/vocabularies/llama-spm.gguf").entries
    ordinary = [
        f"{token} {text}\0".encode()
        for token, (text, kind) in enumerate(zip(entries[TOKENS].value, entries[TYPES].value, strict=True))
        if kind == NORMAL and (text[0], text[-1]) not in {("<", ">"), ("[", "]")}
    ]
    assert _testing.ordinary_fingerprint(vocabularies["llama-spm"]) == f"{fnv1a64(ordinary):016x}"


@pytest.fixture(scope="module")
def llama(shared: Path) -> GgufEditor:
    return GgufEditor(shared / "data/vocabularies/llama-spm.gguf")


def changed(llama: GgufEditor, path: Path, tokens: dict[int, str], types: dict[int, int], pad: int = 0) -> Any:
    """The vocabulary with other texts and types of some tokens, and padding behind; its tokenizer."""
    before = {key: llama.entries[key].value for key in (TOKENS, TYPES, "tokenizer.ggml.scores")}
    for key, news in ((TOKENS, tokens), (TYPES, types)):
        values = list(before[key])
        for token, value in news.items():
            values[token] = value
        llama.entries[key].value = values
    llama.entries[TOKENS].value += [f"[PAD{token}]" for token in range(pad)]
    llama.entries[TYPES].value += [UNUSED] * pad
    llama.entries["tokenizer.ggml.scores"].value = [*before["tokenizer.ggml.scores"], *[0.0] * pad]
    try:
        return _core.Tokenizer(str(llama.write(path)))
    finally:
        for key, value in before.items():
            llama.entries[key].value = value


def test_what_fine_tunes_change(
    llama: GgufEditor, vocabularies: dict[str, _core.Tokenizer], tmp_path: Path, texts: list[str]
) -> None:
    """Special tokens of another name and padding leave the ranks; another ordinary token is another vocabulary."""
    _, expected = _testing.builtin_ranks(vocabularies["llama-spm"])
    renamed = changed(llama, tmp_path / "renamed.gguf", {2: "<|im_end|>"}, {}, pad=64)
    source, ids = _testing.builtin_ranks(renamed)
    assert (source, ids[: len(expected)]) == ("built-in", expected)
    assert sorted(ids[len(expected) :]) == list(range(32000, 32064))
    other = changed(llama, tmp_path / "other.gguf", {263: "▁eingeht"}, {})
    source, ids = _testing.builtin_ranks(other)
    assert source == "scores"
    assert sorted([*ids, *other.control_ids()]) == list(range(other.size))
    # Characters stand before what is built of them, although their scores are the least.
    assert share(other, texts, ids[:8192]) > 0.8
    scores = llama.entries["tokenizer.ggml.scores"].value
    built = [token for token in ids if len(other.token_bytes(token)) > 1 and other.token_type(token).value == NORMAL]
    assert [scores[token] for token in built] == sorted((scores[token] for token in built), reverse=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"))


def drafted(pair: TinyPair, **options: Any) -> tuple[set[int], str]:
    """Tokens that were drafted and accepted, and where the ranks came from."""
    shape = {"head": "full", "tree_depth": 3, "tree_branch": 5, "tree_size": 20}
    engine = _core.Engine(str(pair.target_gguf), **{"drafter": str(pair.drafter_gguf), **shape, **options})
    tokens: set[int] = set()
    for first in range(2, 60):
        text = engine.begin([first, first + 1], max_tokens=24, ignore_eos=True, draft="always")
        while text.finish_reason is None:
            tokens |= {token for token, was_drafted, _ in text.step() if was_drafted}
    return tokens, text.stats.ranks


def test_ranks_without_a_file(pair: TinyPair, tmp_path: Path) -> None:
    """A file that is given goes before the drafter's, that before the vocabulary's own order."""
    tokenizer = _core.Tokenizer(str(pair.target_gguf))
    source, ids = _testing.builtin_ranks(tokenizer)
    assert source in ("merges", "scores")
    tokens, found = drafted(pair, head="ranked:100")
    assert found == source
    assert tokens
    assert tokens <= {*tokenizer.control_ids(), *ids[:98]}
    with_ranks = GgufEditor(pair.drafter_gguf)
    with_ranks.set_ints("token_ranks", np.array(ids[::-1], dtype=np.int32))
    inside = TinyPair(pair.target, pair.drafter, pair.target_gguf, with_ranks.write(tmp_path / "inside.gguf"))
    tokens, found = drafted(inside, head="ranked:100")
    assert found == "drafter"
    assert tokens <= {*tokenizer.control_ids(), *ids[-98:]}
    texts = GgufEditor(pair.target_gguf).entries[TOKENS].value
    given = tmp_path / "given.gguf"
    write_ranks(given, Ranks(np.array(ids[100:], dtype=np.int32), tokenizer.size, vocabulary_fingerprint(texts)))
    tokens, found = drafted(inside, head="ranked:100", ranks=str(given))
    assert found == "file"
    assert tokens <= {*tokenizer.control_ids(), *ids[100:198]}
    assert drafted(pair, head="ranked:100", adapt=str(tmp_path / "mine.gguf"))[1] == "adapted"
    assert drafted(pair, head="full")[1] == ""


def test_control_tokens_that_wait_for_a_meaning(pair: TinyPair, tmp_path: Path) -> None:
    """Numbered control tokens that end nothing (Gemma has 6,242) do not fill a small head; others are always there."""
    target = GgufEditor(pair.target_gguf)
    kinds, tokens = target.entries[TYPES].value, target.entries[TOKENS].value
    for token in range(100, 300):
        kinds[token], tokens[token] = CONTROL, f"<unused{token}>"
    kinds[300], tokens[300] = CONTROL, "<|im_start|>"
    merges = target.entries["tokenizer.ggml.merges"]
    merges.value = [m for m in merges.value if {*m.split(" "), m.replace(" ", "")} <= set(tokens)]
    drafter = GgufEditor(pair.drafter_gguf)
    del drafter.entries[TOKENS]  # its vocabulary is the target's, whatever that is now
    spare = TinyPair(
        pair.target, pair.drafter, target.write(tmp_path / "spare.gguf"), drafter.write(tmp_path / "drafter.gguf")
    )
    found, _ = drafted(spare, head="ranked:60")
    assert found
    assert not found & set(range(100, 300))
    everything, _ = drafted(spare, head="ranked:400")
    assert everything & set(range(100, 300)), "the rows of all tokens hold them, too"
    with pytest.raises(ValueError, match=r"ranked:2, expected at least 3 rows: the control tokens"):
        drafted(spare, head="ranked:2")
