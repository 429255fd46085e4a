"""`frspec bench` and `frspec_cpp.bench`. What it measures is not tested, only that it measures what it says."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.sketch import write_sketch
from processes import TIMEOUT, wait_for_handler
from qwen35 import write_hybrid
from reference_steps import write_vocabulary_ranks

import frspec_cpp
from frspec_cpp import Tokenizer

Runner = Callable[..., subprocess.CompletedProcess[bytes]]

QUICK = ["-p", "32", "-n", "4", "--n-verify", "1,16", "-r", "2", "--head", "full,ranked:2048"]
TESTS = ["pp32", "tg4", "verify 1", "verify 16", "draft level, full", "draft level, ranked:2048"]


@pytest.fixture(scope="module")
def report(run: Runner) -> dict[str, object]:
    result = run("bench", *QUICK, "-o", "json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_rows(report: dict[str, object], demo_target: Path) -> None:
    rows = {row["test"]: row for row in report["rows"]}  # type: ignore[attr-defined]
    assert list(rows) == TESTS
    assert [row["rows"] for row in rows.values()] == [32, 1, 1, 16, 10, 10]
    assert all(row["ms"] > 0 and row["floor_ms"] > 0 and row["gb_per_second"] > 0 for row in rows.values())
    for row in rows.values():
        assert row["tokens_per_second"] == pytest.approx(1e3 * row["rows"] / row["ms"])
        assert row["over_floor"] == pytest.approx(row["ms"] / row["floor_ms"])
        assert row["bound_by"] in ("memory", "arithmetic")
        assert row["gb_per_second"] == pytest.approx(row["bytes"] / row["ms"] / 1e6)
        assert row["share_of_bandwidth"] == pytest.approx(row["gb_per_second"] * 1e9 / row["bytes_per_second_then"])
    ceilings = report["ceilings"]
    assert isinstance(ceilings, dict)
    assert all(value > 1e8 for value in ceilings.values())
    assert "synthetic_acceptance" not in report


def test_bytes_and_operations(report: dict[str, object], demo_target: Path) -> None:
    """Those of the file's matrices, counted by hand, and of attention."""
    tensors = {t.name: t for t in gguf.GGUFReader(demo_target).tensors}
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    layers = [t for name, t in tensors.items() if name.startswith("blk.") and len(t.shape) == 2]
    size = sum(int(t.n_bytes) for t in [*layers, head])
    assert report["model_bytes"] == size
    of_layers = sum(int(t.n_elements) for t in layers)
    assert report["parameters"] == of_layers + int(head.n_elements)
    parts = {"Q4_K": int(head.n_bytes), "Q8_0": sum(int(t.n_bytes) for t in layers)}
    assert report["types"] == ", ".join(f"{name} {100 * part / size:.0f} %" for name, part in parts.items())
    rows = {row["test"]: row for row in report["rows"]}  # type: ignore[attr-defined]
    for name, passed, behind in [("verify 1", 1, 1), ("verify 16", 16, 16), ("pp32", 32, 1)]:
        products = of_layers * passed + int(head.n_elements) * behind
        assert size <= rows[name]["bytes"] < 1.05 * size
        assert products <= rows[name]["macs"] < 1.05 * products


def test_more_rows_read_more_experts(tmp_path: Path) -> None:
    """Of eight experts a row chooses three; several choose the same ones now and then."""
    path = tmp_path / "mixture.gguf"
    convert(make_checkpoint(tmp_path / "checkpoint", "qwen3moe"), path, "f16", quiet=True)
    layers = [t for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1 and t.name != "token_embd.weight"]
    experts = [t for t in layers if "_exps" in t.name]
    found = frspec_cpp.bench(path, n_prompt=[], n_gen=[], n_verify=[1, 5, 60], repetitions=1, progress=False)
    assert found["parameters"] == sum(int(t.n_elements) for t in layers)
    assert found["model_bytes"] == sum(int(t.n_bytes) for t in layers)
    one, *more = found["rows"]
    size, products = sum(int(t.n_bytes) for t in experts), sum(int(t.n_elements) for t in experts)
    rest = found["parameters"] - products
    for row in more:
        n = row["rows"]
        assert row["bytes"] - one["bytes"] == pytest.approx(size * (5 / 8 - (5 / 8) ** n))
        # Beside products, what attention does with a text of one token and half the nodes.
        attention = 2 * 2 * n * (1 + (n + 1) / 2) * 4 * 16
        assert row["macs"] == pytest.approx(n * (rest + 3 / 8 * products) + attention)


