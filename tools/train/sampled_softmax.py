"""Cross-entropy with a frozen teacher over a sample of the vocabulary, in memory that does not grow with either.

The loss of a row with the teacher's probabilities p and the student's logits z is -sum_v p_v log softmax(z)_v over the
whole vocabulary: every logit is needed for the normaliser. With a sample S, row v of it standing for w_v rows
(Horvitz-Thompson weights: 1 / the chance that v is in S), it becomes

    z'_v = z_v + log w_v        p'_v = p_v w_v        loss = -sum_{v in S} p'_v (log softmax_S(z')_v - log w_v)

which is the importance-weighted softmax of Bengio & Senecal (2008) and Jean et al. (1412.2007, section 3) with a
soft label. Where z agrees with the teacher the gradient is exactly zero for every sample, and with all rows the loss is
the full one. p itself is exact: the teacher's normaliser is computed over the full head (`read_teacher`).

S holds, with certainty (w = 1), the tokens that follow in the batch and the rows that the teacher gives most
probability over the batch (so every label of some weight); the others are drawn uniformly without replacement.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

ALL_ROWS_UP_TO = 16384  # vocabularies of which no sample is taken by default
DEFAULT_SAMPLES = 8192
_CERTAIN = 0.75  # largest share of the sample that is taken for its probability
_CHUNK = 256  # states whose logits over a sample exist at once
_TEACHER_CHUNK = 128  # states whose logits over the full head exist at once


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What one pass over the full head gives for N states.

    `log_z` (N): log of the sum of exp(logits), float32. `mass` (V): the probability of each token, summed over the
    states that count, float32.
    """

    log_z: Tensor
    mass: Tensor


def read_teacher(states: Tensor, head: Tensor, counts: Tensor) -> Teacher:
    """Runs the frozen head over `states`, (N, h) of the head's type; `counts` (N) says which rows join `mass`."""
    log_z = []
    mass = torch.zeros(head.shape[0], device=head.device)
    with torch.no_grad():
        for rows, wanted in zip(states.split(_TEACHER_CHUNK), counts.to(head.dtype).split(_TEACHER_CHUNK), strict=True):
            logits = rows @ head.T
            # The softmax of 16-bit logits is many times faster than their logsumexp; both sum in float32.
            probabilities = logits.softmax(dim=-1)
            log_z.append(logits.amax(-1).float() - probabilities.amax(-1).float().log())
            mass += (wanted @ probabilities).float()
    return Teacher(torch.cat(log_z), mass)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Rows of the vocabulary: `ids` (S), and `log_weights` (S), log of how many rows each stands for."""

    ids: Tensor
    log_weights: Tensor


def every_row(vocabulary: int, device: torch.device) -> Sample:
    """The sample that is the whole vocabulary."""
    return Sample(torch.arange(vocabulary, device=device), torch.zeros(vocabulary, device=device))


def draw_sample(mass: Tensor, labels: Tensor, count: int, generator: Any) -> Sample:
    """A sample of about `count` rows: labels, the rows of most mass, and uniform others; more where labels are many.

    Args:
        mass: (V) as in Teacher.
        labels: ids that must be in the sample, any number of times.
        count: rows of the sample; 0 or at least V: all rows.
        generator: a torch.Generator on the CPU, so that all devices draw the same.
    """
    vocabulary, device = mass.shape[0], mass.device
    if count == 0 or count >= vocabulary:
        return every_row(vocabulary, device)
    priority = mass.clone()
    priority[labels] = torch.inf
    forced = int(torch.isinf(priority).sum())
    certain = min(max(forced, int(count * _CERTAIN)), vocabulary - 1)
    order = torch.argsort(priority, descending=True, stable=True)
    rest = order[certain:]
    drawn = min(max(count - certain, int(count * (1.0 - _CERTAIN)), 1), rest.shape[0])
    others = rest[torch.randperm(rest.shape[0], generator=generator)[:drawn].to(device)]
    log_weights = torch.zeros(certain + drawn, device=device)
    log_weights[certain:] = torch.log(torch.tensor(rest.shape[0] / drawn))
    return Sample(torch.cat([order[:certain], others]), log_weights)


class _SoftCrossEntropy(torch.autograd.Function):
    """Computes the gradient together with the loss, so that no logits are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        students: Tensor,
        head: Tensor,
        log_weights: Tensor,
        teacher_states: Tensor,
        teacher_head: Tensor,
        log_z: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_head = ctx.needs_input_grad[1]
        steps, count = students.shape[:2]
        narrow_head, narrow_teacher = head.detach().to(dtype), teacher_head.to(dtype)
        gradient = torch.zeros_like(students)
        head_gradient = torch.zeros_like(head, dtype=torch.float32) if needs_head else None
        losses = torch.zeros(steps, device=students.device)
        agreed = torch.zeros(steps, device=students.device)
        for begin in range(0, count, _CHUNK):
            rows = slice(begin, begin + _CHUNK)
            target = (teacher_states[rows].to(dtype) @ narrow_teacher.T).float()
            favourite = target.max(-1).indices
            p = (target.sub_(log_z[rows, None]).add_(log_weights)).exp_()  # (rows, S)
            total = p.sum(-1, keepdim=True)
            for step in range(steps):
                student = students[step, rows].to(dtype)
                raw = student @ narrow_head.T
                agreed[step] += (weights[step, rows] > 0).float() @ (raw.max(-1).indices == favourite).float()
                logs = (raw.float().add_(log_weights)).log_softmax(-1)
                losses[step] -= weights[step, rows] @ ((p * logs).sum(-1) - p @ log_weights)
                error = (logs.exp_().mul_(total).sub_(p)).mul_(weights[step, rows, None]).to(dtype)
                gradient[step, rows] = (error @ narrow_head).to(gradient.dtype)
                if head_gradient is not None:
                    head_gradient += error.T @ student
        ctx.save_for_backward(gradient, head_gradient if head_gradient is not None else torch.empty(0))
        ctx.needs_head, ctx.head_dtype = needs_head, head.dtype
        ctx.mark_non_differentiable(losses, agreed)
        return losses.sum(), losses, agreed

    @staticmethod
    def backward(ctx: Any, outer: Tensor, *unused: Any) -> tuple[Any, ...]:
        gradient, head_gradient = ctx.saved_tensors
        for_head = (outer * head_gradient).to(ctx.head_dtype) if ctx.needs_head else None
        return (outer * gradient).to(gradient.dtype), for_head, None, None, None, None, None, None


def soft_cross_entropy(
    students: Tensor,
    head: Tensor,
    log_weights: Tensor,
    teacher_states: Tensor,
    teacher_head: Tensor,
    log_z: Tensor,
    weights: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted loss of J students that share a teacher, over the S rows of a sample.

    Args:
        students: what the students' head reads, (J, N, d).
        head: its S rows, (S, d); a gradient flows into it where it wants one.
        log_weights: (S), of the sample.
        teacher_states: (N, h).
        teacher_head: the teacher's S rows, (S, h).
        log_z: (N), the teacher's normaliser over all of its rows.
        weights: of each loss, (J, N).
        dtype: of the matrix products.

    Returns:
        The sum of all weighted losses; of each student's, (J); and how many of each student's rows of weight above 0
        have the teacher's favourite among the S rows as their own, (J).
    """
    with torch.autocast(students.device.type, enabled=False):
        result: tuple[Tensor, Tensor, Tensor] = _SoftCrossEntropy.apply(
            students, head, log_weights, teacher_states, teacher_head, log_z, weights, dtype
        )
    return result
