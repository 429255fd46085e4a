"""Conversion of Qwen3.5: delta nets, gated attention, and its MTP block in the forms that files have it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert, main
from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
from frspec_cpp.tools.mtp import Parts, head_tokens
from frspec_cpp.tools.ranks_file import Ranks, write_ranks
from gguf_values import metadata, source_weights, tensors, types
from hf_tokenizers import read
from llama_cpp_converter import convert_there
from safetensors.torch import load_file, save_file

LAYERS, KEY_HEADS, EACH, SIZE = 8, 2, 3, 32  # of the tiny checkpoint; value heads of each key head; size of a head
KEYS = KEY_HEADS * SIZE
SIDECAR = Parts(layers=False)
COMMON = {"token_embd.weight", "output_norm.weight", "output.weight"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an MTP block."""
    return make_checkpoint(tmp_path_factory.mktemp("qwen35") / "model", "qwen35", mtp=True)


def tiled(values: np.ndarray, size: int) -> np.ndarray:
    """Rows of value heads as GGUF has them: head j * KEY_HEADS + g is head g * EACH + j of the checkpoint."""
    heads = [values[head * size : (head + 1) * size] for head in range(KEY_HEADS * EACH)]
    return np.concatenate([heads[group * EACH + j] for j in range(EACH) for group in range(KEY_HEADS)])


def of_layer(weights: dict[str, np.ndarray], source: str, name: str, delta: bool) -> dict[str, np.ndarray]:
    """What GGUF must hold of one layer."""
    result = {
        "attn_norm.weight": weights[f"{source}input_layernorm.weight"] + np.float32(1),
        "post_attention_norm.weight": weights[f"{source}post_attention_layernorm.weight"] + np.float32(1),
        "ffn_gate.weight": weights[f"{source}mlp.gate_proj.weight"],
        "ffn_up.weight": weights[f"{source}mlp.up_proj.weight"],
        "ffn_down.weight": weights[f"{source}mlp.down_proj.weight"],
    }
    if delta:
        own = f"{source}linear_attn."
        qkv, conv = weights[f"{own}in_proj_qkv.weight"], weights[f"{own}conv1d.weight"].squeeze(1)
        result |= {
            "attn_qkv.weight": np.concatenate([qkv[: 2 * KEYS], tiled(qkv[2 * KEYS :], SIZE)]),
            "attn_gate.weight": tiled(weights[f"{own}in_proj_z.weight"], SIZE),
            "ssm_beta.weight": tiled(weights[f"{own}in_proj_b.weight"], 1),
            "ssm_alpha.weight": tiled(weights[f"{own}in_proj_a.weight"], 1),
            "ssm_conv1d.weight": np.concatenate([conv[: 2 * KEYS], tiled(conv[2 * KEYS :], SIZE)]),
            "ssm_dt.bias": tiled(weights[f"{own}dt_bias"], 1),
            "ssm_a": tiled(-torch.exp(torch.from_numpy(weights[f"{own}A_log"])).numpy(), 1),
            "ssm_norm.weight": weights[f"{own}norm.weight"],
            "ssm_out.weight": tiled(weights[f"{own}out_proj.weight"].T, SIZE).T,
        }
    else:
        own = f"{source}self_attn."
        result |= {
            "attn_q.weight": weights[f"{own}q_proj.weight"],
            "attn_k.weight": weights[f"{own}k_proj.weight"],
            "attn_v.weight": weights[f"{own}v_proj.weight"],
            "attn_output.weight": weights[f"{own}o_proj.weight"],
            "attn_q_norm.weight": weights[f"{own}q_norm.weight"] + np.float32(1),
            "attn_k_norm.weight": weights[f"{own}k_norm.weight"] + np.float32(1),
        }
    return {f"{name}{part}": values for part, values in result.items()}


