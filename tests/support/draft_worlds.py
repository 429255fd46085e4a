"""A simulation of drafting: recorded trees, made-up clocks. No engine runs, so a policy can be judged exactly."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Node = tuple[int, int, int]  # parent (0: the root), -100 log p given the parent, whether the text goes on like that


def load_traces(path: Path) -> list[list[list[Node]]]:
    """Of each text, the tree at each position (bench/record_drafts.py)."""
    with gzip.open(path, "rt") as file:
        return json.load(file)  # type: ignore[no-any-return]


@dataclass
class World:
    """What things cost in seconds, in truth.

    Attributes:
        target: A pass of the target with so many rows.
        layers: The drafter's layers for so many rows; also for what it is told.
        head: The draft head for so many states.
        disturbed: Share of steps that take eight times as long for reasons of their own.
        drift: Called with the step's number; what everything costs is multiplied by it.
    """

    target: Callable[[int], float]
    layers: Callable[[int], float]
    head: Callable[[int], float]
    disturbed: float = 0.0
    drift: Callable[[int], float] = lambda _: 1.0
    random: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 0.0
    steps: int = 0

    def noise(self) -> float:
        """How much longer this takes to look at."""
        slow = 8.0 if self.random.random() < self.disturbed else 1.0
        return slow * self.random.uniform(0.97, 1.03) * self.drift(self.steps)

    def clock(self) -> float:
        """For the tuner."""
        return self.now

    def level(self, rows: int) -> float:
        """A level of a tree."""
        return self.layers(rows) + self.head(rows)


def children(nodes: list[Node]) -> dict[int, list[int]]:
    """Of each node its children; nodes count from 1."""
    found: dict[int, list[int]] = {}
    for i, node in enumerate(nodes, 1):
        found.setdefault(node[0], []).append(i)
    return found


def fixed_tree(nodes: list[Node], levels: int, branch: int, size: int) -> tuple[int, int]:
    """EAGLE-2's tree of a fixed shape: its rows, and the drafts that are accepted."""
    below = children(nodes)
    score = {0: 0.0}
    pool: list[int] = []
    frontier = [0]
    for _ in range(levels):
        level = []
        for node in frontier:
            for child in below.get(node, [])[:branch]:
                score[child] = score[node] + nodes[child - 1][1]
                level.append(child)
        pool += level
        frontier = sorted(level, key=lambda node: score[node])[:branch]
    kept = set(sorted(pool, key=lambda node: score[node])[: size - 1])
    accepted, node = 0, 0
    while True:
        hit = [child for child in below.get(node, []) if child in kept and nodes[child - 1][2]]
        if not hit:
            return 1 + len(kept), accepted
        accepted, node = accepted + 1, hit[0]


def run_fixed(world: World, text: list[list[Node]], shape: tuple[int, int, int] | None) -> tuple[int, float]:
    """Tokens and seconds of a text with trees of one shape; None: plain decoding."""
    at, seconds = 0, 0.0
    told = 1
    while at < len(text):
        step = 0.0
        accepted = 0
        if shape is not None:
            levels, branch, size = shape
            rows, accepted = fixed_tree(text[at], levels, branch, size)
            step += world.layers(told) + world.head(1) + (levels - 1) * world.level(branch)
            step += world.target(rows)
        else:
            step += world.target(1)
        seconds += step
        told = accepted + 1
        at += accepted + 1
    return at, seconds


SHAPES = [
    (levels, branch, size)
    for levels, branch, size in itertools.product((1, 2, 3, 4, 6, 8), (1, 2, 4), (2, 3, 4, 5, 6, 8, 12, 16))
    if size > levels and size <= levels * branch + 1
]


def best_fixed(world: World, texts: list[list[list[Node]]]) -> tuple[float, Any]:
    """The most tokens per second of a fixed arm over these texts, and the arm."""
    found = []
    for shape in [None, *SHAPES]:
        totals = [run_fixed(world, text, shape) for text in texts]
        found.append((sum(t for t, _ in totals) / sum(s for _, s in totals), shape))
    return max(found, key=lambda pair: pair[0])


def run_tuned(
    world: World, tuner: Any, text: list[list[Node]], noisy: bool = False, most: int | None = None
) -> Iterator[tuple[int, float, bool]]:
    """Writes a text as the tuner says: of each step tokens, seconds in truth, and whether it drafted."""
    tuner.begin_text(noisy)
    at, untold = 0, 1
    while at < len(text) and (most is None or at < most):
        world.steps += 1
        plan = tuner.next(True)
        nodes = text[at]
        step: dict[str, Any] = {"told": 0, "told_seconds": 0.0, "grown_seconds": 0.0}
        kept: list[int] = []
        chance: dict[int, tuple[float, int]] = {0: (1.0, 0)}
        below = children(nodes)
        truth = 0.0
        if plan[0]:
            tuner.begin_growth(plan)
            begin = world.now

            def spend(seconds: float) -> float:
                world.now += seconds * world.noise()
                return seconds

            truth += spend(world.layers(untold) + world.head(1))
            step["told"] = untold
            level = [0]
            pool: list[int] = []
            for depth in itertools.count(1):
                fresh = []
                for node in level:
                    for child in below.get(node, []):
                        chance[child] = tuner.judge(chance[node], -nodes[child - 1][1] / 100, depth)
                        fresh.append(child)
                pool += fresh
                if depth == 16 or not fresh:
                    break
                frontier = sorted(fresh, key=lambda node: -chance[node][0])[:6]
                width = tuner.width([chance[n] for n in frontier], sorted((chance[n][0] for n in pool), reverse=True))
                if width == 0:
                    break
                level = frontier[:width]
                truth += spend(world.level(width))
            tuner.end_growth()
            step["grown_seconds"] = world.now - begin
            order = sorted(pool, key=lambda node: -chance[node][0])
            kept = order[: tuner.size([chance[n][0] for n in order])]
            untold = 0
        rows = 1 + len(kept)
        truth += world.target(rows)
        seconds = world.target(rows) * world.noise()
        world.now += seconds
        inside = set(kept)
        trials, parents = [], []
        accepted, node = 0, 0
        while True:
            some = [child for child in below.get(node, []) if child in inside]
            hit = [child for child in some if nodes[child - 1][2]]
            trials += [(chance[child][1], bool(nodes[child - 1][2])) for child in some]
            if some and node:
                parents.append((chance[node][1], bool(hit)))
            if not hit:
                break
            accepted, node = accepted + 1, hit[0]
        tuner.add(
            plan, plan[0], rows, step["told"], step["told_seconds"], step["grown_seconds"], seconds, accepted,
            sum(chance[n][0] for n in kept), plan[0], trials, parents, [],
        )  # fmt: skip
        untold += accepted + 1
        at += accepted + 1
        yield accepted + 1, truth, bool(plan[0])
