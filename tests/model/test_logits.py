"""Logits and hidden states agree with Hugging Face transformers, for tiny random checkpoints of each architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import UNLIKE_LLAMA, make_checkpoint
from frspec_cpp.tools.convert import main as convert
from gguf_edit import GgufEditor

from frspec_cpp import _core

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama head_dim": ("llama", {"head_dim": 24}),
    "llama 3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama linear rope": ("llama", {"rope_parameters": LINEAR_ROPE}),
    "llama yarn": ("llama", {"rope_parameters": YARN_ROPE}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen2 yarn": ("qwen2", {"rope_parameters": YARN_ROPE}),
    "qwen3": ("qwen3", {}),
    **{architecture: (architecture, {}) for architecture in UNLIKE_LLAMA},
    # Seeds with which no row's experts are a near tie, which rounding would decide.
    "qwen3moe": ("qwen3moe", {"seed": 1}),
    "gpt-oss": ("gpt-oss", {"seed": 1}),
    "qwen35": ("qwen35", {}),
    "gemma3 windows as flags": (
        "gemma3",
        {"layer_types": ["full_attention", "sliding_attention"] * 3, "num_hidden_layers": 6},
    ),
}


# All that a device does for a block; rotations are tables that it is given.
REPEATED = ("llama biases", "llama head_dim", "qwen3", "gemma2", "phi3", "gpt-oss")


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.every_isa, pytest.mark.every_device] if c in REPEATED else []) for c in CASES],
)
def test_logits_and_taps(tmp_path: Path, case: str) -> None:
    architecture, overrides = CASES[case]
    folder = make_checkpoint(tmp_path / "hf", architecture, **overrides)
    gguf = tmp_path / "model.gguf"
    assert convert([str(folder), "-o", str(gguf), "--type", "f32"]) in (0, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    layers = model.config.num_hidden_layers
    tokens = np.random.default_rng(5).integers(3, model.config.vocab_size, 100).tolist()
    with torch.no_grad():
        reference = model(torch.tensor([tokens]), output_hidden_states=True)
    engine = _core.Engine(str(gguf), taps=list(range(layers)), n_batch=33)
    logits, taps = engine.forward(tokens), engine.forward_taps(tokens)
    expected = reference.logits[0].numpy()
    # Keys and values are kept in half precision: 11 bits, so some 1e-3 of the spread of the logits. On a GPU queries
    # and the weights of values are, too.
    tolerance = (6e-3 if engine.device.startswith("cpu") else 8e-3) * max(1.0, layers / 3)
    assert np.abs(logits - expected).max() < tolerance * max(1.0, float(expected.std()))
    for layer in range(layers):
        state = reference.hidden_states[layer][0].numpy()
        assert np.abs(taps[layer] - state).max() < tolerance * max(1.0, float(state.std())), layer


@pytest.mark.parametrize("length", [40, 12])
def test_both_sets_of_longrope_factors(tmp_path: Path, length: int) -> None:
    """Short ones as far as the session's context is no longer than what the model was made with, 16 tokens here."""
    config = {"original_max_position_embeddings": 16, "sliding_window": None}
    folder = make_checkpoint(tmp_path / "hf", "phi3", **config)
    convert([str(folder), "-o", str(tmp_path / "model.gguf"), "--type", "f32"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = np.random.default_rng(5).integers(3, model.config.vocab_size, length).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    differences = {}
    for context in (16, 64):
        if length <= context:
            logits = _core.Engine(str(tmp_path / "model.gguf"), n_ctx=context).forward(tokens)
            differences[context] = float(np.abs(logits - expected).max()) / max(1.0, float(expected.std()))
    right = 16 if length <= 16 else 64
    assert differences.pop(right) < 6e-3
    assert all(difference > 2e-2 for difference in differences.values())


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-2), ("bf16", 8e-2), ("q8_0", 8e-2), ("q4_0", 1.0)])
def test_weight_types(tmp_path: Path, kind: str, tolerance: float) -> None:
    """Each weight type stays as close to f32 as its precision promises."""
    folder = make_checkpoint(tmp_path / "hf", "llama")
    outputs = {}
    for name in ("f32", kind):
        gguf = tmp_path / f"{name}.gguf"
        convert([str(folder), "-o", str(gguf), "--type", name])
        outputs[name] = _core.Engine(str(gguf)).forward(list(range(3, 60)))
    spread = float(outputs["f32"].std())
    difference = np.abs(outputs[kind] - outputs["f32"])
    assert 0 < float(difference.mean()) < tolerance * spread
    assert float(difference.max()) < 8 * tolerance * spread


def test_rope_scaling_as_old_files_write_it(tmp_path: Path) -> None:
    """A factor without a type is linear, and its older key means the same, as in llama.cpp."""
    folder = make_checkpoint(tmp_path / "hf", "llama", rope_parameters=LINEAR_ROPE)
    convert([str(folder), "-o", str(tmp_path / "new.gguf"), "--type", "f32"])
    tokens = list(range(3, 90))
    expected = _core.Engine(str(tmp_path / "new.gguf")).forward(tokens)
    file = GgufEditor(tmp_path / "new.gguf")
    del file.entries["llama.rope.scaling.type"]
    untyped = _core.Engine(str(file.write(tmp_path / "untyped.gguf"))).forward(tokens)
    del file.entries["llama.rope.scaling.factor"]
    unscaled = _core.Engine(str(file.write(tmp_path / "unscaled.gguf"))).forward(tokens)
    file.set("llama.rope.scale_linear", LINEAR_ROPE["factor"])
    old = _core.Engine(str(file.write(tmp_path / "old.gguf"))).forward(tokens)
    assert np.array_equal(untyped, expected)
    assert np.array_equal(old, expected)
    assert not np.array_equal(unscaled, expected)
