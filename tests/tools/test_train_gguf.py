"""frspec-train from a GGUF file, on a tiny target: what is learned, written, resumed and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.train import continuations, gguf_job, loop, state_objective
from frspec_cpp.tools.train.cli import main
from frspec_cpp.tools.train.states_file import StateFormat, StatesFile
from safetensors.torch import load_file
from tiny_pair import make_sure_pair

import frspec_cpp
from frspec_cpp import _core

_WORDS = ["river", "snow", "mountain", "sea", "rain", "cloud", "wind", "stone", "tree", "bird", "night", "day", "light"]
_FAST = (
    *("--length", "160", "--max-new-tokens", "30", "--generate-tokens", "2500", "--tokens-per-batch", "256"),
    *("--eval-prompts", "2", "--eval-new-tokens", "12", "--dtype", "f32", "--threads", "1", "-q"),
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that is sure of itself, so that there is something to learn."""
    return make_sure_pair(tmp_path_factory.mktemp("train_gguf") / "pair", "q8_0").target_gguf


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty questions, some of them of two turns, some as messages."""
    rows: list[dict[str, Any]] = []
    for i in range(60):
        text = f"The {_WORDS[i % 13]} and the {_WORDS[(i * 5 + 3) % 13]}, {i}"
        rows.append({"prompt": text})
        if i % 20 == 7:
            rows[-1] = {"turns": [text, "And then?"]}
        if i % 20 == 9:
            messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
            rows[-1] = {"messages": messages}
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(target: Path, output: Path, *options: object, kind: str = "eagle3") -> int:
    return main([kind, str(target), "-o", str(output), *_FAST, *map(str, options)])


def log(output: Path, key: str) -> list[dict[str, Any]]:
    """The records of a run that hold `key`."""
    lines = (output.with_name(output.name + ".train") / "log.jsonl").read_text().splitlines()
    return [record for line in lines if key in (record := json.loads(line))]


@pytest.fixture(scope="module")
def eagle3(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    """A trained EAGLE-3 drafter."""
    output = tmp_path_factory.mktemp("eagle3") / "drafter.gguf"
    assert train(target, output, "--prompts", prompts, "--steps", 60, "--lr", "3e-3", "--save-every", 30) == 0
    return output


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than everything else together; those of `eagle3` are drawn."""
    monkeypatch.setattr(loop, "draw_curves", lambda *_: None)


