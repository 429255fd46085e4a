"""The tuner on recorded drafts (bench/record_drafts.py): close to the best arm there is, whatever disturbs it."""

from __future__ import annotations

import functools
import itertools
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from draft_worlds import (
    BESIDE,
    Node,
    Pass,
    World,
    best_fixed,
    best_together,
    load_traces,
    run_served,
    run_together,
    run_tuned,
)

from frspec_cpp import _testing

Texts = list[list[list[Node]]]
DATA = Path(__file__).resolve().parent.parent / "data"


def line(first: float, further: float) -> Any:
    """Costs of so many rows: those of the first, and a share of them for each one more."""
    return lambda rows: first * (1.0 + further * (rows - 1))


# Costs beside a pass of the target with one row. Where memory is the limit a row more is almost free; where arithmetic
# is, or the model is small, it is not.
COSTS: dict[str, dict[str, Any]] = {
    "eagle, memory-bound": {"target": line(1.0, 0.15), "layers": line(0.06, 0.03), "head": line(0.09, 0.02)},
    "eagle, rows are dear": {"target": line(1.0, 0.35), "layers": line(0.08, 0.05), "head": line(0.25, 0.02)},
    "slem, memory-bound": {"target": line(1.0, 0.08), "layers": line(0.11, 0.05), "head": line(0.03, 0.02)},
    "slem, arithmetic-bound": {"target": line(1.0, 0.22), "layers": line(0.13, 0.06), "head": line(0.03, 0.02)},
}
REHEARSAL: list[Node] = [
    (0, 50, 0),
    (0, 120, 0),
    (1, 60, 0),
    (1, 120, 0),
    (3, 70, 0),
    (3, 90, 0),
    (4, 50, 0),
    (5, 30, 0),
]


@functools.cache
def traces(name: str) -> Texts:
    """Recorded trees: an EAGLE-3 drafter of SmolLM2-135M; SmolLM2-135M for Qwen2.5-Coder-1.5B, by SLEM."""
    return load_traces(DATA / ("drafts-eagle3-smollm2.json.gz" if "eagle" in name else "drafts-slem-qwen2.5.json.gz"))


def make_world(name: str, seed: int = 0, disturbed: float = 0.0) -> World:
    return World(**COSTS[name], disturbed=disturbed, random=random.Random(seed))


def fresh_tuner(world: World) -> _testing.Tuner:
    """One that knows nothing."""
    return _testing.Tuner([("full", "", 0.0, 0.0)], True, 16, world.clock)


def make_tuner(world: World) -> _testing.Tuner:
    """A tuner that knows what an engine measures before the first text."""
    tuner = fresh_tuner(world)
    for rows in (1, 2, 4, 8):
        for _ in range(2):
            tuner.know_target(rows, world.target(rows) * world.noise())
    tuner.rehearse([1, 1, 2, 4])
    for _ in range(4):
        list(run_tuned(world, tuner, [REHEARSAL]))
    tuner.rehearse([])
    return tuner


def rate(world: World, tuner: _testing.Tuner, texts: Texts, order: int = 0) -> tuple[float, float, float]:
    """Tokens per second over all texts and over the first 64 tokens, and the share of steps that drafted."""
    shuffled = list(texts)
    random.Random(order).shuffle(shuffled)
    tokens, seconds, drafted, steps, first = 0, 0.0, 0, 0, 0.0
    for text in shuffled:
        for given, took, drafts in run_tuned(world, tuner, text):
            tokens, seconds, drafted, steps = tokens + given, seconds + took, drafted + drafts, steps + 1
            if not first and tokens >= 64:
                first = tokens / seconds
    return tokens / seconds, first, drafted / steps


def useless(texts: Texts) -> Texts:
    """The same drafter, and a target that always says something else."""
    return [[[(parent, score, 0) for parent, score, _ in tree] for tree in text] for text in texts]


