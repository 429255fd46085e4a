"""MTP drafters (nextn blocks): states as a reference in torch computes them, and texts that do not depend on them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from mtp_reference import LayerReference, MtpReference, NextnReference
from nextn_models import make_nextn
from qwen35 import Qwen35, make_qwen35
from reference_steps import write_random_sketch, write_vocabulary_ranks

from frspec_cpp import LLM, Generation, _core

_I64 = gguf.GGMLQuantizationType.I64
LEVELS = 4
CHAIN = {"tree": (LEVELS - 1, 1, LEVELS + 1)}
TREE = {"tree": (3, 4, 14)}
TOKENS = 40
PROMPT = [17, 5, 230, 99, 17, 5, 231, 7, 300, 12]
OWN_HEAD = "nextn.shared_head_head.weight"


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
    found["bare"] = replace(made, shared={}).write(folder / "bare.gguf", "nextn")
    found["sketch"] = folder / "sketch.gguf"
    write_random_sketch(found["sketch"], found["whole"], found["whole"])
    return found


def write(llm: LLM, prompt: list[int] = PROMPT, **options: Any) -> Generation:
    return llm.generate(prompt, **{"max_tokens": TOKENS, "ignore_eos": True, "draft": True, "trace": True, **options})


def steps_of(text: Generation) -> list[Any]:
    return [(step.accepted, step.nodes, step.offered) for step in text.trace or []]


def check_states(path: Path, reference: NextnReference) -> int:
    """Every state that the head met: behind the text, and in the levels of drafts. Gives how many were accepted."""
    engine = _core.Engine(
        str(path), "mtp", cache_type="f32", n_batch=4, tree=f"{LEVELS - 1},1,{LEVELS + 1}", states=1000
    )
    generation = engine.begin(PROMPT, max_tokens=20, ignore_eos=True, draft="always")
    steps = []
    while generation.finish_reason is None:
        steps.append([token for token, _, _ in generation.step()])
    states = engine.take_states().reshape(-1, LEVELS, 64)
    text = [*PROMPT, *steps[0]]
    accepted = 0
    for step, found in zip(steps[1:], states, strict=True):
        drafted, expected = reference.chain(text, LEVELS)
        assert np.abs(found - expected.numpy()).max() < 2e-4 * float(expected.abs().max())
        assert drafted[: len(step) - 1] == step[:-1]
        accepted += len(step) - 1
        text += step
    return accepted


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("disturbance", [1.0, pytest.param(0.2, marks=pytest.mark.every_isa)])
def test_states_equal_the_reference(tmp_path: Path, disturbance: float) -> None:
    """In four levels of drafts, each of the one before."""
    made = make_qwen35(tmp_path, layers=4, disturbance=disturbance)
    path = made.write(tmp_path / "whole.gguf", "trunk", "nextn")
    assert check_states(path, MtpReference(made)) > 0 or disturbance == 1.0


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3moe"])
def test_blocks_of_other_families(tmp_path: Path, architecture: str) -> None:
    """A layer as the family has it between the same tensors: pairs of its rope, biases, experts."""
    made = make_nextn(tmp_path, architecture, seed=1)
    assert check_states(made.whole, LayerReference(made.checkpoint, made.nextn)) > 0
    plain = write(LLM(made.whole))
    texts = [write(LLM(made.whole, drafter=drafter, **TREE)) for drafter in ("mtp", made.sidecar)]
    assert all(text.tokens == plain.tokens for text in texts)
    assert all(text.stats.drafted_steps == text.stats.steps for text in texts)
    assert steps_of(texts[0]) == steps_of(texts[1])


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
        {"head": "speculated:60"},
        {"tree": (6, 1, 8), "n_batch": 3},
        {"tree": (2, 8, 40)},
        {"ngram": 3},
        {"cache_type": "q8_0"},
    ],
    ids=str,
)
def test_no_head_and_no_tree_changes_anything(files: dict[str, Path], options: dict[str, Any]) -> None:
    head = options.get("head", "")
    files_of = {"auto": ("ranks", "sketch"), "speculated:60": ("sketch",)}.get(head, ("ranks",) if head else ())
    options = {**options, **{name: files[name] for name in files_of}}
    cache = {"cache_type": options.get("cache_type", "f16")}
    plain, llm = LLM(files["trunk"], **cache), LLM(files["whole"], drafter="mtp", **{**TREE, **options})
    for prompt in (PROMPT, PROMPT * 15):
        assert (
            write(llm, prompt, temperature=0.7, seed=5).tokens == write(plain, prompt, temperature=0.7, seed=5).tokens
        )


@pytest.mark.threads
def test_threads_change_no_draft(files: dict[str, Path]) -> None:
    texts = [
        write(LLM(files["whole"], drafter="mtp", tree=(2, 8, 40), n_threads=n_threads), PROMPT * 15)
        for n_threads in (1, 2)
    ]
    assert texts[0].tokens == texts[1].tokens
    assert steps_of(texts[0]) == steps_of(texts[1])
    assert texts[0].stats.accepted_length > 1.2


def test_all_files_draft_the_same(files: dict[str, Path]) -> None:
    texts = [write(LLM(files["whole"], drafter="mtp", **TREE))]
    texts += [write(LLM(files["trunk"], drafter=files[name], **TREE)) for name in ("sidecar", "bare", "whole")]
    assert all(steps_of(text) == steps_of(texts[0]) for text in texts)


def write_trimmed(made: Qwen35, path: Path, head: str, tokens: list[int], *parts: str, d2t: bool = True) -> Path:
    """A file of these parts where the tensor `head` has a row for each of these tokens, and says so (`d2t`)."""
    rows = {head: made.shared["output.weight"][tokens]}
    nextn = head.startswith("nextn.")
    changed = replace(made, nextn=made.nextn | rows) if nextn else replace(made, shared=made.shared | rows)
    changed.write(path, *parts)
    if d2t:
        changed.editor.set_ints("d2t", tokens, kind=_I64)
    return changed.editor.write(path)


@pytest.mark.parametrize(("head", "beside"), [("output.weight", True), (OWN_HEAD, True), (OWN_HEAD, False)])
def test_a_trimmed_head(made: Qwen35, files: dict[str, Path], tmp_path: Path, head: str, beside: bool) -> None:
    """Rows that stand for the tokens of d2t are a policy of their own, `learned`: that of the same rows, ranked.

    They are in a file beside the target's, or in the target's own.
    """
    kept = sorted({0, 1, *range(0, 400, 2), *PROMPT})  # 0 and 1 are control tokens, which ranked heads always have
    parts = ["nextn"] if beside else ["nextn", "trunk"]
    trimmed = write_trimmed(made, tmp_path / "trimmed.gguf", head, kept[::-1], *parts)
    llm = LLM(files["trunk"] if beside else trimmed, drafter=trimmed if beside else "mtp", head="learned", **TREE)
    found, plain = write(llm), write(LLM(files["trunk"]))
    assert found.tokens == plain.tokens
    assert found.stats.accepted_length > 1.2
    write_vocabulary_ranks(tmp_path / "ranks.gguf", files["trunk"], np.array(kept))
    ranked = LLM(files["whole"], drafter="mtp", head=f"ranked:{len(kept)}", ranks=tmp_path / "ranks.gguf", **TREE)
    assert steps_of(found) == steps_of(write(ranked))


@pytest.mark.parametrize("head", ["output.weight", OWN_HEAD])
def test_a_short_head_without_its_tokens(made: Qwen35, files: dict[str, Path], tmp_path: Path, head: str) -> None:
    short = write_trimmed(made, tmp_path / "short.gguf", head, [5, 6, 7], "nextn", d2t=False)
    name = head if head == "output.weight" else f"blk.{made.layers}.{head}"
    with pytest.raises(ValueError, match=rf"short\.gguf.*'d2t' is missing: found 3 rows in tensor '{name}'"):
        LLM(files["trunk"], drafter=short)


def test_tokens_of_a_head_that_is_not_there(made: Qwen35, tmp_path: Path) -> None:
    """In a model's file d2t can only be about a head of its nextn block."""
    file = made.write(tmp_path / "model.gguf", "trunk", "nextn")
    made.editor.set_ints("d2t", [5, 6, 7], kind=_I64)
    made.editor.write(file)
    for drafter in (None, "mtp"):
        with pytest.raises(ValueError, match=r"model\.gguf: found tensor 'd2t'.*'blk\.N\.nextn\.shared_head_head"):
            LLM(file, drafter=drafter)


