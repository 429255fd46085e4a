"""Conversion of target models: every tensor and every key, read back with the gguf package."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import make_checkpoint, make_tokenizer
from frspec_cpp.tools.convert import convert
from gguf_values import expected_tensors, metadata, source_weights, tensors, types

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def check_tensors(folder: Path, output: Path, interleaved: bool) -> None:
    found = tensors(output)
    found.pop("rope_freqs.weight", None)
    expected = expected_tensors(folder, interleaved)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_f32_keeps_every_weight(tmp_path: Path, architecture: str) -> None:
    folder = make_checkpoint(tmp_path / "model", architecture)
    convert(folder, tmp_path / "out.gguf", "f32")
    check_tensors(folder, tmp_path / "out.gguf", interleaved=ARCHITECTURES[architecture] == "llama")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hyper_parameters(tmp_path: Path, architecture: str) -> None:
    folder = make_checkpoint(tmp_path / "model", architecture, rope_parameters={"rope_theta": 12345.0})
    convert(folder, tmp_path / "out.gguf", "f16")
    found, arch = metadata(tmp_path / "out.gguf"), ARCHITECTURES[architecture]
    expected = {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": "model",
        "general.file_type": 1,
        "general.quantization_version": 2,
        f"{arch}.block_count": 2,
        f"{arch}.context_length": 512,
        f"{arch}.embedding_length": 64,
        f"{arch}.feed_forward_length": 96,
        f"{arch}.attention.head_count": 4,
        f"{arch}.attention.head_count_kv": 2,
        f"{arch}.attention.key_length": 16,
        f"{arch}.attention.value_length": 16,
        f"{arch}.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        f"{arch}.vocab_size": 400,
        f"{arch}.rope.dimension_count": 16,
        f"{arch}.rope.freq_base": 12345.0,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert not any("rope.scaling" in key for key in found)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("type_name", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_element_types(tmp_path: Path, type_name: str, stored: torch.dtype) -> None:
    folder = make_checkpoint(tmp_path / "model", "qwen2", dtype=stored)
    convert(folder, tmp_path / "out.gguf", type_name)
    found, kinds = tensors(tmp_path / "out.gguf"), types(tmp_path / "out.gguf")
    for name, values in expected_tensors(folder, interleaved=False).items():
        if values.ndim == 1:
            assert kinds[name] == "F32"
            np.testing.assert_array_equal(found[name], values)
            continue
        assert kinds[name] == type_name.upper()
        if type_name in ("f32", "f16", "bf16"):
            dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[type_name]
            rounded = torch.from_numpy(values).to(dtype).float().numpy()
            np.testing.assert_array_equal(found[name], rounded, err_msg=name)
        else:
            blocks = np.abs(values).reshape(len(values), -1, 32).max(axis=2)
            # Half a step (Q4_0: a whole one, on the far side of zero), and the scale's own rounding to F16.
            step = 0.5 / 127 if type_name == "q8_0" else 1 / 8
            most = np.repeat(blocks * (step + 2.0**-11), 32, axis=1)
            assert (np.abs(found[name] - values) <= most * 1.001).all()


def test_rows_that_are_no_blocks_fall_back_to_f16(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama", intermediate_size=72)
    remarks = convert(folder, tmp_path / "out.gguf", "q4_0")
    kinds = types(tmp_path / "out.gguf")
    assert kinds["blk.0.ffn_down.weight"] == kinds["blk.1.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == kinds["token_embd.weight"] == kinds["output.weight"] == "Q4_0"
    assert len(remarks) == 1
    assert "2 tensors" in remarks[0]
    assert "blk.0.ffn_down.weight" in remarks[0]


def test_tied_head_is_not_written(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama", tie_word_embeddings=True)
    convert(folder, tmp_path / "out.gguf", "f32")
    assert "output.weight" not in tensors(tmp_path / "out.gguf")
    check_tensors(folder, tmp_path / "out.gguf", interleaved=True)


@pytest.mark.parametrize("name", ["lm_head.weight", "both"])
def test_tied_head_stored_in_the_checkpoint(tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(tmp_path / "model", "llama", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"].clone()
    if name == "lm_head.weight":
        del weights["model.embed_tokens.weight"]
    save_file({**weights, "lm_head.weight": embedding.clone()}, folder / "model.safetensors")
    convert(folder, tmp_path / "out.gguf", "f32")
    found = tensors(tmp_path / "out.gguf")
    assert "output.weight" not in found
    np.testing.assert_array_equal(found["token_embd.weight"], embedding.numpy())


def test_a_head_that_differs_is_kept_against_the_config(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(tmp_path / "model", "llama", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"] * 2
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    (remark,) = convert(folder, tmp_path / "out.gguf", "f32")
    assert "tie_word_embeddings" in remark
    np.testing.assert_array_equal(tensors(tmp_path / "out.gguf")["output.weight"], head.numpy())
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    np.testing.assert_array_equal(loaded.lm_head.weight.detach().numpy(), head.numpy())


@pytest.mark.parametrize(
    ("architecture", "settings", "biases"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}, 14),
        ("qwen3", {"attention_bias": True}, 8),
        ("qwen2", {}, 6),
    ],
)
def test_biases(tmp_path: Path, architecture: str, settings: dict[str, Any], biases: int) -> None:
    folder = make_checkpoint(tmp_path / "model", architecture, **settings)
    convert(folder, tmp_path / "out.gguf", "f32")
    check_tensors(folder, tmp_path / "out.gguf", interleaved=architecture == "llama")
    assert sum(name.endswith(".bias") for name in tensors(tmp_path / "out.gguf")) == biases


def test_llama3_rope_factors_are_those_of_transformers(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama", rope_parameters=LLAMA3_ROPE)
    convert(folder, tmp_path / "out.gguf", "f32")
    config = transformers.AutoConfig.from_pretrained(folder)
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** (-np.arange(0, 16, 2) / 16)
    found = tensors(tmp_path / "out.gguf")["rope_freqs.weight"]
    np.testing.assert_allclose(plain / found, scaled.numpy(), rtol=1e-6)
    assert found[0] == 1.0
    assert found[-1] == 8.0
    assert types(tmp_path / "out.gguf")["rope_freqs.weight"] == "F32"
    assert not any("rope.scaling" in key for key in metadata(tmp_path / "out.gguf"))


def test_yarn_and_linear_scaling_keys(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
    for extra, attn_factor in (({}, None), ({"attention_factor": 1.5}, 1.5 / (1 + 0.1 * math.log(4)))):
        folder = make_checkpoint(tmp_path / "yarn", "qwen3", rope_parameters={**yarn, "beta_fast": 16.0, **extra})
        convert(folder, tmp_path / "out.gguf", "f32")
        found = metadata(tmp_path / "out.gguf")
        assert found["qwen3.rope.scaling.type"] == "yarn"
        assert found["qwen3.rope.scaling.factor"] == 4.0
        assert found["qwen3.rope.scaling.original_context_length"] == 128
        assert found["qwen3.rope.scaling.yarn_beta_fast"] == 16.0
        assert found.get("qwen3.rope.scaling.attn_factor") == (attn_factor and pytest.approx(attn_factor))
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    folder = make_checkpoint(tmp_path / "linear", "llama", rope_parameters=linear)
    convert(folder, tmp_path / "out.gguf", "f32")
    found = metadata(tmp_path / "out.gguf")
    assert (found["llama.rope.scaling.type"], found["llama.rope.scaling.factor"]) == ("linear", 2.0)


def test_yarn_magnitudes_are_those_of_transformers(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
    for extra in ({"mscale": 2.0, "mscale_all_dim": 0.5}, {"mscale": 2.0}, {}):
        folder = make_checkpoint(tmp_path / "yarn", "llama", rope_parameters={**yarn, **extra})
        convert(folder, tmp_path / "out.gguf", "f32")
        config = transformers.AutoConfig.from_pretrained(folder)
        _, magnitude = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
        factor = metadata(tmp_path / "out.gguf").get("llama.rope.scaling.attn_factor", 1.0)
        assert factor * (1 + 0.1 * math.log(4)) == pytest.approx(magnitude)


def test_the_older_rope_section_wins(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama", rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    file = folder / "config.json"
    old = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 7e4}
    file.write_text(json.dumps({**json.loads(file.read_text()), **old}))
    convert(folder, tmp_path / "out.gguf", "f32")
    found = metadata(tmp_path / "out.gguf")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert found["llama.rope.scaling.type"] == config.rope_parameters["rope_type"] == "linear"
    assert found["llama.rope.freq_base"] == config.rope_parameters["rope_theta"] == 7e4


def test_old_config_spelling_gives_the_same_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama", rope_parameters=LLAMA3_ROPE)
    convert(folder, tmp_path / "new.gguf", "bf16")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", "float32")
    file.write_text(json.dumps(config))
    convert(folder, tmp_path / "old.gguf", "bf16")
    assert (tmp_path / "old.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()


def test_sharded_and_torch_checkpoints_give_the_same_file(tmp_path: Path) -> None:
    single = make_checkpoint(tmp_path / "a" / "model", "qwen3", dtype=torch.bfloat16)
    convert(single, tmp_path / "single.gguf", "q8_0")
    expected = (tmp_path / "single.gguf").read_bytes()

    sharded = make_checkpoint(tmp_path / "b" / "model", "qwen3", dtype=torch.bfloat16, max_shard_size="40KB")
    assert len(list(sharded.glob("model-0*.safetensors"))) > 1
    convert(sharded, tmp_path / "sharded.gguf", "q8_0")
    assert (tmp_path / "sharded.gguf").read_bytes() == expected

    state = {name: torch.from_numpy(w).to(torch.bfloat16) for name, w in source_weights(single).items()}
    (single / "model.safetensors").unlink()
    for zipped in (True, False):  # the second form is that of torch before 1.6
        torch.save(state, single / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        convert(single, tmp_path / "torch.gguf", "q8_0")
        assert (tmp_path / "torch.gguf").read_bytes() == expected

    names = sorted(state)
    (single / "pytorch_model.bin").unlink()
    weight_map = {}
    for part, chosen in enumerate((names[:9], names[9:]), start=1):
        file = f"pytorch_model-{part:05}-of-00002.bin"
        torch.save({name: state[name] for name in chosen}, single / file)
        weight_map.update(dict.fromkeys(chosen, file))
    (single / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    convert(single, tmp_path / "shards.gguf", "q8_0")
    assert (tmp_path / "shards.gguf").read_bytes() == expected


def test_padded_vocabulary(tmp_path: Path) -> None:
    size = make_tokenizer(tmp_path / "model", "qwen2")
    folder = make_checkpoint(tmp_path / "model", "qwen2", vocab_size=size + 5)
    convert(folder, tmp_path / "out.gguf", "f16")
    found = metadata(tmp_path / "out.gguf")
    assert found["tokenizer.ggml.tokens"][size:] == [f"[PAD{i}]" for i in range(size, size + 5)]
    assert found["tokenizer.ggml.token_type"][size:] == [5] * 5
    assert found["qwen2.vocab_size"] == size + 5


def test_sliding_window_is_remarked(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "mistral", sliding_window=128)
    assert any("sliding_window 128" in remark for remark in convert(folder, tmp_path / "out.gguf", "f16"))


@pytest.mark.parametrize("name", ["stories260K", "llama2xs-279K", "babyllama105-936K", "TinyStories-656K"])
def test_real_models(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "data" / "models" / name
    convert(folder, tmp_path / "out.gguf", "f32")
    found = tensors(tmp_path / "out.gguf")
    expected = expected_tensors(folder, interleaved=True)
    if "token_embd.weight" not in expected:  # a tied pair stored under the head's name
        expected["token_embd.weight"] = expected["output.weight"]
    expected.pop("output.weight", None)
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        np.testing.assert_array_equal(found[tensor], values, err_msg=tensor)
