"""Reads GGUF files back with the gguf package, as a reference for what the converter wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file


def metadata(path: Path) -> dict[str, Any]:
    """All keys and their values."""
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}


def tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors, dequantized; shapes with the slowest dimension first."""
    result = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(n) for n in tensor.shape[::-1])
        if tensor.tensor_type.name in ("I32", "I64"):
            result[tensor.name] = np.array(tensor.data)
        else:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            result[tensor.name] = np.asarray(values, dtype=np.float32).reshape(shape)
    return result


def types(path: Path) -> dict[str, str]:
    """The element type of each tensor."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def source_weights(folder: Path) -> dict[str, np.ndarray]:
    """A checkpoint's weights as float32, read by the safetensors package."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
    return {name: tensor.float().numpy() for file in sorted(names) for name, tensor in load_file(folder / file).items()}


def paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Q/K rows with the two rotary halves of each head interleaved, row by row."""
    head_dim = weight.shape[0] // heads
    result = np.empty_like(weight)
    for head in range(heads):
        for j in range(head_dim // 2):
            for half in range(2):
                result[head * head_dim + 2 * j + half] = weight[head * head_dim + half * (head_dim // 2) + j]
    return result


_NAMES = {
    "model.embed_tokens": "token_embd",
    "embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "fc": "fc",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def expected_tensors(folder: Path, interleaved: bool) -> dict[str, np.ndarray]:
    """What the GGUF of a checkpoint must hold, from the checkpoint's own tensors."""
    config = json.loads((folder / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    result = {}
    for name, weight in source_weights(folder).items():
        stem, kind = name.rsplit(".", 1)
        block = ""
        if "layers." in stem:
            layer, stem = stem.split("layers.")[1].split(".", 1)
            block = f"blk.{layer}."
        ours = _NAMES[stem]
        values = paired(weight, heads[ours]) if interleaved and ours in heads else weight
        result[f"{block}{ours}.{kind}"] = values
    return result
