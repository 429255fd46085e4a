"""frspec-train on a tiny target: what is learned, written, resumed and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_eagle2
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.rank import rank
from frspec_cpp.tools.train import loop
from frspec_cpp.tools.train.cli import main
from safetensors.torch import load_file, save_file
from tiny_pair import TinyPair, make_sure_pair

import frspec_cpp

_LINE = "The river carries the snow of the mountains to the sea, and the sea gives it back as rain. "
_FAST = ("--length", "48", "--tokens-per-batch", "192", "--eval-tokens", "96", "--dtype", "f32", "--threads", "1", "-q")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A target that is sure of itself, so that there is something to learn, and a drafter that has not learned it."""
    return make_sure_pair(tmp_path_factory.mktemp("train") / "pair", "f32")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty texts of different beginnings."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps(_LINE[i:] + _LINE + str(i)) + "\n" for i in range(60)))
    return path


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than everything else together; those of `eagle2` are drawn."""
    monkeypatch.setattr(loop, "draw_curves", lambda *_: None)


def train(kind: str, pair: TinyPair, output: Path, *options: object) -> int:
    return main([kind, str(pair.target), "-o", str(output), *_FAST, *map(str, options)])


def log(folder: Path, key: str) -> list[dict[str, Any]]:
    """The records that hold `key`."""
    return [r for line in (folder / "log.jsonl").read_text().splitlines() if key in (r := json.loads(line))]


@pytest.fixture(scope="module")
def eagle2(tmp_path_factory: pytest.TempPathFactory, pair: TinyPair, text: Path) -> Path:
    """A trained EAGLE-2 drafter."""
    folder = tmp_path_factory.mktemp("eagle2") / "out"
    options = (
        "--text",
        text,
        "--generate",
        text,
        "--prompt-tokens",
        16,
        "--generate-tokens",
        1500,
        "--max-new-tokens",
        40,
    )
    assert train("eagle2", pair, folder, *options, "--steps", 40, "--lr", "3e-3", "--save-every", 20) == 0
    return folder


def test_eagle2_learns_and_is_written_as_published(eagle2: Path, pair: TinyPair) -> None:
    before, *_, after = log(eagle2, "acceptance")
    assert all(b < 0.85 * a for a, b in zip(before["loss"], after["loss"], strict=True))
    assert after["acceptance"][0] > before["acceptance"][0] + 0.1
    assert 1.0 < after["accepted_length"] < 4.0
    assert [record["step"] for record in log(eagle2, "acceptance")] == [0, 20, 40]
    assert (eagle2 / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    published = load_file(pair.drafter / "model.safetensors")
    ours = load_file(eagle2 / "model.safetensors")
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in published.items()}
    config = json.loads((eagle2 / "config.json").read_text())
    assert (config["bias"], config["hidden_size"], config["num_hidden_layers"]) == (False, 64, 1)


def test_eagle2_drafts_in_the_engine(tmp_path: Path, eagle2: Path, pair: TinyPair) -> None:
    drafter = tmp_path / "drafter.gguf"
    convert(eagle2, drafter, "f32", target=pair.target_gguf, quiet=True)
    engine = frspec_cpp.LLM(pair.target_gguf, drafter=drafter, head="full", tree="6,10,60")
    plain = frspec_cpp.LLM(pair.target_gguf)
    lengths = []
    for line in (eagle2 / "generations.jsonl").read_text().splitlines()[:4]:
        prompt = json.loads(line)["tokens"][:16]
        drafted = engine.generate(prompt, max_tokens=40, draft=True)
        assert drafted.tokens == plain.generate(prompt, max_tokens=40).tokens
        lengths.append(drafted.stats.accepted_length)
    assert sum(lengths) / len(lengths) > 2.0


def test_eagle3_with_the_targets_head(tmp_path: Path, pair: TinyPair, text: Path) -> None:
    options = ("--text", text, "--steps", 30, "--lr", "3e-3", "--taps", 0, 1, 1, "--fc-norm", "--norm-output")
    assert train("eagle3", pair, tmp_path / "out", *options) == 0
    before, after = log(tmp_path / "out", "acceptance")
    assert all(b < 0.85 * a for a, b in zip(before["loss"], after["loss"], strict=True))
    shapes = {name: tuple(t.shape) for name, t in load_file(tmp_path / "out" / "model.safetensors").items()}
    assert shapes == {**_EAGLE3_SHAPES, **{f"fc_norm.{tap}.weight": (64,) for tap in range(3)}}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert config["draft_vocab_size"] == config["vocab_size"] == 400
    assert config["eagle_config"] == {"eagle_aux_hidden_state_layer_ids": [0, 1, 1], "use_aux_hidden_state": True}
    flags = {"norm_before_fc": False, "fc_norm": True, "norm_before_residual": False, "norm_output": True}
    assert {name: config[name] for name in flags} == flags


_EAGLE3_SHAPES = {
    "fc.weight": (64, 192),
    "midlayer.hidden_norm.weight": (64,),
    "midlayer.input_layernorm.weight": (64,),
    "midlayer.post_attention_layernorm.weight": (64,),
    "midlayer.self_attn.q_proj.weight": (64, 128),
    "midlayer.self_attn.k_proj.weight": (32, 128),
    "midlayer.self_attn.v_proj.weight": (32, 128),
    "midlayer.self_attn.o_proj.weight": (64, 64),
    "midlayer.mlp.gate_proj.weight": (96, 64),
    "midlayer.mlp.up_proj.weight": (96, 64),
    "midlayer.mlp.down_proj.weight": (64, 96),
    "norm.weight": (64,),
}


@pytest.mark.parametrize("from_ranks", [False, True])
def test_eagle3_with_a_reduced_head(tmp_path: Path, pair: TinyPair, text: Path, from_ranks: bool) -> None:
    options: list[object] = ["--text", text, "--steps", 20, "--lr", "3e-3", "--draft-vocab", 90]
    ranks = rank(pair.target_gguf, [text], tmp_path / "ranks.gguf", quiet=True)
    if from_ranks:
        options += ["--ranks", tmp_path / "ranks.gguf"]
    assert train("eagle3", pair, tmp_path / "first", *options) == 0
    before, after = log(tmp_path / "first", "acceptance")
    assert after["loss"][0] < 0.9 * before["loss"][0]
    tensors = load_file(tmp_path / "first" / "model.safetensors")
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {
        **_EAGLE3_SHAPES,
        "lm_head.weight": (90, 64),
        "d2t": (90,),
        "t2d": (400,),
    }
    ids = torch.arange(90) + tensors["d2t"]
    assert tensors["d2t"].dtype == torch.int64
    assert torch.equal(tensors["t2d"].nonzero()[:, 0], ids)
    assert {0, 1} <= set(ids.tolist())  # control tokens
    if from_ranks:
        assert ids.tolist() == sorted(ranks.tokens[:90].tolist())
    assert json.loads((tmp_path / "first" / "config.json").read_text())["draft_vocab_size"] == 90
    # From a drafter with such a head training goes on with it.
    more = ("--text", text, "--steps", 2, "--drafter", tmp_path / "first")
    assert train("eagle3", pair, tmp_path / "second", *more) == 0
    assert torch.equal(load_file(tmp_path / "second" / "model.safetensors")["d2t"], tensors["d2t"])
    assert log(tmp_path / "second", "acceptance")[0]["loss"] == pytest.approx(after["loss"], rel=1e-5)


def test_specvocab(tmp_path: Path, pair: TinyPair, text: Path) -> None:
    options = ("--text", text, "--steps", 30, "--lr", "2e-3", "--drafter", pair.drafter, "--samples", 120)
    assert train("specvocab", pair, tmp_path / "out", *options) == 0
    before, after = log(tmp_path / "out", "coverage")
    assert all(b < 0.95 * a for a, b in zip(before["loss"], after["loss"], strict=True))
    assert set(after["coverage"]) == {"top-1 in 50", "top-10 in 50", "top-1 in 12", "top-10 in 12"}
    assert after["coverage"]["top-1 in 50"] >= before["coverage"]["top-1 in 50"] > 0.3
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {"W_down": (8, 64), "W_vocab": (400, 8)}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["SpecVocabSketch"]
    assert (config["hidden_size"], config["vocab_size"], config["rank"]) == (64, 400, 8)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C while that step is computed."""
    run_step = loop.Trainer._step

    def interrupted(self: loop.Trainer, bar: Any) -> None:
        if self._done + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        run_step(self, bar)

    monkeypatch.setattr(loop.Trainer, "_step", interrupted)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("kind", ["eagle2", "eagle3", "specvocab"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, pair: TinyPair, text: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[object] = ["--text", text, "--steps", 5, "--save-every", 3, "--samples", 100]
    if kind == "specvocab":
        options += ["--drafter", pair.drafter]
    assert train(kind, pair, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert train(kind, pair, tmp_path / "parts", *options) == 130
    assert [record["step"] for record in log(tmp_path / "parts", "lr")] == [1, 2, 3, 4]
    # What was logged behind the checkpoint is forgotten.
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lr": 1}\n{"torn')
    assert train(kind, pair, tmp_path / "parts", *options, "--resume") == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    states = [torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts")]
    for name, value in states[0]["module"].items():
        assert torch.equal(states[1]["module"][name], value)
    clocks = {"tokens_per_second": 0, "cpu_seconds": 0}
    for mine, theirs in zip(log(tmp_path / "parts", "step"), log(tmp_path / "whole", "step"), strict=True):
        assert {**mine, **clocks} == {**theirs, **clocks}


def test_generations_are_the_targets_and_are_resumed(tmp_path: Path, pair: TinyPair, text: Path) -> None:
    options: list[object] = ["--generate", text, "--generate-tokens", 400, "--prompt-tokens", 10]
    options += ["--max-new-tokens", 12, "--generate-batch", 8, "--temperature", 0, 0.8, "--steps", 1]
    assert train("eagle2", pair, tmp_path / "out", *options) == 0
    lines = (tmp_path / "out" / "generations.jsonl").read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    assert sum(len(r["tokens"]) - r["prompt_tokens"] for r in records) >= 400
    assert [r["temperature"] for r in records[:16]] == [0.0] * 8 + [0.8] * 8
    import transformers

    target = transformers.AutoModelForCausalLM.from_pretrained(pair.target)
    for record in records[:8]:
        prompt = torch.tensor([record["tokens"][: record["prompt_tokens"]]])
        expected = target.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0
        )[0]
        assert record["tokens"] == expected.tolist()
    # A file that was cut off in its third batch: the rest is made again, and is the same.
    shutil.rmtree(tmp_path / "out" / "data")
    (tmp_path / "out" / "generations.jsonl").write_text("".join(lines[:19]) + lines[19][:30])
    assert train("eagle2", pair, tmp_path / "out", *options, "--resume") == 0
    assert (tmp_path / "out" / "generations.jsonl").read_text() == "".join(lines)


def refused(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """One line on stderr that holds all parts."""
    message = capsys.readouterr().err
    assert message.startswith("frspec-train: error: ")
    assert message.count("\n") == 1, message
    for part in parts:
        assert part in message, (part, message)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["eagle2"], ["--text", "--generate"]),
        (["specvocab", "--text", "TEXT"], ["--drafter"]),
        (["eagle3", "--text", "TEXT", "--draft-vocab", 401], ["--draft-vocab", "401", "400"]),
        (["eagle2", "--text", "TEXT", "--draft-vocab", 90], ["--draft-vocab", "eagle3", "eagle2"]),
        (["eagle3", "--text", "TEXT", "--ranks", "TEXT"], ["--ranks", "--draft-vocab"]),
        (["eagle3", "--text", "TEXT", "--taps", 0, 1, 2], ["--taps", "(0, 1, 2)", "below 2"]),
        (["eagle3", "--text", "TEXT", "--drafter", "DRAFTER"], ["found an eagle2 drafter", "eagle3"]),
        (["eagle2", "--text", "TEXT", "--length", 1000], ["--length", "1000", "512"]),
        (["eagle2", "--text", "SHORT"], ["short.txt", "two rows of 48"]),
        (["eagle3", "--text", "TEXT", "--fc-norm", "--norm-before-fc"], ["--fc-norm", "--norm-before-fc"]),
        (["eagle2", "--text", "TEXT", "--steps", 2, "--epochs", 1], ["--steps", "--epochs"]),
        (["eagle2", "--text", "EMPTY"], ["empty.txt", "found 0 tokens"]),
        (["eagle2", "--text", "ABSENT"], ["absent.txt", "no such file"]),
        (["eagle2", "--generate", "EMPTY"], ["empty.txt", "no text"]),
        (["specvocab", "--text", "TEXT", "--drafter", "DRAFTER", "--rank", 65], ["--rank", "65", "64"]),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, pair: TinyPair, text: Path, capsys: pytest.CaptureFixture[str], options: list[Any], parts: list[str]
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("The river")
    files = {name: tmp_path / f"{name.lower()}.txt" for name in ("EMPTY", "SHORT", "ABSENT")}
    kind, *rest = ({"TEXT": text, "DRAFTER": pair.drafter, **files}.get(option, option) for option in options)
    assert train(kind, pair, tmp_path / "out", *rest) == 1
    refused(capsys, *parts)
    text_was_read = kind == "eagle2" and rest[-1:] in ([files["EMPTY"]], [files["SHORT"]])
    assert (tmp_path / "out").exists() == text_was_read  # all else is known before there is any output


@pytest.mark.parametrize(
    ("config", "tensors", "parts"),
    [
        ({"hidden_size": 32}, {}, ["config.json", "hidden_size", "32", "64"]),
        ({"vocab_size": 399}, {}, ["config.json", "vocab_size", "399", "400"]),
        ({"num_hidden_layers": 2}, {}, ["config.json", "num_hidden_layers", "2", "1"]),
        ({"intermediate_size": 64}, {}, ["layers.0.mlp.gate_proj.weight", "(96, 64)", "(64, 64)"]),
        ({}, {"fc.weight": None}, ["fc.weight", "EAGLE"]),
        ({}, {"layers.0.self_attn.q_proj.bias": torch.zeros(64)}, ["layers.0.self_attn.q_proj.bias", "none"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, ["rope_scaling", "plain"]),
    ],
)
def test_drafters_that_do_not_fit(
    tmp_path: Path,
    pair: TinyPair,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    tensors: dict[str, Any],
    parts: list[str],
) -> None:
    folder = make_eagle2(tmp_path / "drafter", pair.target)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    weights = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({n: t for n, t in weights.items() if t is not None}, folder / "model.safetensors")
    assert train("eagle2", pair, tmp_path / "out", "--text", text, "--drafter", folder) == 1
    refused(capsys, *parts)
    assert not (tmp_path / "out").exists()


def test_targets_that_cannot_be_read(tmp_path: Path, text: Path, pair: TinyPair, capsys: Any) -> None:
    arguments = ["-o", str(tmp_path / "out"), "--text", str(text), *_FAST]
    assert main(["eagle2", str(tmp_path / "absent"), *arguments]) == 1
    refused(capsys, "absent", "no such file")
    broken = shutil.copytree(pair.target, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"x" * 100)
    assert main(["eagle2", str(broken), *arguments]) == 1
    refused(capsys, "broken", "cannot be loaded")
    (broken / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    assert main(["eagle2", str(broken), *arguments]) == 1
    refused(capsys, "architectures", "GPT2LMHeadModel", "LlamaForCausalLM")


def test_an_output_folder_is_not_overwritten(tmp_path: Path, pair: TinyPair, text: Path, capsys: Any) -> None:
    assert train("eagle2", pair, tmp_path / "out", "--text", text, "--resume") == 1
    refused(capsys, "settings.json", "earlier run")
    assert train("eagle2", pair, tmp_path / "out", "--text", text, "--steps", 1) == 0
    assert train("eagle2", pair, tmp_path / "out", "--text", text, "--steps", 1) == 1
    refused(capsys, "not empty", "--resume")
    assert train("eagle2", pair, tmp_path / "out", "--text", text, "--steps", 1, "--seed", 5, "--resume") == 1
    refused(capsys, "seed", "found", "5", "expected", "0")
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"torn")
    assert train("eagle2", pair, tmp_path / "out", "--text", text, "--steps", 1, "--resume") == 1
    refused(capsys, "checkpoint.pt")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, pair: TinyPair, text: Path, capsys: Any) -> None:
    assert train("eagle2", pair, tmp_path / "out", "--text", text, "--steps", 30, "--lr", "1e30", "--warmup", 0) == 1
    refused(capsys, "step ", "the loss is nan", "--lr")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


def test_a_full_disk_leaves_the_checkpoint_before_it(
    tmp_path: Path, pair: TinyPair, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = ("--text", text, "--steps", 4, "--save-every", 2)
    saves: list[int] = []
    write = Path.write_bytes

    def full(path: Path, data: Any) -> int:
        write(path, bytes(data)[:100])
        if "checkpoint.pt" in path.name and saves.append(0) is None and len(saves) == 3:
            raise OSError(28, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert train("eagle2", pair, tmp_path / "out", *options) == 1
    refused(capsys, "checkpoint.pt", "disk is full")
    assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not list((tmp_path / "out").glob(".*"))
    assert train("eagle2", pair, tmp_path / "out", *options, "--resume") == 0


def test_missing_torch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["eagle2", str(tmp_path), "-o", str(tmp_path / "out"), "--text", "x.txt"]) == 1
    refused(capsys, "torch", "frspec_cpp[train]")


def test_bf16_learns_the_same(tmp_path: Path, pair: TinyPair, text: Path) -> None:
    losses = []
    for dtype in ("f32", "bf16"):
        options = ("--text", text, "--steps", 10, "--lr", "3e-3", "--dtype", dtype)
        assert train("eagle2", pair, tmp_path / dtype, *options) == 0
        losses.append(log(tmp_path / dtype, "acceptance")[-1]["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.03)
