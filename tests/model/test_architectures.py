"""What architectures do otherwise than Llama: drafting changes no token, and files that contradict themselves."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import UNLIKE_LLAMA, make_checkpoint
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor, TensorData, Type
from refused import Edit, engine_error, expect_parts, key, without_key
from tiny_pair import make_tiny_pair

from frspec_cpp import LLM, _core, _testing

PROMPT = np.random.default_rng(4).integers(3, 400, 57).tolist()  # texts go on in a second page of 64
LONG_PROMPT = np.random.default_rng(6).integers(3, 400, 512).tolist()
SAMPLINGS = ({"temperature": 0.0}, {"temperature": 0.9, "top_k": 0})
TOKENS = 14
ARCHITECTURES = ("llama", "qwen2", "qwen3", *UNLIKE_LLAMA)
MADE = (*ARCHITECTURES, "qwen35")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each architecture, F16."""
    paths = {}
    for architecture in MADE:
        folder = make_checkpoint(tmp_path_factory.mktemp(architecture), architecture)
        paths[architecture] = folder / "model.gguf"
        convert(folder, paths[architecture], "f16", quiet=True)
    return paths


Plain = Callable[[str, int], list[list[int]]]


@pytest.fixture(scope="module")
def plain(models: dict[str, Path]) -> Plain:
    """What a model writes without drafts behind so many tokens of LONG_PROMPT, in each of SAMPLINGS."""

    @functools.cache
    def write(architecture: str, length: int) -> list[list[int]]:
        llm, prompt = LLM(models[architecture]), LONG_PROMPT[:length]
        return [llm.generate(prompt, TOKENS, seed=7, ignore_eos=True, **sampling).tokens for sampling in SAMPLINGS]

    return write


# Nodes: depth, branch, nodes. The last ones are of n-grams.
TREES = {1: "0,1,1", 2: "0,1,2", 7: "2,3,7", 31: "3,5,31", 64: "2,8,64", 0: "3,1,4"}
CHUNKS = {1: 57, 7: 57, 64: 200, 512: 430}  # tokens of a pass at most, and of the prompt; windows are shorter


