"""Any model drafts for any model, and nothing changes: equality for every drafter, translation and temperature."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.make_random_model import make_random_model
from frspec_cpp.tools.rank import rank
from gguf_edit import GgufEditor

import frspec_cpp
from frspec_cpp import LLM

SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
]
PROMPTS = ["Once upon a time, there was a little girl named Lily.", "Tom and Sam went to the park. They", "The dog"]
MODELS = ["stories260K", "llama2xs-279K", "TinyStories-656K", "babyllama105-936K"]


@pytest.fixture(scope="module")
def small(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small real models as GGUF."""
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        convert(shared / "data/models" / name, folder / f"{name}.gguf", "f32", quiet=True)
    return {name: folder / f"{name}.gguf" for name in MODELS}


# What models write alone, by file, prompt and what else a text depends on: many pairs have the same target.
PLAIN: dict[tuple[str, str], list[int]] = {}


def plain_tokens(llm: LLM, prompt: str, options: dict[str, Any]) -> list[int]:
    key = (llm._path, repr((prompt, options)))
    if key not in PLAIN:
        PLAIN[key] = llm.generate(prompt, draft=False, **options).tokens
    return PLAIN[key]


def accepted_lengths(llm: LLM, prompts: list[str], tokens: int) -> list[float]:
    """Accepted length by sampling; every drafted text must be the plain one.

    Of the samplings in the middle, whose lengths nobody looks at, one prompt is enough.
    """
    lengths = []
    for number, sampling in enumerate(SAMPLINGS):
        steps = given = 0
        for prompt in prompts if number in (0, len(SAMPLINGS) - 1) else prompts[number - 1 :][:1] or prompts[:1]:
            options: dict[str, Any] = {"max_tokens": tokens, "seed": 3, "ignore_eos": True, **sampling}
            drafted = llm.generate(prompt, draft=True, **options)
            assert drafted.tokens == plain_tokens(llm, prompt, options), (sampling, prompt)
            steps += drafted.stats.steps
            given += len(drafted.tokens) - 1
        lengths.append(given / steps)
    return lengths


# Target, drafter, options, and the least accepted length at temperature 0 and at 1 (found: more by a tenth or two).
PAIRS: list[tuple[str, str | None, dict[str, Any], float, float]] = [
    ("stories260K", "llama2xs-279K", {}, 4.0, 3.5),
    ("stories260K", "llama2xs-279K", {"tree_depth": 4, "tree_branch": 1, "tree_size": 6}, 2.5, 1.8),
    ("stories260K", "llama2xs-279K", {"ngram": 4, "n_batch": 7, "tree_size": 20}, 3.5, 3.0),
    ("stories260K", "TinyStories-656K", {"translate": "slem"}, 1.6, 1.2),
    ("stories260K", "TinyStories-656K", {"translate": "slem", "tree_branch": 1, "tree_size": 7}, 1.2, 1.0),
    ("stories260K", "TinyStories-656K", {"translate": "tli"}, 1.1, 1.1),
    ("TinyStories-656K", "stories260K", {"translate": "slem", "ngram": 3}, 1.3, 1.15),
    ("TinyStories-656K", "babyllama105-936K", {"translate": "slem", "tree_depth": 9, "tree_branch": 3}, 1.2, 1.2),
    ("stories260K", "babyllama105-936K", {"translate": "slrs", "tree_depth": 1, "tree_size": 3}, 1.02, 1.1),
    ("babyllama105-936K", "TinyStories-656K", {"translate": "slem", "tree_size": 30}, 2.0, 1.5),
    ("stories260K", None, {"ngram": 4}, 1.1, 1.0),
]


@pytest.mark.parametrize(("target", "drafter", "options", "greedy", "sampled"), PAIRS, ids=str)
def test_real_models(
    small: dict[str, Path], target: str, drafter: str | None, options: dict[str, Any], greedy: float, sampled: float
) -> None:
    if not any(name.startswith("tree_") for name in options):
        options = {"tree": "5,10,60", **options}  # what the least lengths were found with
    llm = LLM(small[target], drafter=None if drafter is None else small[drafter], **{"head": "full", **options})
    lengths = accepted_lengths(llm, PROMPTS, 60)
    assert lengths[0] >= greedy, lengths
    assert lengths[3] >= sampled, lengths


