"""How well a drafter agrees with its target on held-out rows, per draft step, and how long greedy chains would be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CHUNK = 64  # states whose logits over the full head exist at once


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Over held-out positions, per unrolled step: mean loss, and the share whose likeliest token is the target's.

    `accepted_length`: expected length of a greedy chain of J drafts, its bonus token included,

        1 + sum_j P(steps 0 ... j all agree).

    On text that the target wrote itself at temperature 0 that is the accepted length of the engine's chains; on other
    text the steps read the text's tokens instead of the target's, and it is an estimate.
    """

    loss: list[float]
    acceptance: list[float]
    accepted_length: float


class AgreementCounter:
    """Adds up batches of a validation."""

    def __init__(self, steps: int) -> None:
        self._loss, self._agreed, self._valid = torch.zeros(steps), torch.zeros(steps), torch.zeros(steps)
        self._chains = self._runs = 0.0

    def add(self, losses: Tensor, agrees: Tensor, valid: Tensor) -> None:
        """Losses, agreement and validity of every step: (J, B, T) each, aligned by the row that drafts."""
        weights = valid.float()
        self._loss += (losses * weights).sum((1, 2)).cpu()
        self._agreed += (agrees * weights).sum((1, 2)).cpu()
        self._valid += weights.sum((1, 2)).cpu()
        whole = valid[-1].float()  # rows all of whose steps count
        run = (agrees & valid).float().cumprod(0).sum(0)
        self._runs += float((run * whole).sum())
        self._chains += float(whole.sum())

    def result(self) -> Agreement:
        """The means; raises ValueError where no position counted."""
        if not self._chains:
            raise ValueError(
                "no held-out text is long enough for the unrolled steps, expected fewer --unroll or more text"
            )
        return Agreement(
            (self._loss / self._valid).tolist(),
            (self._agreed / self._valid).tolist(),
            1.0 + self._runs / self._chains,
        )


def full_logits(states: Tensor, head: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Float32 logits over all rows of `head`, (chunk, V), a few of the `states` (N, h) at a time."""
    wide = head.float()
    for begin in range(0, states.shape[0], _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        yield rows, states[rows].float() @ wide.T


def compare(students: Tensor, head: Tensor, ids: Tensor | None, teachers: Tensor, teacher_head: Tensor) -> Any:
    """Losses and agreement of J students with their common teacher.

    Args:
        students: what the drafter's head reads, (J, N, d).
        head: the drafter's, (V', d).
        ids: target ids of its rows, (V'), None where they are the target's rows.
        teachers: the target's states, (N, h).
        teacher_head: (V, h).

    Returns:
        Cross-entropy against the teacher's distribution over the drafter's rows, as it is trained, (J, N); and whether
        the likeliest tokens are the same, (J, N) bool.
    """
    losses = torch.zeros(students.shape[:2], device=students.device)
    agrees = torch.zeros(students.shape[:2], device=students.device, dtype=torch.bool)
    wide = head.float()
    for rows, logits in full_logits(teachers, teacher_head):
        favourite = logits.max(-1).indices
        p = logits.softmax(-1)
        if ids is not None:
            p = p[:, ids]
        for step, states in enumerate(students):
            z = states[rows].float() @ wide.T
            best = z.max(-1).indices
            agrees[step, rows] = (best if ids is None else ids[best]) == favourite
            losses[step, rows] = p.sum(-1) * z.logsumexp(-1) - (p * z).sum(-1)
    return losses, agrees
