"""Rope scaling chosen at run time: logits are transformers', contexts as long as it carries."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import main as convert
from gguf import GGUFValueType
from gguf_edit import GgufEditor
from tiny_pair import make_tiny_pair

from frspec_cpp import LLM, _core

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ORIGINAL = 64  # tokens that the checkpoints are said to be trained for
THETA = 10000.0
TOKENS = np.random.default_rng(5).integers(3, 300, 200).tolist()


def scaled(kind: str, **values: float) -> dict[str, Any]:
    """Transformers' rope_parameters of that kind."""
    section = {"rope_type": kind, "rope_theta": THETA, **values}
    return section | ({"original_max_position_embeddings": ORIGINAL} if kind == "yarn" else {})


# Options of LLM, and the same as transformers spells it.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "yarn": ({"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 4}, scaled("yarn", factor=4.0)),
    "yarn by llama.cpp's number": ({"rope_scaling_type": 2, "rope_freq_scale": 1 / 4}, scaled("yarn", factor=4.0)),
    "yarn of a factor that is no power of 2": (
        {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 3.5},
        scaled("yarn", factor=3.5),
    ),
    "yarn betas": (
        {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 4, "yarn_beta_fast": 8.0, "yarn_beta_slow": 2.0},
        scaled("yarn", factor=4.0, beta_fast=8.0, beta_slow=2.0),
    ),
    "yarn magnitude": (  # transformers: the whole; here: what YaRN's own is multiplied by
        {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 4, "yarn_attn_factor": 0.9},
        scaled("yarn", factor=4.0, attention_factor=0.9 * (1 + 0.1 * np.log(4.0))),
    ),
    "as llama-cpp-python's defaults": (
        {
            "rope_scaling_type": 2,
            "rope_freq_scale": 0.25,
            "yarn_orig_ctx": ORIGINAL,
            "yarn_ext_factor": -1.0,
            "yarn_attn_factor": 1.0,
            "yarn_beta_fast": 32.0,
            "yarn_beta_slow": 1.0,
        },
        scaled("yarn", factor=4.0),
    ),
    "linear": ({"rope_scaling_type": "linear", "rope_freq_scale": 1 / 4}, scaled("linear", factor=4.0)),
    "a factor alone is linear": ({"rope_freq_scale": 1 / 4}, scaled("linear", factor=4.0)),
    "yarn that extrapolates nothing is linear": (
        {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 4, "yarn_ext_factor": 0.0},
        scaled("linear", factor=4.0),
    ),
    "extrapolating makes linear scaling yarn": (
        {"rope_freq_scale": 1 / 4, "yarn_ext_factor": 1.0},
        scaled("yarn", factor=4.0),
    ),
    "base": ({"rope_freq_base": 40000.0}, {"rope_type": "default", "rope_theta": 40000.0}),
    "none": ({"rope_scaling_type": "none", "rope_freq_scale": 1 / 4, "rope_freq_base": THETA}, scaled("default")),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint without scaling, and its GGUF file."""
    folder = tmp_path_factory.mktemp("rope")
    checkpoint = make_checkpoint(folder / "hf", "qwen2", max_position_embeddings=ORIGINAL)
    assert convert([str(checkpoint), "-o", str(folder / "plain.gguf"), "--type", "f32"]) in (0, None)
    return checkpoint, folder / "plain.gguf"


def reference(checkpoint: Path, rope_parameters: dict[str, Any], inv_freq: np.ndarray | None = None) -> np.ndarray:
    """Transformers' logits after each of TOKENS."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.rope_parameters = rope_parameters
    config.max_position_embeddings = 4 * ORIGINAL
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, config=config, dtype=torch.float32).eval()
    if inv_freq is not None:
        model.model.rotary_emb.inv_freq = torch.tensor(inv_freq, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model(torch.tensor([TOKENS])).logits[0].numpy())


