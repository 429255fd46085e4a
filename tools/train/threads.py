"""How many threads torch should have: measured, since other work on the machine makes waiting for each other dear."""

from __future__ import annotations

import statistics
import time

import torch

from ..console import cores

_SHAPE = (1024, 512, 1024)  # of a product of a training step, more or less
_SECONDS = 0.06  # of one measurement
_TURNS = 3
_WORTH = 1.1  # so much faster more threads must be


def use_best_threads(most: int = 0) -> int:
    """Gives torch as many threads as make products fastest now, at most `most` (0: the processors); returns how many.

    Takes about half a second for each doubling.
    """
    most = most or cores()
    counts = sorted({min(1 << i, most) for i in range(most.bit_length() + 1)})
    if len(counts) == 1:
        torch.set_num_threads(most)
        return most
    rows, inner, columns = _SHAPE
    left, right = torch.ones(rows, inner), torch.ones(inner, columns)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_TURNS):  # by turns: a busy moment is not one count's alone
        for count in counts:
            torch.set_num_threads(count)
            left @ right  # whoever sleeps wakes up
            done, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < _SECONDS:
                left @ right
                done += 1
            rates[count].append(done / (time.perf_counter() - begin))
    best = counts[0]
    for count in counts[1:]:
        if statistics.median(rates[count]) > _WORTH * statistics.median(rates[best]):
            best = count
    torch.set_num_threads(best)
    return best
