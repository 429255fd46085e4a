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


@dataclass
class Drafted:
    """A tree of one text, and what is told of it.

    Attributes:
        plan: The tuner's.
        kept: Its nodes.
        chance: Of each node what is thought of it, and its cell.
        told: States that the drafter was told of, or has read meanwhile.
        seconds: That it took, in truth.
        looked: That the clock showed.
    """

    plan: Any
    kept: list[int]
    chance: dict[int, tuple[float, int]]
    told: int
    seconds: float
    looked: float


def draft(world: World, tuner: Any, nodes: list[Node], untold: int, **outlook: int) -> Drafted:
    """A tree as far as the tuner says; `untold`: states that the drafter has still to read."""
    plan, reads = tuner.next(True, untold, **outlook)
    chance: dict[int, tuple[float, int]] = {0: (1.0, 0)}
    begin = world.now
    truth = 0.0

    def spend(seconds: float) -> float:
        world.now += seconds * world.noise()
        return seconds

    if not plan[0]:
        truth = spend(world.layers(reads)) if reads else 0.0
        return Drafted(plan, [], chance, reads, truth, world.now - begin)
    tuner.begin_growth(plan)
    below = children(nodes)
    truth += spend(world.layers(untold) + world.head(1))
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
    order = sorted(pool, key=lambda node: -chance[node][0])
    kept = order[: tuner.size([chance[n][0] for n in order])]
    return Drafted(plan, kept, chance, untold, truth, world.now - begin)


def learn(tuner: Any, nodes: list[Node], drafted: Drafted, seconds: float) -> int:
    """Tells the tuner what a pass of so many seconds (0: another text tells) has shown; the accepted drafts."""
    below, inside, chance = children(nodes), set(drafted.kept), drafted.chance
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
    drafts = bool(drafted.plan[0])
    tuner.add(
        drafted.plan, drafts, 1 + len(inside), drafted.told, 0.0, drafted.looked, seconds, accepted,
        sum(chance[n][0] for n in drafted.kept), drafts, trials, parents, [],
    )  # fmt: skip
    return accepted


def run_tuned(
    world: World, tuner: Any, text: list[list[Node]], noisy: bool = False, most: int | None = None
) -> Iterator[tuple[int, float, bool]]:
    """Writes a text as the tuner says: of each step tokens, seconds in truth, and whether it drafted."""
    tuner.begin_text(noisy)
    at, untold = 0, 1
    while at < len(text) and (most is None or at < most):
        world.steps += 1
        drafted = draft(world, tuner, text[at], untold)
        untold = 0 if drafted.plan[0] else untold
        rows = 1 + len(drafted.kept)
        seconds = world.target(rows) * world.noise()
        world.now += seconds
        accepted = learn(tuner, text[at], drafted, seconds)
        untold += accepted + 1
        at += accepted + 1
        yield accepted + 1, drafted.seconds + world.target(rows), bool(drafted.plan[0])


def run_together(
    world: World, tuner: Any, texts: list[list[list[Node]]], beside: int = 0
) -> Iterator[tuple[int, float, int]]:
    """Writes texts in passes for all of them, as an engine does: of each pass tokens, seconds, and texts that drafted.

    Each text begins again where it has ended, so there are always as many. `beside`: rows of prompts in each pass.
    """
    at, untold = [0] * len(texts), [1] * len(texts)
    while True:
        world.steps += 1
        rows, truth, trees = len(texts) + beside, 0.0, []
        for number, text in enumerate(texts):
            tuner.set_pass(len(texts), rows - 1)
            trees.append(draft(world, tuner, text[at[number]], untold[number], text=number + 1))
            rows += len(trees[-1].kept)
            truth += trees[-1].seconds
        seconds = world.target(rows) * world.noise()
        world.now += seconds
        tokens = 0
        for number, (text, drafted) in enumerate(zip(texts, trees, strict=True)):
            tuner.set_pass(len(texts), rows - 1 - len(drafted.kept))
            accepted = learn(tuner, text[at[number]], drafted, 0.0 if number else seconds)
            untold[number] = (0 if drafted.plan[0] else untold[number]) + accepted + 1
            at[number] = at[number] + accepted + 1
            if at[number] >= len(text):
                at[number], untold[number] = 0, 1
            tokens += accepted + 1
        yield tokens, truth + world.target(rows), sum(bool(tree.plan[0]) for tree in trees)


