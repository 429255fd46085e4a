"""Contract 7: no step of a text allocates, once the first few have brought the scratch memory to its size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from frspec_cpp import _testing

PROGRAM = Path(_testing.__file__).parent / "step_allocations"
WARM = 6  # steps
PROMPT = ",".join(str(token) for token in [*range(300, 320), *range(300, 320), *range(300, 310)])
FIXED, GROWN = ("--tree", "3,4,12"), ("--tree", "auto")


def steps(target: Path, *options: str) -> tuple[int, list[int]]:
    """The number of drafted steps, and what each step allocated."""
    command = [PROGRAM, "-m", str(target), "--tokens", PROMPT, "-n", "60", "-t", "1", "--ignore-eos", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    drafted, counts = result.stdout.split(" drafted:")
    return int(drafted), [int(count) for count in counts.split()]


@pytest.mark.parametrize("tree", [FIXED, GROWN], ids=["fixed", "auto"])
@pytest.mark.parametrize("kind", ["plain", "eagle", "model", "n-grams", "eagle and n-grams"])
def test_steps_allocate_nothing(demo_target: Path, demo_drafter: Path, kind: str, tree: tuple[str, str]) -> None:
    options = {
        "plain": ("--draft", "never"),
        "eagle": ("-d", str(demo_drafter), "--head", "full", "--ngram", "0", "--draft", "always"),
        "model": ("-d", str(demo_target), "--head", "full", "--ngram", "0", "--draft", "always"),
        "n-grams": ("--ngram", "8", "--draft", "always"),
        "eagle and n-grams": ("-d", str(demo_drafter), "--head", "full", "--ngram", "8", "--draft", "always"),
    }[kind]
    drafted, found = steps(demo_target, *options, *tree)
    assert (drafted > 3) == (kind != "plain")
    assert len(found) > WARM
    # A tree that grows may be the largest so far, for which the drafter's scratch memory grows. How often is for the
    # clock to say, which decides on its size; but never in most steps.
    may_grow = tree == GROWN and "-d" in options
    assert sum(map(bool, found[WARM:])) <= (len(found) // 2 if may_grow else 0), found


def test_the_count_counts(demo_target: Path) -> None:
    """Log-probabilities are lists of each token, which are allocated when they are made."""
    _, found = steps(demo_target, "--logprobs", "2")
    assert min(found) > 0
