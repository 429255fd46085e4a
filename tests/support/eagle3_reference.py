"""EAGLE-3 from the paper (2503.01840), with the norms of version 3.1, in plain torch; trees are EAGLE-2's.

As eagle2_reference: it reads the Hugging Face checkpoint folders, computes in float32, keeps no cache, and is
independent of the engine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eagle2_reference
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from eagle2_reference import Rows, Shape, Tensor, Text, Tree
from safetensors.torch import load_file
from transformers import LlamaForCausalLM


@torch.no_grad()
def with_taps(target: LlamaForCausalLM, text: Text, layers: Sequence[int]) -> Text:
    """The text with the inputs of the target's `layers` side by side in place of its states: (n, taps * h).

    A target of N layers has a "layer" N: what its final norm reads.
    """
    found: dict[int, Tensor] = {}
    modules = [*target.model.layers, target.model.norm]

    def keep(layer: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found[layer] = (arguments[0] if arguments else named["hidden_states"])[0]

    hooks = [
        module.register_forward_pre_hook(lambda _, a, k, layer=layer: keep(layer, a, k), with_kwargs=True)
        for layer, module in enumerate(modules)
    ]
    target.model(torch.tensor([text.tokens]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return dataclasses.replace(text, hidden=torch.cat([found[layer] for layer in layers], dim=1))


class Drafter(eagle2_reference.Drafter):
    """The network of one checkpoint folder with keys of the style `midlayer.*`.

    Args:
        folder: of the drafter: config.json and model.safetensors.
        target: its target.
        head_ids: the tokens that drafts are chosen from; None: all that the head has.
    """

    def __init__(self, folder: Path, target: LlamaForCausalLM, head_ids: Sequence[int] | None = None) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config["head_dim"]
        self.epsilon = config["rms_norm_eps"]
        base = config.get("rope_theta", 10000.0)
        self.frequencies = base ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        self.norm_before_residual = config.get("norm_before_residual", False)
        self.norm_output = config.get("norm_output", False)
        self.embedding = self.weights.get("embed_tokens.weight", target.get_input_embeddings().weight.detach())
        head = self.weights.get("lm_head.weight", target.get_output_embeddings().weight.detach())
        ids = torch.arange(len(head))
        if "d2t" in self.weights:
            ids = ids + self.weights["d2t"].long()
        rows = ids.argsort()  # among equals the lower token wins
        if head_ids is not None:
            rows = rows[torch.isin(ids[rows], torch.tensor(head_ids))]
        self.ids, self.head = ids[rows], head[rows]

    @torch.no_grad()
    def propose(self, tokens: Sequence[int], hidden: Tensor, shape: Shape) -> Tree:
        """The tree behind a text of n + 1 `tokens`, of which the first n have taps: `hidden` (n, taps * h)."""
        return super().propose(tokens, self._fuse(hidden), shape)

    def _fuse(self, taps: Tensor) -> Tensor:
        if "input_norm.weight" in self.weights:
            taps = self._norm("input_norm", taps)
        if "fc_norm.0.weight" in self.weights:
            taps = torch.cat([self._norm(f"fc_norm.{i}", tap) for i, tap in enumerate(taps.chunk(3, dim=1))], dim=1)
        return self._linear("fc", taps)

    def _head_input(self, states: Tensor) -> Tensor:
        return self._norm("norm", states)

    def _fed_back(self, state: Tensor) -> Tensor:
        return self._norm("norm", state) if self.norm_output else state

    def _run(self, rows: Rows) -> Tensor:
        positions, sees = rows.layout()
        angles = positions[:, None, None] * self.frequencies
        x = torch.stack(rows.states)
        normed = self._norm("midlayer.hidden_norm", x)
        read = torch.cat([self._norm("midlayer.input_layernorm", self.embedding[rows.tokens]), normed], dim=1)
        if self.norm_before_residual:
            x = normed
        x = x + self._attend("midlayer.self_attn.", read, angles, sees)
        y = self._norm("midlayer.post_attention_layernorm", x)
        gate = F.silu(self._linear("midlayer.mlp.gate_proj", y))
        return x + self._linear("midlayer.mlp.down_proj", gate * self._linear("midlayer.mlp.up_proj", y))
