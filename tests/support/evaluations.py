"""Stand-ins for evaluations: engines that write what they are told, and the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frspec_cpp.tools.evaluate.engines import Text
from frspec_cpp.tools.evaluate.records import FORMAT, Manifest, Method, Prompt

from frspec_cpp import Step


class ScriptedEngine:
    """Writes three tokens that depend on the prompt alone, and notes when it was asked."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls
        self.change: tuple[int, int] | None = None  # a call (from 1) and the token (from 0) that is another then
        self.shorter = False
        self._count = 0

    def write(self, prompt: Sequence[int], traced: bool) -> Text:
        """Notes who was asked."""
        self.calls.append(self.name)
        self._count += 1
        tokens = [10 + (sum(prompt) + i) % 50 for i in range(3)]
        if self.change is not None and self._count >= self.change[0]:
            tokens[self.change[1]] += 1
        if self.shorter:
            tokens = tokens[:2]
        step = Step(tokens[1:], 1, 4, [60], True, 0.1, 0.2, 0.3, 0.6)
        return Text(tokens, "length", 1, 2, 1, 0.5, 0.3, 0.3, 1.1, [step] if traced else None)


def make_manifest(names: Sequence[str], prompts: Sequence[Prompt], repeats: int = 2) -> Manifest:
    """Of a run by these methods, of which the first is plain decoding."""
    return Manifest(
        version="0",
        created="2026-01-01T00:00:00+00:00",
        command="frspec-eval",
        machine={},
        target="target.gguf",
        settings={"repeats": repeats, "seed": 1},
        identity={"format": FORMAT, "settings": {"seed": 1}, "files": {"target.gguf": {"size": 1}}},
        methods=[Method(name, name, exact=not name.startswith("peer")) for name in names],
        prompts=list(prompts),
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    """The results, as they stand in the file."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
