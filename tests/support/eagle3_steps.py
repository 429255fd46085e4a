"""EAGLE-3 from the paper (2503.01840), in plain torch: one draft step after another with a growing cache.

It reads a checkpoint folder, computes in float32, and is independent of the trainer, which it is there to check.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

Tensor = torch.Tensor


class Eagle3Drafter:
    """The network of one checkpoint folder, with the target's embedding; its cache grows with every row."""

    def __init__(self, folder: Path, target: LlamaForCausalLM) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}
        self.embedding = target.get_input_embeddings().weight.detach()
        self.keys: list[Tensor] = []  # of each row, (heads, head_dim)
        self.values: list[Tensor] = []

    def draft(self, tokens: Sequence[int], taps: Tensor, row: int, count: int) -> list[Tensor]:
        """What the head reads at `count` draft steps behind `row`, (count, h): the text gives all tokens.

        Args:
            tokens: of the text.
            taps: the target's tapped states, (n, 3h).
            row: the last one whose state is the target's.
            count: of steps.
        """
        self.keys, self.values = [], []
        if self.config["norm_before_fc"]:
            taps = self._norm("input_norm", taps)
        if self.config["fc_norm"]:
            taps = torch.cat([self._norm(f"fc_norm.{i}", tap) for i, tap in enumerate(taps.chunk(3, -1))], -1)
        for i in range(row + 1):
            out, normed = self._row(tokens[i + 1], F.linear(taps[i], self.weights["fc.weight"]))
        result = [normed]
        for step in range(1, count):
            state = normed if self.config["norm_output"] else out
            out, normed = self._row(tokens[row + 1 + step], state)
            result.append(normed)
        return result

    def _row(self, token: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """Runs one row behind all rows so far; its output before and after the final norm."""
        e = self._norm("midlayer.input_layernorm", self.embedding[token])
        x = torch.cat([e, self._norm("midlayer.hidden_norm", state)])
        x = state + self._attend(x)
        y = self._norm("midlayer.post_attention_layernorm", x)
        gate = F.silu(self._linear("mlp.gate_proj", y))
        x = x + self._linear("mlp.down_proj", gate * self._linear("mlp.up_proj", y))
        return x, self._norm("norm", x)

    def _attend(self, x: Tensor) -> Tensor:
        head_dim, position = self.config["head_dim"], len(self.keys)
        q, k, v = (self._linear(f"self_attn.{part}_proj", x).view(-1, head_dim) for part in "qkv")
        frequencies = self.config["rope_theta"] ** (-torch.arange(0, head_dim, 2) / head_dim)
        q, k = _rotate(q, position * frequencies), _rotate(k, position * frequencies)
        groups = self.config["num_attention_heads"] // self.config["num_key_value_heads"]
        self.keys.append(k.repeat_interleave(groups, 0))
        self.values.append(v.repeat_interleave(groups, 0))
        scores = torch.einsum("hd,khd->hk", q, torch.stack(self.keys)) / head_dim**0.5
        out = torch.einsum("hk,khd->hd", scores.softmax(-1), torch.stack(self.values))
        return self._linear("self_attn.o_proj", out.flatten())

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"midlayer.{name}.weight"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.config["rms_norm_eps"])


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )
