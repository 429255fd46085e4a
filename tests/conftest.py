"""Fixtures for all tests. The tests see the installed package; data that is not shipped may be absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What one test makes a tuner learn is nothing for another, nor for the user.
os.environ["FRSPEC_TUNING_CACHE"] = "off"


def shared_folder() -> Path:
    """Where test data outside the repository lies: FRSPEC_SHARED, or `shared` beside the clone."""
    return Path(os.environ.get("FRSPEC_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``cpu_only`` are skipped where FRSPEC_DEVICE names another device."""
    from frspec_cpp import _core

    device = _core.default_device()
    if device == "cpu":
        return
    for item in items:
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
    """The EAGLE-2 drafter of the demo pair, as installed with the package."""
    import frspec_cpp

    return Path(frspec_cpp.demo_paths()[0]).parent / "demo-eagle2.gguf"


@pytest.fixture(autouse=True)
def no_drafter_fails_silently(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A drafter that throws leaves the text what it is, so equality alone would not tell."""
    from frspec_cpp.generation import Stats

    errors: list[str] = []
    read = Stats.from_native.__func__  # type: ignore[attr-defined]

    def from_native(cls: type[Stats], native: object) -> Stats:
        stats: Stats = read(cls, native)
        if stats.drafter_error:
            errors.append(stats.drafter_error)
        return stats

    monkeypatch.setattr(Stats, "from_native", classmethod(from_native))
    yield
    assert not errors
