"""The bundled demo pair: a small target and its EAGLE-3 drafter (an EAGLE-2 one lies beside it)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from frspec_cpp.generation import Generation
from frspec_cpp.llm import LLM
from frspec_cpp.option_table import Options
from frspec_cpp.options import takes_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

_lock = threading.Lock()
_cached: dict[tuple[Path, Path], LLM] = {}


def _renew_lock() -> None:
    """In a forked process, where whoever held it does not exist."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def demo_paths() -> tuple[Path, Path]:
    """The GGUF files of the demo pair: (target, drafter).

    They are part of the package, unless the environment variable ``FRSPEC_DEMO_DIR`` names another folder.

    Raises:
        FileNotFoundError: They are not there.
    """
    folder = Path(os.environ.get("FRSPEC_DEMO_DIR") or Path(__file__).parent / "data")
    paths = folder / "demo-target.gguf", folder / "demo-eagle3.gguf"
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: found no such file, expected a part of the demo pair")
    return paths


def _demo_llm() -> LLM:
    """The demo pair's LLM, made once."""
    paths = demo_paths()
    with _lock:
        if paths not in _cached:
            _cached[paths] = LLM(paths[0], drafter=paths[1])
        return _cached[paths]


@takes_options
def generate(
    prompt: str | list[int], max_tokens: int | None = 128, *, parse_special: bool = True, **options: Unpack[Options]
) -> Generation:
    """Continues ``prompt`` with the bundled demo pair, which is loaded at the first call and kept.

    The arguments are those of :meth:`LLM.generate`.

    Raises:
        FileNotFoundError: The demo pair is not there.
        ValueError: As :meth:`LLM.generate`.
    """
    return _demo_llm().generate(prompt, max_tokens, parse_special=parse_special, **options)