@pytest.mark.parametrize("disturbed", [0.0, 0.03])
@pytest.mark.parametrize("name", COSTS)
def test_regret_against_the_best_fixed_arm(name: str, disturbed: float) -> None:
    """At most 3 % over some hundred tokens and 8 % over the first 64, of which nothing was known before."""
    texts = traces(name)
    best, arm = best_fixed(make_world(name), texts)
    worlds = [make_world(name, seed, disturbed) for seed in range(4)]
    found = [rate(world, make_tuner(world), texts, seed) for seed, world in enumerate(worlds)]
    assert sum(all_of for all_of, _, _ in found) / len(found) > 0.97 * best
    assert sum(first for _, first, _ in found) / len(found) > 0.92 * best
    if arm is not None:  # equal speed proves nothing where nothing was drafted
        assert min(drafted for _, _, drafted in found) > 0.5


@pytest.mark.parametrize("name", COSTS)
def test_a_drafter_of_no_use_costs_little(name: str) -> None:
    texts = useless(traces(name))
    for seed in range(3):
        world = make_world(name, seed)
        tuner = make_tuner(world)
        first, _, _ = rate(world, tuner, texts, seed)
        assert first > 0.9 / world.target(1)
        again, _, drafted = rate(world, tuner, texts, seed)
        assert again > 0.97 / world.target(1)
        assert drafted > 0.0, "it may become useful"


def test_what_was_learned_is_kept() -> None:
    """A process that starts with another one's numbers is at full speed at once."""
    name = "slem, memory-bound"
    texts = traces(name)
    world = make_world(name)
    before = make_tuner(world)
    long_run, _, _ = rate(world, before, texts)
    cold, warm = [], []
    for seed in range(4):
        world = make_world(name, seed)
        after = fresh_tuner(world)
        assert after.restore(before.numbers())
        warm.append(rate(world, after, texts, seed)[1])
        world = make_world(name, seed)
        cold.append(rate(world, make_tuner(world), texts, seed)[1])
    assert sum(warm) > sum(cold)
    assert sum(warm) / len(warm) > 0.93 * long_run


def test_numbers_of_another_kind_are_refused() -> None:
    tuner = make_tuner(make_world("slem, memory-bound"))
    numbers = tuner.numbers()
    other = _testing.Tuner([("full", "", 0.0, 0.0), ("ranked:8192", "", 0.0, 0.0)], True, 16, lambda: 0.0)
    assert not other.restore(numbers)
    assert not tuner.restore(numbers[:-1])
    assert not tuner.restore([float("nan"), *numbers[1:]])
    assert tuner.restore(numbers)


def test_a_change_of_mind_is_noticed() -> None:
    """Drafts that become useful are found out, and drafts that no longer are, given up."""
    name = "slem, memory-bound"
    world = make_world(name)
    tuner = make_tuner(world)
    good = traces(name)
    bad = useless(good)
    rate(world, tuner, bad)
    assert not tuner.choice()["drafts"]
    rate(world, tuner, good)
    assert tuner.choice()["drafts"]
    speed, _, drafted = rate(world, tuner, good)
    assert speed > 0.95 * best_fixed(world, good)[0]
    assert drafted > 0.9
    for _ in range(2):
        rate(world, tuner, bad)
    assert rate(world, tuner, bad)[2] < 0.2


def test_a_neighbour_that_takes_the_processor_for_a_while() -> None:
    """Everything takes twice as long for some steps: nothing that was learned is lost."""
    name = "slem, memory-bound"
    world = make_world(name)
    tuner = make_tuner(world)
    texts = traces(name)
    before, _, _ = rate(world, tuner, texts)
    begin = world.steps
    world.drift = lambda step: 2.0 if step < begin + 60 else 1.0
    after, _, drafted = rate(world, tuner, texts)
    assert after > 0.97 * before
    assert drafted > 0.9


def crowded(world: World, seed: int) -> _testing.Tuner:
    """A tuner that measured its costs while others took the processor now and then, for most of a pass at worst."""
    lucky = random.Random(seed)
    calm, world.drift = world.drift, lambda _: lucky.choice((1.0, 1.5, 2.5, 4.0))
    tuner = make_tuner(world)
    world.drift = calm
    return tuner


