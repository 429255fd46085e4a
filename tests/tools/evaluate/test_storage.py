"""The folder of an evaluation: lines that are whole or not there, one run at a time, nothing overwritten."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
from evaluations import make_manifest
from frspec_cpp.tools.evaluate.records import FORMAT, Failure, Method, Prompt, Run
from frspec_cpp.tools.evaluate.storage import (
    Results,
    check_same,
    locked,
    read_failure,
    read_manifest,
    read_runs,
    remove_failure,
    write_failure,
    write_manifest,
)

from frspec_cpp import Step

STEP = Step([5, 6], 1, 8, [7], None, 0.1, 0.2, 0.3, 0.7)
RUNS = [
    Run(
        "plain",
        0,
        0,
        2,
        1,
        1,
        0,
        0.1,
        0.0,
        0.2,
        0.3,
        "stop",
        [5, 6],
        ["\u00e9\n", "\U0001f30a"],
        [STEP],
        {"7": "\ufffd"},
    ),
    Run("peer", 0, 1, 2, None, None, None, None, None, None, 0.3, "length"),
    Run("plain", 1, 2, 3, 1, 1, 0, 0.1, 0.0, 0.2, 0.3, "length"),
]


def fill(folder: Path) -> None:
    results = Results(folder)
    for run in RUNS:
        results.append(run)
    results.close()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_runs(tmp_path) == []
    fill(tmp_path)
    assert read_runs(tmp_path) == RUNS
    manifest = make_manifest(["plain", "peer"], [Prompt(0, "a:1", "a", 5, 0, 1, "\u00e9")])
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_a_file_that_was_cut_anywhere_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # some thousand times
    fill(tmp_path)
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert read_runs(tmp_path) == RUNS[:kept]
        results = Results(tmp_path)
        for run in RUNS[kept:]:
            results.append(run)
        results.close()
        assert path.read_bytes() == whole


def test_a_full_disk_leaves_nothing_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    results = Results(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
    with pytest.raises(OSError, match="disk is full"):
        results.append(RUNS[0])
    monkeypatch.undo()
    results.append(RUNS[0])
    results.close()
    assert read_runs(tmp_path) == [*RUNS, RUNS[0]]


@pytest.mark.parametrize("line", [b"{}", b"not JSON", b"[1]", b'{"method": "plain"}'])
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes) -> None:
    fill(tmp_path)
    path = tmp_path / "results.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + b"".join(rest))
    with pytest.raises(ValueError, match=r"results\.jsonl: line 2: found .* expected a result of frspec-eval"):
        read_runs(tmp_path)


def test_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path)
    for content in ("", "[]", '{"version": "0"}', '{"methods": [{"no": 1}], "prompts": []}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run\.json: not what frspec-eval writes"):
            read_manifest(tmp_path)


@pytest.mark.parametrize("version", [1, 99, "2", None])
def test_another_version_is_refused(tmp_path: Path, version: object) -> None:
    manifest = make_manifest(["plain"], [])
    write_manifest(tmp_path, dataclasses.replace(manifest, identity={"format": version}))
    with pytest.raises(ValueError, match=rf"run\.json: identity\.format: found .* {FORMAT}: .*another version"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("total_seconds", "0.3", "total_seconds: found '0.3', expected float"),
        ("total_seconds", math.nan, "found NaN, expected a finite number"),
        ("draft_seconds", [], r"draft_seconds: found \[\], expected float"),
        ("prompt", 0.0, "prompt: found 0.0, expected int"),
        ("generated", True, "generated: found True, expected int"),
        ("method", None, "method: found None, expected str"),
        ("tokens", [5, "6"], "tokens: found '6', expected int"),
        ("said", {"7": 7}, r"said\.7: found 7, expected str"),
        ("trace", [{"tokens": []}], r"found no key 'trace\.accepted'"),
        ("more", 1, "found an unknown key 'more'"),
    ],
)
def test_values_of_a_wrong_type_are_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    line = json.dumps({**dataclasses.asdict(RUNS[0]), key: value})
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=rf"results\.jsonl: line 1: found .* expected a result .*{message}"):
        read_runs(tmp_path)


def test_nothing_that_is_no_number_is_written(tmp_path: Path) -> None:
    manifest = make_manifest(["plain"], [])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(tmp_path, dataclasses.replace(manifest, settings={"temperature": math.nan}))
    results = Results(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.append(dataclasses.replace(RUNS[0], total_seconds=math.inf))
    results.close()
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]
    assert read_runs(tmp_path) == []


def test_a_failure_is_kept_and_removed(tmp_path: Path) -> None:
    assert read_failure(tmp_path) is None
    failure = Failure("eagle2", 0, "a:1", 1, 3, 5, None, "\u00e9")
    write_failure(tmp_path, failure)
    assert read_failure(tmp_path) == failure
    assert [path.name for path in tmp_path.iterdir()] == ["failed.json"]
    # Alone it is a part of a folder that something is missing from; beside run.json it belongs there.
    with pytest.raises(ValueError, match=r"found 'failed\.json' and no run\.json"), locked(tmp_path):
        pass
    write_manifest(tmp_path, make_manifest(["plain"], []))
    with locked(tmp_path):
        remove_failure(tmp_path)
        remove_failure(tmp_path)
    assert read_failure(tmp_path) is None
    (tmp_path / "failed.json").write_text('{"method": "plain"}')
    with pytest.raises(ValueError, match=r"failed\.json: not what frspec-eval writes: found no key 'prompt'"):
        read_failure(tmp_path)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(RuntimeError, match="another frspec-eval is writing")
    with locked(tmp_path / "new"), refused, locked(tmp_path / "new"):
        pass
    with locked(tmp_path / "new"):
        pass


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(ValueError, match=r"found 'report\.md' and no run\.json"), locked(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md"]
    file = tmp_path / "report.md"
    with pytest.raises(NotADirectoryError), locked(file):
        pass
    assert file.read_text() == "mine"


def test_another_runs_results_are_named(tmp_path: Path) -> None:
    manifest = make_manifest(["plain"], [])
    same = {"format": FORMAT, "settings": {"seed": 1}, "files": {"target.gguf": {"size": 1}}}
    check_same(tmp_path, manifest, same)
    for wanted, difference in (
        ({"settings": {"seed": 2}, "files": {"target.gguf": {"size": 1}}}, "settings.seed: found 1, now 2"),
        ({"settings": {"seed": 1}, "files": {"target.gguf": {"size": 2}}}, "files.target.gguf.size: found 1, now 2"),
        ({"settings": {"seed": 1}, "files": {}}, 'files.target.gguf: found {"size": 1}, now null'),
    ):
        with pytest.raises(ValueError, match="another run") as caught:
            check_same(tmp_path, manifest, {"format": FORMAT, **wanted})
        assert difference in str(caught.value)
        assert "nothing was changed" in str(caught.value)
    methods = dataclasses.replace(manifest, identity={"methods": [dataclasses.asdict(Method("plain", "plain"))]})
    with pytest.raises(ValueError, match=r"methods: found 1: plain, now 2: plain, ngram"):
        check_same(tmp_path, methods, {"methods": [dataclasses.asdict(Method(n, n)) for n in ("plain", "ngram")]})
