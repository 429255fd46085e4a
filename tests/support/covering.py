"""Which cases of a parametrized test are enough: covering designs, greedily."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence


def covering(cases: Sequence[Mapping[str, Hashable]], strength: int) -> set[int]:
    """Numbers of as few cases as show all values of the parameters; with strength 2 all pairs of values.

    Args:
        cases: parameters and their values.
        strength: how many parameters are looked at together; those of a test that has fewer, all of them.
    """
    left = {
        number: set(itertools.combinations(sorted(case.items()), min(strength, len(case))))
        for number, case in enumerate(cases)
    }
    chosen = set()
    while left:
        best = max(left, key=lambda number: len(left[number]))  # among equals the first
        shown = left.pop(best)
        if not shown:
            break
        chosen.add(best)
        for others in left.values():
            others -= shown
    return chosen
