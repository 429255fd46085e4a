"""What training on a file of states minimises and reports: soft cross-entropy of unrolled draft steps (known_best)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from .gguf_target import GgufTarget
from .known_best import Labels, known_best_loss
from .networks import Step, unroll
from .objective import Loss
from .sampled_softmax import draw_sample
from .state_batches import StateBatch

_COMMON = 1e-6  # of a batch's probability: what orders the rows that it does not want


class Embedding:
    """The target's embedding of the tokens that occur, and of token 0, float32."""

    def __init__(self, target: GgufTarget, tokens: np.ndarray) -> None:
        ids = np.union1d(tokens, [0])
        self._place = torch.zeros(target.vocabulary, dtype=torch.long, device=target.device)
        self._place[torch.from_numpy(ids).to(target.device)] = torch.arange(len(ids), device=target.device)
        self._rows = target.embedding_rows(ids).to(target.device)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Ids (...) -> (..., h)."""
        return F.embedding(self._place[tokens], self._rows)


def met_states(drafter: Any, embed: Callable[[Tensor], Tensor], batch: StateBatch) -> list[Tensor]:
    """What meets a frozen drafter's head at each step, in the rows that count: (n, d) float32."""
    with torch.no_grad():
        return [step.to_head for step in _unrolled(drafter, embed, batch)]


def _unrolled(drafter: Any, embed: Callable[[Tensor], Tensor], batch: StateBatch) -> list[Step]:
    """The draft steps, each of the rows that count there."""
    count, states = len(batch.weights), batch.states
    return unroll(drafter, embed, batch.tokens, states, states, count, batch.chosen, batch.weights > 0)


class StateObjective:
    """Step j weighs decay^j.

    Args:
        network: Eagle2 or Eagle3, in float32.
        embed: the target's embedding.
        head: that the network's states meet, (V, h) of any type, frozen; None: its own.
        counts: how often each token occurs in what is learned from, (V): beside the rows that a batch wants, its sample
            is sure to have the most frequent ones, which a student gives most of what it has left.
        decay: weight of a step relative to the one before it.
        samples: rows of the head per batch; 0: all.
        dtype: of the matrix products.
        write: writes the drafter in every form that is wanted.
        check: what the engine says of the drafter that was written last.
    """

    def __init__(
        self,
        network: Any,
        embed: Callable[[Tensor], Tensor],
        head: Tensor | None,
        counts: np.ndarray,
        decay: float,
        samples: int,
        dtype: torch.dtype,
        write: Callable[[], None],
        check: Callable[[], dict[str, Any]],
    ) -> None:
        self.module, self._embed, self._head = network, embed, head
        self._decay, self._samples, self._dtype = decay, samples, dtype
        self._write, self._check, self._is_written = write, check, False
        ids = getattr(network, "draft_ids", ())
        self._rows = len(ids) or len(counts)
        self._place: Tensor | None = None  # of a token in a reduced head; `_rows`: nowhere
        self._common = torch.from_numpy(_COMMON * counts / max(1, counts.sum())).float()
        if ids:
            rows, tokens = torch.arange(len(ids)), torch.tensor(ids)
            self._place = torch.full((len(counts),), self._rows).index_copy(0, tokens, rows)
            self._common = self._common[tokens]

    def loss(self, batch: StateBatch, generator: Any) -> Loss:
        """The loss of a batch; acceptance is measured among the sampled rows."""
        self._is_written = False
        total, losses, agreed = self._run(batch, generator)
        return Loss(total, losses.tolist(), agreed.tolist())

    def validate(self, batches: Sequence[StateBatch]) -> dict[str, Any]:
        """Loss and acceptance per step on held-out documents, among sampled rows; and what the engine measures."""
        losses, agreed, weights = torch.zeros(3, len(batches[0].weights), dtype=torch.float64)
        with torch.no_grad():
            for batch in batches:
                _, loss, share = self._run(batch, torch.Generator().manual_seed(0))
                weight = batch.weights.sum(1).cpu()
                losses += loss * weight
                agreed += share * weight
                weights += weight
        weights.clamp_(min=1e-9)
        self._write_once()
        return {"loss": (losses / weights).tolist(), "acceptance": (agreed / weights).tolist(), **self._check()}

    def write(self, folder: Path) -> None:
        """Writes the drafter, unless validation just did."""
        self._write_once()

    def _write_once(self) -> None:
        if not self._is_written:
            self._write()
            self._is_written = True

    def _run(self, batch: StateBatch, generator: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The decayed sum of the steps' mean losses; these, (J), and the shares of agreement, (J), on the CPU."""
        count, device = len(batch.weights), batch.tokens.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            steps = _unrolled(self.module, self._embed, batch)
        wanted = batch.weights > 0
        students = torch.cat([step.to_head for step in steps])
        places = torch.cat([batch.chosen[rows] + 1 + j for j, rows in enumerate(wanted)])
        sums = batch.weights.sum(1).clamp(min=1e-9)
        step_of = torch.arange(count, device=device).repeat_interleave(wanted.sum(1))
        shares = batch.weights[wanted] / sums[step_of]
        labels, ids, log_weights = self._labels(batch, places, generator)
        own = getattr(self.module, "lm_head", None)
        if own is not None:
            head = own.weight[ids]
        else:
            assert self._head is not None
            head = self._head[ids].float()
        weights = shares * self._decay**step_of
        total, losses, agreed = known_best_loss(students, head, log_weights, labels, weights, self._dtype)
        by_step = torch.zeros(2, count, device=device)
        by_step.index_add_(1, step_of, torch.stack([losses * shares, agreed * shares]))
        means = by_step.cpu()
        return total, means[0], means[1]

    def _labels(self, batch: StateBatch, places: Tensor, generator: Any) -> tuple[Labels, Tensor, Tensor]:
        """The labels behind `places`; ids and log-weights of the head's rows that are looked at."""
        best, p = batch.best[places].long(), batch.probabilities[places]
        if self._place is not None:
            best = self._place.to(best.device)[best]
        mass = torch.zeros(self._rows + 1, device=p.device).index_add_(0, best.flatten(), p.flatten())[:-1]
        sample = draw_sample(mass + self._common.to(p.device), best.new_empty(0), self._samples, generator)
        size = len(sample.ids)
        certain = int((sample.log_weights == 0).sum())
        columns = torch.full((self._rows + 1,), size, device=p.device)
        columns[sample.ids[:certain]] = torch.arange(certain, device=p.device)
        return Labels(columns[best], p, self._place is not None), sample.ids, sample.log_weights
