"""SpecVocab (2602.13836): a low-rank sketch of the head that says which rows are worth an exact look.

The paper trains W_down (d', d) and W_vocab (V, d') with an auxiliary loss whose form is not published. Here it is the
cross-entropy of softmax(W_vocab W_down h) with softmax(E h), the distribution that the drafter would have drafted from,
over the states h that meet the head at all unrolled draft steps; target, head E and drafter are frozen.

Training starts from the best factors that need no training: those that minimise ||(E - W_vocab W_down) C^(1/2)||_F, the
error of the logits over states with the second moment C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .drafter_files import write_checkpoint
from .evaluation import full_logits
from .objective import Loss
from .sampled_softmax import draw_sample, read_teacher, soft_cross_entropy
from .targets import DraftedTarget

MOMENT_TOKENS = 32768  # that the second moment of the states is taken over
_SMALLEST = 1e-6  # eigenvalues of C, relative to the largest: directions that no state has
_TOP = 10  # of the true best tokens that the coverage looks for


class Sketch(nn.Module):
    """The factors: `W_down` (d', d) and `W_vocab` (V, d'), as the paper names them."""

    def __init__(self, down: Tensor, vocab: Tensor) -> None:
        super().__init__()
        self.W_down, self.W_vocab = nn.Parameter(down), nn.Parameter(vocab)


def factorise(head: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors of rank d' that are best for states with a given second moment.

    With M = E C^(1/2) and V the d' leading eigenvectors of M^T M, they are W_vocab = M V and W_down = V^T C^(-1/2).

    Args:
        head: E, (V, d).
        moment: C, the mean of h h^T, (d, d).
        rank: d'.

    Returns:
        W_down (d', d) and W_vocab (V, d'), float32.
    """
    values, vectors = torch.linalg.eigh(moment.double().cpu())
    values = values.clamp(min=float(values.max()) * _SMALLEST).sqrt()
    root, inverse = (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
    head = head.float()
    gram = (head.T @ head).double().cpu()
    leading = torch.linalg.eigh(root @ gram @ root).eigenvectors[:, -rank:]  # (d, d')
    vocab = head @ (root @ leading).float().to(head.device)
    return (leading.T @ inverse).float().to(head.device), vocab


class SketchObjective:
    """Trains a sketch for a frozen drafter; see the top of this file.

    Args:
        drafter: Eagle2 or Eagle3 whose head has a row for every token.
        target: of the drafter.
        head: the matrix that the drafter's states meet, (V, d), of the type of the products.
        meet: what meets the head at each step of a batch, in the rows that count: (n, d), of the head's type.
        count: unrolled draft steps whose states are met.
        decay: weight of a step relative to the one before it.
        samples: rows of the vocabulary per step and batch; 0: all.
        rank: d'.
        first: batches that give the second moment.
        also: is given the factors whenever they are written, to write them otherwise.
    """

    def __init__(
        self,
        drafter: Any,
        target: DraftedTarget,
        head: Tensor,
        meet: Callable[[Any], list[Tensor]],
        count: int,
        decay: float,
        samples: int,
        rank: int,
        first: Sequence[Any],
        also: Callable[[Sketch], None] = lambda _: None,
    ) -> None:
        self._drafter, self._target, self._head = drafter.requires_grad_(False), target, head
        self._states, self._count, self._decay, self._samples = meet, count, decay, samples
        self._also = also
        width = self._head.shape[1]
        moment, seen = torch.zeros(width, width, device=target.device), 0
        for batch in first:
            for states in self._states(batch):
                moment += states.float().T @ states.float()
                seen += states.shape[0]
        self.module = Sketch(*factorise(self._head, moment / max(seen, 1), rank))

    def loss(self, batch: Any, generator: Any) -> Loss:
        """The decayed sum over steps of the mean cross-entropy with the drafter's own distribution."""
        totals, losses, agreed = [], [], []
        for step, states in enumerate(self._states(batch)):
            count = max(states.shape[0], 1)
            teacher = read_teacher(states, self._head, torch.ones(states.shape[0], device=states.device))
            sample = draw_sample(teacher.mass, torch.empty(0, dtype=torch.long), self._samples, generator)
            total, loss, agrees = soft_cross_entropy(
                (states.float() @ self.module.W_down.T)[None],
                self.module.W_vocab[sample.ids],
                sample.log_weights,
                states,
                self._head[sample.ids],
                teacher.log_z,
                torch.full((1, states.shape[0]), 1.0 / count, device=states.device),
                self._head.dtype,
            )
            totals.append(self._decay**step * total)
            losses.append(float(loss))
            agreed.append(float(agrees) / count)
        return Loss(torch.stack(totals).sum(), losses, agreed)

    def validate(self, batches: list[Any]) -> dict[str, Any]:
        """`loss`: per step, over all rows; `coverage`: shares of the true best tokens inside the sketch's best rows."""
        down, vocab = self.module.W_down.detach(), self.module.W_vocab.detach()
        sizes = coverage_sizes(vocab.shape[0])
        found = {(best, size): 0.0 for size in sizes for best in (1, _TOP)}
        losses, counts = torch.zeros(self._count), torch.zeros(self._count)
        for batch in batches:
            for step, states in enumerate(self._states(batch)):
                for rows, logits in full_logits(states, self._head):
                    scores = (states[rows].float() @ down.T) @ vocab.T
                    p = logits.softmax(-1)
                    losses[step] += float((scores.logsumexp(-1) - (p * scores).sum(-1)).sum())
                    counts[step] += logits.shape[0]
                    true = logits.topk(_TOP).indices  # (chunk, 10), best first
                    order = scores.topk(max(sizes)).values  # descending
                    for size in sizes:
                        inside = (scores.gather(1, true) >= order[:, size - 1, None]).float()
                        found[1, size] += float(inside[:, 0].sum())
                        found[_TOP, size] += float(inside.sum()) / _TOP
        total = max(float(counts.sum()), 1.0)
        return {
            "loss": (losses / counts.clamp(min=1)).tolist(),
            "coverage": {f"top-{best} in {size}": value / total for (best, size), value in found.items()},
        }

    def write(self, folder: Path) -> None:
        """The factors, with a config.json that says what they belong to."""
        target, sketch = self._target, self.module
        config = {
            "architectures": ["SpecVocabSketch"],
            "hidden_size": target.sizes.hidden,
            "vocab_size": target.vocabulary,
            "rank": sketch.W_down.shape[0],
            "target": target.folder.resolve().name,
            "drafter": self._drafter.kind,
        }
        tensors = {name: value.detach().to("cpu", target.stored_dtype) for name, value in sketch.named_parameters()}
        write_checkpoint(folder, config, tensors)
        self._also(sketch)


def coverage_sizes(vocabulary: int) -> tuple[int, int]:
    """How many of the sketch's best rows the coverage is told for: the paper's 2048, and 512; fewer of small ones."""
    return min(2048, max(vocabulary // 8, _TOP)), min(512, max(vocabulary // 32, 1))