@pytest.mark.parametrize(
    ("drafter", "options"),
    [
        ("llama2xs-279K", {}),
        ("TinyStories-656K", {"translate": "tli"}),
        ("TinyStories-656K", {"translate": "slem"}),
        ("babyllama105-936K", {"translate": "slrs"}),
        (None, {"ngram": 2}),
    ],
    ids=str,
)
def test_trees_that_grow_hold_drafts(small: dict[str, Path], drafter: str | None, options: dict[str, Any]) -> None:
    """With the default tree, too, each kind of drafter is asked: equal text alone proves nothing."""
    options = {"head": "full", "ngram": 0, "n_ctx": 256, **options}
    llm = LLM(small["stories260K"], drafter=None if drafter is None else small[drafter], **options)
    asked: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}
    found = llm.generate("The dog. The dog. The dog", draft=True, **asked)
    assert found.tokens == llm.generate("The dog. The dog. The dog", draft=False, **asked).tokens
    assert found.stats.drafted_tokens > 0


def test_the_demo_pair_keyed(demo_target: Path, demo_drafter: Path) -> None:
    """Looking at the noise keeps the accepted length at temperature 1 near that at 0; blind it is 1.6."""
    llm = LLM(demo_target, drafter=demo_drafter, head="full", tree="5,10,60")
    lengths = accepted_lengths(llm, ["def fibonacci(n):", "Question: How many apples are there?\nAnswer:"], 40)
    assert min(lengths) > 2.4, lengths


@pytest.mark.parametrize("options", [{"translate": "tli", "ngram": 3}, {"translate": "slem"}], ids=str)
def test_small_models_draft_for_the_demo_target(
    small: dict[str, Path], demo_target: Path, options: dict[str, Any]
) -> None:
    llm = LLM(demo_target, drafter=small["TinyStories-656K"], tree_size=20, n_ctx=256, **options)
    accepted_lengths(llm, ["def main():\n"], 20)


def test_text_that_is_longer_than_the_drafters_context(small: dict[str, Path]) -> None:
    """A drafter of 256 tokens goes on drafting behind 400: it reads the end of the text."""
    llm = LLM(small["stories260K"], drafter=small["babyllama105-936K"], translate="slem", tree_size=20)
    assert llm.n_ctx == 512
    drafted = llm.generate(PROMPTS[0], 400, ignore_eos=True, draft=True)
    assert drafted.tokens == llm.generate(PROMPTS[0], 400, ignore_eos=True, draft=False).tokens
    late = drafted.drafted[300:]
    assert sum(late) > 20, "nothing was drafted behind the drafter's context"


@pytest.mark.parametrize(("target_pad", "drafter_pad"), [(0, 64), (64, 0), (32, 64)])
def test_padded_vocabularies(tmp_path: Path, target_pad: int, drafter_pad: int) -> None:
    vocab = tmp_path / "vocab.gguf"
    convert(make_checkpoint(tmp_path / "checkpoint", "llama"), vocab, "f32", quiet=True)
    paths = {}
    for name, pad in (("target", target_pad), ("drafter", drafter_pad)):
        paths[name] = tmp_path / f"{name}.gguf"
        make_random_model(paths[name], "tiny", "f32", vocab, vocab_size=400 + pad if pad else None, quiet=True)
    llm = LLM(paths["target"], drafter=paths["drafter"], n_ctx=128, tree_depth=2, tree_branch=4, tree_size=20)
    lengths = accepted_lengths(llm, ["hello world"], 20)
    assert all(length >= 1 for length in lengths)
    # Ids that the target has not are never proposed, however likely the drafter finds them.
    for shape in ({"tree_branch": 60, "tree_size": 120}, {"tree_branch": 1, "tree_size": 20}):
        llm = LLM(paths["target"], drafter=paths["drafter"], n_ctx=128, tree_depth=2, **shape)
        options: dict[str, Any] = {"temperature": 1.0, "repeat_penalty": 1.3, "seed": 1, "ignore_eos": True}
        drafted = llm.generate([5, 6, 7], 20, draft=True, **options)
        assert drafted.tokens == llm.generate([5, 6, 7], 20, draft=False, **options).tokens
        assert drafted.stats.drafter_error is None
        if shape["tree_branch"] == 1:
            assert max(llm.generate([5, 6, 7], 40, verify="rejection", **options).tokens) < llm.vocab_size