def of_block(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What GGUF must hold of the MTP block."""
    name = f"blk.{LAYERS}.nextn."
    return {
        f"{name}eh_proj.weight": weights["mtp.fc.weight"],
        f"{name}enorm.weight": weights["mtp.pre_fc_norm_embedding.weight"] + np.float32(1),
        f"{name}hnorm.weight": weights["mtp.pre_fc_norm_hidden.weight"] + np.float32(1),
        f"{name}shared_head_norm.weight": weights["mtp.norm.weight"] + np.float32(1),
        **of_layer(weights, "mtp.layers.0.", f"blk.{LAYERS}.", delta=False),
    }


def expected(folder: Path, block: bool = True, layers: bool = True) -> dict[str, np.ndarray]:
    """Every tensor of a file with these parts of a checkpoint whose head is its own."""
    weights = source_weights(folder)
    result = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"] + np.float32(1),
        "output.weight": weights["lm_head.weight"],
    }
    for layer in range(LAYERS if layers else 0):
        result |= of_layer(weights, f"model.layers.{layer}.", f"blk.{layer}.", delta=(layer + 1) % 4 != 0)
    return result | (of_block(weights) if block else {})


def check(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        # The exponential of two libraries may differ in the last bit.
        np.testing.assert_array_max_ulp(found[name], values, 1 if name.endswith("ssm_a") else 0)


FORMS: dict[str, tuple[Parts | None, dict[str, bool]]] = {
    "whole": (None, {}),
    "without MTP": (Parts(block=False), {"block": False}),
    "sidecar": (SIDECAR, {"layers": False}),
}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_and_keys(folder: Path, tmp_path: Path, form: str) -> None:
    parts, which = FORMS[form]
    output = tmp_path / "out.gguf"
    assert convert(folder, output, "f32", quiet=True, parts=parts) == []
    check(tensors(output), expected(folder, **which))
    blocks = LAYERS + which.get("block", True)
    wanted: dict[str, Any] = {
        "block_count": blocks,
        "nextn_predict_layers": 1 if which.get("block", True) else None,
        "attention.recurrent_layers": [layer < LAYERS and layer % 4 != 3 for layer in range(blocks)],
        "full_attention_interval": 4,
        "attention.key_length": SIZE,
        "attention.value_length": SIZE,
        "rope.dimension_count": 8,
        "rope.dimension_sections": [2, 1, 1, 0],
        "ssm.conv_kernel": 4,
        "ssm.state_size": SIZE,
        "ssm.group_count": KEY_HEADS,
        "ssm.time_step_rank": KEY_HEADS * EACH,
        "ssm.inner_size": KEY_HEADS * EACH * SIZE,
    }
    found = metadata(output)
    assert found["general.architecture"] == "qwen35"
    assert {key: found.get(f"qwen35.{key}") for key in wanted} == wanted


# What llama.cpp's converter calls them. It has no word for one without a head.
THEIR_FORMS: dict[str, tuple[Parts | None, list[str]]] = {
    "whole": (None, []),
    "without MTP": (Parts(block=False), ["--no-mtp"]),
    "sidecar": (SIDECAR, ["--mtp"]),
    "headless": (Parts(layers=False, head=False), ["--mtp"]),
}


def test_files_are_those_of_llama_cpp(tmp_path: Path) -> None:
    """The same keys of the model, and tensors of the same types and bytes, with a head and without one."""
    folders = [make_checkpoint(tmp_path / f"{t}", "qwen35", mtp=True, tie_word_embeddings=t) for t in (False, True)]
    cases = {(folder, form): tmp_path / f"{folder.name} {form}.gguf" for folder in folders for form in THEIR_FORMS}
    convert_there(
        *([str(folder), "--outfile", str(path), "--outtype", "f16", *THEIR_FORMS[form][1]]
          for (folder, form), path in cases.items())
    )  # fmt: skip
    for (folder, form), path in cases.items():
        convert(folder, tmp_path / "ours.gguf", "f16", quiet=True, parts=THEIR_FORMS[form][0])
        check_beside(tmp_path / "ours.gguf", path, COMMON - {"output_norm.weight"} if form == "headless" else set())


def check_beside(ours: Path, theirs: Path, left_out: set[str]) -> None:
    """Compares two files, of which the second has some tensors more, where there is a head."""
    found, expected = (
        {t.name: (t.tensor_type.name, t.shape.tolist(), t.data) for t in gguf.GGUFReader(path).tensors}
        for path in (ours, theirs)
    )
    assert found.keys() == expected.keys() - left_out
    for name, (kind, shape, data) in found.items():
        assert (kind, shape) == expected[name][:2], name
        if name.endswith("ssm_a"):  # the exponential of two libraries may differ in the last bit
            np.testing.assert_array_max_ulp(data, expected[name][2], 1)
        else:
            assert data.tobytes() == expected[name][2].tobytes(), name
    keys, others = (
        {key: value for key, value in metadata(path).items() if key.startswith("qwen35.")} for path in (ours, theirs)
    )
    assert keys.pop("qwen35.vocab_size") == 400  # llama.cpp goes by the tokenizer
    assert keys == others


def test_types(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "out.gguf", "q8_0", quiet=True)
    found = types(tmp_path / "out.gguf")
    small = ("_norm.weight", "enorm.weight", "hnorm.weight", "ssm_a", "ssm_dt.bias", "ssm_conv1d.weight")
    assert {name for name, kind in found.items() if kind == "F32"} == {n for n in found if n.endswith(small)}
    assert set(found.values()) == {"F32", "Q8_0"}


def test_tied_heads_and_names_of_a_model_that_sees(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "qwen35", mtp=True, tie_word_embeddings=True)
    wanted = tmp_path / "text.gguf"
    convert(folder, wanted, "f32", quiet=True)
    assert "output.weight" not in tensors(wanted)
    weights = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    weights["model.visual.patch_embed.proj.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    nested = {"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": config, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(nested))
    convert(folder, tmp_path / "seeing.gguf", "f32", quiet=True)
    check(tensors(tmp_path / "seeing.gguf"), tensors(wanted))
    assert metadata(tmp_path / "seeing.gguf").keys() == metadata(wanted).keys()


def change(folder: Path, **values: Any) -> None:
    """Puts values into the config; None removes."""
    config = {**json.loads((folder / "config.json").read_text()), **values}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_layers_by_the_interval_alone(tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention"] * 4
    folder = make_checkpoint(tmp_path / "model", "qwen35", layer_types=kinds)
    convert(folder, tmp_path / "stated.gguf", "f32", quiet=True)
    assert metadata(tmp_path / "stated.gguf")["qwen35.attention.recurrent_layers"] == [True, False] * 4
    change(folder, layer_types=None, full_attention_interval=2)
    convert(folder, tmp_path / "interval.gguf", "f32", quiet=True)
    found = metadata(tmp_path / "interval.gguf")
    assert "qwen35.attention.recurrent_layers" not in found
    assert found["qwen35.full_attention_interval"] == 2
    check(tensors(tmp_path / "interval.gguf"), tensors(tmp_path / "stated.gguf"))


def test_head_and_block_that_config_does_not_agree_on(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "qwen35")
    change(folder, mtp_num_hidden_layers=1)
    (remark,) = convert(folder, tmp_path / "without.gguf", "f16", quiet=True)
    assert remark == "config.json says 'mtp_num_hidden_layers': 1, but the checkpoint has no tensors 'mtp.*'"
    assert metadata(tmp_path / "without.gguf")["qwen35.block_count"] == LAYERS
    with pytest.raises(ValueError, match=r"--mtp: found no tensors 'mtp\.\*'"):
        convert(folder, tmp_path / "out.gguf", "f16", quiet=True, parts=SIDECAR)
    other = make_checkpoint(tmp_path / "other", "qwen35", mtp=True)
    change(other, mtp_num_hidden_layers=None)  # as tools that go through transformers leave it
    convert(other, tmp_path / "with.gguf", "f16", quiet=True)
    assert metadata(tmp_path / "with.gguf")["qwen35.nextn_predict_layers"] == 1


def ranks_of(path: Path, of: Path, tokens: list[int]) -> Path:
    """A file of ranks for a checkpoint's tokens."""
    fingerprint = vocabulary_fingerprint(read(of).tokens)
    write_ranks(path, Ranks(np.array(tokens, dtype=np.int32), 400, fingerprint, source="test"))
    return path


def test_sidecars_without_a_head_and_with_a_short_one(folder: Path, tmp_path: Path) -> None:
    def run(*options: str) -> dict[str, np.ndarray]:
        output = tmp_path / "out.gguf"
        assert main([str(folder), "-o", str(output), "--type", "f32", "-q", "--mtp", *options]) == 0
        return tensors(output)

    sidecar = expected(folder, layers=False)
    headless = {name: values for name, values in sidecar.items() if name not in COMMON - {"output_norm.weight"}}
    check(run("--headless"), headless)
    ranks = ranks_of(tmp_path / "ranks.gguf", folder, [300, 7, 1, 40, 200, 8])  # 0 and 1 are control tokens
    found = run("--ranks", str(ranks), "--draft-vocab", "5")
    rows = [0, 1, 7, 40, 300]
    assert found["d2t"].dtype == np.int64
    check(found, {**sidecar, "output.weight": sidecar["output.weight"][rows], "d2t": np.array(rows)})
    found = run("--ranks", str(ranks))
    assert found.pop("token_ranks").tolist() == [300, 7, 1, 40, 200, 8]
    check(found, sidecar)


def test_a_short_head_has_no_padding(folder: Path, tmp_path: Path) -> None:
    """Tokens that fill a vocabulary up are not among the most frequent ones, however they are ranked."""
    vocabulary = read(folder, vocab_size=410)
    ranks = Ranks(np.array([409, 7, 400, 5, 6], dtype=np.int32), 410, "", source="test")
    assert head_tokens(vocabulary, ranks, 5, tmp_path).tolist() == [0, 1, 5, 6, 7]
    with pytest.raises(ValueError, match="--draft-vocab: found 6, expected 3 to 5"):
        head_tokens(vocabulary, ranks, 6, tmp_path)


def test_a_short_head_of_a_tied_model_is_cut_from_the_embedding(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "qwen35", mtp=True, tie_word_embeddings=True)
    ranks = ranks_of(tmp_path / "ranks.gguf", folder, list(range(399, -1, -1)))
    convert(folder, tmp_path / "out.gguf", "f32", ranks=ranks, quiet=True, parts=Parts(layers=False, head_rows=4))
    found = tensors(tmp_path / "out.gguf")
    np.testing.assert_array_equal(found["output.weight"], found["token_embd.weight"][[0, 1, 398, 399]])


REFUSED_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "value heads that no key head shares": ({"linear_num_value_heads": 5}, "linear_num_value_heads"),
    "values of another size than keys": ({"linear_value_head_dim": 16}, "linear_value_head_dim"),
    "a layer of an unknown kind": ({"layer_types": ["sliding_attention"] * LAYERS}, "layer_types"),
    "too few kinds of layers": ({"layer_types": ["linear_attention"]}, "layer_types"),
    "attention without a gate": ({"attn_output_gate": False}, "attn_output_gate"),
    "biases": ({"attention_bias": True}, "attention_bias"),
    "embeddings for the MTP block": ({"mtp_use_dedicated_embeddings": True}, "mtp_use_dedicated_embeddings"),
    "two MTP blocks": ({"mtp_num_hidden_layers": 2}, "mtp_num_hidden_layers"),
    "sections that are no numbers": (
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, "1", 1]}},
        r"rope_parameters\.mrope_section",
    ),
}


