"""The tuner, against worlds with made-up costs: it finds the best arm, and what it tries in vain costs little."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field

import pytest

from frspec_cpp import _core

LARGEST = (5, 10, 60)
SHAPES = _core.Tuner.shapes_up_to(LARGEST)
HEADS = ["full", "ranked:8192", "ranked:2048"]


@dataclass
class World:
    """What steps cost, in seconds, and what drafts are worth.

    Every level of a tree agrees with the target with probability `agrees`, and that node's score is the better the more
    sure the drafter was; `holds` is the chance that a head has such a token.
    """

    agrees: float
    plain: float = 0.010
    per_row: float = 0.0
    layer: float = 0.0005
    heads: tuple[float, ...] = (0.0, 0.0, 0.0)
    holds: tuple[float, ...] = (1.0, 0.98, 0.8)
    noise: float = 0.1
    seed: int = 0
    ahead: int = 0  # steps that began ahead
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def target(self, size: int) -> float:
        """Seconds of a pass with so many rows."""
        return self.plain + (size - 1) * self.per_row

    def draft(self, head: int, shape: tuple[int, int, int]) -> float:
        """Seconds of drafting a tree."""
        levels = shape[0] + 1
        return (levels + 1) * self.layer + levels * self.heads[head]

    def step(self, head: int, shape: tuple[int, int, int]) -> list[tuple[int, int]]:
        """The accepted nodes: rank by score, and the heads that hold the token."""
        accepted = []
        for _ in range(shape[0] + 1):
            if self.random.random() > self.agrees:
                break
            rank = int(self.random.expovariate(0.15))
            draw = self.random.random()
            held = sum(1 << h for h, share in enumerate(self.holds) if draw < share)
            if rank >= shape[2] - 1 or not held >> head & 1:
                break
            accepted.append((rank, held))
        return accepted

    def expected_rate(self, head: int, shape: tuple[int, int, int], steps: int = 4000) -> float:
        """Tokens per second with an arm."""
        tokens = sum(1 + len(self.step(head, shape)) for _ in range(steps))
        return tokens / steps / (self.draft(head, shape) + self.target(shape[2]))

    def best_rate(self) -> float:
        """Of the best arm, plain decoding included."""
        return max(1 / self.plain, *(self.expected_rate(h, s) for h in range(len(HEADS)) for s in SHAPES))

    def run(self, tuner: _core.Tuner, tokens: int, may_pause: bool = True, ahead: bool = False) -> tuple[float, int]:
        """Writes so many tokens; returns the seconds it took, and the drafted steps.

        `ahead`: up to 16 more steps begin before the tuner hears of the first, wherever it says that they may.
        """
        total, written, drafted = 0.0, 0, 0
        while written < tokens:
            plans = [tuner.next(may_pause)]
            if ahead and plans[0][0]:
                plans += [tuner.again() for _ in range(min(16, tuner.steady_steps()))]
                self.ahead += len(plans) - 1
            for plan in plans:
                accepted = self.step(plan[1], SHAPES[plan[2]]) if plan[0] else []
                draft = self.draft(plan[1], SHAPES[plan[2]]) if plan[0] else 0.0
                target = self.target(SHAPES[plan[2]][2] if plan[0] else 1)
                slow = self.random.uniform(1 - self.noise, 1 + self.noise)
                if self.random.random() < 0.02:
                    slow *= 8  # somebody else wanted the processor
                seconds = (draft + target) * slow
                tuner.add(plan, draft * slow, seconds, 1 + len(accepted), accepted)
                total += draft + target  # what it costs in truth
                written += 1 + len(accepted)
                drafted += plan[0]
        return total, drafted

    def make_tuner(self) -> _core.Tuner:
        """A tuner that knows what an engine would have measured when it was made."""
        tuner = _core.Tuner([(name, s, s) for name, s in zip(HEADS, self.heads, strict=True)], SHAPES)
        tuner.know_target(self.plain, self.target(LARGEST[2]))
        return tuner


WORLDS = {
    # Large trees are free, heads cost nothing: the largest tree with the first head.
    "trees are free": World(agrees=0.8, layer=0.0002),
    # A memory-bound target: sixty rows are three passes, the full head costs a third of one.
    "memory": World(agrees=0.75, per_row=0.0003, heads=(0.0035, 0.0004, 0.0001)),
    # Rows cost as much as passes: small trees.
    "arithmetic": World(agrees=0.75, per_row=0.003, heads=(0.0005, 0.0001, 0.00005)),
    # The small head misses too much.
    "small heads miss": World(agrees=0.85, per_row=0.0001, heads=(0.002, 0.0008, 0.0007), holds=(1.0, 0.97, 0.3)),
    "drafts are useless": World(agrees=0.02, per_row=0.0002, heads=(0.003, 0.001, 0.0005)),
    "drafts are dear": World(agrees=0.7, layer=0.02, heads=(0.01, 0.01, 0.01)),
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", WORLDS)
def test_it_comes_close_to_the_best_arm(name: str, ahead: bool) -> None:
    world = dataclasses.replace(WORLDS[name])
    tuner = world.make_tuner()
    best = world.best_rate()
    first, _ = world.run(tuner, 3000, ahead=ahead)
    seconds, drafted = world.run(tuner, 8000, ahead=ahead)
    assert 3000 / first > 0.8 * best
    assert 8000 / seconds > 0.9 * best
    if ahead and best > 1.05 / world.plain:  # drafting pays: most of it is steady
        assert world.ahead > 0.6 * drafted


@pytest.mark.parametrize("name", ["drafts are useless", "drafts are dear"])
@pytest.mark.parametrize("tokens", [256, 3000])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_useless_costs_little(name: str, tokens: int, seed: int) -> None:
    """Plain decoding with a drafter that is of no use: at most 3 % slower, from the first text on."""
    world = World(**{k: v for k, v in vars(WORLDS[name]).items() if k not in ("random", "seed")}, seed=seed)
    seconds, drafted = world.run(world.make_tuner(), tokens)
    assert seconds < 1.03 * tokens * world.plain
    assert drafted > 0


def test_a_tree_that_can_never_pay_is_never_tried() -> None:
    world = World(agrees=0.9, plain=0.001, per_row=0.001)
    tuner = _core.Tuner([("full", 0.0, 0.0)], [LARGEST])
    tuner.know_target(world.plain, world.target(60))  # sixty passes for seven tokens at most
    assert not any(tuner.next(True)[0] for _ in range(1000))
    assert tuner.next(False)[0]


def test_steps_ahead_are_planned_like_the_last_one() -> None:
    world = dataclasses.replace(WORLDS["memory"])
    tuner = world.make_tuner()
    assert tuner.steady_steps() == 0  # nothing is known yet
    world.run(tuner, 2000)
    plan = tuner.next(True)
    steps = tuner.steady_steps()
    assert plan[0]
    assert steps > 0
    assert [tuner.again() for _ in range(steps)] == [plan] * steps
    assert tuner.steady_steps() == 0 or tuner.next(True)[0]
    lone = _core.Tuner([("full", 0.0, 0.0)], [LARGEST])
    lone.add(lone.next(False), 0.001, 0.01, 3, [(0, 1), (1, 1)])
    lone.next(False)
    assert lone.steady_steps() > 1000  # there is nothing to choose


def test_without_pauses_every_step_drafts() -> None:
    world = WORLDS["drafts are useless"]
    tuner = world.make_tuner()
    assert all(tuner.next(False)[0] for _ in range(50))
    _, drafted = world.run(tuner, 500, may_pause=False)
    assert drafted > 400


def test_it_notices_when_things_change() -> None:
    """Drafts that become useful are found out, and drafts that no longer are, given up."""
    world = World(agrees=0.0, per_row=0.0002, heads=(0.001, 0.0005, 0.0002))
    tuner = world.make_tuner()
    world.run(tuner, 2000)
    assert not tuner.choice()["drafts"]
    world.agrees = 0.85
    seconds, _ = world.run(tuner, 8000)
    assert tuner.choice()["drafts"]
    assert 8000 / seconds > 0.7 * world.best_rate()
    world.agrees = 0.0
    _, drafted = world.run(tuner, 3000)
    assert drafted < 400


def test_what_it_says() -> None:
    world = WORLDS["memory"]
    tuner = world.make_tuner()
    assert tuner.choice()["tokens_per_second"] == 0
    world.run(tuner, 6000)
    found = tuner.choice()
    head, shape = int(found["head"]), int(found["shape"])
    assert found["drafts"]
    assert found["nu"] == pytest.approx(world.heads[head] / world.heads[0])
    assert found["rho"] == pytest.approx(world.holds[head], abs=0.15)
    rest = world.draft(head, SHAPES[shape]) + world.target(SHAPES[shape][2])
    rest -= (SHAPES[shape][0] + 1) * world.heads[head]
    assert found["kappa"] == pytest.approx((SHAPES[shape][0] + 1) * world.heads[0] / rest, rel=0.3)
    assert found["tokens_per_second"] == pytest.approx(world.expected_rate(head, SHAPES[shape]), rel=0.15)
    assert found["plain_tokens_per_second"] == pytest.approx(1 / world.plain, rel=0.1)


def test_shapes() -> None:
    assert SHAPES[-1] == LARGEST
    assert len(set(SHAPES)) == len(SHAPES)
    for depth, branch, size in SHAPES:
        assert 0 <= depth <= 5
        assert 1 <= branch <= 10
        assert depth + 1 < size <= 60
    assert _core.Tuner.shapes_up_to((0, 1, 2)) == [(0, 1, 2)]
    assert _core.Tuner.shapes_up_to((3, 1, 5))[-1] == (3, 1, 5)
    assert all(branch == 1 for _, branch, _ in _core.Tuner.shapes_up_to((3, 1, 5)))
