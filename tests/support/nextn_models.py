"""Tiny random models of attention alone whose last layer is a nextn block, as checkpoint and as GGUF files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor
from safetensors.torch import save_file
from tiny_pair import edit_weights

WIDTH, LAYERS = 64, 2  # the block is one layer more


@dataclass(frozen=True)
class NextnModel:
    """A model, and files of it."""

    checkpoint: Path  # with the block as its last layer
    nextn: dict[str, np.ndarray]  # what is around the block, without "blk.N."
    whole: Path
    sidecar: Path


def make_nextn(folder: Path, architecture: str, seed: int = 0, disturbance: float = 0.2) -> NextnModel:
    """Writes a model of an architecture that `make_checkpoint` knows into `folder`.

    Trunk and block map a token to its successor, as a tiny pair does, which their layers disturb so much.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = make_checkpoint(folder / "checkpoint", architecture, num_hidden_layers=LAYERS + 1, seed=seed)
    weights = edit_weights(checkpoint, disturbance)
    weights["model.embed_tokens.weight"] *= 8
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    whole, sidecar = folder / "whole.gguf", folder / "sidecar.gguf"
    convert(checkpoint, whole, "f32", quiet=True)
    rng = np.random.default_rng(seed)
    nextn = {
        f"nextn.{name}.weight": (1 + 0.2 * rng.standard_normal(WIDTH)).astype(np.float32)
        for name in ("enorm", "hnorm", "shared_head_norm")
    }
    projection = disturbance * rng.standard_normal((WIDTH, 2 * WIDTH)) / np.sqrt(2 * WIDTH)
    projection[:, :WIDTH] += np.eye(WIDTH)
    nextn["nextn.eh_proj.weight"] = projection.astype(np.float32)
    file = GgufEditor(whole)
    name = file.entries["general.architecture"].value
    file.set(f"{name}.nextn_predict_layers", 1)  # block_count has it already
    for part, value in nextn.items():
        file.set_floats(f"blk.{LAYERS}.{part}", value)
    file.write(whole)
    for tensor in [t for t in file.tensors if t.startswith("blk.") and not t.startswith(f"blk.{LAYERS}.")]:
        del file.tensors[tensor]
    return NextnModel(checkpoint, nextn, whole, file.write(sidecar))
