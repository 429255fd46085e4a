"""A model that drafts reads a prompt when its text is to be drafted, and in pieces: nobody waits for all of it."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import _core

PIECE = 64
MOST_OFFERED = 16  # tokens behind one, of trees that grow
OPTIONS: dict[str, Any] = {"head": "full", "n_ctx": 512, "n_batch": 2 * PIECE, "n_threads": 1}
# What is written of a tuning file's numbers from the end on: seen, then value and count of worth, gain, own, likeliest,
# levels, width and nodes; what the one head holds; the arm in use.
SEEN, WORTH, OWN, HELD, ARM = 1, 2, 2, 2, 1


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another vocabulary."""
    folder = tmp_path_factory.mktemp("other")
    convert(make_checkpoint(folder / "other", "qwen2", seed=5), folder / "other.gguf", "f32", quiet=True)
    return folder / "other.gguf"


def believe(file: Path) -> None:
    """Lets a tuning file say that a drafted step gives a thousand tokens."""
    header, about, count, *numbers = file.read_text().splitlines()
    of_family = SEEN + 7 * 2
    first = len(numbers) - ARM - HELD - of_family
    numbers[first] = "12"
    for mean in (0, 2):  # worth, own
        numbers[first + SEEN + 2 * mean : first + SEEN + 2 * mean + 2] = ["1000", "32"]
    numbers[first + SEEN + 2 : first + SEEN + 4] = ["1", "32"]
    file.write_text("\n".join([header, about, count, *numbers]) + "\n")


def check_offers(plain: _core.Engine, prompt: list[int], written: list[int], trace: list[dict[str, Any]]) -> None:
    """Drafts that were not accepted are still among what the target finds most probable, the likelier ones in front.

    (Which of these are drafted is what the tuner has learned of scores, perhaps the less likely one alone.)
    """
    at = 1
    for step in trace:
        if step["nodes"] > 1 and step["accepted"] == 0:
            logits = plain.forward([*prompt, *written[:at]])[-1]
            best = sorted(range(len(logits)), key=lambda token: -logits[token])[:MOST_OFFERED]
            assert set(step["offered"]) <= set(best)
            assert sorted(step["offered"], key=best.index) == step["offered"]
        at += len(step["tokens"])


@pytest.mark.parametrize("kind", ["the target itself", "tli"])
def test_in_company(pair: TinyPair, other: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "FRSPEC_TUNING_CACHE", str(tmp_path))
    own: dict[str, Any] = {"drafter": str(pair.target_gguf), "ngram": 0}
    if kind == "tli":
        own |= {"drafter": str(other), "translate": "tli"}
    target = str(pair.target_gguf)
    engine = _core.Engine(target, **own, **OPTIONS)
    engine.begin([5], max_tokens=4, ignore_eos=True).run()
    del engine
    (file,) = tmp_path.iterdir()
    believe(file)
    lucky = random.Random(1)
    prompts = [[lucky.randrange(5, 400) for _ in range(300)] for _ in range(3)]
    asked: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "reuse": False}
    plain = _core.Engine(target, **OPTIONS)
    expected = [[token for token, _, _ in plain.begin(prompt, **asked).run()] for prompt in prompts]

    engine = _core.Engine(target, **own, **OPTIONS, n_parallel=3)
    texts = [engine.begin(prompt, trace=True, **asked) for prompt in prompts]
    found: list[list[int]] = [[] for _ in prompts]
    while any(text.finish_reason is None for text in texts):
        for tokens, fresh in zip(found, _core.Generation.step_together(texts), strict=True):
            tokens += [token for token, _, _ in fresh or []]
    assert found == expected
    firsts = [next((i for i, step in enumerate(text.trace) if step["nodes"] > 1), 60) for text in texts]  # 60: never
    # One tries first, and reads whole pieces for it. The others follow once it has drafted a few times, if that pays,
    # which is for the clock to say, and simulations show it (test_tuner.py).
    assert sorted(firsts)[1] > min(firsts) >= 300 // PIECE
    assert min(firsts) < 60
    if kind == "the target itself":  # whose word is the target's, if it has read the same
        assert min(firsts) == 300 // PIECE
        for prompt, written, text in zip(prompts, expected, texts, strict=True):
            check_offers(plain, prompt, written, text.trace)
