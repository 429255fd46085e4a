"""Drafters as Hugging Face checkpoint folders, in the published key layouts: read, and written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..atomic import atomic_output
from ..checkpoint import Checkpoint
from ..config import Config
from ..rope import read_rope
from ..source_tensor import SourceTensor
from .layer import LayerSizes
from .networks import Eagle2, Eagle3
from .targets import DraftedTarget

_TYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


def layer_sizes(target: DraftedTarget, kind: str, feed_forward: int | None = None) -> LayerSizes:
    """Those of a fresh drafter: as the target's layers, with plain rotary positions of the target's theta.

    `feed_forward`: another width of the feed-forward.
    """
    sizes = target.sizes
    return LayerSizes(
        hidden=sizes.hidden,
        feed_forward=feed_forward or sizes.feed_forward,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        epsilon=sizes.epsilon,
        rope_theta=sizes.rope.theta,
        inputs=sizes.hidden * (2 if kind == "eagle3" else 1),
    )


def read_network(folder: Path, target: DraftedTarget) -> Any:
    """The drafter in `folder`, an Eagle2 or Eagle3 in float32.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no such drafter, or none for this target; the message names the file, the key or tensor, what
            was found and what was expected.
    """
    checkpoint = Checkpoint(folder)
    tensors = _plain_names(checkpoint.tensors)
    config = checkpoint.config
    if "fc.weight" not in tensors:
        raise ValueError(f"{folder}: found no tensor 'fc.weight', expected an EAGLE-2 or EAGLE-3 drafter")
    if config.integer("hidden_size") != target.sizes.hidden:
        raise config.wrong("hidden_size", f"{target.sizes.hidden}, as {target.folder} has")
    if config.integer("vocab_size", target.vocabulary) != target.vocabulary:
        raise config.wrong("vocab_size", f"{target.vocabulary}, as {target.folder} has")
    if config.integer("num_hidden_layers", 1) != 1:
        raise config.wrong("num_hidden_layers", "1: no other drafter can be trained")
    kind = "eagle3" if "midlayer.hidden_norm.weight" in tensors else "eagle2"
    network = _eagle3(tensors, config, target) if kind == "eagle3" else _eagle2(tensors, config, target)
    _fill(network, tensors, folder)
    return network.to(target.device)


def _plain_names(tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """Other exporters put `model.` before all names, and call EAGLE-3's `midlayer` `layers.0`."""
    plain = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    if "layers.0.hidden_norm.weight" not in plain:
        return plain
    layer = "layers.0."
    return {"midlayer." + n.removeprefix(layer) if n.startswith(layer) else n: t for n, t in plain.items()}


def _eagle2(tensors: Mapping[str, SourceTensor], config: Config, target: DraftedTarget) -> Eagle2:
    return Eagle2(_read_sizes(config, "eagle2"), fc_bias="fc.bias" in tensors)