@pytest.mark.parametrize("name", ["slem, memory-bound", "slem, arithmetic-bound", "eagle, rows are dear"])
def test_costs_that_were_measured_in_a_bad_moment_are_not_believed_for_long(name: str) -> None:
    """No step is much faster than it can be, so what looks dear was disturbed; here, or in the process before."""
    texts = traces(name)
    best, _ = best_fixed(make_world(name), texts)
    found = []
    for seed in range(6):
        world = make_world(name, seed)
        after = fresh_tuner(world)
        assert after.restore(crowded(world, seed).numbers())
        for tuner in (crowded(world, seed), after):
            rate(world, tuner, texts, seed)
            found.append(rate(world, tuner, texts, seed)[0] / best)
    assert min(found) > 0.9
    assert sum(found) / len(found) > 0.97


@pytest.mark.parametrize("name", COSTS)
def test_first_passes_that_load_pages_are_not_believed(name: str) -> None:
    """A file's pages are read by the first pass, of the target and of the drafter: it takes many times as long."""
    texts = traces(name)
    best, arm = best_fixed(make_world(name), texts)
    found = []
    for seed in range(4):
        world = make_world(name, seed)
        tuner = fresh_tuner(world)
        slow = iter([18.0])
        for _ in range(3):
            for rows in (1, 2, 3, 4, 6, 8):
                tuner.know_target(rows, world.target(rows) * next(slow, 1.0) * world.noise())
        tuner.rehearse([1, 1, 2, 4])
        for step in range(4):
            begin, calm = world.steps, world.drift
            world.drift = lambda at, begin=begin, step=step: 30.0 if step == 0 and at <= begin + 1 else 1.0
            list(run_tuned(world, tuner, [REHEARSAL]))
            world.drift = calm
        tuner.rehearse([])
        found.append(rate(world, tuner, texts, seed))
    assert sum(all_of for all_of, _, _ in found) / len(found) > 0.95 * best
    if arm is not None:
        assert min(drafted for _, _, drafted in found) > 0.5


@pytest.mark.parametrize("name", ["slem, memory-bound", "slem, arithmetic-bound", "eagle, rows are dear"])
def test_neither_are_they_with_a_drafter_of_no_use(name: str) -> None:
    texts = useless(traces(name))
    for seed in range(6):
        world = make_world(name, seed)
        tuner = crowded(world, seed)
        assert rate(world, tuner, texts, seed)[0] > 0.88 / world.target(1), seed
        assert rate(world, tuner, texts, seed)[0] > 0.97 / world.target(1), seed


def test_the_better_translation_is_found() -> None:
    """Two translations, one of which never fits: most steps use the other one, and few are left without drafts."""
    name = "slem, memory-bound"
    world = make_world(name)
    tuner = _testing.Tuner([("full", "tli", 0.0, 0.0), ("full", "slem", 0.0, 0.0)], True, 16, world.clock)
    for rows in (1, 2, 4, 8):
        tuner.know_target(rows, world.target(rows))
    good = traces(name)
    used = [0, 0]
    tokens, spent = 0, 0.0

    class Both:
        """Asks the tuner, and shows it trees without hits where it takes the wrong arm."""

        def __init__(self) -> None:
            self.arm = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(tuner, name)

    for text, wrong in zip(good * 2, useless(good) * 2, strict=True):
        at = 0
        tuner.begin_text(False)
        while at < len(text):
            plan, _ = tuner.next(True)
            # One step of a text that is right or wrong for this arm.
            source = text if plan[1] == 1 else wrong
            forced = Both()
            forced.next = lambda *_, plan=plan: (plan, 0)  # type: ignore[attr-defined]
            forced.begin_text = lambda _: None  # type: ignore[attr-defined]
            given, seconds, drafted = next(iter(run_tuned(world, forced, source[at:], most=1)))
            at += given
            tokens, spent = tokens + given, spent + seconds
            used[plan[1]] += drafted
    assert used[1] > 4 * used[0]
    alone = make_world(name)
    assert tokens / spent > 0.93 * rate(alone, make_tuner(alone), good * 2)[0]