@pytest.mark.parametrize("source", ["own", "target's"])
def test_padding_is_never_drafted(made: Qwen35, files: dict[str, Path], tmp_path: Path, source: str) -> None:
    """Rows that nobody has trained may say anything.

    Here the drafter's own win wherever a head has them, the target's win over tokens that they are like, so texts have
    them, and ranks have them first. Where their tokens are of the normal type, heads draft them.
    """
    padding, rng = list(range(400, 412)), np.random.default_rng(3)
    often = list(dict.fromkeys(write(LLM(files["trunk"])).tokens))[: len(padding)]
    near = {
        name: np.concatenate([made.shared[name], np.resize(1.5 * made.shared[name][often], (len(padding), 64))])
        for name in ("token_embd.weight", "output.weight")
    }
    half = 30 * rng.standard_normal((6, 64))
    own = np.concatenate([made.shared["output.weight"], half, -half]).astype(np.float32)
    order = [*padding, *rng.permutation(400)]

    def offered(kind: int, *heads: str) -> list[set[int]]:
        editor = copy.deepcopy(made.editor)
        editor.entries["tokenizer.ggml.tokens"].value += [f"[PAD{token}]" for token in padding]
        editor.entries["tokenizer.ggml.token_type"].value += [kind] * len(padding)
        nextn = made.nextn | ({OWN_HEAD: own} if source == "own" else {})
        padded = replace(made, editor=editor, shared=made.shared | near, nextn=nextn)
        path = padded.write(tmp_path / "padded.gguf", "trunk", "nextn")
        ranks, sketch = tmp_path / "ranks.gguf", tmp_path / "sketch.gguf"
        write_vocabulary_ranks(ranks, path, np.array(order))
        write_random_sketch(sketch, path, path)
        found = []
        for head in heads:
            options = {name: file for name, file in (("ranks", ranks), ("sketch", sketch)) if needs(head, name)}
            text = write(LLM(path, drafter="mtp", head=head, **TREE, **options))
            found.append({token for step in text.trace or [] for token in step.offered or ()})
        return found

    def needs(head: str, name: str) -> bool:
        return head == "auto" or (name == "sketch" and "speculated" in head) or (name == "ranks" and head[0] in "rc")

    heads = ["full", "auto", "speculated:60", "contextual:100", "ranked:100+contextual:50", "ranked:50+speculated:20"]
    normal, unused = 1, 5
    assert all(tokens & set(padding) for tokens in offered(normal, *heads))
    for head, tokens in zip([*heads, "ranked:400"], offered(unused, *heads, "ranked:400"), strict=True):
        assert tokens, head
        assert not tokens & set(padding), head


