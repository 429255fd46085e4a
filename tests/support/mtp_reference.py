"""Nextn blocks in torch: Qwen3.5's, and those of other families.

Each row is a state of the target and the token that followed it; a drafted token takes the block's own state instead.
It keeps no cache: every state is computed anew.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from qwen35 import BASE, EPSILON, HEAD, HEADS, KV_HEADS, ROTATED, Qwen35

Tensor = torch.Tensor


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    """The first ROTATED elements of (rows, heads, HEAD), in pairs of one from each half."""
    half = ROTATED // 2
    angles = positions[:, None, None] * BASE ** (-2 * torch.arange(half) / ROTATED)
    a, b = x[..., :half], x[..., half:ROTATED]
    turned = (a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos())
    return torch.cat([*turned, x[..., ROTATED:]], dim=-1)


class NextnReference:
    """A nextn block between its own tensors. `tokens` and states are those of one text."""

    def __init__(self, model: Any, nextn: dict[str, np.ndarray], epsilon: float = EPSILON) -> None:
        """`model`: transformers' own, whose last state the block continues. `nextn`: by name, without "blk.N."."""
        self.model, self.epsilon = model, epsilon
        self.w = {name: torch.tensor(value) for name, value in nextn.items()}
        self.embedding = model.model.embed_tokens.weight.detach()
        self.head = model.lm_head.weight.detach()

    def block(self, x: Tensor) -> Tensor:
        """What the layer makes of all rows of a text, without the norm behind it: (n, width)."""
        raise NotImplementedError

    def states(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The states behind pairs (state of a position, next token), all of them: (n, width)."""
        pair = (
            self.norm(self.embedding[tokens], self.w["nextn.enorm.weight"]),
            self.norm(states, self.w["nextn.hnorm.weight"]),
        )
        x = self.block(torch.cat(pair, dim=-1) @ self.w["nextn.eh_proj.weight"].T)
        return self.norm(x, self.w["nextn.shared_head_norm.weight"])

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """The root-mean-square norm of rows."""
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * weight

    def chain(self, text: list[int], levels: int) -> tuple[list[int], Tensor]:
        """A greedy chain behind a text whose last token the target has not read, and the states it was read from."""
        with torch.no_grad():
            target = self.model.model(torch.tensor([text[:-1]]), use_cache=False).last_hidden_state[0]
            states, tokens, drafted = target, list(text[1:]), []
            found = []
            for _ in range(levels):
                state = self.states(states, torch.tensor(tokens))[-1]
                found.append(state)
                drafted.append(int((self.head @ state).argmax()))
                states, tokens = torch.cat([states, state[None]]), [*tokens, drafted[-1]]
            return drafted, torch.stack(found)


class MtpReference(NextnReference):
    """Qwen3.5's block, in plain torch."""

    def __init__(self, made: Qwen35) -> None:
        super().__init__(made.model, made.nextn)

    def block(self, x: Tensor) -> Tensor:
        """As the base has it."""
        w, rows = self.w, len(x)
        y = self.norm(x, w["attn_norm.weight"])
        q, gate = (y @ w["attn_q.weight"].T).view(rows, HEADS, 2, HEAD).unbind(2)
        k = (y @ w["attn_k.weight"].T).view(rows, KV_HEADS, HEAD)
        v = (y @ w["attn_v.weight"].T).view(rows, KV_HEADS, HEAD)
        positions = torch.arange(rows)
        q = _rotate(self.norm(q, w["attn_q_norm.weight"]), positions)
        k = _rotate(self.norm(k, w["attn_k_norm.weight"]), positions)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * HEAD**-0.5
        scores = scores.masked_fill(torch.ones(rows, rows).triu(1).bool(), -torch.inf)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v) * gate.sigmoid()
        x = x + attended.reshape(rows, -1) @ w["attn_output.weight"].T
        y = self.norm(x, w["post_attention_norm.weight"])
        return (
            x
            + (torch.nn.functional.silu(y @ w["ffn_gate.weight"].T) * (y @ w["ffn_up.weight"].T))
            @ w["ffn_down.weight"].T
        )


class LayerReference(NextnReference):
    """The block of another family: a layer of transformers' own class."""

    def __init__(self, folder: Path, nextn: dict[str, np.ndarray]) -> None:
        """`folder`: a checkpoint whose last layer is the block's."""
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        super().__init__(model, nextn, model.config.rms_norm_eps)
        layers = model.model.layers
        self.layer = copy.copy(model.model)  # what is around layers: masks and angles
        self.layer._modules = {**model.model._modules, "layers": layers[-1:], "norm": torch.nn.Identity()}
        model.model.layers = layers[:-1]

    def block(self, x: Tensor) -> Tensor:
        """As the base has it."""
        return torch.as_tensor(self.layer(inputs_embeds=x[None], use_cache=False).last_hidden_state[0])
