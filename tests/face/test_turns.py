"""Whose turn is next, by simulation: priorities hold, owners have equal shares, and nobody waits for ever."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from frspec_cpp.turns import LONG_WAIT, READ, WRITTEN, Turns


@dataclass
class Text:
    """One that waits."""

    owner: str
    entered: float = 0.0
    priority: int = 0
    has_begun: bool = False
    prompt: int = 10
    tokens: int = 20


class World:
    """A server with a few places; a pass takes a second and gives each text a token."""

    def __init__(self, places: int) -> None:
        self.now = 0.0
        self.places = places
        self.turns = Turns(lambda: self.now)
        self.waiting: list[Text] = []
        self.running: list[tuple[Text, int]] = []
        self.begun: list[Text] = []

    def come(self, text: Text) -> None:
        """A text comes."""
        others = [other.owner for other in self.waiting] + [other.owner for other, _ in self.running]
        self.turns.come(text.owner, others)
        self.waiting.append(text)

    def step(self, seconds: float) -> None:
        """A pass."""
        while self.waiting and len(self.running) < self.places:
            text = self.turns.next(self.waiting)
            self.waiting.remove(text)
            self.begun.append(text)
            self.turns.charge(text.owner, READ * text.prompt)
            self.running.append((text, text.tokens))
        for text, _ in self.running:
            self.turns.charge(text.owner, WRITTEN)
        self.running = [(text, left - 1) for text, left in self.running if left > 1]
        self.now += seconds


def served(world: World) -> Counter[str]:
    """What was done for each owner."""
    counts: Counter[str] = Counter()
    for text in world.begun:
        counts[text.owner] += int(READ * text.prompt + WRITTEN * text.tokens)
    return counts


@pytest.mark.parametrize("places", [1, 3])
def test_owners_have_equal_shares(places: int) -> None:
    """Whoever asks for many short texts, or for few long ones, or more often: within 5 %."""
    rng = random.Random(places)
    world = World(places)
    kinds = {"many": (4, 5), "long": (40, 60), "mixed": (20, 20)}
    for _ in range(9000):
        for owner, (prompt, tokens) in kinds.items():
            if sum(text.owner == owner for text in world.waiting) < (12 if owner == "many" else 3):
                size = rng.uniform(0.5, 1.5)
                text = Text(owner, world.now, prompt=int(prompt * size), tokens=int(tokens * size) + 1)
                world.come(text)
        world.step(1e-4)  # nobody waits for long
    counts = served(world)
    assert max(counts.values()) < 1.05 * min(counts.values()), counts


@pytest.mark.parametrize("places", [1, 2])
def test_whoever_asks_for_one_at_a_time_has_its_share(places: int) -> None:
    """Beside owners who always have texts waiting, for longer than anybody should wait."""
    world = World(places)
    longest: Counter[str] = Counter()
    for _ in range(6000):
        for owner in ("many", "other"):
            while sum(text.owner == owner for text in world.waiting) < 40:
                world.come(Text(owner, world.now))
        for owner, tokens in (("one", 20), ("long", 100)):
            if all(text.owner != owner for text, _ in world.running) and all(
                text.owner != owner for text in world.waiting
            ):
                world.come(Text(owner, world.now, tokens=tokens))
        begun = len(world.begun)
        world.step(0.05)
        for text in world.begun[begun:]:
            longest[text.owner] = max(longest[text.owner], round(world.now - text.entered))
    counts = served(world)
    assert world.waiting[0].entered < world.now - LONG_WAIT
    assert max(counts[owner] for owner in ("many", "other", "long")) < 1.1 * counts["one"] + 500, counts
    assert longest["one"] < LONG_WAIT, longest


def test_a_pause_saves_nothing_up() -> None:
    world = World(1)
    for _ in range(50):
        world.come(Text("busy", world.now))
    for _ in range(400):
        world.step(1e-4)
    for _ in range(50):
        world.come(Text("late", world.now))
    before = len(world.begun)
    for _ in range(400):
        world.step(1e-4)
    owners = Counter(text.owner for text in world.begun[before:])
    assert abs(owners["busy"] - owners["late"]) <= 1, owners


def test_priorities_come_before_owners_and_long_waits_before_all() -> None:
    world = World(1)
    world.turns.come("poor", [])
    world.turns.charge("rich", 1000)
    old, urgent, poor = Text("rich", 0.0, 9), Text("rich", 5.0, 0), Text("poor", 5.0, 3)
    world.now = 6.0
    assert world.turns.next([old, urgent, poor]) is urgent
    assert world.turns.next([old, poor]) is poor
    world.now = LONG_WAIT
    assert world.turns.next([old, urgent, poor]) is old
    assert world.turns.next([urgent, poor, Text("x", 5.0, 9, has_begun=True)]).has_begun


def test_nobody_starves() -> None:
    """Under a flood of texts of the first priority, the last one begins when its time has come."""
    world = World(2)
    for _ in range(3):
        world.come(Text("rich", 0.0, 0))
    last = Text("poor", 0.0, 9)
    world.come(last)
    while last not in world.begun:
        world.come(Text("rich", world.now, 0))
        world.step(0.1)
        assert world.now < LONG_WAIT + 5
    assert world.now >= LONG_WAIT
