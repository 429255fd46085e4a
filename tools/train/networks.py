"""The drafters EAGLE-2 and EAGLE-3, unrolled over draft steps.

Names of modules are the keys of published checkpoints.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from .layer import Cache, LayerSizes, Mlp, RMSNorm, UnrolledAttention


@dataclasses.dataclass(frozen=True)
class Step:
    """One draft step: what the head reads, and what the next step gets as its state, (B, T, h) each or (chosen, h)."""

    to_head: Tensor
    feedback: Tensor


class Eagle2Layer(nn.Module):
    """A Llama layer without a norm before its attention."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.self_attn = UnrolledAttention(sizes)
        self.mlp = Mlp(sizes)
        self.post_attention_layernorm = RMSNorm(sizes.hidden, sizes.epsilon)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        """(B, T, h) -> (B, T, h), or the chosen rows of both (Cache)."""
        x = cache.pick(x) + self.self_attn(x, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Eagle2(nn.Module):
    """EAGLE-2's network (2401.15077, section 4.1): fc over the token's embedding and the state before it, one layer.

    The state is the target's after its final norm; the output goes to the target's head as it is, and stands for the
    state at the next draft step.
    """

    kind = "eagle2"

    def __init__(self, sizes: LayerSizes, fc_bias: bool = False) -> None:
        super().__init__()
        self.sizes, self.taps = sizes, ()
        self.fc = nn.Linear(2 * sizes.hidden, sizes.hidden, bias=fc_bias)
        self.layers = nn.ModuleList([Eagle2Layer(sizes)])
        _initialise(self)

    def begin(self, final: Tensor | None, taps: Tensor | None) -> Tensor:
        """The state of step 0: the target's own."""
        assert final is not None
        return final

    def read(self, embedded: Tensor) -> Tensor:
        """What a step takes of each token: (n, h) -> (n, h)."""
        return F.linear(embedded, self.fc.weight[:, : self.sizes.hidden], self.fc.bias)

    def step(self, token: Tensor, state: Tensor, cache: Cache) -> Step:
        """One draft step of all rows; `token`: what `read` makes of theirs."""
        out = self.layers[0](token + F.linear(state, self.fc.weight[:, self.sizes.hidden :]), cache)
        return Step(out, out)


class Eagle3Layer(nn.Module):
    """EAGLE-3's layer: its attention reads the normed embedding beside the normed state."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(sizes.hidden, sizes.epsilon)
        self.hidden_norm = RMSNorm(sizes.hidden, sizes.epsilon)
        self.self_attn = UnrolledAttention(sizes)
        self.mlp = Mlp(sizes)
        self.post_attention_layernorm = RMSNorm(sizes.hidden, sizes.epsilon)

    def read(self, embedded: Tensor) -> Tensor:
        """What the attention takes of each token: (n, h) -> (n, widths of q, k and v)."""
        return self.self_attn.project(self.input_layernorm(embedded), slice(embedded.shape[-1]))

    def forward(self, token: Tensor, state: Tensor, cache: Cache) -> Tensor:
        """(B, T, n), (B, T, h) -> (B, T, h), or the chosen rows (Cache); the residual is the state before its norm."""
        x = cache.pick(state) + self.self_attn(self.hidden_norm(state), cache, token)
        return x + self.mlp(self.post_attention_layernorm(x))


class Eagle3(nn.Module):
    """EAGLE-3's network (2503.01840, section 3.1): fc over three states of the target, one layer, a norm.

    Args:
        sizes: of the layer.
        taps: ids of the target's layers whose inputs are read, in the order of their concatenation.
        norm_before_fc: one norm over the concatenation, before fc (which llama.cpp knows).
        fc_norm: EAGLE-3.1's norm of each tapped state, before fc (which vLLM knows, too).
        norm_output: EAGLE-3.1's feedback: the next step gets the output behind the final norm, not before it.
        draft_ids: target ids of the own head's rows, ascending; empty: the head has all of the target's rows.
        own_head: whether there is an own head; else the target's.
        vocabulary: of the target.
    """

    kind = "eagle3"

    def __init__(
        self,
        sizes: LayerSizes,
        taps: tuple[int, ...],
        norm_before_fc: bool = False,
        fc_norm: bool = False,
        norm_output: bool = False,
        draft_ids: tuple[int, ...] = (),
        own_head: bool = False,
        vocabulary: int = 0,
    ) -> None:
        super().__init__()
        self.sizes, self.taps, self.norm_output, self.vocabulary = sizes, taps, norm_output, vocabulary
        self.draft_ids = draft_ids
        hidden = sizes.hidden
        self.fc = nn.Linear(len(taps) * hidden, hidden, bias=False)
        self.input_norm = RMSNorm(len(taps) * hidden, sizes.epsilon) if norm_before_fc else None
        self.fc_norm = nn.ModuleList([RMSNorm(hidden, sizes.epsilon) for _ in taps]) if fc_norm else None
        self.midlayer = Eagle3Layer(sizes)
        self.norm = RMSNorm(hidden, sizes.epsilon)
        self.lm_head = nn.Linear(hidden, len(draft_ids) or vocabulary, bias=False) if own_head or draft_ids else None
        _initialise(self)

    def begin(self, final: Tensor | None, taps: Tensor | None) -> Tensor:
        """The state of step 0: fc over the taps."""
        assert taps is not None
        if self.input_norm is not None:
            taps = self.input_norm(taps)
        if self.fc_norm is not None:
            parts = taps.chunk(len(self.taps), dim=-1)
            taps = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        state: Tensor = self.fc(taps)
        return state

    def read(self, embedded: Tensor) -> Tensor:
        """What a step takes of each token: (n, h) -> (n, widths of q, k and v)."""
        result: Tensor = self.midlayer.read(embedded)
        return result

    def step(self, token: Tensor, state: Tensor, cache: Cache) -> Step:
        """One draft step of all rows; `token`: what `read` makes of theirs."""
        out = self.midlayer(token, state.float(), cache)  # what is added up stays float32 under autocast
        normed = self.norm(out)
        return Step(normed, normed if self.norm_output else out)


def _initialise(network: Any) -> None:
    """Normal weights of variance 1 / inputs, and outputs of the two residual branches smaller by half."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            small = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=(0.5 if small else 1.0) * parameter.shape[1] ** -0.5)


def unroll(
    network: Any,
    embed: Any,
    tokens: Tensor,
    final: Tensor | None,
    taps: Tensor | None,
    count: int,
    chosen: Tensor | None = None,
    wanted: Tensor | None = None,
) -> list[Step]:
    """`count` draft steps from every position of a text.

    Args:
        network: Eagle2 or Eagle3.
        embed: the target's embedding, ids (...) -> (..., h).
        tokens: ids, (B, T).
        final: for EAGLE-2, the target's states after its final norm, (B, T, h).
        taps: for EAGLE-3, the target's tapped states, (B, T, taps * h).
        count: steps.
        chosen: positions, as indices into (B, T) laid flat; the steps have these rows alone, (chosen, h).
        wanted: which of them each step has, (count, chosen) bool: all at first, and no row that the step before lacks.

    Row i of step j drafts the token at i + 2 + j from the tokens up to i + 1 + j. Rows whose token lies behind the end
    of the text read token 0; no earlier row sees them.
    """
    state, cache, steps = network.begin(final, taps), Cache(chosen=chosen), []
    # All steps read the same tokens, of which a text has many more than once.
    ids, places = torch.unique(torch.cat([tokens.flatten(), tokens.new_zeros(1)]), return_inverse=True)
    read, zero, places = network.read(embed(ids)), places[-1], places[:-1].view_as(tokens)
    rows = read.float()  # gradients of all places of a token are added up in it: bfloat16 would stop at some hundred
    for shift in range(1, count + 1):
        ahead = zero.expand_as(tokens).clone()
        ahead[:, :-shift] = places[:, shift:]
        if shift > 1 and chosen is not None:
            if wanted is not None:
                kept = wanted[shift - 1][wanted[shift - 2]]
                state, cache.chosen = state[kept], chosen[wanted[shift - 1]]
            ahead = ahead.flatten()[cache.chosen]
        steps.append(network.step(F.embedding(ahead, rows).to(read.dtype), state, cache))
        state = steps[-1].feedback
    return steps
