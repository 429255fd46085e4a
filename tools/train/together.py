"""Several dialogues written at once, and given back in the order in which they were asked for.

A pass for several texts costs little more than one for a single text, and changes none of them (contract 8 of the
engine): what is written does not depend on how many are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from ... import _core

PARALLEL = 16  # texts at once (docs/training.md): more of them are hardly faster
_AHEAD = 4  # dialogues that are begun or waiting to be given back, times as many


class Dialogue:
    """What is asked, turn after turn, and what was answered.

    Args:
        ask: gives the prompt of the next turn from the turns so far; None: there is none.
        options: of `Engine.begin`.

    Attributes:
        turns: prompts and answers, token ids; of the last one perhaps a part.
    """

    def __init__(self, ask: Callable[[Dialogue], list[int] | None], options: dict[str, Any]) -> None:
        self._ask, self._options = ask, options
        self.turns: list[tuple[list[int], list[int]]] = []
        self._text: Any = None

    @property
    def answered(self) -> int:
        """Tokens of all answers so far."""
        return sum(len(answer) for _, answer in self.turns)

    @property
    def text(self) -> Any:
        """The answer that is being written, None: all are."""
        return self._text

    def go_on(self, engine: Any) -> None:
        """Begins the next answer, where the last one is written and there is a next."""
        if self._text is not None and self._text.finish_reason is None:
            return
        prompt = self._ask(self)
        self._text = None
        if prompt is not None:
            self.turns.append((prompt, []))
            self._text = engine.begin(prompt, **self._options)

    def take(self, fresh: list[tuple[int, bool, str]] | None) -> None:
        """What a step gave; None: the text has failed, which is raised."""
        if fresh is None:
            self._text.raise_error()
            raise AssertionError("a text that has failed has an error")
        self.turns[-1][1].extend(token for token, _, _ in fresh)


Some = TypeVar("Some", bound=Dialogue)


def write_together(
    engine: Any, dialogues: Iterable[Some], parallel: int, spent: Callable[[int, float], None]
) -> Generator[Some, None, None]:
    """Writes all dialogues, `parallel` at once; gives them back whole, in their order.

    Those that are ready are given back several at a time, without a step between them: whoever asks the engine for
    something else then displaces those that are being written less often. `spent` is told the tokens and seconds of
    each step.
    """
    source = iter(dialogues)
    opened: deque[Some] = deque()
    running: list[Some] = []
    try:
        while True:
            while len(running) < parallel and len(opened) < _AHEAD * parallel:
                if (fresh := next(source, None)) is None:
                    break
                opened.append(fresh)
                fresh.go_on(engine)
                running += [fresh] if fresh.text is not None else []
            if not opened:
                return
            ready = next((i for i, one in enumerate(opened) if one.text is not None), len(opened))
            if ready >= parallel or not running:
                for _ in range(ready):
                    yield opened.popleft()
                continue
            begin = time.perf_counter()
            given = _core.Generation.step_together([one.text for one in running])
            for one, tokens in zip(running, given, strict=True):
                one.take(tokens)
                one.go_on(engine)
            spent(sum(len(tokens or ()) for tokens in given), time.perf_counter() - begin)
            running = [one for one in running if one.text is not None]
    finally:
        for one in running:
            if one.text is not None:
                one.text.cancel()