@pytest.mark.parametrize("name", [OWN_HEAD, "nextn.embed_tokens.weight"])
def test_what_the_block_has_of_its_own(made: Qwen35, files: dict[str, Path], tmp_path: Path, name: str) -> None:
    """An embedding or a head that differs from the target's changes the drafts, and no text."""
    own = made.shared["output.weight" if "head" in name else "token_embd.weight"][::-1]
    other = replace(made, nextn={**made.nextn, name: np.ascontiguousarray(own)})
    path = other.write(tmp_path / "own.gguf", "trunk", "nextn")
    found, usual = write(LLM(path, drafter="mtp", **TREE)), write(LLM(files["whole"], drafter="mtp", **TREE))
    assert found.tokens == usual.tokens
    assert steps_of(found) != steps_of(usual)


def test_without_a_norm_of_its_own_the_final_norm_stands_in(made: Qwen35, tmp_path: Path) -> None:
    norm = "nextn.shared_head_norm.weight"
    same = replace(made, nextn={**made.nextn, norm: made.shared["output_norm.weight"]})
    absent = replace(made, nextn={name: value for name, value in made.nextn.items() if name != norm})
    texts = [
        write(LLM(one.write(tmp_path / f"{number}.gguf", "trunk", "nextn"), drafter="mtp", **TREE))
        for number, one in enumerate((same, absent))
    ]
    assert steps_of(texts[0]) == steps_of(texts[1])
