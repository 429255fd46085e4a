"""Fixtures for all tests. The tests see the installed package; data that is not shipped may be absent."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import fast_gguf
import narrow_types
import pytest
from covering import covering

ROOT = Path(__file__).resolve().parent.parent

# Before a worker takes one of them.
PROCESSORS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()

# What one test makes a tuner learn is nothing for another, nor for the user.
os.environ["FRSPEC_TUNING_CACHE"] = "off"

fast_gguf.install()
narrow_types.install()


def shared_folder() -> Path:
    """Where test data outside the repository lies: FRSPEC_SHARED, or `shared` beside the clone."""
    return Path(os.environ.get("FRSPEC_SHARED", ROOT.parent / "shared"))


def pytest_configure() -> None:
    """Workers side by side have a processor each: threads that wait for one another would take turns otherwise."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker:
        gc.disable()  # until tests are collected
    if worker and hasattr(os, "sched_setaffinity"):
        all_of_them = sorted(PROCESSORS)
        os.sched_setaffinity(0, {all_of_them[int(worker) % len(all_of_them)]})


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A repetition does not read files without tests of it: what they import takes longer than what is repeated."""
    wanted = config.getoption("markexpr")
    if wanted not in ("every_device", "every_isa") or not collection_path.match("test_*.py"):
        return None
    return True if wanted not in collection_path.read_text(encoding="utf-8") else None


def case_of(item: pytest.Item) -> dict[str, str]:
    """What the parameters of a test are, those of one decorator together."""
    values = dict(item.callspec.params)
    case = {}
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        case[",".join(names)] = repr([values.pop(name.strip()) for name in names])
    return case | {name: repr(value) for name, value in values.items()}


def thin_out(items: list[pytest.Item], strength: Callable[[pytest.Item], int]) -> None:
    """Leaves of each parametrized test what covers its parameters; where the strength is 0, everything."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if getattr(item, "callspec", None) is not None and strength(item):
            tests[item.nodeid.split("[")[0]].append(item)
    dropped: set[pytest.Item] = set()
    for cases in tests.values():
        kept = covering([case_of(case) for case in cases], strength(cases[0]))
        dropped |= {case for number, case in enumerate(cases) if number not in kept}
    items[:] = [item for item in items if item not in dropped]


def pytest_collection_finish() -> None:
    """What tests import, and what they are, stays to the end: the collector need not look at it again and again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)  # of what -m has left
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``pairwise`` the cases are run that show all pairs of values.

    A repetition, on another device or under another instruction set, shows every value once, and leaves out what more
    threads do: that is the same there. On another device, tests of the CPU are skipped, too.
    """
    from frspec_cpp import _core

    device = _core.default_device()
    repeated = device != "cpu" or bool(os.environ.get("FRSPEC_CPU"))
    if repeated:
        items[:] = [
            item
            for item in items
            if getattr(item, "callspec", None) is None or item.callspec.params.get("n_threads", 1) == 1
        ]
    if os.environ.get("FRSPEC_TEST_CASES") != "all":
        thin_out(items, lambda item: 1 if repeated else 2 if item.get_closest_marker("pairwise") else 0)
    for item in items if device != "cpu" else []:
        if item.get_closest_marker("cpu_only"):
            item.add_marker(pytest.mark.skip(reason=f"about the CPU; FRSPEC_DEVICE is {device}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the shared test data; a test that needs it is skipped where it is absent."""
    folder = shared_folder()
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared test data at {folder} (FRSPEC_SHARED sets another place)")
    return folder


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """Finds a real model by its file's name in FRSPEC_REAL_MODELS or the user's cache; skips where it is absent."""
    folder = Path(os.environ.get("FRSPEC_REAL_MODELS", Path.home() / ".cache" / "frspec-real-models"))

    def find(name: str) -> Path:
        if not (folder / name).is_file():
            pytest.skip(f"no {name} in {folder} (FRSPEC_REAL_MODELS sets another place)")
        return folder / name

    return find


@pytest.fixture(scope="session")
def demo_target() -> Path:
    """The target of the demo pair, as installed with the package."""
    import frspec_cpp

    return Path(frspec_cpp.demo_paths()[0])


@pytest.fixture(scope="session")
def demo_drafter() -> Path:
    """An EAGLE-2 drafter for the demo pair's target."""
    return ROOT / "tests" / "data" / "demo-eagle2.gguf"


@pytest.fixture(scope="session")
def demo_drafters(demo_drafter: Path) -> dict[str, Path]:
    """Both EAGLE drafters for the demo pair's target."""
    import frspec_cpp

    return {"eagle2": demo_drafter, "eagle3": Path(frspec_cpp.demo_paths()[1])}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as in a terminal, and does in child processes what they choose.

    A runner may ignore the signal (nohup, a job in the background), and children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


@pytest.fixture(autouse=True)
def every_processor(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests marked ``threads`` have all processors, whatever their worker has."""
    if not request.node.get_closest_marker("threads") or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, PROCESSORS)
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(autouse=True)
def same_random_seeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text whose seed is not given is the same in each run of a test, as far as this process chooses the seed.

    Tests marked ``random_seeds`` have those that users get.
    """
    from frspec_cpp import options

    if not request.node.get_closest_marker("random_seeds"):
        source = random.Random(request.node.nodeid)
        monkeypatch.setattr(options, "random_seed", lambda: source.getrandbits(32))


@pytest.fixture(autouse=True)
def no_drafter_fails_silently(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A drafter that throws leaves the text what it is, so equality alone would not tell."""
    from frspec_cpp.generation import Stats

    errors: list[str] = []
    read = Stats.from_native.__func__

    def from_native(cls: type[Stats], native: object) -> Stats:
        stats: Stats = read(cls, native)
        if stats.drafter_error:
            errors.append(stats.drafter_error)
        return stats

    monkeypatch.setattr(Stats, "from_native", classmethod(from_native))
    yield
    assert not errors
