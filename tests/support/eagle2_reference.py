"""EAGLE-2 from the papers, in plain torch: the drafter (2401.15077) and its dynamic tree (2406.16858).

It reads the Hugging Face checkpoint folders, computes in float32 and keeps no cache: at every step the text is run
through the drafter again. Clear rather than fast, and independent of the engine, which it is there to check.

With greedy decoding the target's text is known before anything is drafted. A draft is accepted as long as it continues
that text, so a run along the text gives the accepted length of every step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

Tensor = torch.Tensor


@dataclass(frozen=True)
class Shape:
    """A dynamic tree: `depth` + 1 levels of drafts, `branch` nodes expanded per level, `size` nodes with the root."""

    depth: int
    branch: int
    size: int


@dataclass(frozen=True)
class Tree:
    """Token and parent of every node; node 0 is the root, the text's last token, and has parent -1."""

    tokens: list[int]
    parents: list[int]


@dataclass(frozen=True)
class Step:
    """One pass of the target behind `start` tokens: the tree it verified, and how many tokens it gave."""

    start: int
    tree: Tree
    given: int  # accepted drafts + 1; fewer where the text ends


@dataclass(frozen=True)
class Text:
    """A prompt and its greedy continuation.

    `tokens`: all ids, (n). `hidden`: the target's states after its final norm, (n, h). `margins`: for each continued
    token by how much its logit leads the next best, (n - prompt).
    """

    tokens: list[int]
    prompt: int
    hidden: Tensor
    margins: list[float]

    @property
    def continuation(self) -> list[int]:
        """The tokens behind the prompt."""
        return self.tokens[self.prompt :]


def load_target(folder: Path) -> LlamaForCausalLM:
    """The target of a checkpoint folder, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def continue_greedily(target: LlamaForCausalLM, prompt: Sequence[int], count: int, stop: int | None = None) -> Text:
    """Continues `prompt` by `count` tokens, or up to and including the token `stop`."""
    tokens, margins = list(prompt), []
    fresh, past = tokens, None
    while len(margins) < count and (stop is None or not margins or tokens[-1] != stop):
        out = target(torch.tensor([fresh]), past_key_values=past, use_cache=True)
        best = out.logits[0, -1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        fresh, past = [int(best.indices[0])], out.past_key_values
        tokens.extend(fresh)
    hidden = target.model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
    return Text(tokens, len(prompt), hidden, margins)


class Drafter:
    """The network of one checkpoint folder, with the target's embedding and head.

    Args:
        folder: of the drafter: config.json and model.safetensors.
        target: its target.
        head_ids: the rows of the head that drafts are chosen from; None: all.
    """

    def __init__(self, folder: Path, target: LlamaForCausalLM, head_ids: Sequence[int] | None = None) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config["num_key_value_heads"]
        self.head_dim: int = config.get("head_dim") or config["hidden_size"] // self.heads
        self.epsilon: float = config["rms_norm_eps"]
        base = config.get("rope_theta", 10000.0)
        self.frequencies = base ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)  # (head_dim / 2)
        self.embedding = self.weights.get("embed_tokens.weight", target.get_input_embeddings().weight.detach())
        head = target.get_output_embeddings().weight.detach()  # (V, h)
        self.ids = torch.arange(len(head)) if head_ids is None else torch.tensor(sorted(head_ids))
        self.head = head[self.ids]

    @torch.no_grad()
    def propose(self, tokens: Sequence[int], hidden: Tensor, shape: Shape) -> Tree:
        """The tree behind a text of n + 1 `tokens`, of which the first n have target states: `hidden` (n, h)."""
        # Rows of the drafter are pairs: the state at a position and the token after it. First those of the text.
        rows = Rows()
        for token, state in zip(tokens[1:], hidden, strict=True):
            rows.append(token, state, len(rows.tokens) - 1)
        row_of = {-1: len(rows.tokens) - 1}  # candidate -> the row it was expanded as; -1: the root
        score_of = {-1: 0.0}
        candidates: list[tuple[int, int]] = []  # token, parent
        frontier = [-1]
        for level in range(shape.depth + 1):
            states = self._run(rows)
            first = len(candidates)
            seen = self._head_input(states[[row_of[c] for c in frontier]])
            best = F.linear(seen, self.head).log_softmax(-1).topk(shape.branch)
            for i, parent in enumerate(frontier):
                for column, log_prob in zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True):
                    score_of[len(candidates)] = score_of[parent] + log_prob
                    candidates.append((int(self.ids[column]), parent))
            if level == shape.depth:
                break
            frontier = _best(range(first, len(candidates)), score_of, shape.branch)
            for candidate in frontier:
                token, parent = candidates[candidate]
                # A drafted position has no target state yet: the drafter's own output stands for it.
                row_of[candidate] = rows.append(token, self._fed_back(states[row_of[parent]]), row_of[parent])
        kept = sorted(_best(range(len(candidates)), score_of, shape.size - 1))
        node_of = {-1: 0} | {candidate: node for node, candidate in enumerate(kept, start=1)}
        return Tree(
            tokens=[tokens[-1]] + [candidates[c][0] for c in kept],
            parents=[-1] + [node_of[candidates[c][1]] for c in kept],
        )

    def _head_input(self, states: Tensor) -> Tensor:
        """What the head reads of the drafter's states."""
        return states

    def _fed_back(self, state: Tensor) -> Tensor:
        """What stands for the target's state at a drafted position."""
        return state

    def _run(self, rows: Rows) -> Tensor:
        """The drafter's output states of all rows: (rows, h)."""
        positions, sees = rows.layout()
        angles = positions[:, None, None] * self.frequencies  # (rows, 1, head_dim / 2)
        x = torch.cat([self.embedding[rows.tokens], torch.stack(rows.states)], dim=1)
        x = self._linear("fc", x)
        for layer in range(self.layers):
            name = f"layers.{layer}."
            y = self._norm(name + "input_layernorm", x) if layer else x
            x = x + self._attend(name + "self_attn.", y, angles, sees)
            y = self._norm(name + "post_attention_layernorm", x)
            gate = F.silu(self._linear(name + "mlp.gate_proj", y))
            x = x + self._linear(name + "mlp.down_proj", gate * self._linear(name + "mlp.up_proj", y))
        return x

    def _attend(self, name: str, x: Tensor, angles: Tensor, sees: Tensor) -> Tensor:
        q, k, v = (self._linear(f"{name}{part}_proj", x).unflatten(1, (-1, self.head_dim)) for part in "qkv")
        groups = self.heads // self.kv_heads
        q = rotate(q, angles)
        k, v = rotate(k, angles).repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / self.head_dim**0.5
        weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
        return self._linear(name + "o_proj", torch.einsum("hqk,khd->qhd", weights, v).flatten(1))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.epsilon)


