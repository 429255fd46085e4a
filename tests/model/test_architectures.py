"""What architectures do otherwise than Llama: drafting changes no token, and files that contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import UNLIKE_LLAMA, make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor
from refused import Edit, engine_error, expect_parts, key, without_key

from frspec_cpp import LLM, _core

PROMPT = np.random.default_rng(4).integers(3, 400, 37).tolist()
SAMPLINGS = ({"temperature": 0.0}, {"temperature": 0.9, "top_k": 0})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each architecture, F16."""
    paths = {}
    for architecture in UNLIKE_LLAMA:
        folder = make_checkpoint(tmp_path_factory.mktemp(architecture), architecture)
        paths[architecture] = folder / "model.gguf"
        convert(folder, paths[architecture], "f16", quiet=True)
    return paths


# What every device must do, for one with windows, norms behind and caps, and for one with experts and sinks.
ON_EVERY_DEVICE = ("gemma2", "gpt-oss")


def each(architectures: tuple[str, ...]) -> list[Any]:
    """Parameters of a test, those of ON_EVERY_DEVICE marked."""
    mark = pytest.mark.every_device
    return [pytest.param(name, marks=[mark] if name in ON_EVERY_DEVICE else []) for name in architectures]


@pytest.mark.parametrize("architecture", each(UNLIKE_LLAMA))
def test_drafting_changes_nothing(models: dict[str, Path], architecture: str) -> None:
    """Trees of a drafter that often agrees (the model itself), and of n-grams; windows are shorter than the text."""
    model = models[architecture]
    plain = LLM(model)
    expected = [plain.generate(PROMPT, 14, seed=7, ignore_eos=True, **sampling).tokens for sampling in SAMPLINGS]
    for options in (
        {"drafter": model, "head": "full", "tree_depth": 3, "tree_branch": 3, "tree_size": 12},
        {"drafter": model, "head": "full", "tree_depth": 2, "tree_branch": 8, "tree_size": 64, "n_batch": 5},
        {"ngram": 3, "tree_depth": 3, "tree_branch": 1, "tree_size": 4},
    ):
        llm = LLM(model, **options)
        for sampling, tokens in zip(SAMPLINGS, expected, strict=True):
            found = llm.generate(PROMPT, 14, seed=7, ignore_eos=True, draft=True, **sampling)
            assert found.tokens == tokens, options
            if "drafter" in options:
                assert found.stats.steps < 11  # drafts were accepted


@pytest.mark.parametrize("architecture", each(("gemma3", "gemma2", "gpt-oss", "qwen3moe")))
def test_a_row_depends_on_itself_alone(models: dict[str, Path], architecture: str) -> None:
    """Whatever its neighbours chose, and however many there are."""
    tokens = np.random.default_rng(6).integers(3, 400, 90).tolist()
    whole = _core.Engine(str(models[architecture]), n_batch=90).forward(tokens)
    for n_batch in (1, 7, 64):
        assert np.array_equal(_core.Engine(str(models[architecture]), n_batch=n_batch).forward(tokens), whole)


REFUSED: dict[str, tuple[str, Edit, tuple[str, ...]]] = {
    "a pattern of windows without a window": (
        "gemma3",
        lambda file: (
            file.entries.pop("gemma3.attention.sliding_window"),
            file.set("gemma3.attention.sliding_window_pattern", 3),
        ),
        ("gemma3.attention.sliding_window", "nothing", "a window"),
    ),
    "a window that must be there": (
        "gpt-oss",
        without_key("gpt-oss.attention.sliding_window"),
        ("gpt-oss.attention.sliding_window", "missing"),
    ),
    "a window beyond the context": (
        "gemma2",
        key("gemma2.attention.sliding_window", 513),
        ("gemma2.attention.sliding_window", "513", "512"),
    ),
    "a negative window": (
        "gemma2",
        key("gemma2.attention.sliding_window", -1),
        ("gemma2.attention.sliding_window", "-1"),
    ),
    "flags for too few layers": (
        "gemma3",
        key("gemma3.attention.sliding_window_pattern", [True, False]),
        ("gemma3.attention.sliding_window_pattern", "2 flags", "7 layers"),
    ),
    "more experts used than there are": (
        "qwen3moe",
        key("qwen3moe.expert_used_count", 9),
        ("qwen3moe.expert_used_count", "9", "8"),
    ),
    "no experts": ("gpt-oss", key("gpt-oss.expert_count", 0), ("gpt-oss.expert_count", "0")),
    "other experts than the tensors have": (
        "qwen3moe",
        key("qwen3moe.expert_count", 4),
        ("blk.0.ffn_gate_inp.weight", "{64, 8}", "{64, 4}"),
    ),
    "experts of another width": (
        "mixtral",
        key("llama.feed_forward_length", 64),
        ("blk.0.ffn_gate_exps.weight", "{64, 96, 4}", "{64, 64, 4}"),
    ),
    "experts where there are none": ("olmo2", key("olmo2.expert_count", 4), ("olmo2.expert_count", "4", "0")),
    "factors of another rope": (
        "phi3",
        key("phi3.rope.dimension_count", 16),
        ("rope_factors_long.weight", "{6}", "{8}"),
    ),
    "longrope without factors": (
        "smollm3",
        key("smollm3.rope.scaling.type", "longrope"),
        ("rope_factors_long.weight",),
    ),
    "a fused matrix of another height": ("phi3", key("phi3.feed_forward_length", 95), ("blk.0.ffn_up.weight", "190")),
    "a missing scale": ("granite", without_key("granite.residual_scale"), ("granite.residual_scale", "missing")),
    "a scale of 0": ("granite", key("granite.logit_scale", 0.0), ("granite.logit_scale", "above 0")),
    "a negative cap": (
        "gemma2",
        key("gemma2.final_logit_softcapping", -1.0),
        ("gemma2.final_logit_softcapping", "-1", "at least 0"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(models: dict[str, Path], tmp_path: Path, case: str) -> None:
    architecture, edit, parts = REFUSED[case]
    file = GgufEditor(models[architecture])
    edit(file)
    expect_parts(engine_error(file.write(tmp_path / "edited.gguf")), parts)
