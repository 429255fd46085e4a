"""What peers have in common: what they are started with, and a row for each drafter that they can draft with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

from .drafters import DrafterFile
from .records import Method

LOOKUP_TOKENS = 10  # drafted at once by prompt lookup: the default of llama-cpp-python and of transformers
LOOKUP_NGRAM = 2
LOOKUP_SETTINGS = {"lookup_tokens": LOOKUP_TOKENS, "lookup_ngram": LOOKUP_NGRAM}


@dataclass(frozen=True)
class PeerChoice:
    """What the rows of peers depend on.

    Attributes:
        drafters: The given ones.
        draft_max: How many tokens are drafted at once, a row for each; empty: one row, as the engine likes.
        server: llama.cpp's server; None: the one in PATH.
        hf_target: Folder of the target's checkpoint, for transformers; None: it reads the GGUF file.
        hf_drafter: Folder of the assistant's; None: it reads the file of a drafter.
    """

    drafters: Sequence[DrafterFile] = ()
    draft_max: Sequence[int] = ()
    server: Path | None = None
    hf_target: Path | None = None
    hf_drafter: Path | None = None


@dataclass(frozen=True)
class PeerRow:
    """A row of the tables that a peer fills.

    Attributes:
        method: The row.
        drafter: GGUF file that it drafts with, one of the given ones; None: it drafts with none of them.
    """

    method: Method
    drafter: Path | None = None


@dataclass(frozen=True)
class PeerOptions:
    """What peers are started with.

    Attributes:
        target: The GGUF file.
        choice: What their rows depend on.
        threads: CPU threads.
        context: Tokens that prompt and text may have together.
        writing: Keyword arguments of `LLM.generate` for all methods.
        gpu: Whether they may use one.
        drafter: As the row has it.
    """

    target: Path
    choice: PeerChoice
    threads: int
    context: int
    writing: dict[str, Any]
    gpu: bool
    drafter: Path | None = None


def drafted_rows(
    row: Method,
    fit: Sequence[DrafterFile],
    choice: PeerChoice,
    expected: str,
    number: str | None = None,
    default: int = 0,
) -> list[PeerRow]:
    """A row like `row` for each drafter that fits and each number of tokens.

    Args:
        row: Named as its kind.
        fit: The drafters that this kind can draft with.
        choice: All of them, and the numbers.
        expected: What would fit, for the message.
        number: What the engine calls the tokens that are drafted at once; None: it is not told.
        default: How many these are, where nobody says.

    Raises:
        ValueError: None of the drafters fits.
    """
    if not fit:
        found = "; ".join(drafter.describe() for drafter in choice.drafters) or "no drafter"
        raise ValueError(f"{row.kind}: found {found}; expected {expected}")
    asked = choice.draft_max if number else ()
    rows = []
    for drafter in fit:
        for most in asked or [default]:
            name = row.name + (f" {drafter.path.stem}" if len(fit) > 1 else "") + (f" n-max {most}" if asked else "")
            settings = {**row.settings, **({number: most} if number else {})}
            method = replace(row, name=name, drafter=drafter.path.name, settings=settings)
            rows.append(PeerRow(method, drafter.path))
    return rows


def absent(*packages: str) -> str | None:
    """Which package is not installed, in words; None: all are."""
    return next((f"the '{name}' package is not installed" for name in packages if util.find_spec(name) is None), None)


def engine_name(distribution: str) -> str:
    """``"transformers 5.23.0"``."""
    try:
        return f"{distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return f"{distribution} (unknown version)"
