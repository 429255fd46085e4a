"""The drafters' one transformer layer, run over a whole text at every unrolled draft step.

Training-time test (EAGLE-3, 2503.01840, section 3.2): while drafting, the drafter reads its own outputs in place of the
target's states, so it is trained on them. Row i of step j is the j-th draft behind position i: it reads token i + 1 + j
and the output of row i at step j - 1, and stands at position i + j. It attends to what an engine that drafts from i has
in its cache: rows 0 ... i of step 0, made from the target's states, then rows i of steps 1 ... j. So step 0 is ordinary
causal attention, and each further step adds one key per row, a diagonal.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

_QUERY_ROWS = 128  # queries of later steps scored at once: half the causal scores are never computed


@dataclasses.dataclass(frozen=True)
class LayerSizes:
    """`inputs` is the width that the q, k and v projections read: h, or 2h in EAGLE-3."""

    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    rope_theta: float
    inputs: int


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight, computed in float32."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension."""
        return F.rms_norm(x.float(), x.shape[-1:], self.weight, self.epsilon).to(x.dtype)


class Mlp(nn.Module):
    """Llama's feed-forward network."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.hidden, sizes.feed_forward, bias=False)
        self.up_proj = nn.Linear(sizes.hidden, sizes.feed_forward, bias=False)
        self.down_proj = nn.Linear(sizes.feed_forward, sizes.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., h) -> (..., h)."""
        result: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


@dataclasses.dataclass
class Cache:
    """Keys and values of the steps so far, (B, heads, T, head_dim) each; key heads are repeated for their queries.

    `chosen`, where it is not None, are the rows that are drafted from, as indices into (B, T) laid flat. Of the others
    only step 0's keys and values are computed: behind its attention, and at later steps, x has the chosen rows alone.
    """

    keys: list[Tensor] = dataclasses.field(default_factory=list)
    values: list[Tensor] = dataclasses.field(default_factory=list)
    chosen: Tensor | None = None

    def pick(self, x: Tensor) -> Tensor:
        """The chosen rows: (B, T, n) -> (chosen, n)."""
        if self.chosen is None or x.dim() == 2:
            return x
        return x.flatten(0, 1).index_select(0, self.chosen)

    def spread(self, x: Tensor) -> Tensor:
        """The inverse of pick, with 0 in the other rows."""
        if x.dim() == 3:
            return x
        batch, _, length, _ = self.keys[0].shape
        assert self.chosen is not None
        return x.new_zeros(batch * length, x.shape[1]).index_copy(0, self.chosen, x).unflatten(0, (batch, length))