def best_together(world: World, texts: list[list[list[Node]]], steps: int, beside: int = 0) -> tuple[float, Any]:
    """The most tokens per second of a fixed shape for all of these texts, written in passes for all, and the shape."""
    found = []
    for shape in [None, *SHAPES]:
        at, told = [0] * len(texts), [1] * len(texts)
        tokens, seconds = 0, 0.0
        for _ in range(steps):
            rows = beside
            for number, text in enumerate(texts):
                accepted, own = 0, 1
                if shape is not None:
                    levels, branch, size = shape
                    own, accepted = fixed_tree(text[at[number]], levels, branch, size)
                    seconds += world.layers(told[number]) + world.head(1) + (levels - 1) * world.level(branch)
                rows += own
                tokens += accepted + 1
                told[number] = accepted + 1
                at[number] += accepted + 1
                if at[number] >= len(text):
                    at[number] = 0
            seconds += world.target(rows)
        found.append((tokens / seconds, shape))
    return max(found, key=lambda pair: pair[0])


@dataclass
class Served:
    """One of several texts that are written at once.

    Attributes:
        number: No other text has it.
        nodes: The tree at each position.
        prompt: Tokens of its prompt that the target has not read.
        untold: Of prompt and text, what the drafter has not.
        left: Tokens that may still come.
    """

    number: int
    nodes: list[list[Node]]
    prompt: int
    untold: int
    left: int
    at: int = 0


@dataclass
class Pass:
    """What a pass for several texts gave: tokens, seconds in truth, rows that the drafter read, texts that drafted."""

    tokens: int = 0
    seconds: float = 0.0
    read: int = 0
    drafted: int = 0


BESIDE = 64  # rows of prompts in a pass, and of what a drafter reads beside one


def run_served(
    world: World, tuner: Any, texts: list[list[list[Node]]], clients: int, prompt: int, length: int
) -> Iterator[Pass]:
    """Short texts, as a server writes them for so many clients, each of which asks for another one when one has ended.

    `tuner`: None: without drafts. `prompt`, `length`: tokens of each prompt and text.
    """
    waiting = [Served(number, text, prompt, prompt, length) for number, text in enumerate(texts, 1)]
    running: list[Served] = []
    while running or waiting:
        while waiting and len(running) < clients:
            running.append(waiting.pop(0))
            if tuner is not None:
                tuner.begin_text(False)
        world.steps += 1
        found, room, piece = Pass(), BESIDE, BESIDE
        writers = [text for text in running if text.prompt == 0]
        for text in running:
            chunk = min(room, text.prompt)
            text.prompt, room = text.prompt - chunk, room - chunk
        rows = BESIDE - room + len(writers)
        trees: list[Drafted] = []
        for text in writers if tuner is not None else []:
            tuner.set_pass(len(running), rows - 1)
            nodes = text.nodes[text.at % len(text.nodes)]
            outlook = {"left": text.left, "written": text.at, "piece": piece, "text": text.number}
            trees.append(draft(world, tuner, nodes, text.untold, **outlook))
            text.untold -= trees[-1].told
            piece -= trees[-1].told if trees[-1].told > 16 else 0
            found.read += trees[-1].told if trees[-1].told > 16 else 0
            found.seconds += trees[-1].seconds
            found.drafted += bool(trees[-1].plan[0])
            rows += len(trees[-1].kept)
        seconds = world.target(rows) * world.noise()
        world.now += seconds
        found.seconds += world.target(rows)
        for number, text in enumerate(writers):
            given = 1
            if tuner is not None:
                tuner.set_pass(len(running), rows - 1 - len(trees[number].kept))
                nodes = text.nodes[text.at % len(text.nodes)]
                given += learn(tuner, nodes, trees[number], 0.0 if number else seconds)
            given = min(given, text.left)
            text.at, text.left, text.untold = text.at + given, text.left - given, text.untold + given
            found.tokens += given
        running = [text for text in running if text.left > 0]
        yield found
