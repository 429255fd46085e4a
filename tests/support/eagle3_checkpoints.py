"""Tiny EAGLE-3 checkpoints: of random weights, and with a target that they agree with now and then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from safetensors.torch import load_file, save_file
from tiny_pair import TinyPair, edit_weights

LAYERS = [0, 1, 2]  # of a target of two layers; the last is its final state
STYLES = ("midlayer", "layers.0", "model.layers.0")  # as exporters spell the drafter's layer


def make_eagle3(
    folder: Path,
    target: Path,
    *,
    style: str = "midlayer",
    own_embedding: bool = False,
    head_ids: Sequence[int] | None = None,
    own_head: bool = False,
    seed: int = 1,
    **overrides: Any,
) -> Path:
    """Writes a random EAGLE-3 drafter for the checkpoint in `target`, in a published layout.

    Args:
        folder: is made where it is absent.
        target: a folder of make_checkpoint.
        style: of the keys, one of STYLES.
        own_embedding: the drafter carries an embedding.
        head_ids: the tokens of a reduced head of its own, in the order of its rows.
        own_head: a head of its own for all tokens, without d2t.
        seed: of the weights.
        overrides: keys of config.json; `norm_before_fc` and `fc_norm` add the tensors they speak of. Another
            `hidden_size` than the target's adds embedding and head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_target = json.loads((target / "config.json").read_text())
    vocabulary, width = of_target["vocab_size"], of_target["hidden_size"]
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "draft_vocab_size": vocabulary if head_ids is None else len(head_ids),
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eagle_aux_hidden_state_layer_ids": LAYERS,
    }
    config.update(overrides)
    hidden = config.setdefault("hidden_size", width)
    config.setdefault("head_dim", hidden)
    if hidden != width:
        config["target_hidden_size"] = width
        own_embedding = True
        own_head = head_ids is None
    shapes = _shapes(config, width)
    if own_embedding:
        shapes["embed_tokens.weight"] = (vocabulary, hidden)
    if own_head or head_ids is not None:
        shapes["lm_head.weight"] = (config["draft_vocab_size"], hidden)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        tensors[name] = 1.0 + 0.2 * noise if len(shape) == 1 else noise * shape[-1] ** -0.5
    if head_ids is not None:
        ids = torch.tensor(head_ids, dtype=torch.int64)
        tensors["d2t"] = ids - torch.arange(len(ids))
        tensors["t2d"] = torch.zeros(vocabulary, dtype=torch.bool).index_fill(0, ids, True)
    write_style(folder, tensors, style)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_style(folder: Path, tensors: dict[str, torch.Tensor], style: str) -> None:
    """Writes the weights, which are spelled `midlayer.*`, with the keys of a style."""
    root = "model." if style.startswith("model.") else ""
    layer = style.removeprefix("model.")
    named = {}
    for name, tensor in tensors.items():
        own = root if name not in ("lm_head.weight", "d2t", "t2d") else ""
        named[own + name.replace("midlayer.", f"{layer}.")] = tensor
    save_file(named, folder / "model.safetensors")


def _shapes(config: dict[str, Any], width: int) -> dict[str, tuple[int, ...]]:
    hidden, feed_forward, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q_rows, kv_rows = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (hidden, 3 * width), "norm.weight": (hidden,)}
    if config.get("norm_before_fc"):
        shapes["input_norm.weight"] = (3 * width,)
    if config.get("fc_norm"):
        shapes |= {f"fc_norm.{tap}.weight": (width,) for tap in range(3)}
    layer = {
        "input_layernorm": (hidden,),
        "hidden_norm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (q_rows, 2 * hidden),
        "self_attn.k_proj": (kv_rows, 2 * hidden),
        "self_attn.v_proj": (kv_rows, 2 * hidden),
        "self_attn.o_proj": (hidden, q_rows),
        "mlp.gate_proj": (feed_forward, hidden),
        "mlp.up_proj": (feed_forward, hidden),
        "mlp.down_proj": (hidden, feed_forward),
    }
    return shapes | {f"midlayer.{name}.weight": shape for name, shape in layer.items()}


def make_tiny_eagle3(
    folder: Path, *, disturbance: float = 0.2, uneven_taps: bool = False, seed: int = 0, **drafter: Any
) -> TinyPair:
    """Writes a llama target as make_tiny_pair does, and an EAGLE-3 drafter that agrees with it now and then.

    The target maps a token to its successor (embedding times head). So does the drafter: its attention looks at its
    own row, takes the state away and puts the token's embedding in its place. What the rest adds disturbs that.

    Args:
        folder: of this pair alone; is made where it is absent.
        disturbance: how much the layers add, compared with the token's own embedding.
        uneven_taps: the first layer makes one dimension large, which no later one needs: the taps differ in size, and
            so do the ways to norm them.
        seed: of all weights.
        drafter: as for make_eagle3; two key/value heads.
    """
    target = make_checkpoint(folder / "target", "llama", seed=seed)
    weights = edit_weights(target, disturbance)
    weights["model.embed_tokens.weight"] *= 8
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    if uneven_taps:
        weights["model.layers.0.mlp.down_proj.weight"][-1] *= 150
        weights["model.norm.weight"][-1] = 0
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})

    make_eagle3(folder / "drafter", target, seed=seed + 1, **drafter)
    weights = edit_weights(folder / "drafter", disturbance)
    config = json.loads((folder / "drafter" / "config.json").read_text())
    hidden = config["hidden_size"]
    if uneven_taps:
        weights["fc.weight"] *= 1.5  # what it gives is felt
    turn = torch.linalg.qr(weights["fc.weight"].T)[0][: embedding.shape[1]].T  # (hidden, h) of the drafter's own space
    if hidden == embedding.shape[1]:
        turn = torch.eye(hidden)
    if "embed_tokens.weight" in weights:
        weights["embed_tokens.weight"] = embedding @ turn.T + disturbance * weights["embed_tokens.weight"]
    if "lm_head.weight" in weights:
        ids = torch.arange(len(weights["lm_head.weight"]))
        own = head[ids + weights["d2t"] if "d2t" in weights else ids] @ turn.T
        weights["lm_head.weight"] = own + disturbance * weights["lm_head.weight"] * hidden**-0.5
    attention, one = "midlayer.self_attn.{}_proj.weight", torch.eye(hidden)
    key = weights[attention.format("k")]
    key[:, hidden:] *= disturbance  # rows find themselves by their tokens
    weights[attention.format("q")] = 2 * key.unflatten(0, (2, hidden)).repeat_interleave(2, 0).flatten(0, 1)
    value = disturbance * weights[attention.format("v")]
    value[:hidden, :hidden] += one
    value[hidden:, hidden:] += one
    weights[attention.format("v")] = value
    weights[attention.format("o")] += torch.cat([one / 2, one / 2, -one / 2, -one / 2], dim=1)
    save_file(weights, folder / "drafter" / "model.safetensors")

    pair = TinyPair(target, folder / "drafter", folder / "target.gguf", folder / "drafter.gguf")
    convert(target, pair.target_gguf, "f32", quiet=True)
    convert(pair.drafter, pair.drafter_gguf, "f32", target=pair.target_gguf, quiet=True)
    return pair


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    return dict(load_file(folder / "model.safetensors"))
