"""What a mixture of experts reads: those that some row has chosen, by the processor's own account of touched pages."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.make_random_model import SHAPES, make_random_model

from frspec_cpp import LLM, _core

EXPERTS, WIDTH, FEED_FORWARD = 64, 256, 128
EACH = 3 * WIDTH * FEED_FORWARD * 4  # bytes of an expert
FORGET = Path("/proc/self/clear_refs")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of 64 experts, of which each row uses one: 25 MB."""
    device = _core.default_device()
    if device.startswith("cuda") and device != "cuda-emulated":
        pytest.skip("a GPU's memory is not this process's")
    if not os.access(FORGET, os.W_OK):
        pytest.skip(f"this system does not tell which pages were touched: no {FORGET}")
    folder = tmp_path_factory.mktemp("mixture")
    convert(make_checkpoint(folder / "checkpoint", "llama"), folder / "vocabulary.gguf", "f32", quiet=True)
    shape = dataclasses.replace(
        SHAPES["tiny"], layers=1, hidden=WIDTH, feed_forward=FEED_FORWARD, experts=EXPERTS, experts_used=1
    )
    make_random_model(folder / "mixture.gguf", shape, "f32", folder / "vocabulary.gguf", quiet=True)
    return folder / "mixture.gguf"


class Touched:
    """How many bytes of this process's own memory were touched."""

    bytes = 0


@contextmanager
def touched() -> Iterator[Touched]:
    """Counts while it is open."""
    found = Touched()
    FORGET.write_text("1")
    yield found
    is_own = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_own = "/" not in line  # no file's
        elif is_own and line.startswith("Referenced:"):
            found.bytes += int(line.split()[1]) << 10


@pytest.mark.every_device
def test_experts_that_no_row_wants_are_not_read(mixture: Path) -> None:
    engine = _core.Engine(str(mixture))
    tokens = np.arange(3, 103)
    engine.forward(tokens)  # what grows on its first use
    with touched() as by_many:
        engine.forward(tokens)
    assert by_many.bytes > 0.6 * EXPERTS * EACH
    with touched() as by_one:
        engine.forward([5])
    assert by_one.bytes < by_many.bytes - 0.3 * EXPERTS * EACH  # where pages are large, neighbours are touched, too


def test_passes_that_are_timed_choose_as_texts_do(mixture: Path) -> None:
    """Rows that are alike would choose the same expert, and large trees would look cheap."""
    llm = LLM(mixture, ngram=3)
    llm.generate(list(range(3, 103)), 4, draft=False)  # what grows on its first use; nothing is timed yet
    with touched() as by_timing:
        llm.generate([5], 1)
    with touched() as by_text:
        llm.generate([5], 1)
    # Rows that are alike touch 4 to 8 times as much as an expert is large, by the size of pages.
    assert by_timing.bytes - by_text.bytes > 10 * EACH
