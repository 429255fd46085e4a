"""What training EAGLE drafters minimises and reports, for a batch of packed rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from .drafter_files import write_network
from .evaluation import AgreementCounter, compare
from .frozen_target import FrozenTarget
from .networks import Step, unroll
from .sampled_softmax import draw_sample, every_row, read_teacher, soft_cross_entropy


@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed rows: `tokens` (B, T) and `starts` (B, T) bool, where documents start."""

    tokens: Tensor
    starts: Tensor

    @property
    def count(self) -> int:
        """Tokens."""
        return int(self.tokens.numel())


@dataclasses.dataclass(frozen=True)
class Loss:
    """`total` is differentiated; `losses` and `acceptance` are of each draft step, (J).

    `acceptance` is measured among the sampled rows of the head, so it is a little above the truth.
    """

    total: Tensor
    losses: list[float]
    acceptance: list[float]


class Objective(Protocol):
    """What the training loop needs to know of what it trains."""

    module: Any  # torch.nn.Module: everything in it that wants a gradient is trained

    def loss(self, batch: Any, generator: Any) -> Loss:
        """The loss of a batch."""

    def validate(self, batches: list[Any]) -> dict[str, Any]:
        """What is logged of held-out text: `loss` and shares."""

    def write(self, folder: Path) -> None:
        """Writes the checkpoint that others read."""


def valid_steps(starts: Tensor, count: int) -> Tensor:
    """Which rows of which draft steps are learned from: (count, B, T) bool.

    Row i of step j reads token i + 1 + j and learns what follows it. All tokens from i to i + 2 + j must be of one
    document; the last one may lie behind the row's end.
    """
    batch, length = starts.shape
    after = torch.cat([starts, starts.new_zeros(batch, 1)], dim=1)[:, 1:]  # a document starts at t + 1
    valid, result = torch.ones_like(starts), []
    for step in range(count):
        crossed = _ahead(after, step, fill=True)  # a document starts at i + 1 + step, or the row ends before
        if step == 0:
            crossed[:, length - 1 :] = True
        valid = valid & ~crossed
        inside = torch.arange(length, device=starts.device) + 1 + step < length
        result.append(valid & inside & ~_ahead(after, step + 1, fill=True))
    return torch.stack(result)


def _ahead(x: Tensor, shift: int, fill: bool) -> Tensor:
    """Column t holds what column t + shift held; `fill` behind the end."""
    result = torch.full_like(x, fill)
    result[:, : x.shape[1] - shift] = x[:, shift:]
    return result


def by_teacher(x: Tensor, shift: int) -> Tensor:
    """(B, T, ...) by the row that drafts -> by the row of the target that it is compared with, `shift` further on."""
    result = torch.zeros_like(x)
    result[:, shift:] = x[:, :-shift]
    return result


def by_drafter(x: Tensor, shift: int) -> Tensor:
    """The inverse of by_teacher."""
    result = torch.zeros_like(x)
    result[:, :-shift] = x[:, shift:]
    return result


