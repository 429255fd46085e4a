"""Progress of native work: a tqdm bar, or a function of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

#: Called with what is being done, and how much of it is done and to do.
Report: TypeAlias = Callable[[str, int, int], object]


@contextmanager
def reporting(progress: bool | Report) -> Iterator[Report | None]:
    """What to report to: ``progress`` itself, None for False, and for True a bar on standard error.

    The bar needs tqdm and a terminal; without them there is none.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield None
        return
    bars: list[Any] = []

    def report(what: str, done: int, total: int) -> None:
        if not bars or bars[-1].total != total:
            _close(bars)
            # With disable=None there is no bar unless standard error is a terminal.
            bars.append(tqdm(total=total, leave=False, disable=None, bar_format="{desc}: {percentage:3.0f} %|{bar}|"))
        bars[-1].set_description(what, refresh=False)
        bars[-1].update(done - bars[-1].n)

    try:
        yield report
    finally:
        _close(bars)


def _close(bars: list[Any]) -> None:
    while bars:
        bars.pop().close()