def test_a_drafter_whose_reading_is_dear_is_tried_again() -> None:
    """In a text that changes its kind, however much of it was not read meanwhile."""
    world = World(**{**COSTS["slem, memory-bound"], "layers": line(0.11, 0.12)})
    tuner = make_tuner(world)
    good = traces("slem, memory-bound")
    bad, kind = [tree for text in useless(good) for tree in text] * 4, [tree for text in good for tree in text] * 4
    steps = list(run_tuned(world, tuner, bad + kind))
    ends = list(itertools.accumulate(given for given, _, _ in steps))
    before = [step for step, end in zip(steps, ends, strict=True) if end <= len(bad)]
    after = [step for step, end in zip(steps, ends, strict=True) if end > len(bad)]
    assert len(before) / sum(seconds for _, seconds, _ in before) > 0.97 / world.target(1)
    assert statistics.mean(drafts for _, _, drafts in after[len(after) // 2 :]) > 0.3


def test_a_head_that_misses_little_and_costs_less_is_taken() -> None:
    """Of three heads: all rows; fewer that have almost everything; hardly any, that miss half of the text."""
    name = "eagle, memory-bound"
    world = make_world(name)
    tuner = _testing.Tuner(
        [("full", "", 0.3, 0.0), ("ranked:8192", "", 0.05, 0.0), ("ranked:64", "", 0.03, 0.0)], True, 16, world.clock
    )
    for rows in (1, 2, 4, 8):
        tuner.know_target(rows, world.target(rows))
    step: dict[str, Any] = {"told": 1, "told_seconds": 0.06, "grown_seconds": 0.1}
    lucky = random.Random(1)
    for _ in range(300):
        plan, _ = tuner.next(True)
        tuner.begin_growth(plan)
        tuner.end_growth()
        held = [0b011 | (0b100 if lucky.random() < 0.5 else 0) for _ in range(2)]
        tuner.add(plan, plan[0], 2, step["told"], 0.06, 0.1, 1.0, 1, 0.8, True, [(17, True)], [], held)
    assert tuner.next(True)[0][1] == 1


def test_every_step_drafts_where_it_must() -> None:
    name = "eagle, rows are dear"
    world = make_world(name)
    tuner = make_tuner(world)
    for _ in range(50):
        plan, _ = tuner.next(False)
        assert plan[0]
        tuner.begin_growth(plan)
        assert tuner.size([0.01]) == 1, "one node at least, however unlikely"


def test_what_is_repeated_is_taken_by_its_own_chance() -> None:
    """A repetition that holds gets longer trees, one that fails none; the drafter is not asked beside a sure one."""
    world = make_world("slem, memory-bound")
    tuner = make_tuner(world)
    root = (1.0, 0)
    fresh = tuner.judge_repeated(root, 4, 1)
    for hit, compare in ((True, float.__gt__), (False, float.__lt__)):
        learner = make_tuner(make_world("slem, memory-bound"))
        for _ in range(40):
            learner.begin_growth((False, 0, False))
            note = learner.judge_repeated(root, 4, 1)
            learner.add(
                (False, 0, False), False, 2, 0, 0.0, 0.0, 1.08, int(hit), note[0], True, [(note[1], hit)], [], []
            )
        assert compare(float(learner.judge_repeated(root, 4, 1)[0]), float(fresh[0]))


def between(points: dict[int, float]) -> Any:
    """Costs of so many rows, straight between those that are known."""
    known = sorted(points)

    def cost(rows: int) -> float:
        before = max((n for n in known[:-1] if n <= rows), default=known[0])
        after = known[known.index(before) + 1]
        return points[before] + (points[after] - points[before]) * (rows - before) / (after - before)

    return cost


# A pass of a target of 1B, beside one with one row, on two cores: bytes are read once for all rows, arithmetic is not.
TARGETS = {
    "q8_0": between({1: 1.0, 4: 1.02, 8: 1.04, 16: 1.14, 32: 1.95, 64: 3.77}),
    "q4_k_m": between({1: 1.0, 4: 1.12, 8: 1.28, 16: 2.01, 32: 3.62, 64: 6.93}),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["eagle, memory-bound", "slem, memory-bound"])
def test_texts_beside_others_against_the_best_fixed_arm(name: str, target: str) -> None:
    """Batches and trees want the same rows: the fewer texts, the more is drafted, and hardly slower than without."""
    costs = {**COSTS[name], "target": TARGETS[target]}
    known = traces(name)
    shares = []
    for count in (2, 4, 8, 16):
        texts = [known[i % len(known)] for i in range(count)]
        best, shape = best_together(World(**costs), texts, 40)
        passes = []
        for seed in range(3):
            world = World(**costs, random=random.Random(seed))
            tuner = make_tuner(world)
            for rows in (16, 32, 64):
                tuner.know_target(rows, world.target(rows))
            passes += itertools.islice(run_together(world, tuner, texts), 30, 110)
        found = sum(tokens for tokens, _, _ in passes) / sum(seconds for _, seconds, _ in passes)
        assert found > 0.93 * best, (count, shape, found / best)
        shares.append(sum(drafted for _, _, drafted in passes) / (count * len(passes)))
    assert shares[0] > 0.85  # of all texts of all passes: one tries first, and probes follow
    assert shares[-1] < 0.02
    assert shares == sorted(shares, reverse=True) or max(shares[2:]) < 0.02


def test_a_probe_is_made_by_one_text_of_a_pass() -> None:
    """It costs all of them."""
    name = "slem, memory-bound"
    costs = {**COSTS[name], "target": TARGETS["q4_k_m"]}
    world = World(**costs)
    tuner = make_tuner(world)
    texts = useless(traces(name))[:8]
    passes = list(itertools.islice(run_together(world, tuner, texts), 40, 200))
    drafted = [count for _, _, count in passes if count]
    assert drafted
    assert max(drafted) == 1


# Two cores without VNNI: arithmetic is the limit, so of eight texts no row is cheap, and a drafter's prompt is dear.
DEAR = {
    "target": between({1: 1.0, 4: 1.9, 8: 3.2, 16: 4.6, 64: 13.0, 128: 25.0}),
    "layers": line(0.11, 0.12),
    "head": line(0.03, 0.02),
}


def served(tuner: _testing.Tuner | None, world: World, prompt: int, length: int, clients: int = 8) -> list[Pass]:
    """Three texts of each client."""
    known = traces("slem, memory-bound")
    texts = [known[i % len(known)] for i in range(3 * clients)]
    return list(run_served(world, tuner, texts, clients, prompt, length))


def speed(passes: list[Pass]) -> float:
    return sum(one.tokens for one in passes) / sum(one.seconds for one in passes)


@pytest.mark.parametrize("prompt", [45, 500])
@pytest.mark.parametrize("known", ["nothing", "texts that were alone", "another process"])
def test_short_texts_of_many_clients_are_hardly_slower_for_a_drafter(known: str, prompt: int) -> None:
    """What its prompts take is not to be earned by short texts; it pays for one text at a time, and has to, for all."""
    plain = speed(served(None, World(**DEAR), prompt, 32))
    for seed in range(3):
        world = World(**DEAR, random=random.Random(seed))
        tuner = make_tuner(world)
        if known != "nothing":
            alone, _, drafted = rate(world, tuner, traces("slem, memory-bound"), seed)
            assert alone > 1.2 / world.target(1)
            assert drafted > 0.5
        if known == "another process":
            after = fresh_tuner(world)
            assert after.restore(tuner.numbers())
            tuner = after
        tuner.join(8, 7)
        passes = served(tuner, world, prompt, 32)
        assert speed(passes) > 0.97 * plain
        assert sum(one.drafted for one in passes) < 0.05 * sum(one.tokens for one in passes)
        assert max(one.read for one in passes) <= BESIDE


def test_long_texts_of_two_clients_are_drafted_for_all_their_prompts() -> None:
    """In pieces, none of which keeps the other text waiting."""
    costs = {**DEAR, "target": TARGETS["q8_0"]}
    plain = speed(served(None, World(**costs), 300, 160, 2))
    for seed in range(3):
        world = World(**costs, random=random.Random(seed))
        tuner = make_tuner(world)
        tuner.join(2, 1)
        passes = served(tuner, world, 300, 160, 2)
        assert speed(passes) > 1.15 * plain
        assert max(one.drafted for one in passes) == 2
        assert 0 < max(one.read for one in passes) <= BESIDE


def test_what_is_read_for_a_draft_is_to_be_earned() -> None:
    """By the tokens that are left; where there are many, it is read in pieces first."""
    world = make_world("slem, memory-bound")
    tuner = make_tuner(world)
    rate(world, tuner, traces("slem, memory-bound"))
    assert tuner.choice()["drafts"]

    def planned(unread: int, left: int, piece: int = 1 << 20, written: int = 0) -> tuple[bool, int]:
        plan, reads = tuner.next(True, unread, left=left, written=written, piece=piece)
        return plan[0], reads

    assert planned(3, 1) == (True, 0)
    assert planned(2000, 8) == (False, 0)
    assert planned(2000, 1 << 20, written=4000) == (True, 0)
    assert planned(2000, 1 << 20, written=4000, piece=64) == (False, 64)
    assert planned(64, 1 << 20, piece=64) == (True, 0)
    # A text that may go on for ever is not expected to.
    assert planned(20_000, 1 << 20) == (False, 0)


def test_trees_are_smaller_among_others() -> None:
    """A row more costs more where others have filled the cheap ones, and a second is worth the tokens of all."""
    tuner = _testing.Tuner([("full", "", 0.0, 0.0)], True, 16, lambda: 0.0)
    for rows in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(8):
            tuner.know_target(rows, 1.0 if rows <= 4 else 1.0 + 0.1 * (rows - 4))
    tuner.begin_growth((True, 0, False))
    chances = [0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    alone = tuner.size(chances)
    sizes = []
    for texts in (2, 4, 8, 16):
        tuner.set_pass(texts, texts - 1)
        sizes.append(tuner.size(chances))
    assert alone >= sizes[0] > sizes[1] > sizes[2] > sizes[3]
    # Beside a prompt that fills the pass anyhow, a second is worth the tokens of a few.
    tuner.set_pass(2, 65)
    assert tuner.size(chances) > sizes[1]


def test_limits_of_drafts() -> None:
    """None where there are fewer than the least, unless no more are allowed; else as many as are."""
    for nodes, most, least, room in itertools.product(range(7), range(-1, 6), range(6), range(5)):
        allowed = min(nodes, room) if most < 0 else min(nodes, room, most)
        is_too_small = nodes < least and allowed == nodes and nodes < (room if most < 0 else min(most, room))
        assert _testing.drafts_within(nodes, most, least, room) == (0 if is_too_small else allowed)


def test_a_part_of_a_tree_may_be_small() -> None:
    """The least is asked of the whole tree, of which a drafter beside n-grams makes a part."""
    tuner = _testing.Tuner([("full", "", 0.0, 0.0)], True, 4, lambda: 0.0)
    tuner.rehearse([1])  # all are wanted
    assert tuner.size_within([0.9, 0.5], -1, 3, 0.0) == 2
    assert tuner.size_within([0.9, 0.5, 0.4], 2, 3, 0.0) == 2
    assert tuner.size_within([0.9, 0.5, 0.4], -1, 0, 0.45) == 2


NOISES: dict[str, Any] = {
    "even": lambda r: r.gauss(1.0, 0.1),
    "sometimes slower": lambda r: 1.6 if r.random() < 0.3 else 1.0,
    "one-sided": lambda r: 1.0 + r.expovariate(5.0),
    "rarely much slower": lambda r: 3.0 if r.random() < 0.05 else 1.0,
    "a clock that jumps": lambda r: 0.001 if r.random() < 0.002 else r.uniform(0.95, 1.05),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("noise", NOISES)
def test_costs_stay_what_they_are_however_noisy_passes_are(noise: str, whole: bool) -> None:
    """For hours of passes; of sizes that come often and such that come rarely."""
    lucky = random.Random(3)
    costs = _testing.RowCosts(0.0, 0.1, whole)
    sizes = [1, 4, 4, 8]
    errors = []
    for step in range(200_000):
        rows = 16 if step % 100 == 0 else 12 if step % 37 == 0 else sizes[step % 4]
        costs.add(rows, (0.010 + 0.001 * rows) * max(1e-6, NOISES[noise](lucky)))
        if step > 200 and step % 50 == 0:
            errors += [costs(rows) / (0.010 + 0.001 * rows) for rows in (1, 4, 8, 12, 16)]
    usual = statistics.median(errors)
    assert 0.85 < usual < 1.3
    near = sum(0.7 < error / usual < 1.4 for error in errors)
    assert near > 0.95 * len(errors)


TRUE = {1: 1.0, 2: 1.2, 3: 1.4, 4: 1.6, 8: 2.6}


def known_costs(*sizes: int, passes: int = 20, whole: bool = True) -> _testing.RowCosts:
    """What passes of these sizes have shown, by turns."""
    costs = _testing.RowCosts(0.0, 0.1, whole)
    for _ in range(passes):
        for rows in sizes:
            costs.add(rows, TRUE[rows])
    return costs


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("wrong", [1e-3, 0.2, 5.0, 60.0])
@pytest.mark.parametrize("at", range(5))
def test_one_wrong_pass_of_a_size_is_soon_forgotten(at: int, wrong: float, whole: bool) -> None:
    """Among the first ones, too; and the sizes around it are what they were."""
    costs = known_costs(1, 2, 8, whole=whole)
    for visit in range(at + 10):
        costs.add(4, wrong if visit == at else TRUE[4])
        for rows in (1, 2, 1):
            costs.add(rows, TRUE[rows])
        if visit > at:
            assert costs(1) == pytest.approx(TRUE[1], rel=0.1), visit
            assert costs(2) == pytest.approx(TRUE[2], rel=0.15), visit
    assert costs(4) == pytest.approx(TRUE[4], rel=0.2)
    assert costs(8) == pytest.approx(TRUE[8], rel=0.1)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_a_machine_that_changes_its_speed_when_a_size_comes_first(factor: float) -> None:
    """The size is not blamed: what a row more costs beside the others stays."""
    costs = known_costs(1, 2, 8)
    costs.add(4, factor * TRUE[4])
    for _ in range(30):
        for rows in (1, 2):
            costs.add(rows, factor * TRUE[rows])
    for rows in (1, 2, 8):
        assert costs(rows) == pytest.approx(factor * TRUE[rows], rel=0.1)
    assert costs(2) <= costs(4) <= 1.1 * factor * TRUE[4]


def test_one_disturbed_pass_leaves_the_others_as_they_were() -> None:
    costs = known_costs(1, 2, 4, 8)
    before = {rows: costs(rows) / costs(1) for rows in (2, 4, 8)}
    costs.add(2, 3.0 * TRUE[2])
    for rows, share in before.items():
        assert costs(rows) / costs(1) == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_size_that_costs_something_else_is_learned(factor: float, whole: bool) -> None:
    """Alone: the others stay."""
    costs = known_costs(1, 2, 4, 8, passes=40, whole=whole)
    for _ in range(40):
        for rows in (1, 2, 1, 8):
            costs.add(rows, TRUE[rows] * (factor if rows == 8 else 1.0))
    assert costs(8) == pytest.approx(factor * TRUE[8], rel=0.2)
    assert costs(1) == pytest.approx(TRUE[1], rel=0.1)


def test_restored_costs_are_what_was_kept() -> None:
    costs = known_costs(1, 2, 4, 8)
    after = _testing.RowCosts()
    after.restore(costs.numbers())
    for rows in range(1, 17):
        assert after(rows) == pytest.approx(costs(rows), rel=0.1)
    numbers = costs.numbers()
    for seconds in (0.0, -1.0, 1e-9, 1e9, float("nan"), float("inf")):
        strange = [seconds, 5.0, *numbers[2:]]  # one row
        after.restore(strange)
        assert after(2) == pytest.approx(costs(2), rel=0.1)
        assert 0.0 < after(1) <= after(2)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_no_time_at_all_tells_nothing(seconds: float) -> None:
    costs = known_costs(1, 2)
    before = costs(1), costs(2), costs.numbers()
    costs.add(1, seconds)
    costs.add(4, seconds)
    assert (costs(1), costs(2), costs.numbers()) == before


def test_rows_of_a_pass_that_may_take_so_long() -> None:
    costs = _testing.RowCosts()
    assert not costs.is_known_up_to(1000)
    costs.add(16, 0.026)
    assert costs.is_known_up_to(16)
    assert not costs.is_known_up_to(15)
    for _ in range(20):
        for rows in (1, 2, 8, 16, 64, 128):
            costs.add(rows, 0.010 + 0.001 * rows)
    assert costs.rows_within(0.050, 1, 512) in (39, 40, 41)
    assert costs.rows_within(0.001, 16, 512) == 16
    assert costs.rows_within(9.0, 16, 512) == 512
    assert costs.rows_within(0.050, 48, 512) == 48
    assert costs.rows_within(9.0, 20, 20) == 20