class Rows:
    """Pairs of token and state that a drafter reads; each follows an earlier one and sees what that one sees."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.states: list[Tensor] = []
        self._before: list[int] = []

    def append(self, token: int, state: Tensor, before: int) -> int:
        """Adds a row behind row `before` (-1: the first of a text); returns its index."""
        self.tokens.append(token)
        self.states.append(state)
        self._before.append(before)
        return len(self.tokens) - 1

    def layout(self) -> tuple[Tensor, Tensor]:
        """Positions (rows), and which rows each row attends to: (rows, rows) bool."""
        sees = np.eye(len(self.tokens), dtype=bool)
        for row, before in enumerate(self._before):
            if before >= 0:
                sees[row] |= sees[before]
        return torch.from_numpy(sees.sum(1) - 1), torch.from_numpy(sees)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding of (rows, heads, head_dim): dimension i turns with i + head_dim / 2."""
    left, right = x.chunk(2, -1)
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], -1)


def _best(candidates: Sequence[int], score_of: dict[int, float], count: int) -> list[int]:
    """The `count` candidates of highest score, best first; among equals the earlier ones."""
    return sorted(candidates, key=lambda c: -score_of[c])[:count]  # a stable sort


def count_accepted(tree: Tree, continuation: Sequence[int]) -> int:
    """How many tokens of `continuation` there are on a path down from the root."""
    node = accepted = 0
    children = {(parent, token): n for n, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True))}
    while accepted < len(continuation) and (node, continuation[accepted]) in children:
        node = children[node, continuation[accepted]]
        accepted += 1
    return accepted


def steps_along(drafter: Drafter, text: Text, shape: Shape) -> list[Step]:
    """The steps that write the continuation of `text`, whose first token comes from the prompt's own pass."""
    steps = []
    known = text.prompt + 1
    while known < len(text.tokens):
        tree = drafter.propose(text.tokens[:known], text.hidden[: known - 1], shape)
        given = min(count_accepted(tree, text.tokens[known:]) + 1, len(text.tokens) - known)
        steps.append(Step(known, tree, given))
        known += given
    return steps