class UnrolledAttention(nn.Module):
    """Grouped-query attention with rotary positions over the steps of an unrolled drafter."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.q_proj = nn.Linear(sizes.inputs, sizes.heads * sizes.head_dim, bias=False)
        self.k_proj = nn.Linear(sizes.inputs, sizes.kv_heads * sizes.head_dim, bias=False)
        self.v_proj = nn.Linear(sizes.inputs, sizes.kv_heads * sizes.head_dim, bias=False)
        self.o_proj = nn.Linear(sizes.heads * sizes.head_dim, sizes.hidden, bias=False)

    @property
    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """Of queries, keys and values."""
        return self.q_proj, self.k_proj, self.v_proj

    def project(self, x: Tensor, columns: slice) -> Tensor:
        """What these columns of the projections make of (..., columns): queries, keys and values side by side."""
        return torch.cat([F.linear(x, one.weight[:, columns]) for one in self.projections], dim=-1)

    def forward(self, x: Tensor, cache: Cache, others: Tensor | None = None) -> Tensor:
        """Step `len(cache.keys)` over all rows: (B, T, n) -> (B, T, h), or the chosen ones of both (Cache).

        x is what the last n columns of the projections read; `others`: what `project` made of those before them. Its
        keys and values join the cache.
        """
        step, groups = len(cache.keys), self.sizes.heads // self.sizes.kv_heads
        projected = self.project(x, slice(self.sizes.inputs - x.shape[-1], None))
        projected = projected if others is None else projected + others
        widths = [one.out_features for one in self.projections]
        q, k, v = (self._heads(cache.spread(part)) for part in projected.split(widths, dim=-1))
        cos, sin = _angles(q.shape[2], step, self.sizes, x.device)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        cache.keys.append(k.repeat_interleave(groups, 1))
        cache.values.append(v.repeat_interleave(groups, 1))
        if step == 0:
            out = F.scaled_dot_product_attention(q, cache.keys[0], cache.values[0], is_causal=True)
        elif q.device.type == "cpu":
            out = _FusedDiagonals.apply(q, torch.stack(cache.keys), torch.stack(cache.values))
        else:
            out = _attend_diagonals(q * self.sizes.head_dim**-0.5, cache)
        result: Tensor = self.o_proj(cache.pick(out.transpose(1, 2).flatten(2)))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.sizes.head_dim)).transpose(1, 2)  # (B, heads, T, head_dim)


class _FusedDiagonals(torch.autograd.Function):
    """_attend_diagonals in PyTorch's fused attention for processors, which keeps no scores.

    That gives each row's normaliser over the keys of step 0, and its backward pass takes one: given the normaliser and
    the output over all keys, it is the gradient of step 0's part of the whole.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, heads, T, head_dim) and (steps, B, heads, T, head_dim) twice -> (B, heads, T, head_dim)."""
        first, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, keys[0], values[0], 0.0, True)
        scores = (q * keys[1:]).sum(-1, dtype=torch.float32) * q.shape[-1] ** -0.5
        whole = torch.logaddexp(normaliser, scores.logsumexp(0))
        shares = (scores - whole).exp_().to(q.dtype)
        out = first * (normaliser - whole).exp_().to(q.dtype)[..., None]
        for share, value in zip(shares, values[1:], strict=True):
            out.addcmul_(share[..., None], value)
        ctx.save_for_backward(q, keys, values, out, whole, shares)
        return out

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, keys, values, out, whole, shares = ctx.saved_tensors
        for_q, for_key, for_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            outer, q, keys[0], values[0], out, whole, 0.0, True
        )
        mean = (outer * out).sum(-1)
        errors = shares * ((outer * values[1:]).sum(-1) - mean) * q.shape[-1] ** -0.5
        for_keys, for_values = torch.empty_like(keys), torch.empty_like(values)
        for_keys[0], for_values[0] = for_key, for_value
        torch.mul(errors[..., None], q, out=for_keys[1:])
        torch.mul(shares[..., None], outer, out=for_values[1:])
        for error, key in zip(errors, keys[1:], strict=True):
            for_q = for_q.addcmul_(error[..., None], key)
        return for_q, for_keys, for_values


def _attend_diagonals(q: Tensor, cache: Cache) -> Tensor:
    """Row i attends to rows 0 ... i of step 0 and to row i of each later step: (B, heads, T, head_dim)."""
    own = torch.stack([(q * k).sum(-1) for k in cache.keys[1:]], dim=-1)  # (B, heads, T, steps - 1)
    result = []
    for begin in range(0, q.shape[2], _QUERY_ROWS):
        rows = slice(begin, begin + _QUERY_ROWS)
        end = min(begin + _QUERY_ROWS, q.shape[2])
        scores = q[:, :, rows] @ cache.keys[0][:, :, :end].transpose(2, 3)
        later = torch.ones(end - begin, end, dtype=torch.bool, device=q.device).triu(begin + 1)
        scores = scores.masked_fill(later, -torch.inf)
        weights = torch.cat([scores, own[:, :, rows]], dim=-1).softmax(-1)
        out = weights[..., :end] @ cache.values[0][:, :, :end]
        for step, values in enumerate(cache.values[1:]):
            out = out + weights[..., end + step, None] * values[:, :, rows]
        result.append(out)
    return torch.cat(result, dim=2)


def _angles(length: int, offset: int, sizes: LayerSizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions offset ... offset + length - 1: (length, head_dim) each."""
    exponents = torch.arange(0, sizes.head_dim, 2, device=device, dtype=torch.float32) / sizes.head_dim
    positions = torch.arange(offset, offset + length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, sizes.rope_theta**-exponents).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in Hugging Face's layout: element i turns with element i + head_dim / 2."""
    first, second = x.float().chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
