"""MTP drafters (nextn blocks): states as a reference in torch computes them, and texts that do not depend on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from mtp_reference import MtpReference
from qwen35 import Qwen35, make_qwen35
from reference_steps import write_vocabulary_ranks

from frspec_cpp import LLM, Generation, _core

_I64 = gguf.GGMLQuantizationType.I64
LEVELS = 4
CHAIN = {"tree": (LEVELS - 1, 1, LEVELS + 1)}
TREE = {"tree": (3, 4, 14)}
TOKENS = 40
PROMPT = [17, 5, 230, 99, 17, 5, 231, 7, 300, 12]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Qwen35:
    """Layers that disturb little: drafts are accepted now and then."""
    return make_qwen35(tmp_path_factory.mktemp("qwen35"), layers=5, interval=2, disturbance=0.2)


@pytest.fixture(scope="module")
def files(made: Qwen35, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of both, and files of each; one without a copy of what the target has."""
    folder = tmp_path_factory.mktemp("files")
    found = {
        "whole": made.write(folder / "whole.gguf", "trunk", "nextn"),
        "trunk": made.write(folder / "trunk.gguf", "trunk"),
        "sidecar": made.write(folder / "sidecar.gguf", "nextn"),
    }
    found["ranks"] = folder / "ranks.gguf"
    write_vocabulary_ranks(found["ranks"], found["trunk"], np.random.default_rng(1).permutation(400))
    shared, made.shared = made.shared, {}
    found["bare"] = made.write(folder / "bare.gguf", "nextn")
    made.shared = shared
    return found


def write(llm: LLM, prompt: list[int] = PROMPT, **options: Any) -> Generation:
    return llm.generate(prompt, **{"max_tokens": TOKENS, "ignore_eos": True, "draft": True, "trace": True, **options})


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("disturbance", [1.0, pytest.param(0.2, marks=pytest.mark.every_isa)])
def test_states_equal_the_reference(tmp_path: Path, disturbance: float) -> None:
    """Every state that the head met: behind the text, and in four levels of drafts, each of the one before."""
    made = make_qwen35(tmp_path, layers=4, disturbance=disturbance)
    path = made.write(tmp_path / "whole.gguf", "trunk", "nextn")
    engine = _core.Engine(
        str(path), "mtp", cache_type="f32", n_batch=4, tree=f"{LEVELS - 1},1,{LEVELS + 1}", states=1000
    )
    generation = engine.begin(PROMPT, max_tokens=20, ignore_eos=True, draft="always")
    steps = []
    while generation.finish_reason is None:
        steps.append([token for token, _, _ in generation.step()])
    states = engine.take_states().reshape(-1, LEVELS, 64)
    reference = MtpReference(made)
    text = [*PROMPT, *steps[0]]
    accepted = 0
    for step, found in zip(steps[1:], states, strict=True):
        drafted, expected = reference.chain(text, LEVELS)
        assert np.abs(found - expected.numpy()).max() < 2e-4 * float(expected.abs().max())
        assert drafted[: len(step) - 1] == step[:-1]
        accepted += len(step) - 1
        text += step
    assert accepted > 0 or disturbance == 1.0


@pytest.mark.every_isa
@pytest.mark.every_device
@pytest.mark.threads
@pytest.mark.parametrize("source", ["mtp", "sidecar", "bare", "whole"])
def test_drafting_changes_nothing(files: dict[str, Path], source: str) -> None:
    """A drafter in the target's file, beside it with what it shares and without; another whole file that has one."""
    plain = LLM(files["trunk"])
    drafter = source if source == "mtp" else files[source]
    llm = LLM(files["whole" if source == "mtp" else "trunk"], drafter=drafter, **TREE)
    for temperature in (0.0, 1.0):
        expected = write(plain, temperature=temperature, seed=3)
        found = write(llm, temperature=temperature, seed=3)
        assert found.tokens == expected.tokens
        assert found.stats.accepted_length > 1.3


