"""A slice of the random requests of tests/support/chaos.py, and that it finds faults. The program does a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import chaos

from frspec_cpp import LLM


@pytest.mark.parametrize("name", ["eagle3", "ranked", "ngram"])
def test_random_requests(chat_target: Path, tmp_path: Path, name: str) -> None:
    kind = chaos.KINDS[name]
    drafter = chaos.Models(tmp_path, chat_target).drafter(kind)
    course = chaos.run(chat_target, drafter, kind.options, 12, seed=3)
    assert course.wrong == []
    assert course.missing(drafts=True) == []  # of drafts and of hits in the cache
    assert course.counts["displaced"] > 0
    assert course.counts["tokens"] > 50


@pytest.mark.parametrize("fault", chaos.FAULTS)
def test_faults_are_found(chat_target: Path, fault: str) -> None:
    course = chaos.run(chat_target, None, {}, 30, seed=5, fault=fault)
    assert course.wrong


def test_an_unknown_fault(chat_target: Path) -> None:
    with chaos.disturbed(1, "x"), pytest.raises(ValueError, match="FRSPEC_CHAOS: found '1,x'"):
        LLM(chat_target, n_ctx=64)
