"""Cases that are left out show nothing that the others do not."""

from __future__ import annotations

import itertools

import pytest
from covering import covering


@pytest.mark.parametrize(("sizes", "one", "two"), [((3, 4, 3, 3), 4, 12), ((18, 3, 2), 18, 54), ((5, 4), 5, 20)])
def test_all_values_and_all_pairs(sizes: tuple[int, ...], one: int, two: int) -> None:
    cases = [dict(zip("abcd", values, strict=False)) for values in itertools.product(*map(range, sizes))]
    for strength, count in ((1, one), (2, two)):
        chosen = [cases[number] for number in covering(cases, strength)]
        for names in itertools.combinations(cases[0], strength):
            assert {tuple(case[n] for n in names) for case in chosen} == {
                tuple(case[n] for n in names) for case in cases
            }
        assert len(chosen) == count  # as few as there can be


def test_cases_that_are_no_whole_product() -> None:
    cases = [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1}]
    assert covering(cases, 1) == {0, 2}
    assert covering(cases, 2) == {0, 1, 2}
    assert covering([{"a": 0}, {"a": 1}], 2) == {0, 1}
    assert covering([], 1) == set()