class EagleObjective:
    """Soft cross-entropy of J unrolled draft steps with the target's distribution, step j weighing decay^j.

    Args:
        network: Eagle2 or Eagle3, in float32, on the target's device.
        target: frozen.
        count: draft steps J.
        decay: weight of a step relative to the one before it.
        samples: rows of the vocabulary per batch; 0: all.
        feature_loss: weight of EAGLE-1's regression (smooth L1 between a step's state and the target's); 0: none.
    """

    def __init__(
        self, network: Any, target: FrozenTarget, count: int, decay: float, samples: int, feature_loss: float
    ) -> None:
        self.module, self._target = network, target
        self._count, self._decay, self._samples, self._feature_loss = count, decay, samples, feature_loss
        ids = getattr(network, "draft_ids", ())
        self._ids = torch.tensor(ids, device=target.device) if ids else None

    def loss(self, batch: Batch, generator: Any) -> Loss:
        """The loss of a batch; see sampled_softmax."""
        steps, final = self._run(batch)
        head = self._target.head
        valid = valid_steps(batch.starts, self._count)
        aligned = torch.stack([by_teacher(v, j) for j, v in enumerate(valid, start=1)]).flatten(1)  # (J, N)
        states = final.flatten(0, 1).to(head.dtype)
        students = torch.stack([by_teacher(s.to_head, j).flatten(0, 1) for j, s in enumerate(steps, start=1)])
        teacher = read_teacher(states, head, aligned.any(0))
        if self._ids is not None:
            ids, sample = self._ids, every_row(len(self._ids), head.device)
        else:
            following = batch.tokens[:, 1:][valid_steps(batch.starts, 1)[0, :, :-1]]
            sample = draw_sample(teacher.mass, following, self._samples, generator)
            ids = sample.ids
        own = getattr(self.module, "lm_head", None)
        student_head = head[ids] if own is None else own.weight[sample.ids]
        counts = aligned.sum(1).clamp(min=1)
        decays = self._decay ** torch.arange(self._count, device=head.device)
        total, losses, agreed = soft_cross_entropy(
            students,
            student_head,
            sample.log_weights,
            states,
            head[ids],
            teacher.log_z,
            aligned * (decays / counts)[:, None],
            head.dtype,
        )
        if self._feature_loss:
            features = torch.stack([by_teacher(s.feedback, j).flatten(0, 1) for j, s in enumerate(steps, start=1)])
            errors = F.smooth_l1_loss(features.float(), states.float().expand_as(features), reduction="none").mean(-1)
            total = total + self._feature_loss * (errors * aligned * (decays / counts)[:, None]).sum()
        return Loss(total, (losses / decays).tolist(), (agreed / counts).tolist())

    def validate(self, batches: list[Batch]) -> dict[str, Any]:
        """Loss and acceptance per step over the whole head, in float32; see evaluation.Agreement."""
        counter = AgreementCounter(self._count)
        own = getattr(self.module, "lm_head", None)
        head = self._target.head if own is None else own.weight.detach()
        with torch.no_grad():
            for batch in batches:
                steps, final = self._run(batch)
                students = torch.stack([by_teacher(s.to_head, j).flatten(0, 1) for j, s in enumerate(steps, start=1)])
                found = compare(students, head, self._ids, final.flatten(0, 1), self._target.head)
                losses, agrees = (
                    torch.stack([by_drafter(x.view_as(batch.tokens), j) for j, x in enumerate(values, start=1)])
                    for values in found
                )
                counter.add(losses, agrees, valid_steps(batch.starts, self._count))
        return dataclasses.asdict(counter.result())

    def write(self, folder: Path) -> None:
        """The drafter as a Hugging Face checkpoint."""
        write_network(folder, self.module, self._target)

    def _run(self, batch: Batch) -> tuple[list[Step], Tensor]:
        return draft(self.module, self._target, batch, self._count)


def met_states(drafter: Any, target: FrozenTarget, batch: Batch, count: int) -> list[Tensor]:
    """What meets a frozen drafter's head at each step, valid rows only: (n, d) of the head's type."""
    with torch.no_grad():
        steps, _ = draft(drafter, target, batch, count)
    valid = valid_steps(batch.starts, count)
    return [step.to_head[rows].to(target.dtype) for step, rows in zip(steps, valid, strict=True)]


def draft(network: Any, target: FrozenTarget, batch: Batch, count: int) -> tuple[list[Step], Tensor]:
    """`count` unrolled steps over a batch, and the target's final states, (B, T, h)."""
    with torch.autocast(target.device.type, dtype=torch.bfloat16, enabled=target.dtype == torch.bfloat16):
        states = target.states(batch.tokens, network.taps)
        return unroll(network, target.embed, batch.tokens, states.final, states.taps, count), states.final
