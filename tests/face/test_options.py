"""One table of options: what the binary, Python, the server and the docs make of it is the same."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frspec_cpp import LLM, EngineOptions, GgufFile, Options, _core, option_table
from frspec_cpp.option_table import DEFAULTS, ENGINE_DEFAULTS, ENGINE_OPTIONS, OPTIONS, ROWS

Runner = Callable[..., subprocess.CompletedProcess[bytes]]


def test_the_page_is_up_to_date() -> None:
    """The page says how it is written."""
    page = Path(__file__).parents[2] / "docs" / "options.md"
    assert page.read_text(encoding="utf-8") == option_table.page()


def test_names_and_flags_are_unique() -> None:
    names = [row["name"] for row in OPTIONS + ENGINE_OPTIONS]
    flags = [flag for row in OPTIONS + ENGINE_OPTIONS for flag in row["flags"].split(", ") if flag]
    assert len(names) == len(set(names)) == len(ROWS)
    assert len(flags) == len(set(flags))


def test_defaults() -> None:
    """llama.cpp's, but for the temperature."""
    assert DEFAULTS["temperature"] == 0.0
    assert (DEFAULTS["top_k"], DEFAULTS["top_p"], DEFAULTS["min_p"]) == (40, 0.95, 0.05)
    assert (DEFAULTS["seed"], DEFAULTS["draft"], DEFAULTS["stop"], DEFAULTS["reuse"]) == (0, "auto", None, True)
    assert (ENGINE_DEFAULTS["head"], ENGINE_DEFAULTS["ngram"], ENGINE_DEFAULTS["n_batch"]) == ("auto", None, 512)
    assert (ENGINE_DEFAULTS["cache_type"], ENGINE_DEFAULTS["use_mmap"]) == ("f16", True)


def test_python_shows_all_of_it() -> None:
    for function, kinds, defaults in ((LLM.generate, Options, DEFAULTS), (LLM, EngineOptions, ENGINE_DEFAULTS)):
        parameters = inspect.signature(function).parameters
        assert set(kinds.__annotations__) == set(defaults)
        for name, value in defaults.items():
            assert parameters[name].default == value
            assert ROWS[name]["type"] == parameters[name].annotation
            assert name + ":" in (kinds.__doc__ or "")


def test_the_binary_shows_all_of_it(run: Runner) -> None:
    shown = " ".join(run("generate", "--help-all").stdout.decode().split())
    for row in OPTIONS + ENGINE_OPTIONS:
        usual = row["none"] or row["default"]
        if not row["flags"] or row["name"] in SERVING:
            continue
        assert row["flags"] + (f" {row['value']} " if row["value"] else " ") + row["help"] in shown
        if row["value"] and usual not in (None, ""):
            number = f"{usual:g}" if isinstance(usual, float) else usual
            assert f"{row['help']}; default: {number}" in shown


def test_the_server_takes_what_an_engine_takes() -> None:
    cli = pytest.importorskip("frspec_cpp.server.cli")
    shown = cli._parser().format_help()
    for row in ENGINE_OPTIONS:
        assert all(flag in shown for flag in row["flags"].split(", "))


# What is about several texts is the server's and Python's: the binary writes one.
SERVING = ("n_parallel", "kv_memory", "step_ms")
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"n_ctx": "8"}, TypeError, "n_ctx: found '8' of type str, expected an int or None"),
    ({"head": 5}, TypeError, "head: found 5 of type int, expected a str"),
    ({"use_mmap": 2}, TypeError, "use_mmap: found 2 of type int, expected a bool"),
    ({"rope_freq_base": "high"}, TypeError, "rope_freq_base: found 'high' of type str, expected a number"),
    ({"ranks": 3}, TypeError, "ranks: found 3 of type int, expected a path or None"),
    ({"cache_type": None}, TypeError, "cache_type: found None of type NoneType, expected a str"),
    ({"n_batch": None}, TypeError, "n_batch: found None of type NoneType, expected an int"),
    ({"step_ms": -1}, ValueError, "step_ms: found -1, expected at least 0"),
    ({"kv_memory": "4 parsecs"}, ValueError, 'kv_memory: found "4 parsecs", expected an amount of memory, as 4GiB'),
    ({"kv_memory": "nan"}, ValueError, 'kv_memory: found "nan"'),
    ({"kv_memory": "-5"}, ValueError, 'kv_memory: found "-5"'),
    ({"kv_memory": "9999999TiB"}, ValueError, 'kv_memory: found "9999999TiB"'),
    ({"kv_memory": "1000TiB"}, MemoryError, "kv_memory: found 1000 TiB, for which the caches take 1000 TiB"),
    ({"kv_memory": "1K", "n_ctx": 512}, ValueError, "kv_memory: found 1.0 KiB, expected at least 1.7 MiB"),
    ({"cache_type": "q4_0"}, ValueError, "found 'q4_0', expected f16, q8_0 or f32"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=str)
def test_wrong_values(demo_target: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    for make in (LLM, _core.Engine):
        with pytest.raises(error) as caught:
            make(str(demo_target), **options)
        assert message in str(caught.value)


def test_unknown_names(demo_target: Path) -> None:
    with pytest.raises(TypeError, match=r"LLM: found an unknown keyword argument 'n_gpu_layers', expected one of head"):
        LLM(demo_target, n_gpu_layers=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="found an unknown keyword argument 'n_gpu_layers'"):
        _core.Engine(str(demo_target), n_gpu_layers=3)


def test_memory_for_keys_and_values(demo_target: Path) -> None:
    """Pages as many as it holds, in whatever way the amount is written."""
    keys = GgufFile(demo_target).metadata
    arch = keys["general.architecture"]
    heads = keys[f"{arch}.attention.head_count_kv"]
    wide = keys[f"{arch}.embedding_length"] // keys[f"{arch}.attention.head_count"]
    page = 64 * 2 * 2 * heads * wide * keys[f"{arch}.block_count"]  # keys and values of 64 tokens, two bytes each
    found = []
    for memory in (37 * page, str(37 * page), f"{37 * page / 1024} KiB", f"{37 * page / 2**20}M"):
        with LLM(demo_target, n_ctx=512, n_threads=1, kv_memory=memory) as llm:
            found.append(llm.pages[0])
    assert found == [37] * 4
    with pytest.raises(TypeError, match=r"kv_memory: found 1\.5"):
        LLM(demo_target, kv_memory=1.5)  # type: ignore[arg-type]
