"""A tiny random target and an EAGLE-2 drafter for it that agree now and then, so that drafts are accepted.

Both are built around the same map from a token to its successor (embedding times head), which their layers disturb: the
smaller `disturbance`, the more drafts are accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoints import make_checkpoint, make_eagle2
from frspec_cpp.tools.convert import convert
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class TinyPair:
    """Checkpoint folders and the GGUF files (F32) made of them."""

    target: Path
    drafter: Path
    target_gguf: Path
    drafter_gguf: Path


def make_tiny_pair(
    folder: Path,
    *,
    own_embedding: bool = False,
    disturbance: float = 0.2,
    seed: int = 0,
    vocab: int = 400,
    **drafter_config: Any,
) -> TinyPair:
    """Writes a llama target (64 wide, 2 layers, ids 0 and 1 are control tokens) and its drafter.

    Args:
        folder: of this pair alone; is made where it is absent.
        own_embedding: the drafter has an embedding that differs a little from the target's.
        disturbance: how much the layers add, compared with the token's own embedding.
        seed: of all weights.
        vocab: tokens; those from 400 on are padding, with weights as all others.
        drafter_config: keys of the drafter's config.json, as for make_eagle2.
    """
    target = make_checkpoint(folder / "target", "llama", seed=seed, vocab_size=vocab)
    weights = edit_weights(target, disturbance)
    embedding = 8 * weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = embedding
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})

    drafter = make_eagle2(folder / "drafter", target, own_embedding=own_embedding, seed=seed + 1, **drafter_config)
    weights = edit_weights(drafter, disturbance)
    width = embedding.shape[1]
    weights["fc.weight"] *= disturbance
    weights["fc.weight"][:, :width] += torch.eye(width)
    if own_embedding:
        weights["embed_tokens.weight"] = embedding + disturbance * weights["embed_tokens.weight"]
    save_file(weights, drafter / "model.safetensors")

    pair = TinyPair(target, drafter, folder / "target.gguf", folder / "drafter.gguf")
    convert(target, pair.target_gguf, "f32", quiet=True)
    convert(drafter, pair.drafter_gguf, "f32", target=pair.target_gguf, quiet=True)
    return pair


def make_sure_pair(folder: Path, kind: str) -> TinyPair:
    """A pair whose target is sure of itself, so that there is something to learn; its GGUF has weights of this type."""
    pair = make_tiny_pair(folder)
    weights = load_file(pair.target / "model.safetensors")
    weights["lm_head.weight"] *= 4
    save_file(weights, pair.target / "model.safetensors", metadata={"format": "pt"})
    convert(pair.target, pair.target_gguf, kind, quiet=True)
    return pair


def edit_weights(folder: Path, disturbance: float) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, those that write into the residual stream scaled."""
    weights: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "o_proj" in name or "down_proj" in name:
            weight *= disturbance
    return weights
