"""Which cases of a parametrized test are enough: covering designs, greedily."""

from __future__ import annotations

import itertools
from collections import Counter
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
    chosen: set[int] = set()
    uses: Counter[tuple[str, Hashable]] = Counter()

    def worth(number: int) -> tuple[int, int]:
        # Among equals the one with the values that were shown least, so that rare ones meet more than the first of all
        # others; then the first.
        return len(left[number]), -sum(uses[item] for item in cases[number].items()) if strength == 1 else 0

    while left:
        best = max(left, key=worth)
        shown = left.pop(best)
        if not shown:
            break
        chosen.add(best)
        uses.update(cases[best].items())
        for others in left.values():
            others -= shown
    return chosen