def assert_close(logits: np.ndarray, expected: np.ndarray) -> None:
    """As near as keys and values in half precision allow."""
    assert np.abs(logits - expected).max() < 8e-3 * max(1.0, float(expected.std()))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(plain: tuple[Path, Path], case: str) -> None:
    options, rope_parameters = CASES[case]
    checkpoint, gguf = plain
    logits = LLM(gguf, n_ctx=len(TOKENS), **{"rope_freq_base": THETA, **options}).forward(TOKENS)
    assert_close(logits, reference(checkpoint, rope_parameters))
    if rope_parameters["rope_type"] != "default":  # the scaling shows at all
        unscaled = LLM(gguf, n_ctx=len(TOKENS), rope_freq_base=THETA).forward(TOKENS)
        assert np.abs(logits - unscaled).max() > 0.1


def test_a_mixture_of_both(plain: tuple[Path, Path]) -> None:
    """llama.cpp's extrapolation factor between 0 and 1: by its formula, which transformers does not have."""
    checkpoint, gguf = plain
    dims, extrapolation, factor = 16, 0.5, 4.0
    own = THETA ** (-np.arange(0, dims, 2) / dims)
    turns = np.array([32.0, 1.0])
    low, high = dims * np.log(ORIGINAL / (turns * 2 * np.pi)) / (2 * np.log(THETA))
    low, high = max(0.0, np.floor(low)), min(dims - 1.0, np.ceil(high))
    kept = (1 - np.clip((np.arange(dims // 2) - low) / (high - low), 0, 1)) * extrapolation
    expected = reference(checkpoint, scaled("yarn", factor=factor), own / factor * (1 - kept) + own * kept)
    options: dict[str, Any] = {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / factor}
    assert_close(LLM(gguf, n_ctx=0, **options, yarn_ext_factor=extrapolation).forward(TOKENS), expected)


def test_options_say_what_a_file_may_say(plain: tuple[Path, Path], tmp_path: Path) -> None:
    """Bit for bit; and a file's scaling can be taken back, or changed."""
    yarn = make_checkpoint(
        tmp_path / "hf", "qwen2", max_position_embeddings=4 * ORIGINAL, rope_parameters=scaled("yarn", factor=4.0)
    )
    assert convert([str(yarn), "-o", str(tmp_path / "yarn.gguf"), "--type", "f32"]) in (0, None)
    file = tmp_path / "yarn.gguf"
    options: dict[str, Any] = {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 4}
    assert np.array_equal(LLM(file).forward(TOKENS), LLM(plain[1], **options).forward(TOKENS))
    assert LLM(file).n_ctx == LLM(plain[1], **options).n_ctx == 4 * ORIGINAL
    short = TOKENS[:ORIGINAL]
    unscaled = LLM(file, rope_scaling_type="none")
    assert unscaled.n_ctx == ORIGINAL
    assert np.array_equal(unscaled.forward(short), LLM(plain[1]).forward(short))
    assert LLM(file, rope_freq_scale=1 / 8).n_ctx == 8 * ORIGINAL
    linear = LLM(file, rope_scaling_type="linear")  # the factor stays
    assert np.array_equal(linear.forward(TOKENS), LLM(plain[1], rope_freq_scale=1 / 4).forward(TOKENS))


def test_how_long_a_context_may_be(plain: tuple[Path, Path]) -> None:
    file = plain[1]
    yarn: dict[str, Any] = {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 4}
    assert LLM(file).n_ctx == LLM(file, n_ctx=0).n_ctx == ORIGINAL
    assert LLM(file, n_ctx=0, **yarn).n_ctx == 4 * ORIGINAL
    assert LLM(file, n_ctx=None, rope_freq_scale=1 / 100).n_ctx == 4096
    assert LLM(file, n_ctx=0, rope_freq_scale=1 / 100).n_ctx == 100 * ORIGINAL
    assert LLM(file, n_ctx=0, **yarn, yarn_orig_ctx=100).n_ctx == 400
    assert LLM(file, n_ctx=3000, rope_freq_base=1e6).n_ctx == 3000  # nobody knows how far a base carries
    with pytest.raises(ValueError, match=f"found {ORIGINAL + 1} tokens, expected 2 to {ORIGINAL}.*rope_freq_scale 1/2"):
        LLM(file, n_ctx=ORIGINAL + 1)
    with pytest.raises(ValueError, match=f"found 257 tokens, expected 2 to {4 * ORIGINAL}"):
        LLM(file, n_ctx=4 * ORIGINAL + 1, **yarn)


@pytest.fixture(scope="module")
def short_target(demo_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo pair's target, said to be trained for 256 tokens."""
    data = bytearray(demo_target.read_bytes())
    key = b"llama.context_length"
    at = data.index(key) + len(key)
    assert data[at : at + 4] == struct.pack("<I", GGUFValueType.UINT32)
    data[at + 4 : at + 8] = struct.pack("<I", 256)
    path = tmp_path_factory.mktemp("short") / "target.gguf"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("drafts", [pytest.param("eagle2", marks=pytest.mark.every_device), "itself"])
def test_drafts_of_a_tiny_pair_change_nothing(tmp_path: Path, drafts: str) -> None:
    pair = make_tiny_pair(tmp_path / "pair")
    target = GgufEditor(pair.target_gguf)
    target.entries["llama.context_length"].value = ORIGINAL
    path = target.write(tmp_path / "short.gguf")
    options: dict[str, Any] = {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 2, "n_ctx": 0}
    expected = LLM(path, **options).generate(TOKENS[:100], -1, ignore_eos=True)
    assert len(expected.tokens) == 2 * ORIGINAL - 100
    drafter = pair.drafter_gguf if drafts == "eagle2" else path
    llm = LLM(path, drafter=drafter, head="full", tree="2,3,9", **options)
    drafted = llm.generate(TOKENS[:100], -1, ignore_eos=True, draft="always")
    assert drafted.tokens == expected.tokens
    assert drafted.stats.drafter_error is None
    assert drafted.stats.accepted_length > 1.2


@pytest.mark.parametrize("drafter", ["eagle3", "eagle2", None])
def test_drafts_change_nothing(short_target: Path, demo_drafters: dict[str, Path], drafter: str | None) -> None:
    """Behind the context that the target was trained for, and its drafter, too, where that is a language model."""
    options: dict[str, Any] = {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 2, "n_ctx": 0}
    plain = LLM(short_target, **options)
    prompt = plain.tokenize("def add(a, b):\n    return a + b\n\n\n" * 40)[:484]
    expected = plain.generate(prompt, -1, ignore_eos=True)
    assert len(prompt) + len(expected.tokens) == plain.n_ctx == 512
    path = demo_drafters[drafter] if drafter else short_target
    llm = LLM(short_target, drafter=path, head="full", tree_depth=2, tree_size=12, **options)
    drafted = llm.generate(prompt, -1, ignore_eos=True, draft="always")
    assert drafted.tokens == expected.tokens
    assert drafted.stats.drafter_error is None
    assert drafted.stats.accepted_length > 1.5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rope_scaling_type": "ntk"}, 'rope_scaling_type: found "ntk", expected none, linear or yarn'),
    ({"rope_scaling_type": 3}, r"rope_scaling_type: found 3, expected .*2 \(yarn\)"),
    ({"rope_freq_base": -1.0}, "rope_freq_base: found -1"),
    ({"rope_freq_base": float("nan")}, "rope_freq_base: found nan"),
    ({"rope_freq_scale": -0.25}, "rope_freq_scale: found -0.25"),
    ({"rope_freq_scale": float("inf")}, "rope_freq_scale: found inf"),
    ({"yarn_orig_ctx": -1}, "yarn_orig_ctx: found -1"),
    ({"yarn_ext_factor": float("nan")}, "yarn_ext_factor: found nan"),
    ({"yarn_attn_factor": 0.0}, "yarn_attn_factor: found 0"),
    ({"yarn_beta_fast": 0.0}, "yarn_beta_fast: found 0"),
    ({"yarn_beta_slow": float("inf")}, "yarn_beta_slow: found inf"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_wrong_values(plain: tuple[Path, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(plain[1], **options)


def test_the_extension_checks_for_itself(plain: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="rope_freq_scale: found -1"):
        _core.Engine(str(plain[1]), rope_freq_scale=-1.0)
