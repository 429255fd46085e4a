"""What a model thinks before it answers: between `<think>` and `</think>`, at the beginning of its text."""

from __future__ import annotations

from typing import NamedTuple

from frspec_cpp.server.markers import certain

_BEGIN, _END = "<think>", "</think>"


class Part(NamedTuple):
    """A piece of an answer, and whether it is a thought."""

    text: str
    is_thought: bool


def begins_in_thought(prompt: str, continued: str = "") -> bool:
    """Whether a rendered prompt has opened the thought already, as templates of some models do.

    Args:
        prompt: Where other people's words may stand, which open nothing.
        continued: The beginning of the answer, with which the prompt ends. A thought may have begun in it.
    """
    before = prompt.rstrip().removesuffix(continued.strip()).rstrip()
    begun = (_BEGIN if before.endswith(_BEGIN) else "") + continued.lstrip()
    return begun.startswith(_BEGIN) and _END not in begun


class ThoughtParser:
    """Takes the text of an answer as it comes, and tells thoughts from content.

    Args:
        inside: The prompt has opened the thought.
    """

    def __init__(self, inside: bool) -> None:
        self._state = "thought" if inside else "begin"
        self._held = ""
        self._began = False  # the thought, or the content behind it: the spaces before are nobody's

    def feed(self, text: str) -> list[Part]:
        """What is known now."""
        self._held += text
        if self._state == "begin":
            begin = self._held.lstrip()
            if begin.startswith(_BEGIN):
                self._held = begin[len(_BEGIN) :]
                self._state = "thought"
            elif _BEGIN.startswith(begin):
                return []
            else:
                self._state = "content"
                self._began = True  # without a thought nothing is taken away
        parts: list[Part] = []
        if self._state == "thought":
            at = self._held.find(_END)
            if at < 0:
                known = self._take(certain(self._held, _END))
                return [Part(known, True)] if known else []
            thought = self._take(at).rstrip()
            if thought:
                parts.append(Part(thought, True))
            self._held = self._held[len(_END) :]
            self._state, self._began = "content", False
        content = self._take(len(self._held))
        return [*parts, Part(content, False)] if content else parts

    def finish(self) -> list[Part]:
        """What was held back until the end."""
        held, self._held = self._held, ""
        return [Part(held, self._state == "thought")] if held else []

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        if not self._began:
            taken = taken.lstrip()
            self._began = bool(taken)
        return taken
