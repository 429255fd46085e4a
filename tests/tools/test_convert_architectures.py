"""Conversion of architectures that do otherwise than Llama: what llama.cpp's converter writes for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_values import metadata, source_weights, tensors, types
from packed_experts import packed_gpt_oss
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

# Keys that say what differs, as llama.cpp's converter writes them for these checkpoints.
KEYS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "gemma3",
        {
            "attention.sliding_window": 8,
            "rope.freq_base": 1e6,
            "rope.freq_base_swa": 1e4,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "attention.key_length": 32,
        },
    ),
    "gemma2": (
        "gemma2",
        {"attention.sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "mistral3": (
        "mistral3",
        {
            "attention.temperature_scale": np.float32(0.1),
            "rope.scaling.yarn_log_multiplier": 1.0,
            "rope.scaling.original_context_length": 16,
        },
    ),
    "phi3": (
        "phi3",
        {
            "attention.sliding_window": 24,
            "rope.dimension_count": 12,
            "rope.scaling.original_context_length": 64,
            "rope.scaling.attn_factor": np.float32(np.sqrt(1 + np.log(8) / np.log(64))),
        },
    ),
    "olmo3": (
        "olmo2",
        {
            "attention.sliding_window": 8,
            "attention.sliding_window_pattern": [True, True, True, False, True],
            "rope.scaling.type": "yarn",
        },
    ),
    "granite": (
        "granite",
        {
            "attention.scale": np.float32(0.0156),
            "embedding_scale": 12.0,
            "residual_scale": np.float32(0.22),
            "logit_scale": 8.0,
        },
    ),
    "mixtral": ("llama", {"expert_count": 4, "expert_used_count": 2, "feed_forward_length": 96}),
    "qwen3moe": (
        "qwen3moe",
        {"expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 48, "feed_forward_length": 96},
    ),
    "gpt-oss": (
        "gpt-oss",
        {"expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 96, "attention.sliding_window": 8},
    ),
}


@pytest.mark.parametrize("architecture", KEYS)
def test_keys(tmp_path: Path, architecture: str) -> None:
    name, expected = KEYS[architecture]
    convert(make_checkpoint(tmp_path / "model", architecture), tmp_path / "out.gguf", "f16", quiet=True)
    found = metadata(tmp_path / "out.gguf")
    assert found["general.architecture"] == name
    assert {key: found.get(f"{name}.{key}") for key in expected} == expected


def converted(tmp_path: Path, architecture: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    folder = make_checkpoint(tmp_path / "model", architecture)
    convert(folder, tmp_path / "out.gguf", "f32", quiet=True)
    return source_weights(folder), tensors(tmp_path / "out.gguf")


def test_gemma_norms_hold_what_is_multiplied(tmp_path: Path) -> None:
    source, found = converted(tmp_path, "gemma3")
    layer = "model.layers.3."
    for theirs, ours in (
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
    ):
        expected = source[f"{layer}{theirs}.weight"] + np.float32(1)
        np.testing.assert_array_equal(found[f"blk.3.{ours}.weight"], expected)
    np.testing.assert_array_equal(found["output_norm.weight"], source["model.norm.weight"] + np.float32(1))
    assert "output.weight" not in found  # its class ties the head


def test_phi3_stays_fused(tmp_path: Path) -> None:
    source, found = converted(tmp_path, "phi3")
    np.testing.assert_array_equal(found["blk.1.attn_qkv.weight"], source["model.layers.1.self_attn.qkv_proj.weight"])
    np.testing.assert_array_equal(found["blk.1.ffn_up.weight"], source["model.layers.1.mlp.gate_up_proj.weight"])
    assert found["rope_factors_long.weight"].tolist() == [1.0, 1.5, 2.5, 4.0, 7.0, 9.0]


@pytest.mark.parametrize("architecture", ["gemma3", "mistral3"])
def test_wrappers_of_models_that_see(tmp_path: Path, architecture: str) -> None:
    """The text part of a *ForConditionalGeneration, whatever else it has, is what the text model alone is."""
    folder = make_checkpoint(tmp_path / "model", architecture)
    convert(folder, tmp_path / "text.gguf", "f32", quiet=True)
    config = json.loads((folder / "config.json").read_text())
    wrapper = {"gemma3": "Gemma3", "mistral3": "Mistral3"}[architecture] + "ForConditionalGeneration"
    (folder / "config.json").write_text(json.dumps({"architectures": [wrapper], "text_config": config}))
    weights = {f"language_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    for name in ("vision_tower.patch_embed.weight", "multi_modal_projector.linear_1.weight"):
        weights[name] = torch.ones(4, 4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    convert(folder, tmp_path / "whole.gguf", "f32", quiet=True)
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "text.gguf").read_bytes()


def test_experts_are_stacked(tmp_path: Path) -> None:
    source, found = converted(tmp_path, "qwen3moe")
    for matrix in ("gate", "up", "down"):
        each = [source[f"model.layers.1.mlp.experts.{e}.{matrix}_proj.weight"] for e in range(8)]
        np.testing.assert_array_equal(found[f"blk.1.ffn_{matrix}_exps.weight"], np.stack(each))
    convert(tmp_path / "model", tmp_path / "q8.gguf", "q8_0", quiet=True)
    kinds = types(tmp_path / "q8.gguf")
    assert (kinds["blk.0.ffn_gate_exps.weight"], kinds["blk.0.ffn_gate_inp.weight"]) == ("Q8_0", "F32")


def test_experts_of_gpt_oss(tmp_path: Path) -> None:
    source, found = converted(tmp_path, "gpt-oss")
    joined = source["model.layers.2.mlp.experts.gate_up_proj"].swapaxes(1, 2)
    bias = source["model.layers.2.mlp.experts.gate_up_proj_bias"]
    for first, name in enumerate(("gate", "up")):
        np.testing.assert_array_equal(found[f"blk.2.ffn_{name}_exps.weight"], joined[:, first::2])
        np.testing.assert_array_equal(found[f"blk.2.ffn_{name}_exps.bias"], bias[:, first::2])
    down = source["model.layers.2.mlp.experts.down_proj"].swapaxes(1, 2)
    np.testing.assert_array_equal(found["blk.2.ffn_down_exps.weight"], down)
    np.testing.assert_array_equal(found["blk.2.attn_sinks.weight"], source["model.layers.2.self_attn.sinks"])


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_published_experts_of_gpt_oss(tmp_path: Path, kind: str) -> None:
    """They stay in MXFP4, and are worth what transformers takes them for."""
    folder = packed_gpt_oss(tmp_path / "model")
    convert(folder, tmp_path / "out.gguf", kind, quiet=True)
    packed, found, kinds = load_file(folder / "model.safetensors"), *read_back(tmp_path / "out.gguf")
    for layer in range(3):
        source = f"model.layers.{layer}.mlp.experts."
        for theirs, parts in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            blocks, scales = packed[f"{source}{theirs}_blocks"], packed[f"{source}{theirs}_scales"]
            values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).swapaxes(1, 2).numpy()
            for first, part in enumerate(parts):
                name = f"blk.{layer}.ffn_{part}_exps.weight"
                assert kinds[name] == "MXFP4"
                np.testing.assert_array_equal(found[name], values[:, first :: len(parts)])
    assert kinds["blk.0.attn_q.weight"] == kind.upper()
    bias = packed["model.layers.2.mlp.experts.gate_up_proj_bias"]
    np.testing.assert_array_equal(found["blk.2.ffn_up_exps.bias"], bias[:, 1::2])


def read_back(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return tensors(path), types(path)


def test_refused_experts(tmp_path: Path) -> None:
    blocks = torch.zeros(8, 64, 3, 16, dtype=torch.uint8)
    scales = torch.full((8, 64, 3), 120, dtype=torch.uint8)
    scales[3, 5, 1] = 255
    for changes, message in (
        ({"down_proj_scales": scales}, r"'model\.layers\.1\.mlp\.experts\.down_proj_scales' holds a scale of 255"),
        ({"down_proj_blocks": blocks[:7].clone()}, r"down_proj_blocks': found U8 \(7, 64, 3, 16\), expected U8 \(8,"),
        ({"down_proj_blocks": blocks.float()}, r"down_proj_blocks': found F32 .*, expected U8"),
        ({"down_proj": torch.zeros(8, 96, 64)}, r"unexpected tensor 'model\.layers\.1\.mlp\.experts\.down_proj'"),
    ):
        folder = packed_gpt_oss(tmp_path / str(len(list(tmp_path.iterdir()))), **changes)
        with pytest.raises(ValueError, match=message):
            convert(folder, tmp_path / "out.gguf", "f16", quiet=True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "fp8"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="already quantized"):
        convert(folder, tmp_path / "out.gguf", "f16", quiet=True)


REFUSED = {
    "another scale of scores": ("gemma3", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
    "weights of experts that are not normed": ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob"),
    "dense layers among experts": ("qwen3moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
    "experts in every second layer": ("qwen3moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
    "attention that looks ahead": ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "more experts used than there are": ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok"),
    "another pattern without rope": ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1]}, "no_rope_layers"),
    "factors of the wrong length": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0],
                "long_factor": [1.0],
                "original_max_position_embeddings": 64,
            }
        },
        "long_factor",
    ),
    "another limit of activations": ("gpt-oss", {"swiglu_limit": 5.0}, "swiglu_limit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    architecture, changes, key = REFUSED[case]
    folder = make_checkpoint(tmp_path / "model", architecture)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=rf"config\.json: key '(rope_parameters\.)?{key}': found"):
        convert(folder, tmp_path / "out.gguf", "f16", quiet=True)
