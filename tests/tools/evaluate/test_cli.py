"""frspec-eval on a tiny pair: a whole run, going on after an interruption, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluations import lines
from frspec_cpp.tools.evaluate import cli, engines, job, report
from frspec_cpp.tools.evaluate.peer_rows import PeerChoice, PeerOptions, PeerRow, drafted_rows
from frspec_cpp.tools.evaluate.prompts import Question
from frspec_cpp.tools.evaluate.records import Method
from frspec_cpp.tools.evaluate.storage import read_manifest, read_runs
from tiny_pair import TinyPair, make_tiny_pair

METHODS = "plain,eagle2,heads,ngram"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A tiny target and its EAGLE-2 drafter."""
    return make_tiny_pair(tmp_path_factory.mktemp("eval") / "pair")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories, one question with two turns."""
    path = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    rows = [
        {"id": 1, "category": "a", "turns": ["The river", "And the sea"]},
        {"id": 2, "category": "b", "text": "def f"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs alone are looked at."""
    monkeypatch.setattr(cli, "_report", lambda folder: None)


def call(pair: TinyPair, prompts: Path, output: Path, *more: str, methods: str = METHODS) -> int:
    return cli.main(
        ["-m", str(pair.target_gguf), "-d", str(pair.drafter_gguf), "--prompts", str(prompts), "-o", str(output),
         "--methods", methods, "--head", "contextual:60", "-n", "8", "--repeats", "2", "--tree-depth", "2",
         "--tree-branch", "3", "--tree-size", "8", "-t", "1", "-c", "256", "--ignore-eos", "-q", *more]
    )  # fmt: skip