def _eagle3(tensors: Mapping[str, SourceTensor], config: Config, target: DraftedTarget) -> Eagle3:
    section = config.section("eagle_config")
    key = "eagle_aux_hidden_state_layer_ids"
    found = section.get(key)
    layers = target.sizes.layers
    taps = (2, layers // 2, layers - 3) if found is None else found
    if not isinstance(taps, (list, tuple)) or not all(isinstance(i, int) and 0 <= i < layers for i in taps):
        raise section.wrong(key, f"ids of layers below {layers}")
    draft_ids: tuple[int, ...] = ()
    if "d2t" in tensors:
        offsets = np.asarray(tensors["d2t"].raw, dtype=np.int64)
        ids = offsets + np.arange(offsets.size)
        if ids.size == 0 or ids.min() < 0 or ids.max() >= target.vocabulary or np.unique(ids).size != ids.size:
            raise ValueError(
                f"{tensors['d2t'].file}: tensor 'd2t': expected offsets to distinct ids below {target.vocabulary}"
            )
        draft_ids = tuple(ids.tolist())
    elif "lm_head.weight" in tensors and tensors["lm_head.weight"].shape[0] != target.vocabulary:
        raise ValueError(
            f"{tensors['lm_head.weight'].file}: tensor 'lm_head.weight': found {tensors['lm_head.weight'].shape[0]} "
            f"rows and no tensor 'd2t', expected {target.vocabulary} rows"
        )
    return Eagle3(
        _read_sizes(config, "eagle3"),
        tuple(taps),
        norm_before_fc="input_norm.weight" in tensors,
        fc_norm="fc_norm.0.weight" in tensors,
        norm_output=config.flag("norm_output", False),
        draft_ids=draft_ids,
        own_head="lm_head.weight" in tensors,
        vocabulary=target.vocabulary,
    )


def _read_sizes(config: Config, kind: str) -> LayerSizes:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", hidden // heads)
    rope = read_rope(config, head_dim)
    if rope.type != "default":
        raise config.wrong("rope_scaling", "nothing: drafters are trained with plain rotary positions")
    if config.flag("norm_before_residual", False):
        raise config.wrong("norm_before_residual", "false")
    return LayerSizes(
        hidden=hidden,
        feed_forward=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        epsilon=config.number("rms_norm_eps", 1e-6),
        rope_theta=rope.theta,
        inputs=hidden * (2 if kind == "eagle3" else 1),
    )


def _fill(network: Any, tensors: Mapping[str, SourceTensor], folder: Path) -> None:
    """Copies the tensors into the network; raises ValueError for one that is missing, of another shape or left over."""
    known = {"d2t", "t2d", "embed_tokens.weight"}
    for name, parameter in network.named_parameters():
        tensor = tensors.get(name)
        shape = tuple(parameter.shape)
        if tensor is None or tensor.shape != shape:
            found = "nothing" if tensor is None else f"shape {tensor.shape}"
            raise ValueError(f"{folder}: tensor '{name}': found {found}, expected shape {shape}")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(tensor.floats()))
        known.add(name)
    for name in tensors:
        if name not in known and "rotary_emb" not in name:
            raise ValueError(f"{folder}: found tensor '{name}', expected none of this name in a {network.kind} drafter")


def write_network(folder: Path, network: Any, target: DraftedTarget) -> None:
    """Writes config.json and model.safetensors, in the target's stored element type."""
    dtype = target.stored_dtype
    tensors = {name: value.detach().to("cpu", dtype) for name, value in network.named_parameters()}
    config = _common_config(network.sizes, target)
    if network.kind == "eagle2":
        config = {"architectures": ["LlamaForCausalLM"], "bias": network.fc.bias is not None, **config}
    else:
        config = {
            "architectures": ["LlamaForCausalLMEagle3"],
            **config,
            "draft_vocab_size": len(network.draft_ids) or target.vocabulary,
            # The ids say whose *inputs* are read, as in vLLM and llama.cpp.
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": list(network.taps), "use_aux_hidden_state": True},
            "norm_before_fc": network.input_norm is not None,
            "fc_norm": network.fc_norm is not None,
            "norm_before_residual": False,
            "norm_output": network.norm_output,
        }
        if network.draft_ids:
            ids = torch.tensor(network.draft_ids, dtype=torch.int64)
            tensors["d2t"] = ids - torch.arange(len(ids))
            tensors["t2d"] = torch.zeros(target.vocabulary, dtype=torch.bool).index_fill_(0, ids, True)
    write_checkpoint(folder, config, tensors)


def write_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Replaces config.json and model.safetensors in `folder`, each at once."""
    with atomic_output(folder / "model.safetensors") as temporary:
        # Written here: of a full disk safetensors says so in an error of its own kind.
        temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"}))
    with atomic_output(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _common_config(sizes: LayerSizes, target: DraftedTarget) -> dict[str, Any]:
    kept = {key: target.config.get(key) for key in ("bos_token_id", "eos_token_id") if key in target.config}
    return {
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.feed_forward,
        "num_hidden_layers": 1,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "rms_norm_eps": sizes.epsilon,
        "rope_theta": sizes.rope_theta,
        "hidden_act": "silu",
        "vocab_size": target.vocabulary,
        "max_position_embeddings": target.sizes.context,
        "tie_word_embeddings": False,
        "torch_dtype": _TYPE_NAMES[target.stored_dtype],
        **kept,
    }