def test_machine_and_instruction_set(run: Runner, report: dict[str, object]) -> None:
    sets = frspec_cpp.cpu_instruction_sets()
    isa = os.environ.get("FRSPEC_CPU", sets[0])
    assert str(report["device"]).startswith(f"cpu ({isa}, ")
    assert report["machine"]
    quick = ("-p", "8", "-n", "", "--n-verify", "1", "-r", "1")
    refused = run("bench", *quick, environment={"FRSPEC_CPU": "abacus"})
    assert refused.returncode == 1
    assert b"FRSPEC_CPU" in refused.stderr
    # Without vectors the ceilings alone take many seconds.
    for other in [name for name in sets if name not in (isa, "generic", "amx-emulated")][:1]:
        assert f"cpu ({other}, ".encode() in run("bench", *quick, environment={"FRSPEC_CPU": other}).stdout


def test_markdown(run: Runner) -> None:
    result = run("bench", *QUICK, "-t", "1")
    text = result.stdout.decode()
    assert "1 thread)" in text
    assert "GB/s read" in text
    lines = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert lines == ["test", *TESTS]
    assert "synthetic" not in text


def test_csv(run: Runner) -> None:
    result = run("bench", *QUICK, "--synthetic-acceptance", "0.5", "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout.decode())))
    loops = ["loop, full", "loop, ranked:2048"]
    assert [row["test"] for row in rows] == [*TESTS[:5], loops[0], TESTS[5], loops[1]]
    for row in rows:
        assert None not in row  # as many cells as the header has
        assert None not in row.values()
        if row["test"] in loops:
            assert float(row["synthetic_acceptance"]) == 0.5
            assert float(row["accepted_length"]) > 1
            assert float(row["speedup"]) > 0
        else:
            assert row["synthetic_acceptance"] == ""
            assert float(row["gb_per_second"]) > 0


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 1.0, 1.0), (0.5, 1.7, 2.3), (1.0, 6.7, 7.0)])
def test_synthetic_acceptance(probability: float, low: float, high: float) -> None:
    """Accepted lengths follow the probability: a geometric series, cut off at the depth of the tree."""
    found = frspec_cpp.bench(
        n_prompt=[], n_gen=[96], n_verify=[], head="ranked:1024", repetitions=1,
        synthetic_acceptance=probability, tree_depth=5, tree_branch=1, tree_size=7, progress=False,
    )  # fmt: skip
    assert found["synthetic_acceptance"] == probability
    loop = found["rows"][-1]
    assert loop["test"] == "loop, ranked:1024"
    assert low <= loop["accepted_length"] <= high


