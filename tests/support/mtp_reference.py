"""The nextn block of Qwen3.5 in plain torch.

Each row is a state of the target and the token that followed it; a drafted token takes the block's own state instead.
It keeps no cache: every state is computed anew.
"""

from __future__ import annotations

import torch
from qwen35 import BASE, EPSILON, HEAD, HEADS, KV_HEADS, ROTATED, Qwen35

Tensor = torch.Tensor


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPSILON) * weight


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    """The first ROTATED elements of (rows, heads, HEAD), in pairs of one from each half."""
    half = ROTATED // 2
    angles = positions[:, None, None] * BASE ** (-2 * torch.arange(half) / ROTATED)
    a, b = x[..., :half], x[..., half:ROTATED]
    turned = (a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos())
    return torch.cat([*turned, x[..., ROTATED:]], dim=-1)


class MtpReference:
    """The block of a model. `tokens` and states are those of one text."""

    def __init__(self, made: Qwen35) -> None:
        self.w = {name: torch.tensor(value) for name, value in made.nextn.items()}
        self.embedding = torch.tensor(made.shared["token_embd.weight"])
        self.head = torch.tensor(made.shared.get("output.weight", made.shared["token_embd.weight"]))
        self.model = made.model

    def block(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The states behind pairs (state of a position, next token), all of them: (n, width)."""
        w, rows = self.w, len(tokens)
        pair = (
            _norm(self.embedding[tokens], w["nextn.enorm.weight"]),
            _norm(states, w["nextn.hnorm.weight"]),
        )
        x = torch.cat(pair, dim=-1) @ w["nextn.eh_proj.weight"].T
        y = _norm(x, w["attn_norm.weight"])
        q, gate = (y @ w["attn_q.weight"].T).view(rows, HEADS, 2, HEAD).unbind(2)
        k = (y @ w["attn_k.weight"].T).view(rows, KV_HEADS, HEAD)
        v = (y @ w["attn_v.weight"].T).view(rows, KV_HEADS, HEAD)
        positions = torch.arange(rows)
        q = _rotate(_norm(q, w["attn_q_norm.weight"]), positions)
        k = _rotate(_norm(k, w["attn_k_norm.weight"]), positions)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * HEAD**-0.5
        scores = scores.masked_fill(torch.ones(rows, rows).triu(1).bool(), -torch.inf)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v) * gate.sigmoid()
        x = x + attended.reshape(rows, -1) @ w["attn_output.weight"].T
        y = _norm(x, w["post_attention_norm.weight"])
        x = (
            x
            + (torch.nn.functional.silu(y @ w["ffn_gate.weight"].T) * (y @ w["ffn_up.weight"].T))
            @ w["ffn_down.weight"].T
        )
        return _norm(x, w["nextn.shared_head_norm.weight"])

    def chain(self, text: list[int], levels: int) -> tuple[list[int], Tensor]:
        """A greedy chain behind a text whose last token the target has not read, and the states it was read from."""
        with torch.no_grad():
            target = self.model.model(torch.tensor([text[:-1]])).last_hidden_state[0]
            states, tokens, drafted = target, list(text[1:]), []
            found = []
            for _ in range(levels):
                state = self.block(states, torch.tensor(tokens))[-1]
                found.append(state)
                drafted.append(int((self.head @ state).argmax()))
                states, tokens = torch.cat([states, state[None]]), [*tokens, drafted[-1]]
            return drafted, torch.stack(found)