@pytest.mark.parametrize("case", REFUSED_CONFIGS)
def test_refused_configs(tmp_path: Path, folder: Path, case: str) -> None:
    changes, key = REFUSED_CONFIGS[case]
    own = tmp_path / "model"
    own.mkdir()
    for file in folder.iterdir():
        (own / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    (own / "config.json").unlink()
    (own / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=rf"config\.json: key '{key}': found"):
        convert(own, tmp_path / "out.gguf", "f16", quiet=True)


def test_refused_options(folder: Path, tmp_path: Path) -> None:
    ranks = ranks_of(tmp_path / "ranks.gguf", folder, [5, 6])

    def refused(message: str, parts: Parts | None, with_ranks: Path | None = None, model: Path = folder) -> None:
        with pytest.raises(ValueError, match=message):
            convert(model, tmp_path / "out.gguf", "f16", ranks=with_ranks, quiet=True, parts=parts)

    refused("--ranks is for drafters", None, ranks)
    refused("--draft-vocab: found no --ranks to choose", Parts(layers=False, head_rows=3))
    refused("--draft-vocab: found 2, expected 3 to 4: 2 control", Parts(layers=False, head_rows=2), ranks)
    refused("--draft-vocab: found 5, expected 3 to 4", Parts(layers=False, head_rows=5), ranks)
    refused("--mtp: found no tensors", SIDECAR, model=make_checkpoint(tmp_path / "llama", "llama"))
    with pytest.raises(ValueError, match="--headless: found a file with the model's layers"):
        Parts(head=False)
    with pytest.raises(ValueError, match="--draft-vocab: found --headless"):
        Parts(layers=False, head=False, head_rows=5)
