"""Timing a model on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, cast

from frspec_cpp import _core
from frspec_cpp.demo import demo_paths
from frspec_cpp.option_table import EngineOptions
from frspec_cpp.options import native_engine, takes_engine_options
from frspec_cpp.progress import Report, reporting


@takes_engine_options
def bench(
    model_path: str | os.PathLike[str] | None = None,
    drafter: str | os.PathLike[str] | None = None,
    *,
    head: str | Sequence[str] = "full",
    n_prompt: Sequence[int] = (512,),
    n_gen: Sequence[int] = (128,),
    n_verify: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128),
    n_depth: int = 0,
    repetitions: int = 5,
    synthetic_acceptance: float | None = None,
    progress: bool | Report = True,
    **options: Any,
) -> dict[str, Any]:
    """Times passes of a model beside what the machine can do at best, measured in the same run: ``frspec bench``.

    Args:
        model_path: GGUF file of the target; None: the bundled demo pair.
        drafter: GGUF file of its drafter; None: none, or the demo pair's. Its tree's levels are timed, too.
        head: The drafter's head, or several to compare, as for :class:`LLM`.
        n_prompt: Tokens of prompts to time ("pp512").
        n_gen: Tokens of plain texts to time ("tg128").
        n_verify: Nodes of draft trees to time in one pass of the target ("verify 16").
        n_depth: Tokens of context that stand before all of them.
        repetitions: Of each test; times are medians.
        synthetic_acceptance: Also times whole texts in which the best child of every drafted node is accepted with
            this probability, whatever the models say: for models with random weights.
        progress: Show a bar (where tqdm is installed and standard error is a terminal), or a function that is called
            with what is being done, and how much of it is done and to do.
        options: As of :class:`LLM`, but trees are always of a fixed shape, by default ``"5,10,60"``.

    Returns:
        What ``frspec bench -o json`` writes: ``machine``, ``device``, ``model``, ``types``, ``model_bytes``,
        ``parameters``, ``context``, ``ceilings`` (bytes and multiply-adds per second), and ``rows``, each with
        ``test``, ``rows`` (of a pass), ``ms``, ``ms_stddev``, ``tokens_per_second``, ``bytes`` and ``macs`` (of a
        pass), ``gb_per_second``, ``share_of_bandwidth``, ``floor_ms``, ``over_floor`` and ``bound_by``; of Qwen3.5 also
        ``delta rule ppN`` and ``delta rule N``, the part of ``ppN`` and of ``verify N`` that its recurrent layers take
        beside their products, with ``share_of_pass``; for whole texts ``accepted_length`` and ``speedup`` over plain
        decoding instead of the last eight.

    Raises:
        FileNotFoundError, ValueError, MemoryError: As :class:`LLM`; ValueError also for tests that make no sense.
    """
    if model_path is None:
        model_path, of_demo = demo_paths()
        drafter = of_demo if drafter is None else drafter
    with reporting(progress) as report:
        text = _core.bench(
            os.fspath(model_path),
            None if drafter is None else os.fspath(drafter),
            heads=[head] if isinstance(head, str) else list(head),
            n_prompt=list(n_prompt),
            n_gen=list(n_gen),
            n_verify=list(n_verify),
            n_depth=n_depth,
            repetitions=repetitions,
            synthetic_acceptance=synthetic_acceptance,
            progress=report,
            **native_engine(cast(EngineOptions, options)),
        )
    result: dict[str, Any] = json.loads(text)
    return result