def test_a_drafter_is_learned(eagle3: Path, target: Path) -> None:
    before, *_, after = log(eagle3, "acceptance")
    assert after["loss"][0] < 0.9 * before["loss"][0]
    assert after["acceptance"][0] > before["acceptance"][0] + 0.1
    assert after["accepted_length"]["chain_3"] > before["accepted_length"]["chain_3"] + 0.1
    assert after["accepted_length"]["tree_16"] >= after["accepted_length"]["chain_3"]
    assert [record["step"] for record in log(eagle3, "acceptance")] == [0, 30, 60]
    assert (eagle3.with_name("drafter.gguf.train") / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (phase,) = [record for record in log(eagle3, "phase") if record["phase"] == "states"]
    assert phase["generated"] >= 2400
    assert phase["read"] > phase["generated"]
    assert {"generated_per_second", "read_per_second", "seconds"} <= phase.keys()
    (speed,) = [record for record in log(eagle3, "phase") if record["phase"] == "speed"]
    assert min(speed["plain"], speed["drafted"]) > 0
    assert speed["accepted_length"] >= 1


def test_the_file_has_ranks_and_drafts(eagle3: Path, target: Path) -> None:
    drafted = frspec_cpp.LLM(target, drafter=eagle3, head="ranked:100", tree=(3, 2, 12))
    plain = frspec_cpp.LLM(target)
    text = drafted.generate("The river", max_tokens=30, draft=True, ignore_eos=True)
    assert text.stats.ranks == "drafter"
    assert text.tokens == plain.generate("The river", max_tokens=30, ignore_eos=True).tokens
    assert text.stats.accepted_length > 1.2
    metadata = _core.GgufFile(str(eagle3)).metadata
    assert metadata["general.name"] == "drafter"
    assert metadata["frspec.ranks.source"] == "written by target.gguf"
    assert metadata["frspec.ranks.tokens_counted"] >= 2000


def test_documents_are_what_the_engine_writes_and_its_states(eagle3: Path, target: Path, prompts: Path) -> None:
    folder = eagle3.with_name("drafter.gguf.train")
    info = json.loads((folder / "data" / "states.json").read_text())
    wanted = StateFormat(info["target"], tuple(info["layers"]), info["width"], info["best"])
    llm = frspec_cpp.LLM(target)
    asked = [json.loads(line) for line in prompts.read_text().splitlines()]
    starts = {tuple(llm.chat_prompt([{"role": "user", "content": row["prompt"]}])) for row in asked if "prompt" in row}
    starts |= {
        tuple(llm.chat_prompt([{"role": "user", "content": row["turns"][0]}])) for row in asked if "turns" in row
    }
    starts |= {tuple(llm.chat_prompt(row["messages"])) for row in asked if "messages" in row}
    engine = _core.Engine(str(target), taps=list(wanted.layers))
    lines = [json.loads(line) for line in (folder / "data" / "documents.jsonl").read_text().splitlines()]
    with StatesFile(folder / "data", wanted) as file:
        greedy = 0
        for line in lines[:40]:
            group = file.find(line["key"])
            assert group is not None
            for turn, document in enumerate(group.documents):
                records = file.read(document)
                tokens = records["token"].tolist()
                assert turn > 0 or tuple(tokens[: document.prompt]) in starts
                taps, best, _ = engine.forward_states(tokens, wanted.best)
                first = document.prompt - 1  # inside prompts nothing is learned
                assert np.array_equal(records["best"][first:], best[first:])
                assert (records["log_probs"][:first] == -np.inf).all()
                states = torch.from_numpy(records["states"].view(np.int16).copy()).view(torch.bfloat16).float().numpy()
                np.testing.assert_allclose(states, np.concatenate(taps, 1), rtol=4e-3, atol=1e-6)
                text = llm.generate(tokens[: document.prompt], max_tokens=30)
                greedy += text.tokens == tokens[document.prompt :]
        assert greedy >= 15  # the others were drawn
        assert any(len(line["documents"]) == 2 for line in lines)


@pytest.mark.parametrize("options", [("--draft-vocab", 90), ("--ffn", 24, "--samples", 120, "--thin", 0.4)])
def test_other_shapes(tmp_path: Path, target: Path, prompts: Path, eagle3: Path, options: tuple[Any, ...]) -> None:
    data = shutil.copytree(eagle3.with_name("drafter.gguf.train") / "data", tmp_path / "data")
    size = sum(file.stat().st_size for file in data.glob("*.bin"))
    output = tmp_path / "other.gguf"
    assert train(target, output, "--prompts", prompts, "--data", data, "--steps", 40, "--lr", "3e-3", *options) == 0
    assert sum(file.stat().st_size for file in data.glob("*.bin")) == size  # nothing was made anew
    before, *_, after = log(output, "acceptance")
    assert after["loss"][0] < 0.9 * before["loss"][0]
    assert after["accepted_length"]["chain_3"] > before["accepted_length"]["chain_3"]
    shapes = {name: tuple(t.shape) for name, t in load_file(tmp_path / "other.gguf.train/model.safetensors").items()}
    assert shapes["midlayer.mlp.up_proj.weight"] == ((24 if "--ffn" in options else 96), 64)
    assert shapes.get("lm_head.weight") == ((90, 64) if "--draft-vocab" in options else None)
    # Training goes on from its folder.
    same = options[2:] if "--ffn" in options else ()
    more = ("--prompts", prompts, "--data", data, "--drafter", tmp_path / "other.gguf.train", "--steps", 1, *same)
    assert train(target, tmp_path / "more.gguf", *more) == 0
    assert log(tmp_path / "more.gguf", "acceptance")[0]["loss"][0] == pytest.approx(after["loss"][0], rel=0.05)


def test_eagle2(tmp_path: Path, target: Path, prompts: Path) -> None:
    output = tmp_path / "drafter.gguf"
    assert train(target, output, "--prompts", prompts, "--steps", 24, "--lr", "3e-3", kind="eagle2") == 0
    before, after = log(output, "acceptance")
    assert after["loss"][0] < 0.9 * before["loss"][0]
    assert after["accepted_length"]["chain_3"] > before["accepted_length"]["chain_3"]


def test_specvocab(tmp_path: Path, target: Path, prompts: Path, eagle3: Path) -> None:
    folder = eagle3.with_name("drafter.gguf.train")
    data = shutil.copytree(folder / "data", tmp_path / "data")
    output = tmp_path / "sketch.gguf"
    options = ("--prompts", prompts, "--data", data, "--drafter", folder, "--steps", 30, "--lr", "2e-3", "--rank", 32)
    assert train(target, output, *options, kind="specvocab") == 0
    before, after = log(output, "coverage")
    assert all(b <= a for a, b in zip(before["loss"], after["loss"], strict=True))
    assert after["coverage"]["top-1 in 50"] > 0.9
    drafted = frspec_cpp.LLM(target, drafter=eagle3, sketch=output, head="speculated:64", tree=(3, 2, 12))
    text = drafted.generate("The river", max_tokens=30, draft=True, ignore_eos=True)
    assert text.stats.accepted_length > 1.2
    assert train(target, tmp_path / "e.gguf", *options[:-1], 40, kind="specvocab") == 1


def test_a_drafter_for_speed_changes_no_answer(tmp_path: Path, target: Path, prompts: Path, eagle3: Path) -> None:
    options = ("--prompts", prompts, "--steps", 1, "--generate-tokens", 300)
    assert train(target, tmp_path / "plain.gguf", *options) == 0
    assert train(target, tmp_path / "drafted.gguf", *options, "--draft-with", eagle3) == 0
    for name in ("documents.jsonl", "states-00000.bin"):
        plain, drafted = (tmp_path / f"{how}.gguf.train/data/{name}" for how in ("plain", "drafted"))
        assert plain.read_bytes() == drafted.read_bytes()


def test_answers_do_not_depend_on_how_many_are_written_at_once(
    tmp_path: Path, target: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--prompts", prompts, "--steps", 1, "--generate-tokens", 500)
    for parallel in (1, 3, 16):
        monkeypatch.setattr(continuations, "PARALLEL", parallel)
        assert train(target, tmp_path / f"{parallel}.gguf", *options) == 0
    for name in ("documents.jsonl", "states-00000.bin"):
        made = [(tmp_path / f"{parallel}.gguf.train/data/{name}").read_bytes() for parallel in (1, 3, 16)]
        assert made[0] == made[1] == made[2]
    # Of one at a time no more are made than are wanted: whoever is asked last brings it about.
    written = sum(record["generated"] for record in log(tmp_path / "1.gguf", "generated"))
    held_out = 3 * 30
    assert 500 <= written <= 500 + held_out + 2 * 30


def test_prompts_are_learned_where_that_is_asked_for(
    tmp_path: Path, target: Path, prompts: Path, eagle3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(eagle3.with_name("drafter.gguf.train") / "data", tmp_path / "data")
    before = (data / "documents.jsonl").read_text().splitlines()
    drafted: list[torch.Tensor] = []
    loss = state_objective.known_best_loss

    def noted(students: Any, head: Any, logs: Any, labels: Any, *others: Any) -> Any:
        drafted.append(labels.probabilities.sum(1))
        return loss(students, head, logs, labels, *others)

    monkeypatch.setattr(state_objective, "known_best_loss", noted)
    options = ("--prompts", prompts, "--data", data, "--steps", 2, "--generate-tokens", 300)
    assert train(target, tmp_path / "a.gguf", *options) == 0
    assert (data / "documents.jsonl").read_text().splitlines() == before
    assert train(target, tmp_path / "b.gguf", *options, "--prompt-weight", 0.2) == 0
    after = (data / "documents.jsonl").read_text().splitlines()
    assert len(after) > len(before)  # what is said inside prompts was not known
    assert all((probabilities > 0).all() for probabilities in drafted)


def test_a_disk_limit_ends_the_making_and_not_the_learning(
    tmp_path: Path, target: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--prompts", prompts, "--steps", 1, "--generate-tokens", 1500, "--disk", "0.0008")
    assert train(target, tmp_path / "a.gguf", *options) == 0
    folder = tmp_path / "a.gguf.train/data"
    info = json.loads((folder / "states.json").read_text())
    wanted = StateFormat(info["target"], tuple(info["layers"]), info["width"], info["best"])
    size = (folder / "states-00000.bin").stat().st_size
    assert 0.8e6 <= size <= 0.8e6 + 200 * wanted.record.itemsize
    # Another run finds all of it.
    seen: list[int] = []
    make = gguf_job._documents
    monkeypatch.setattr(gguf_job, "_documents", lambda groups: (seen.append(len(groups)), make(groups))[1])
    assert train(target, tmp_path / "b.gguf", *options, "--data", folder) == 0
    assert (folder / "states-00000.bin").stat().st_size == size
    assert sum(seen) == len((folder / "documents.jsonl").read_text().splitlines())


def test_text_as_it_is(tmp_path: Path, target: Path) -> None:
    text = tmp_path / "text.jsonl"
    lines = [" ".join(_WORDS[(i * k) % 13] for k in range(40)) for i in range(1, 60)]
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert train(target, tmp_path / "drafter.gguf", "--text", text, "--steps", 20, "--lr", "3e-3") == 0
    before, after = log(tmp_path / "drafter.gguf", "acceptance")
    assert after["loss"][0] < before["loss"][0]


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, time: int) -> None:
    """Ctrl-C in the given call of a method."""
    function, calls = getattr(owner, name), list[int]()

    def interrupted(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == time:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, target: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--prompts", prompts, "--steps", 8, "--save-every", 3, "--samples", 120, "--generate-tokens", 1200)
    assert train(target, tmp_path / "whole.gguf", *options) == 0
    output = tmp_path / "parts.gguf"
    with monkeypatch.context() as patch:
        interrupt(patch, continuations.Gathering, "_records", 17)
        assert train(target, output, *options) == 130
    assert len((tmp_path / "parts.gguf.train/data/documents.jsonl").read_text().splitlines()) >= 10
    assert not output.exists()
    with (tmp_path / "parts.gguf.train/data/states-00000.bin").open("ab") as file:
        file.write(b"of a document that kill -9 has left")
    with monkeypatch.context() as patch:
        interrupt(patch, loop.Trainer, "_step", 5)
        assert train(target, output, *options, "--resume") == 130
    assert train(target, output, *options, "--resume") == 0
    assert output.read_bytes() == (tmp_path / "whole.gguf").read_bytes().replace(b"whole", b"parts")
    for name in ("data/documents.jsonl", "data/states-00000.bin", "model.safetensors"):
        assert (tmp_path / "parts.gguf.train" / name).read_bytes() == (
            tmp_path / "whole.gguf.train" / name
        ).read_bytes()
    on_the_clock = {"tokens_per_second": 0, "cpu_seconds": 0}
    for mine, theirs in zip(log(output, "step"), log(tmp_path / "whole.gguf", "step"), strict=True):
        assert {**mine, **on_the_clock} == {**theirs, **on_the_clock}
    # What was done before counts, the making of the states, too.
    made = sum(record["cpu_seconds"] for record in log(output, "phase") if record["phase"] == "states")
    used = [record["cpu_seconds"] for record in log(output, "acceptance")]
    assert 0 < made <= used[0]  # tenths of a second
    assert used == sorted(used)
    capsys.readouterr()


def refused(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """One line on stderr that holds all parts."""
    message = capsys.readouterr().err
    assert message.startswith("frspec-train: error: ")
    assert message.count("\n") == 1, message
    for part in parts:
        assert part in message, (part, message)


def test_a_full_disk_loses_nothing(
    tmp_path: Path, target: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = ("--prompts", prompts, "--steps", 1, "--generate-tokens", 900)
    add, added = StatesFile.add, list[int]()

    def full(self: StatesFile, key: str, documents: Any) -> Any:
        added.append(0)
        if len(added) == 12:
            with (self.path / "states-00000.bin").open("ab") as file:
                file.write(b"what still had room")
            raise OSError(28, "No space left on device", str(self.path / "states-00000.bin"))
        return add(self, key, documents)

    with monkeypatch.context() as patch:
        patch.setattr(StatesFile, "add", full)
        assert train(target, tmp_path / "d.gguf", *options) == 1
    refused(capsys, "states-00000.bin", "No space left")
    monkeypatch.setattr(StatesFile, "add", lambda self, key, documents: (added.append(1), add(self, key, documents))[1])
    assert train(target, tmp_path / "d.gguf", *options, "--resume") == 0
    lines = (tmp_path / "d.gguf.train/data/documents.jsonl").read_text().splitlines()
    assert len(lines) == 11 + sum(added)


def test_a_disk_that_is_too_small_is_known_before(
    tmp_path: Path, target: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    assert train(target, tmp_path / "d.gguf", "--prompts", prompts, "--generate-tokens", 10**6) == 1
    refused(capsys, "0.001 GB free", "--generate-tokens", "--data")


def test_states_of_another_target_are_refused(
    tmp_path: Path, target: Path, prompts: Path, eagle3: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.gguf"
    folder = make_checkpoint(tmp_path / "model", "llama", seed=9)
    convert(folder, other, "q8_0", quiet=True)
    data = eagle3.with_name("drafter.gguf.train") / "data"
    capsys.readouterr()  # transformers has a bar
    assert train(other, tmp_path / "d.gguf", "--prompts", prompts, "--data", data) == 1
    refused(capsys, "states.json", "another target")
    shutil.copytree(eagle3.with_name("drafter.gguf.train"), tmp_path / "e.gguf.train")
    options = ("--prompts", prompts, "--steps", 60, "--lr", "3e-3", "--save-every", 30, "--resume")
    assert train(other, tmp_path / "e.gguf", *options) == 1
    refused(capsys, "settings.json", "another target")
    # The same bytes elsewhere are the same target.
    assert train(Path(shutil.copy(target, tmp_path / "moved.gguf")), tmp_path / "e.gguf", *options) == 0


def test_a_chat_needs_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str], prompts: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "bare.gguf", "q8_0", quiet=True)
    capsys.readouterr()
    assert train(tmp_path / "bare.gguf", tmp_path / "d.gguf", "--prompts", prompts) == 1
    refused(capsys, "prompts.jsonl:10", "messages", "bare.gguf has none")
    assert train(tmp_path / "bare.gguf", tmp_path / "e.gguf", "--prompts", prompts, "--template", "always") == 1
    refused(capsys, "--template always", "tokenizer.chat_template")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["--text", "--prompts"]),
        (["--prompts", "ABSENT"], ["absent.jsonl", "no such file"]),
        (["--prompts", "EMPTY"], ["empty.jsonl", "found no prompts"]),
        (["--prompts", "NOTHING"], ["nothing.jsonl: line 1", "expected text"]),
        (["--prompts", "LONG"], ["none of 2 prompts", "130 tokens"]),
        (["--prompts", "ONE"], ["one prompt", "at least two"]),
        (["--prompts", "PROMPTS", "--length", 1000], ["--length", "1000", "512"]),
        (["--prompts", "PROMPTS", "--length", 30], ["--max-new-tokens", "30"]),
        (["--prompts", "PROMPTS", "--generate", "PROMPTS"], ["--generate", "folder"]),
        (["--prompts", "PROMPTS", "--taps", 0, 1, 2], ["--taps", "(0, 1, 2)", "below 2"]),
        (["--prompts", "PROMPTS", "--start-layer", 2], ["--start-layer", "2"]),
        (["--prompts", "PROMPTS", "--draft-vocab", 401], ["--draft-vocab", "401", "400"]),
        (["--prompts", "PROMPTS", "--draft-with", "ABSENT"], ["absent.jsonl"]),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path,
    target: Path,
    prompts: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[Any],
    parts: list[str],
) -> None:
    rows = {"EMPTY": "", "NOTHING": '{"prompt": " "}\n', "LONG": '{"prompt": "%s"}\n' % ("snow " * 200) * 2}
    rows["ONE"] = '{"prompt": "snow"}\n'
    files = {name: tmp_path / f"{name.lower()}.jsonl" for name in (*rows, "ABSENT")}
    for name, text in rows.items():
        files[name].write_text(text)
    files["PROMPTS"] = prompts
    assert train(target, tmp_path / "d.gguf", *(files.get(option, option) for option in options)) == 1
    refused(capsys, *parts)
    assert not (tmp_path / "d.gguf").exists()


def test_files_that_are_no_target(
    tmp_path: Path, eagle3: Path, prompts: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(eagle3, tmp_path / "d.gguf", "--prompts", prompts) == 1
    refused(capsys, "drafter.gguf", "'eagle3'", "not a drafter")
    (tmp_path / "torn.gguf").write_bytes(target.read_bytes()[:5000])
    assert train(tmp_path / "torn.gguf", tmp_path / "d.gguf", "--prompts", prompts) == 1
    refused(capsys, "torn.gguf", "not a whole GGUF file")
    assert train(target, eagle3, "--prompts", prompts) == 1
    refused(capsys, "drafter.gguf", "is there already", "--resume")