def test_a_whole_run(
    pair: TinyPair, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "report"
    assert call(pair, prompts, folder) == 0
    manifest, runs = read_manifest(folder), read_runs(folder)
    names = ["plain", "eagle2", "contextual:60", "ngram"]
    assert [method.name for method in manifest.methods] == names
    assert [prompt.name for prompt in manifest.prompts] == ["mine.jsonl:1", "mine.jsonl:1 turn 2", "mine.jsonl:2"]
    assert all(prompt.tokens > 0 for prompt in manifest.prompts)
    assert {(run.method, run.prompt, run.repeat) for run in runs} == {
        (name, prompt, repeat) for name in names for prompt in range(3) for repeat in range(3)
    }
    for run in runs:
        assert run.generated == 8
        if run.repeat == 0:
            plain = next(one for one in runs if one.prompt == run.prompt and one.method == "plain" and one.repeat == 0)
            assert run.tokens == plain.tokens
            assert run.trace is not None
            assert sum(len(step.tokens) for step in run.trace) == run.step_tokens
            assert len(run.trace) == run.steps
            assert {str(token) for step in run.trace for token in step.offered} == set(run.said or {})
    assert manifest.settings["template"] is True
    assert manifest.machine["device"].startswith("cpu")
    for name in ("report.md", "report.json", "report.html"):
        assert (folder / name).is_file()
    shown = capsys.readouterr()
    for name in names:
        assert any(line.startswith(name + "  ") for line in shown.out.splitlines())
    assert "|" not in shown.out
    assert "report.html" in shown.err

    before = (folder / "results.jsonl").read_bytes()
    (folder / "report.md").unlink()
    monkeypatch.setattr(report, "draw_charts", lambda _: [])
    assert cli.main(["--report-only", "-o", str(folder)]) == 0
    assert (folder / "report.md").is_file()
    assert (folder / "results.jsonl").read_bytes() == before


def test_the_same_command_goes_on(
    pair: TinyPair, prompts: Path, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write = engines.OwnEngine.write
    left = [17]

    def interrupted(self: engines.OwnEngine, *arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return write(self, *arguments, **keywords)

    monkeypatch.setattr(engines.OwnEngine, "write", interrupted)
    assert call(pair, prompts, tmp_path / "r") == 130
    assert f"13 texts are in {tmp_path / 'r'}; the same command goes on" in capsys.readouterr().err  # 4 warmed up
    monkeypatch.undo()
    monkeypatch.setattr(cli, "_report", lambda folder: None)
    first = lines(tmp_path / "r")
    created = read_manifest(tmp_path / "r").created
    with (tmp_path / "r" / "results.jsonl").open("ab") as file:
        file.write(b'{"method":"pla')
    assert call(pair, prompts, tmp_path / "r") == 0
    assert lines(tmp_path / "r")[:13] == first
    assert len(lines(tmp_path / "r")) == 36
    assert read_manifest(tmp_path / "r").created == created

    monkeypatch.setattr(job, "Loader", None)  # nothing is loaded where nothing is missing
    assert call(pair, prompts, tmp_path / "r") == 0
    assert "every text is there already" in capsys.readouterr().err


def test_another_runs_results_stay(
    pair: TinyPair, prompts: Path, tmp_path: Path, no_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(pair, prompts, tmp_path, "--categories", "b") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for more, difference in (
        (["-s", "3"], "settings.seed: found 0, now 3"),
        (["-n", "9"], "settings.max_tokens: found 8, now 9"),
        (["--tree-size", "9"], "methods[1].settings.tree_size: found 8, now 9"),
        (["--categories", "a"], "prompts.hash: found"),
    ):
        options = ["--categories", "b", *more] if "--categories" not in more else more
        assert call(pair, prompts, tmp_path, *options) == 1
        assert difference in capsys.readouterr().err
    assert call(pair, prompts, tmp_path, "--categories", "b", methods="plain,heads") == 1
    assert "methods: found 4: plain, eagle2, contextual:60, ngram, now 2: plain" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_difference_ends_the_run(
    pair: TinyPair, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = engines.frspec_cpp.LLM.generate

    def wrong(self: Any, prompt: Any, **options: Any) -> Any:
        out = step(self, prompt, **options)
        if options.get("trace") and self.has_drafter:
            out.tokens[5] += 1
        return out

    monkeypatch.setattr(engines.frspec_cpp.LLM, "generate", wrong)
    monkeypatch.setattr(report, "draw_charts", lambda _: [])
    assert call(pair, prompts, tmp_path / "r") == 1
    message = capsys.readouterr().err
    assert "error: method '" in message
    assert "differs from plain decoding: prompt mine.jsonl:1, token 5 of the text (from 0): found" in message
    assert not (tmp_path / "r" / "report.md").exists()
    failure = json.loads((tmp_path / "r" / "failed.json").read_text())
    assert failure["message"] in message
    assert (failure["name"], failure["position"], failure["found"]) == (
        "mine.jsonl:1",
        5,
        failure["expected"] + 1,
    )
    assert cli.main(["--report-only", "-o", str(tmp_path / "r")]) == 0
    assert (tmp_path / "r" / "failed.json").exists()
    monkeypatch.undo()
    assert call(pair, prompts, tmp_path / "r") == 0
    assert not (tmp_path / "r" / "failed.json").exists()
    assert len(lines(tmp_path / "r")) == 36


def test_prompts_that_do_not_fit(
    pair: TinyPair, prompts: Path, tmp_path: Path, no_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both.jsonl"
    both.write_text(prompts.read_text() + json.dumps({"id": 3, "text": "word " * 400}) + "\n")
    assert call(pair, both, tmp_path / "r") == 0
    manifest = read_manifest(tmp_path / "r")
    assert list(manifest.left_out) == ["both.jsonl:3"]
    assert "expected at most 248" in manifest.left_out["both.jsonl:3"]
    assert "prompt both.jsonl:3 is left out" in capsys.readouterr().err
    assert len(manifest.prompts) == 3
    assert call(pair, both, tmp_path / "none", "-n", "255") == 1
    assert "none of 3 fits" in capsys.readouterr().err
    assert not (tmp_path / "none" / "run.json").exists()


def test_prompts_without_tokens_are_left_out_and_stay_out(
    pair: TinyPair, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"id": "none", "text": "nothing"}, {"id": "two", "turns": ["The river", "And the sea"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = job.PromptBuilder.tokens
    made: list[list[str]] = []

    def some(self: Any, turns: Any, answers: Any, system: str) -> list[int]:
        made.append(list(turns))
        return [] if turns[0] == "nothing" else tokens(self, turns, answers, system)

    monkeypatch.setattr(job.PromptBuilder, "tokens", some)
    folder = tmp_path / "r"
    assert call(pair, file, folder) == 0
    manifest, whole = read_manifest(folder), lines(folder)
    assert manifest.left_out == {"mine.jsonl:none": "found no tokens, expected at least one"}
    assert [(one.name, one.question, one.turn, one.text) for one in manifest.prompts] == [
        ("mine.jsonl:two", 1, 1, "The river"),
        ("mine.jsonl:two turn 2", 1, 2, "And the sea"),
    ]
    results = folder / "results.jsonl"
    results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:-1]))
    made.clear()
    assert call(pair, file, folder) == 0
    assert made == [["The river", "And the sea"]]
    assert len(lines(folder)) == len(whole)
    monkeypatch.setattr(job.PromptBuilder, "tokens", lambda *_: [])
    assert call(pair, file, tmp_path / "none") == 1
    assert not (tmp_path / "none" / "run.json").exists()


def test_long_prompts_keep_their_end() -> None:
    builder: Any = SimpleNamespace(tokens=lambda turns, answers, system: [1])
    texts = ("x" * 2000, "start" + "-" * 1998 + "end")
    prompts, _ = job._fit([Question("a", "a", texts)], builder, 10)
    assert [prompt.text for prompt in prompts] == [texts[0], "\u2026" + "-" * 1997 + "end"]


def rows_of_models(kind: str, choice: PeerChoice) -> list[PeerRow]:
    """As a peer has them that drafts with language models and is always there."""
    models = [drafter for drafter in choice.drafters if drafter.kind == "model"]
    return drafted_rows(Method(kind, kind), models, choice, "a language model", "n_max")


def call_peer(pair: TinyPair, prompts: Path, output: Path, drafters: Sequence[Path], *more: str) -> int:
    """Plain decoding, and a peer."""
    return cli.main(
        ["-m", str(pair.target_gguf), "-d", *map(str, drafters), "--prompts", str(prompts), "-o", str(output), "-q",
         "--methods", "plain", "--peers", "llama-server-draft", *more]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (["--draft-max", "3", "3"], "llama-server-draft n-max 3"),
        (["-d", "{0}", "{1}"], "llama-server-draft same"),
        (["--custom", "llama-server-draft="], "llama-server-draft"),
    ],
)
def test_peers_of_one_name(
    more: list[str], name: str, pair: TinyPair, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files = [tmp_path / folder / "same.gguf" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(pair.target_gguf, file)
    monkeypatch.setattr(job.peers, "peer_rows", rows_of_models)
    assert call_peer(pair, prompts, tmp_path / "r", files[:1], *(text.format(*files) for text in more)) == 1
    assert f"found two methods of the name '{name}', expected different names" in capsys.readouterr().err


def test_a_peer_drafts_with_its_own_file(
    pair: TinyPair, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with another one of the same name."""

    def loads(method: Method, options: PeerOptions, tokenizer: Any) -> None:
        raise RuntimeError(f"drafts with {options.drafter}")

    files = [tmp_path / folder / "same.gguf" for folder in ("a", "b")]
    for file, source in zip(files, (pair.drafter_gguf, pair.target_gguf), strict=True):
        file.parent.mkdir()
        shutil.copy(source, file)
    monkeypatch.setattr(job.peers, "peer_rows", rows_of_models)
    monkeypatch.setattr(job.peers, "load_peer", loads)
    assert call_peer(pair, prompts, tmp_path / "r", files) == 1
    assert f"drafts with {files[1]}" in capsys.readouterr().err


def test_absent_peers_are_skipped_by_name(
    pair: TinyPair, prompts: Path, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    reason = "the 'llama_cpp' package is not installed"
    monkeypatch.setattr(job.peers, "peer_rows", lambda kind, choice: reason)
    assert call(pair, prompts, tmp_path / "r", methods="plain,heads,llama.cpp") == 0
    assert read_manifest(tmp_path / "r").skipped == {"llama.cpp": reason}
    assert f"llama.cpp is skipped: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "eagle3"], "--methods eagle3: found drafter.gguf is an EAGLE-2 drafter"),
        (["--methods", "eagle9"], "found 'eagle9', expected some of plain"),
        (["--prompts", "spec-bench"], "nothing is downloaded"),
        (["--ranks", "no.gguf"], "--ranks no.gguf: found no such file"),
        (["-d", "no.gguf"], "no.gguf"),
        (
            ["--template", "never", "--methods", "transformers", "heads", "--hf-target", "no"],
            "--hf-target no: found no",
        ),
        (
            ["--draft-max", "3", "--methods", "heads"],
            "--draft-max: none of the methods uses it, expected some of llama-s",
        ),
        (["--peers", "transformers", "--hf-drafter", "no"], "--hf-drafter: none of the methods uses it, expected s"),
        (["--llama-server", "no"], "--llama-server: none of the methods uses it"),
        (["--head", "ranked:0", "--methods", "heads"], "method 'ranked:0': head: found 'ranked:0'"),
        (["--temp", "nan"], "temperature: found nan, expected a finite number"),
        (["--temp", "inf"], "temperature: found inf"),
        (["--top-p", "7", "--temp", "1"], "top_p: found 7"),
        (["--min-p", "-1", "--temp", "1"], "min_p: found -1"),
        (["--repeat-penalty", "0"], "repeat_penalty: found 0"),
        (["--presence-penalty", "nan"], "presence_penalty: found nan"),
        (["-s", str(2**64)], f"seed: found {2**64}"),
        (["-n", "1000000"], "none of 2 fits"),
        (["--methods", ","], "--methods: found no name, expected at least one"),
        (["--categories", ","], "--categories: found no name"),
        (["--head", ","], "--head: found no name"),
        (["--tree-size", "0"], None),
        (["--repeats", "0"], None),
    ],
)
def test_bad_options_write_nothing(
    pair: TinyPair, prompts: Path, tmp_path: Path, more: list[str], message: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if message is None:
        with pytest.raises(SystemExit):
            call(pair, prompts, tmp_path / "r", *more)
        return
    assert call(pair, prompts, tmp_path / "r", *more) == 1
    assert message in capsys.readouterr().err
    for name in ("run.json", "results.jsonl"):
        assert not (tmp_path / "r" / name).exists()


def test_the_report_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--report-only", "-o", str(tmp_path)]) == 1
    assert "run.json" in capsys.readouterr().err


def test_custom_methods_and_the_demo_pair(tmp_path: Path, no_report: None) -> None:
    command = ["--custom", "chain=demo,head=ranked:1024,tree_branch=1,tree_depth=2", "--categories", "questions"]
    assert cli.main([*command, "-n", "4", "--repeats", "1", "--warmup", "0", "-q", "-o", str(tmp_path / "r")]) == 0
    manifest = read_manifest(tmp_path / "r")
    assert [method.name for method in manifest.methods] == ["plain", "chain"]
    assert manifest.methods[1].drafter == "demo-eagle3.gguf"
    assert all(run.generated <= 4 for run in read_runs(tmp_path / "r"))