@pytest.mark.pairwise
@pytest.mark.parametrize("chunk", [1, pytest.param(7, marks=pytest.mark.every_device), 64, 512])
@pytest.mark.parametrize("nodes", TREES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_drafting_changes_nothing(
    models: dict[str, Path], plain: Plain, architecture: str, nodes: int, chunk: int
) -> None:
    """Trees of a drafter that often agrees (the model itself), and of n-grams."""
    model, prompt = models[architecture], LONG_PROMPT[: CHUNKS[chunk]]
    source: dict[str, Any] = {"drafter": model, "head": "full"} if nodes else {"ngram": 3}
    llm = LLM(model, **source, tree=TREES[nodes], n_batch=chunk)
    for sampling, tokens in zip(SAMPLINGS, plain(architecture, len(prompt)), strict=True):
        found = llm.generate(prompt, TOKENS, seed=7, ignore_eos=True, draft=True, **sampling)
        assert found.tokens == tokens
        if nodes == 1:
            assert found.stats.steps == TOKENS - 1
        elif nodes:
            assert found.stats.steps < TOKENS - 3  # drafts were accepted


# What becomes of the products with the head, in numbers that bite: scale, cap, and the keys that say so.
LOGIT_RULES: dict[str, tuple[float, float, dict[str, float]]] = {
    "gemma2": (1.0, 0.5, {"gemma2.final_logit_softcapping": 0.5}),
    "granite": (2.5, 0.0, {"granite.logit_scale": 0.4}),
}


@pytest.mark.parametrize("architecture", LOGIT_RULES)
def test_caps_and_scales_of_logits_reach_every_draw(models: dict[str, Path], tmp_path: Path, architecture: str) -> None:
    """Greedy text is the same without them. Tokens drawn and their log-probabilities, plain and drafted, are not."""
    scale, cap, keys = LOGIT_RULES[architecture]
    file = GgufEditor(models[architecture])
    neutral = {"gemma2.final_logit_softcapping": 0.0, "granite.logit_scale": 1.0}
    for name in keys:
        file.set(name, neutral[name])
    raw = LLM(file.write(tmp_path / "raw.gguf"))
    for name, value in keys.items():
        file.set(name, value)
    path = file.write(tmp_path / "edited.gguf")
    llm = LLM(path, drafter=path, head="full", tree="2,2,6")
    chain = {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 9}
    plain = llm.generate(PROMPT, 24, ignore_eos=True, logprobs=2, draft=False, **chain)
    drafted = llm.generate(PROMPT, 24, ignore_eos=True, logprobs=2, draft=True, **chain)
    assert (drafted.tokens, drafted.logprobs) == (plain.tokens, plain.logprobs)
    assert drafted.stats.drafted_steps > 0
    text, rows = [*PROMPT, *plain.tokens], slice(len(PROMPT) - 1, -1)
    products = raw.forward(text)[rows] * np.float32(scale)
    logits = llm.forward(text)[rows]
    np.testing.assert_allclose(logits, cap * np.tanh(products / cap) if cap else products, atol=1e-5)
    draw = {"temperature": 0.6, "seed": 9, "positions": [len(PROMPT) + i for i in range(24)]}
    assert _testing.ops.sample(logits, **draw).tolist() == plain.tokens
    assert _testing.ops.sample(products / np.float32(scale), **draw).tolist() != plain.tokens
    normed = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert plain.logprobs is not None
    found = [entry.logprob for entry in plain.logprobs]
    np.testing.assert_allclose(found, normed[np.arange(24), plain.tokens], atol=1e-4)


@pytest.fixture(scope="module")
def eagles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Checkpoints of drafters that take a token for its successor, embedding times head, and trees for them."""
    folder = tmp_path_factory.mktemp("eagles")
    calm = {"disturbance": 0.02}
    # EAGLE-1's checkpoints have a bias behind fc; its trees have one shape.
    return {
        "eagle1": (make_tiny_pair(folder / "1", bias=True, **calm).drafter, "4,1,6"),
        "eagle2": (make_tiny_pair(folder / "2", **calm).drafter, "2,2,6"),
        "eagle3": (
            make_tiny_eagle3(folder / "3", eagle_aux_hidden_state_layer_ids=[1, 2, 0], **calm).drafter,
            "2,2,6",
        ),
    }


def calmed(model: Path, path: Path) -> Path:
    """A model whose layers change little: it takes a token for its successor, too."""
    file = GgufEditor(model)
    ends = ("attn_output", "ssm_out", "ffn_down", "ffn_down_exps", "post_attention_norm", "post_ffw_norm")
    for name in file.tensors:
        if any(f".{end}." in name for end in ends):
            kind = Type.F16 if file.floats(name).ndim > 1 else Type.F32
            file.set_floats(name, 0.02 * file.floats(name), kind)
    file.set_floats("output_norm.weight", np.ones(64))
    if "granite.embedding_scale" in file.entries:
        file.set("granite.embedding_scale", 1.0)
    if "output.weight" in file.tensors:
        file.set_floats("token_embd.weight", 8 * file.floats("token_embd.weight"), Type.F16)
    return file.write(path)


@pytest.mark.parametrize("architecture", [*UNLIKE_LLAMA, "qwen35"])
def test_eagle_drafters(
    models: dict[str, Path], eagles: dict[str, tuple[Path, str]], tmp_path: Path, architecture: str
) -> None:
    """Of any target: its last state, or what stands between its layers. They are often right, and change nothing."""
    model = calmed(models[architecture], tmp_path / "model.gguf")
    plain = LLM(model)
    expected = [plain.generate(PROMPT, TOKENS, seed=7, ignore_eos=True, **sampling).tokens for sampling in SAMPLINGS]
    for name, (checkpoint, tree) in eagles.items():
        drafter = tmp_path / f"{name}.gguf"
        convert(checkpoint, drafter, "f16", target=model, quiet=True)
        llm = LLM(model, drafter=drafter, tree=tree)
        for sampling, tokens in zip(SAMPLINGS, expected, strict=True):
            found = llm.generate(PROMPT, TOKENS, seed=7, ignore_eos=True, draft=True, **sampling)
            assert found.tokens == tokens
            assert found.stats.drafted_steps > 0
            assert found.stats.drafter_error is None
            if sampling["temperature"] == 0.0:
                assert found.stats.steps < (TOKENS - 3 if name == "eagle3" else TOKENS // 2), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_depends_on_itself_alone(models: dict[str, Path], architecture: str) -> None:
    """Whatever its neighbours chose, and however many there are: passes of 1 to 512 rows."""
    whole = _core.Engine(str(models[architecture]), n_batch=512).forward(LONG_PROMPT)
    for chunk, length in ((1, 57), (7, 100), (64, 200), (300, 512)):
        found = _core.Engine(str(models[architecture]), n_batch=chunk).forward(LONG_PROMPT[:length])
        assert np.array_equal(found, whole[:length])


@pytest.mark.every_device
def test_gate_and_up_of_experts_in_one_matrix(models: dict[str, Path], tmp_path: Path) -> None:
    """As llama.cpp's converter writes them with --fuse-gate-up-exps; biases stay apart."""
    file = GgufEditor(models["gpt-oss"])
    for name in [name for name in file.tensors if name.endswith("ffn_gate_exps.weight")]:
        up = name.replace("gate", "up")
        both = np.concatenate([file.floats(name), file.floats(up)], axis=1)
        del file.tensors[name], file.tensors[up]
        file.set_floats(name.replace("gate", "gate_up"), both, Type.F16)
    found = _core.Engine(str(file.write(tmp_path / "joined.gguf"))).forward(PROMPT)
    assert np.array_equal(found, _core.Engine(str(models["gpt-oss"])).forward(PROMPT))


def test_scales_that_a_file_leaves_out(models: dict[str, Path], tmp_path: Path) -> None:
    """Granite's, but for the logits': absent or 0 they are what other models have, as in llama.cpp."""
    file = GgufEditor(models["granite"])
    logits = []
    usual = {"attention.scale": 0.25, "embedding_scale": 1.0, "residual_scale": 1.0}  # heads of 16 elements
    for values in (usual, dict.fromkeys(usual, 0.0), dict.fromkeys(usual)):
        for name, value in values.items():
            file.entries.pop(f"granite.{name}")
            if value is not None:
                file.set(f"granite.{name}", value)
        logits.append(_core.Engine(str(file.write(tmp_path / "edited.gguf"))).forward(PROMPT))
    assert np.array_equal(logits[1], logits[0])
    assert np.array_equal(logits[2], logits[0])
    assert not np.array_equal(logits[0], _core.Engine(str(models["granite"])).forward(PROMPT))


def logits_of(file: GgufEditor, folder: Path, **keys: Any) -> np.ndarray:
    """Logits behind PROMPT with keys of the architecture changed ("__" for a dot); None leaves one out."""
    architecture = file.entries["general.architecture"].value
    kept = dict(file.entries)
    for name, value in keys.items():
        key_name = f"{architecture}.{name.replace('__', '.')}"
        file.entries.pop(key_name, None)
        if value is not None:
            file.set(key_name, value)
    path = file.write(folder / "keys.gguf")
    file.entries.clear()
    file.entries.update(kept)
    return np.asarray(_core.Engine(str(path)).forward(PROMPT))


def test_what_gemma2_means_by_keys_that_are_absent(models: dict[str, Path], tmp_path: Path) -> None:
    """Caps of 50 and 30, a window of 4096 in every second layer."""
    file = GgufEditor(models["gemma2"])
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        file.set_floats(name, 8 * file.floats(name), Type.F16)  # so that such caps show
    absent = logits_of(file, tmp_path, **dict.fromkeys(caps))
    assert np.array_equal(absent, logits_of(file, tmp_path, **dict(zip(caps, (50.0, 30.0), strict=True))))
    for other in ((49.0, 30.0), (50.0, 29.0)):
        assert not np.array_equal(absent, logits_of(file, tmp_path, **dict(zip(caps, other, strict=True))))
    period = "attention__sliding_window_pattern"
    assert np.array_equal(logits_of(file, tmp_path), logits_of(file, tmp_path, **{period: 2}))
    assert not np.array_equal(logits_of(file, tmp_path), logits_of(file, tmp_path, **{period: 3}))
    # No window of 4096 shows behind a prompt of 57: that it is read is seen where the context is shorter.
    window = "gemma2.attention.sliding_window"
    file.entries.pop(window)
    expect_parts(engine_error(file.write(tmp_path / "short.gguf")), (window, "4096", "at most the context, 512"))
    file.set("gemma2.context_length", 8192)
    assert np.array_equal(logits_of(file, tmp_path), logits_of(file, tmp_path, attention__sliding_window=4096))


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_models_that_scale_scores_by_their_width(
    models: dict[str, Path], tmp_path: Path, architecture: str, layers: int
) -> None:
    """Gemma's 27B, known by their layers: 1/sqrt(64 / 4) here; all others go by their heads, which are 32 wide."""
    file = GgufEditor(models[architecture])
    assert np.array_equal(logits_of(file, tmp_path), logits_of(file, tmp_path, attention__scale=32**-0.5))
    own = [name for name in file.tensors if name.startswith("blk.0.")]
    for layer in range(layers):
        for name in own:
            file.tensors[name.replace("blk.0.", f"blk.{layer}.")] = file.tensors[name]
    file.set(f"{architecture}.block_count", layers)
    found = logits_of(file, tmp_path)
    assert np.array_equal(found, logits_of(file, tmp_path, attention__scale=0.25))
    assert not np.array_equal(found, logits_of(file, tmp_path, attention__scale=32**-0.5))


def test_granite_without_rope(models: dict[str, Path], tmp_path: Path) -> None:
    """Its way of saying so. Without rotation, tokens before the last one may change places under the first layer."""
    file = GgufEditor(models["granite"])
    for name in [name for name in file.tensors if name.startswith("blk.") and not name.startswith("blk.0.")]:
        del file.tensors[name]
    for name, value in {"block_count": 1, "attention.scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0}.items():
        file.set(f"granite.{name}", value)
    text, turned = PROMPT[:4], [PROMPT[2], PROMPT[0], PROMPT[1], PROMPT[3]]
    moved = {}
    for flag in (None, True, False):
        if flag is not None:
            file.set("granite.rope.scaling.finetuned", flag)
        engine = _core.Engine(str(file.write(tmp_path / f"{flag}.gguf")))
        moved[flag] = float(np.abs(engine.forward(text)[-1] - engine.forward(turned)[-1]).max())
    assert moved[None] == moved[True] > 1e-2
    assert moved[False] < 1e-4


def test_experts_whose_width_is_not_stated(models: dict[str, Path], tmp_path: Path) -> None:
    """It is that of the feed-forward, shared among the experts that are used."""
    file = GgufEditor(models["qwen3moe"])
    expected = logits_of(file, tmp_path)
    assert np.array_equal(
        logits_of(file, tmp_path, expert_feed_forward_length=None, feed_forward_length=3 * 48), expected
    )
    assert np.array_equal(logits_of(file, tmp_path, expert_feed_forward_length=48, feed_forward_length=7), expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral3", "granite"])
def test_a_window_that_the_architecture_has_no_place_for(
    models: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    """llama.cpp does not look at the key. It is told of, where a text could be longer."""
    file = GgufEditor(models[architecture])
    name, expected = f"{architecture}.attention.sliding_window", _core.Engine(str(models[architecture])).forward(PROMPT)
    for window in (8, 0, 512):
        file.set(name, window)
        path = file.write(tmp_path / f"{window}.gguf")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert np.array_equal(LLM(path).forward(PROMPT), expected)
        told = [f"{path}: key '{name}': found 8, for which architecture '{architecture}' has no place"]
        assert [str(warning.message).rsplit(":", 1)[0] for warning in caught] == (told if window == 8 else [])


def mxfp4_with_nan() -> TensorData:
    """Matrices (8, 64, 96) whose numbers are 0, but for a scale of 255."""
    data = np.zeros((8, 64, 96 // 32 * 17), dtype=np.uint8)
    data[5, 40, 17] = 255
    return TensorData(data, Type.MXFP4)


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
    "a matrix for each expert": (
        "mixtral",
        lambda file: file.set_floats("blk.0.ffn_gate.0.weight", file.floats("blk.0.ffn_gate_exps.weight")[0]),
        ("blk.0.ffn_gate.0.weight", "blk.0.ffn_gate_exps.weight", "converted anew"),
    ),
    "experts where there are none": ("olmo2", key("olmo2.expert_count", 4), ("olmo2.expert_count", "4", "0")),
    "factors of another rope": (
        "phi3",
        key("phi3.rope.dimension_count", 16),
        ("rope_factors_long.weight", "{6}", "{8}"),
    ),
    "short factors of another length": (
        "phi3",
        lambda file: file.set_floats("rope_factors_short.weight", np.ones(5)),
        ("rope_factors_short.weight", "{5}", "{6}"),
    ),
    "longrope without factors": (
        "smollm3",
        key("smollm3.rope.scaling.type", "longrope"),
        ("rope_factors_long.weight",),
    ),
    "a fused matrix of another height": ("phi3", key("phi3.feed_forward_length", 95), ("blk.0.ffn_up.weight", "190")),
    "queries, keys and values of another height": (
        "phi3",
        lambda file: file.set_floats("blk.1.attn_qkv.weight", file.floats("blk.1.attn_qkv.weight")[:-1]),
        ("blk.1.attn_qkv.weight", "{64, 127}", "{64, 128}"),
    ),
    "gates and ups of experts of another height": (
        "gpt-oss",
        lambda file: file.set_floats("blk.0.ffn_gate_up_exps.weight", file.floats("blk.0.ffn_gate_exps.weight")),
        ("blk.0.ffn_gate_up_exps.weight", "{64, 96, 8}", "{64, 192, 8}"),
    ),
    "a scale of MXFP4 that is none": (
        "gpt-oss",
        lambda file: file.tensors.update({"blk.1.ffn_down_exps.weight": mxfp4_with_nan()}),
        ("blk.1.ffn_down_exps.weight", "row 40", "NaN"),
    ),
    "a missing scale": ("granite", without_key("granite.logit_scale"), ("granite.logit_scale", "missing")),
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