def test_heads_that_use_different_files(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    """Each is given what it uses; a file that none of them uses is an error."""
    ranks, sketch = tmp_path / "ranks.gguf", tmp_path / "sketch.gguf"
    write_vocabulary_ranks(ranks, demo_target, np.random.default_rng(0).permutation(65536))
    factors = [np.random.default_rng(1).standard_normal(shape).astype(np.float32) for shape in ((32, 256), (65536, 32))]
    write_sketch(sketch, *factors, "q8_0", Tokenizer(str(demo_target)).fingerprint, "states", [])
    files: dict[str, Any] = {"ranks": ranks, "sketch": sketch}
    quick: dict[str, Any] = {"n_prompt": [], "n_gen": [], "n_verify": [], "repetitions": 1, "progress": False}
    heads = ["full", "ranked:2048", "speculated:512"]
    found = frspec_cpp.bench(demo_target, demo_drafter, head=heads, **files, **quick)
    assert [row["test"] for row in found["rows"]] == [f"draft level, {head}" for head in heads]
    with pytest.raises(ValueError, match=r"sketch\.gguf, and head 'ranked:2048', which uses none"):
        frspec_cpp.bench(demo_target, demo_drafter, head=heads[:2], **files, **quick)


def test_the_report_says_that_it_is_synthetic(run: Runner) -> None:
    result = run("bench", "-p", "", "-n", "8", "--n-verify", "", "-r", "1", "--synthetic-acceptance", "1")
    assert b"**The loops are synthetic**: a node's best child is accepted with probability 1.000" in result.stdout


def test_python_and_binary_report_the_same(report: dict[str, object]) -> None:
    progress: list[tuple[str, int, int]] = []
    found = frspec_cpp.bench(
        n_prompt=[32], n_gen=[4], n_verify=[1, 16], head=["full", "ranked:2048"], repetitions=2,
        progress=lambda *step: progress.append(step),
    )  # fmt: skip
    assert found.keys() == report.keys()
    for mine, theirs in zip(found["rows"], report["rows"], strict=True):  # type: ignore[call-overload]
        assert mine.keys() == theirs.keys()
        assert [mine[key] for key in ("test", "rows", "bytes", "macs")] == [
            theirs[key] for key in ("test", "rows", "bytes", "macs")
        ]
    tests = [step for step in progress if step[0] != "loading"]
    assert [step[1] for step in tests] == list(range(3 * len(TESTS)))
    assert {step[2] for step in tests} == {3 * len(TESTS)}
    assert list(dict.fromkeys(step[0] for step in tests)) == TESTS


def test_depth(demo_target: Path) -> None:
    """Context costs the reading of its keys and values; a q8_0 cache is a little more than half of f16's."""
    options = {"n_prompt": [], "n_gen": [], "n_verify": [1], "repetitions": 1, "progress": False}
    none = frspec_cpp.bench(demo_target, **options)["rows"][0]["bytes"]
    f16, q8_0 = (
        frspec_cpp.bench(demo_target, n_depth=1500, cache_type=kind, **options)["rows"][0]["bytes"] - none
        for kind in ("f16", "q8_0")
    )
    assert 0.5 * f16 < q8_0 < 0.56 * f16


def test_recurrent_layers(tmp_path: Path) -> None:
    """Their part of prompts and trees: a prompt of three passes reads the states thrice, and rows cost the same."""
    done: list[tuple[int, int]] = []
    found = frspec_cpp.bench(
        write_hybrid(tmp_path), n_prompt=[40], n_gen=[], n_verify=[4], n_batch=16, repetitions=1,
        progress=lambda *step: done.append(step[1:]),
    )  # fmt: skip
    rows = {row["test"]: row for row in found["rows"]}
    assert list(rows) == ["pp40", "delta rule pp40", "verify 4", "delta rule 4"]
    assert done[-1] == (7, 8)
    prompt, tree = rows["delta rule pp40"], rows["delta rule 4"]
    layers, window, matrices = 2, 3 * (2 + 2 + 6) * 32, 6 * 32 * 32
    assert tree["bytes"] == layers * 4 * (window + matrices)
    assert (prompt["bytes"], prompt["macs"]) == (3 * tree["bytes"], 10 * tree["macs"])
    assert prompt["share_of_pass"] == pytest.approx(prompt["ms"] / rows["pp40"]["ms"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "0"], "prompt tokens: found 0, expected 1 to"),
        (["-p", "x"], 'found "x", expected a whole number'),
        (["-p", "8,,9"], "found"),
        (["--n-verify", "5000"], "tree nodes: found 5000, expected 1 to 4096"),
        (["-r", "0"], "repetitions: found 0"),
        (["--n-depth", "-1"], "found -1"),
        (["-o", "xml"], 'output format: found "xml", expected md, csv or json'),
        (["--head", "best"], "head"),
        (["--cache-type", "q4_0"], "found 'q4_0', expected f16, q8_0 or f32"),
        (["--synthetic-acceptance", "1.5"], "synthetic acceptance: found 1.5, expected 0 to 1"),
        (["--ranks", "nowhere.gguf"], "full"),
    ],
)
def test_errors(run: Runner, arguments: list[str], message: str) -> None:
    result = run("bench", *arguments)
    assert result.returncode == 1
    assert result.stdout == b""
    assert message in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1


def test_errors_without_a_drafter(run: Runner, demo_target: Path) -> None:
    for arguments in (["--synthetic-acceptance", "0.5"], ["--head", "ranked:100"]):
        result = run("bench", "-m", str(demo_target), *arguments)
        assert result.returncode == 1
        assert b"there is no drafter" in result.stderr


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_binary(binary: str) -> None:
    command = [binary, "bench", "-r", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_handler(process)
        time.sleep(0.5)  # perhaps it loads, perhaps it measures
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out, err) == (130, b"", b"frspec: interrupted\n")


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_python_function() -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        frspec_cpp.bench(repetitions=1, progress=interrupt)