@pytest.fixture(scope="module")
def unlike(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models with real vocabularies."""
    folder = tmp_path_factory.mktemp("unlike")
    paths = {name: folder / f"{name}.gguf" for name in ("llama-spm", "gpt-2", "qwen2")}
    for name, path in paths.items():
        make_random_model(path, "tiny", "q8_0", shared / f"data/vocabularies/{name}.gguf", quiet=True)
    return paths


UNLIKE = [("llama-spm", "gpt-2"), ("qwen2", "llama-spm"), ("gpt-2", "qwen2")]


@pytest.mark.parametrize(
    ("names", "translate"),
    [*zip(UNLIKE, ("tli", "slem", "tli"), strict=True), (UNLIKE[0], "auto")],
    ids=str,
)
def test_random_models_of_unlike_tokenizers(unlike: dict[str, Path], names: tuple[str, str], translate: str) -> None:
    target, drafter = (unlike[name] for name in names)
    llm = LLM(target, drafter=drafter, n_ctx=256, translate=translate, tree_depth=2, tree_branch=4, tree_size=16)
    accepted_lengths(llm, ["Hello 🐈 world"], 12)


@pytest.mark.parametrize("translate", ["tli", "slem", "auto"])
def test_rows_that_follow_a_text_of_another_vocabulary(small: dict[str, Path], translate: str) -> None:
    """Texts are the plain ones, and those that SLEM drafts gain by rows that the text has named."""
    given = []
    for head in ("ranked:64", "contextual:64", "ranked:32+contextual:32"):
        llm = LLM(
            small["stories260K"], drafter=small["TinyStories-656K"], translate=translate, head=head, tree=(3, 3, 12)
        )
        given.append(accepted_lengths(llm, PROMPTS[:2], 60)[0])
    assert min(given) > 1.0
    if translate == "slem":
        assert given[1] > given[0]
        assert given[2] > given[0]


# Arguments, and what the message must say.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("TinyStories-656K", {"translate": "best"}, "translate: found \"best\", expected 'auto', 'tli', 'slem' or 'slrs'"),
    ("TinyStories-656K", {"translate": "slrs"}, "psi sums over all ways to spell a string"),
    ("babyllama105-936K", {"translate": "slrs", "head": "ranked:106"}, "expected 1 to 105 rows"),
    (
        "TinyStories-656K",
        {"translate": "slem", "head": "contextual:64+speculated"},
        "expected 'auto', 'full', 'ranked:N' or 'contextual'",
    ),
    (
        "TinyStories-656K",
        {"translate": "tli", "head": "ranked:64+speculated"},
        "expected 'auto', 'full', 'ranked:N' or 'contextual'",
    ),
    ("llama2xs-279K", {"translate": "tli"}, "has the target's own vocabulary"),
    ("llama2xs-279K", {"ngram": -1}, "ngram: found -1"),
    ("llama2xs-279K", {"ngram": 65}, "ngram: found 65"),
    ("llama2xs-279K", {"head": "ranked:600"}, "expected 1 to 512 rows"),
    ("llama2xs-279K", {"tree_branch": 200, "head": "ranked:100"}, "branch: found 200, expected at most 100"),
]


@pytest.mark.parametrize(("drafter", "options", "message"), REFUSED, ids=str)
def test_refused(small: dict[str, Path], drafter: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="found") as caught:
        LLM(small["stories260K"], drafter=small[drafter], **options)
    assert message in str(caught.value)


def test_eagle_is_not_translated(demo_target: Path, demo_drafter: Path) -> None:
    with pytest.raises(ValueError, match="is an EAGLE drafter"):
        LLM(demo_target, drafter=demo_drafter, translate="slem")
    with pytest.raises(ValueError, match="there is no drafter to translate"):
        LLM(demo_target, translate="slem")


def test_vocabulary_overlap(small: dict[str, Path], demo_target: Path) -> None:
    text = "Once upon a time, there was a little girl named Lily. She loved to play."
    same = frspec_cpp.vocabulary_overlap(small["stories260K"], small["llama2xs-279K"], text)
    assert (same.target_tokens, same.drafter_tokens) == (512, 512)
    assert same.shared_tokens >= 511  # all but the unknown token
    assert same.probability_mass == pytest.approx(1.0, abs=1e-4)
    few = frspec_cpp.vocabulary_overlap(demo_target, small["babyllama105-936K"], text)
    assert (few.target_tokens, few.drafter_tokens) == (65536, 105)
    assert 60 <= few.shared_tokens <= 105
    assert 0 < few.probability_mass < 0.5
    assert 0 <= few.text_share < 0.7


def test_whole_models_with_ranked_heads(small: dict[str, Path], demo_target: Path, demo_drafter: Path) -> None:
    """Ranks choose rows of a model's own head, by the target's tokens that these stand for."""
    ranked: dict[str, Any] = {"head": "ranked:4096", "ranks": demo_drafter, "n_ctx": 256, "tree_size": 20}
    itself = LLM(demo_target, drafter=demo_target, tree_depth=3, tree_branch=4, **ranked)
    lengths = accepted_lengths(itself, ["def fibonacci(n):"], 24)
    assert lengths[0] > 3.0, lengths  # the target drafts for itself: all but tokens without a row
    with_ngrams = LLM(demo_target, drafter=small["TinyStories-656K"], translate="tli", ngram=4, tree_branch=4, **ranked)
    accepted_lengths(with_ngrams, ["The little dog"], 20)


# Target, drafter, how it is translated, and a number of rows that leaves some out.
RANKED = [
    ("stories260K", "llama2xs-279K", "auto", 200),
    ("TinyStories-656K", "stories260K", "slem", 300),
    ("stories260K", "TinyStories-656K", "slem", 512),
    ("stories260K", "TinyStories-656K", "tli", 60),
    ("stories260K", "TinyStories-656K", "tli", 100_000),  # more than there are: all
    ("TinyStories-656K", "babyllama105-936K", "slrs", 60),
]


@pytest.mark.parametrize(("target", "drafter", "translate", "rows"), RANKED, ids=str)
def test_ranked_heads_of_every_translation(
    small: dict[str, Path], target: str, drafter: str, translate: str, rows: int
) -> None:
    """No file brings ranks: the vocabulary's own order stands in, of the drafter's tokens where text is translated."""
    options: dict[str, Any] = {"translate": translate, "tree_depth": 2, "tree_branch": 3, "tree_size": 12, "n_ctx": 256}
    ranked = LLM(small[target], drafter=small[drafter], head=f"ranked:{rows}", **options)
    lengths = accepted_lengths(ranked, ["Once upon a time", "The little dog"], 24)
    assert sum(lengths) > 2.0, lengths  # drafts were accepted
    assert ranked.generate("Once", max_tokens=4).stats.ranks in ("scores", "merges")
    full = LLM(small[target], drafter=small[drafter], head="full", **options)
    assert full.generate("Once", max_tokens=4).stats.ranks is None


def test_ranks_of_the_drafters_own_vocabulary(small: dict[str, Path], tmp_path: Path) -> None:
    """Text that is translated is written in the drafter's tokens: ranks of the target's say nothing of these."""
    counted = {}
    for name in ("stories260K", "TinyStories-656K"):
        counted[name] = tmp_path / f"{name}.gguf"
        (tmp_path / "texts.txt").write_text("Once upon a time there was a little dog. The dog was happy.")
        rank(small[name], [tmp_path / "texts.txt"], counted[name], quiet=True)
    options: dict[str, Any] = {"drafter": small["TinyStories-656K"], "head": "ranked:40", "tree_branch": 4}
    for translate, own in (("slem", "TinyStories-656K"), ("tli", "stories260K")):
        llm = LLM(small["stories260K"], ranks=counted[own], translate=translate, **options)
        accepted_lengths(llm, ["Once upon a time"], 24)
        assert llm.generate("Once", max_tokens=4).stats.ranks == "file"
        other = next(file for name, file in counted.items() if name != own)
        with pytest.raises(ValueError, match=r"\.gguf: key 'frspec.ranks.vocab_size': found \d+, expected"):
            LLM(small["stories260K"], ranks=other, translate=translate, **options)
    with pytest.raises(ValueError, match=r"adapt: .*mine\.gguf, but .* its rows follow no counts of the target's"):
        LLM(small["stories260K"], translate="slem", adapt=tmp_path / "mine.gguf", **options)


def test_ranks_where_the_translation_is_open(small: dict[str, Path], tmp_path: Path) -> None:
    """Two vocabularies are in use then: a file of ranks is for the one that it was counted for."""
    other = GgufEditor(small["llama2xs-279K"])
    tokens = other.entries["tokenizer.ggml.tokens"].value
    tokens[400], tokens[401] = tokens[401], tokens[400]  # not the same vocabulary, but nearly
    drafter = other.write(tmp_path / "other.gguf")
    (tmp_path / "texts.txt").write_text("Once upon a time there was a little dog. The dog was happy.")
    options: dict[str, Any] = {"drafter": drafter, "head": "ranked:200", "tree_branch": 4, "n_ctx": 256}
    for vocabulary in (small["stories260K"], drafter):
        rank(vocabulary, [tmp_path / "texts.txt"], tmp_path / "ranks.gguf", quiet=True)
        llm = LLM(small["stories260K"], ranks=tmp_path / "ranks.gguf", **options)
        accepted_lengths(llm, ["Once upon a time"], 24)
    rank(small["TinyStories-656K"], [tmp_path / "texts.txt"], tmp_path / "ranks.gguf", quiet=True)
    with pytest.raises(ValueError, match=r"ranks\.gguf: key 'frspec.ranks.vocab_size': found 2048, expected"):
        LLM(small["stories260K"], ranks=tmp_path / "ranks.gguf", **options)
    adapting = LLM(small["stories260K"], adapt=tmp_path / "mine.gguf", **options)
    accepted_lengths(adapting, ["Once upon a time"], 24)


@pytest.mark.parametrize("translate", ["slem", "tli"])
def test_auto_has_ranked_heads_of_another_vocabulary(small: dict[str, Path], demo_target: Path, translate: str) -> None:
    llm = LLM(
        small["TinyStories-656K"], drafter=demo_target, head="auto", translate=translate, tree_branch=4, n_ctx=128
    )
    accepted_lengths(llm, ["Once upon a time there was a dog"], 24)
    stats = llm.generate("Once upon a time", max_tokens=60).stats
    # 65,536 rows have ranked heads beside them; the few that both vocabularies share have none.
    assert stats.ranks == ("merges" if translate == "slem" else None)
    assert stats.tuning is not None
    assert re.fullmatch(r"full|ranked:\d+", stats.tuning.head)


def test_drafts_that_are_drawn_and_cut(demo_target: Path, demo_drafter: Path) -> None:
    """The first drafts of a longer chain are accepted as those of a chain of that length."""
    asked = {"max_tokens": 60, "temperature": 1.0, "verify": "rejection", "draft": "always", "ignore_eos": True}
    texts = []
    for tree, limits in (((2, 1, 4), {}), ((4, 1, 6), {"draft_max": 3})):
        llm = LLM(demo_target, drafter=demo_drafter, tree=tree, head="full", n_ctx=128, n_threads=1)
        texts.append([llm.generate("def f(", seed=seed, **asked, **limits).tokens for seed in range(3)])
    assert texts[0] == texts[1]
