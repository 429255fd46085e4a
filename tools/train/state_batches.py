"""Batches of whole documents out of a file of states.

A row is a document, so nothing looks across a border and no mask is needed: what fills up a shorter row stands behind
it, where nobody looks. Documents of like length share a batch, so there is little of that.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .states_file import Document, StatesFile

_WINDOW = 32  # batches of documents among which those of like length are put together
SHORTEST = 2  # tokens of the target's own: one to read and one to learn


@dataclasses.dataclass(frozen=True)
class StateBatch:
    """B documents of at most T tokens; M of their positions are drafted from, by J steps.

    tokens: (B, T). states: float32 (B, T, width). best, probabilities: of the token behind each, (B * T, k).
    chosen: (M), indices into (B, T) laid flat. weights: of each step's loss, (J, M), 0 behind the document's end.
    count: tokens of the documents.
    """

    tokens: Tensor
    states: Tensor
    best: Tensor
    probabilities: Tensor
    chosen: Tensor
    weights: Tensor
    count: int


class StateBatches:
    """Batches by number: each epoch goes through all documents in an order of its own.

    Args:
        file: of the states.
        documents: those of the file that are learned from, each with SHORTEST tokens of the target's own at least.
        tokens: of a batch, about.
        steps: J.
        thin: share of a step's positions that the next one drafts from, too; drawn.
        prompt_weight: of the loss at positions of prompts, where that of answers is 1; 0: they are not drafted from.
        seed: of the order.
        device: of the tensors.
    """

    def __init__(
        self,
        file: StatesFile,
        documents: Sequence[Document],
        tokens: int,
        steps: int,
        thin: float,
        prompt_weight: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self._file, self._documents, self._tokens = file, list(documents), tokens
        self._steps, self._thin, self._prompt_weight = steps, thin, prompt_weight
        self._seed, self._device = seed, device
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        self._ends = [0]  # steps up to the end of each epoch

    @property
    def per_epoch(self) -> int:
        """Batches of the first epoch; others may differ by a few."""
        return len(self._epoch(0))

    def __getitem__(self, step: int) -> StateBatch:
        """The batch of step `step`, from 0."""
        while step >= self._ends[-1]:
            self._ends.append(self._ends[-1] + len(self._epoch(len(self._ends) - 1)))
        epoch = next(e for e, end in enumerate(self._ends[1:]) if step < end)
        return self._batch(self._epoch(epoch)[step - self._ends[epoch]], np.random.default_rng((self._seed, step, 1)))

    def first(self, tokens: int) -> list[StateBatch]:
        """The first documents, about so many tokens, at least one; all of their positions are drafted from."""
        ends = np.cumsum([document.length for document in self._documents])
        some = range(max(1, int(np.searchsorted(ends, tokens, side="right"))))
        return [self._batch(numbers) for numbers in self._cut(sorted(some, key=lambda i: self._documents[i].length))]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._documents)).tolist()
        mean = sum(document.length for document in self._documents) / len(order)
        window = max(1, int(_WINDOW * self._tokens / mean))
        batches = []
        for first in range(0, len(order), window):
            near = sorted(order[first : first + window], key=lambda i: self._documents[i].length)
            batches += self._cut(near)
        return [batches[i] for i in random.permutation(len(batches))]

    def _cut(self, order: Sequence[int]) -> list[list[int]]:
        """Runs of documents, ascending in length, of about the wanted tokens with what fills them up."""
        batches: list[list[int]] = [[]]
        for i in order:
            if batches[-1] and self._documents[i].length * (len(batches[-1]) + 1) > self._tokens:
                batches.append([])
            batches[-1].append(i)
        return batches

    def _batch(self, numbers: Sequence[int], random: np.random.Generator | None = None) -> StateBatch:
        documents = [self._documents[i] for i in numbers]
        length = max(document.length for document in documents)
        records = np.zeros((len(documents), length), dtype=self._file.format.record)
        positions, weights = [], []
        for row, document in enumerate(documents):
            records[row, : document.length] = self._file.read(document)
            rows, of_rows = self._drafted(document, random)
            positions.append(rows + row * length)
            weights.append(of_rows)
        k = self._file.format.best
        best = torch.from_numpy(np.ascontiguousarray(records["best"]).reshape(-1, k))
        log_probs = np.ascontiguousarray(records["log_probs"]).reshape(-1, k).astype(np.float32)
        states = torch.from_numpy(np.ascontiguousarray(records["states"]).view(np.int16)).view(torch.bfloat16)
        tensors = [
            torch.from_numpy(records["token"].astype(np.int64)),
            states.float(),
            best,
            torch.from_numpy(np.exp(log_probs)),
            torch.from_numpy(np.concatenate(positions)),
            torch.from_numpy(np.concatenate(weights, axis=1)),
        ]
        tokens, states, best, probabilities, chosen, of_steps = (t.to(self._device) for t in tensors)
        count = sum(document.length for document in documents)
        return StateBatch(tokens, states, best, probabilities, chosen, of_steps, count)

    def _drafted(self, document: Document, random: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """Positions of a document that are drafted from: int64 (m), and the weights of their steps, float32 (J, m).

        Step j from position i learns what the target says behind the token at i + 1 + j.
        """
        first = 0 if self._prompt_weight else max(0, document.prompt - 1)
        rows = np.arange(first, document.length - 1)
        steps = np.arange(self._steps)[:, None]
        read = rows + 1 + steps
        weights = np.where(read >= document.prompt - 1, np.float32(1.0), np.float32(self._prompt_weight))
        counts = read < document.length
        if random is not None and self._thin < 1.0:
            counts &= random.random(len(rows)) < self._thin**steps
        return rows, np.where(counts, weights, np.float32(0.0)).astype(np.float32)
