"""Checkpoints of gpt-oss as it is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file


def packed_gpt_oss(folder: Path, **changes: Any) -> Path:
    """A tiny checkpoint as gpt-oss is published: its experts in MXFP4, by `blocks` and `scales`."""
    make_checkpoint(folder, "gpt-oss", intermediate_size=96)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    for name in [name for name in weights if name.endswith("_proj") and ".experts." in name]:
        count, inputs, outputs = weights.pop(name).shape
        size = (count, outputs, inputs // 32)
        weights[f"{name}_blocks"] = torch.randint(0, 256, (*size, 16), generator=generator, dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.randint(118, 126, size, generator=generator, dtype=torch.uint8)
    for name, tensor in changes.items():
        weights[f"model.layers.1.mlp.experts.{name}"] = tensor
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return folder
