"""Cross-entropy with a teacher of whom the most probable tokens are known, over a sample of the student's head.

The teacher gives its best tokens T with their probabilities p, and r = 1 - sum p is left for all others. What the
student is taught is p on T and r in all on the rest, however it likes to share that out: with q = softmax(z),

    loss = - sum_{v in T} p_v log q_v - r log (1 - sum_{v in T} q_v)

Its gradient in z is q_v - p_v on T, and q_v (1 - r / q_rest) elsewhere. q is estimated over a sample of the head's rows
as in sampled_softmax: rows that many positions want are certain, others stand for several. A token of T that is not
among the certain rows counts among the others. Of a head that lacks rows, nothing is known of what the rest would be:
there the loss is - sum p_v log q_v over what it has, and a position counts by how much that is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

_CHUNK = 256  # positions whose logits exist at once
_LEAST = 1e-6  # of the probability that a student leaves for the rest
_TINY = 1e-30  # a probability whose logarithm is finite


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the teacher says behind N positions: columns of the sample, (N, k), and their probabilities, (N, k).

    A token without a certain column has column S, which is behind the last. The first column is the favourite's.
    `partial`: the head lacks rows.
    """

    columns: Tensor
    probabilities: Tensor
    partial: bool


class _KnownBest(torch.autograd.Function):
    """Computes the gradient together with the loss, so that no logits are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, students: Tensor, head: Tensor, log_weights: Tensor, labels: Labels, weights: Tensor, dtype: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_head = ctx.needs_input_grad[1]
        narrow = head.detach().to(dtype)
        size = narrow.shape[0]
        gradient = torch.empty_like(students)
        head_gradient = torch.zeros_like(head, dtype=torch.float32) if needs_head else None
        losses = torch.empty(students.shape[0], device=students.device)
        agreed = torch.empty(students.shape[0], device=students.device, dtype=torch.bool)
        for begin in range(0, students.shape[0], _CHUNK):
            rows = slice(begin, begin + _CHUNK)
            student, columns = students[rows].detach().to(dtype), labels.columns[rows]
            is_certain, columns = columns < size, columns.clamp(max=size - 1)
            p = labels.probabilities[rows] * is_certain
            z = (student @ narrow.T).float()
            agreed[rows] = (z.argmax(-1) == columns[:, 0]) & is_certain[:, 0]
            q = torch.softmax(z.add_(log_weights), -1, out=z)
            known = q.gather(1, columns) * is_certain
            held = p.sum(-1, keepdim=True)
            losses[rows] = -(p * known.clamp(min=_TINY).log()).sum(-1)
            # The gradient in z is q times a factor, and on T what is missing there.
            if labels.partial:
                factor, missing = held, -p
            else:
                rest, left = ((1.0 - x.sum(-1, keepdim=True)).clamp_(min=low) for x, low in ((p, 0.0), (known, _LEAST)))
                losses[rows] -= (rest * left.log())[:, 0]
                factor = 1.0 - rest / left
                missing = known * (1.0 - factor) - p
            weight = weights[rows, None]
            q.mul_(factor * weight).scatter_add_(1, columns, missing * weight)
            error = q.to(dtype)
            gradient[rows] = (error @ narrow).to(gradient.dtype)
            if head_gradient is not None:
                head_gradient += error.T @ student
        ctx.save_for_backward(gradient, head_gradient if head_gradient is not None else torch.empty(0))
        ctx.needs_head, ctx.head_dtype = needs_head, head.dtype
        ctx.mark_non_differentiable(losses, agreed)
        return (losses * weights).sum(), losses, agreed

    @staticmethod
    def backward(ctx: Any, outer: Tensor, *unused: Any) -> tuple[Any, ...]:
        gradient, head_gradient = ctx.saved_tensors
        for_head = (outer * head_gradient).to(ctx.head_dtype) if ctx.needs_head else None
        return (outer * gradient).to(gradient.dtype), for_head, None, None, None, None


def known_best_loss(
    students: Tensor, head: Tensor, log_weights: Tensor, labels: Labels, weights: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted loss of N positions over the S rows of a sample.

    Args:
        students: what the head reads, (N, d).
        head: its S rows, (S, d); a gradient flows into it where it wants one.
        log_weights: (S), log of how many rows each stands for.
        labels: of the positions.
        weights: of each loss, (N).
        dtype: of the matrix products.

    Returns:
        The weighted sum; each loss, (N); and whether the student's best row is the teacher's favourite, (N).
    """
    with torch.autocast(students.device.type, enabled=False):
        result: tuple[Tensor, Tensor, Tensor] = _KnownBest.apply(students, head, log_weights, labels, weights, dtype)
    return result