@pytest.mark.every_device
@pytest.mark.parametrize(
    "options",
    [
        {"head": "auto", "tree": "auto"},
        {"head": "ranked:200"},
        {"head": "contextual:100"},
        {"head": "ranked:100+contextual:50"},
        {"tree": (6, 1, 8), "n_batch": 3},
        {"tree": (2, 8, 40), "n_threads": 1},
        {"ngram": 3},
        {"cache_type": "q8_0"},
    ],
    ids=str,
)
def test_no_head_and_no_tree_changes_anything(files: dict[str, Path], options: dict[str, Any]) -> None:
    if "head" in options:
        options = {**options, "ranks": files["ranks"]}
    cache = {"cache_type": options.get("cache_type", "f16")}
    plain, llm = LLM(files["trunk"], **cache), LLM(files["whole"], drafter="mtp", **{**TREE, **options})
    for prompt in (PROMPT, PROMPT * 15):
        assert (
            write(llm, prompt, temperature=0.7, seed=5).tokens == write(plain, prompt, temperature=0.7, seed=5).tokens
        )


def test_all_files_draft_the_same(files: dict[str, Path]) -> None:
    texts = [write(LLM(files["whole"], drafter="mtp", **TREE))]
    texts += [write(LLM(files["trunk"], drafter=files[name], **TREE)) for name in ("sidecar", "bare", "whole")]
    steps = [[(s.accepted, s.nodes, s.offered) for s in text.trace or []] for text in texts]
    assert all(found == steps[0] for found in steps)


def test_a_trimmed_head(made: Qwen35, files: dict[str, Path], tmp_path: Path) -> None:
    """Rows of a sidecar's head that stand for the tokens of d2t: a policy of its own, `learned`."""
    kept = sorted({*range(0, 400, 2), *PROMPT})
    shared = dict(made.shared)
    whole_head = made.shared["output.weight"]
    try:
        made.shared["output.weight"] = whole_head[kept[::-1]]
        made.write(tmp_path / "short.gguf", "nextn")
        made.editor.set_ints("d2t", kept[::-1], kind=_I64)
        trimmed = made.editor.write(tmp_path / "trimmed.gguf")
    finally:
        made.shared = shared
    llm = LLM(files["trunk"], drafter=trimmed, head="learned", **TREE)
    found, plain = write(llm), write(LLM(files["trunk"]))
    assert found.tokens == plain.tokens
    offered = {token for step in found.trace or [] for token in step.offered or ()}
    assert offered
    assert offered <= set(kept)
    with pytest.raises(ValueError, match=r"'d2t' is missing: found .* rows in tensor 'output\.weight'"):
        LLM(files["trunk"], drafter=tmp_path / "short.gguf")


@pytest.mark.parametrize("name", ["nextn.shared_head_head.weight", "nextn.embed_tokens.weight"])
def test_what_the_block_has_of_its_own(made: Qwen35, files: dict[str, Path], tmp_path: Path, name: str) -> None:
    """An embedding or a head that differs from the target's changes the drafts, and no text."""
    own = made.shared["output.weight" if "head" in name else "token_embd.weight"][::-1]
    made.nextn[name] = np.ascontiguousarray(own)
    try:
        path = made.write(tmp_path / "own.gguf", "trunk", "nextn")
    finally:
        del made.nextn[name]
    found, usual = write(LLM(path, drafter="mtp", **TREE)), write(LLM(files["whole"], drafter="mtp", **TREE))
    assert found.tokens == usual.tokens
    assert [s.offered for s in found.trace or []] != [s.offered for s in usual.trace or []]


def test_without_a_norm_of_its_own_the_final_norm_stands_in(
    made: Qwen35, files: dict[str, Path], tmp_path: Path
) -> None:
    norm = made.nextn["nextn.shared_head_norm.weight"]
    try:
        made.nextn["nextn.shared_head_norm.weight"] = made.shared["output_norm.weight"]
        same = made.write(tmp_path / "same.gguf", "trunk", "nextn")
        del made.nextn["nextn.shared_head_norm.weight"]
        absent = made.write(tmp_path / "absent.gguf", "trunk", "nextn")
    finally:
        made.nextn["nextn.shared_head_norm.weight"] = norm
    texts = [write(LLM(path, drafter="mtp", **TREE)) for path in (same, absent)]
    assert [s.offered for s in texts[0].trace or []] == [s.offered for s in texts[1].trace or []]
