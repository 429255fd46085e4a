"""`frspec inspect`: what it prints for a file with awkward text and numbers."""

from __future__ import annotations

import json
import struct
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import make_checkpoint, make_eagle2
from eagle3_checkpoints import make_eagle3
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor, Type
from nextn_models import make_nextn

LONG = 'a "quoted" back\\slash, line\nbreak, größe, \x1b[2J ' + "x" * 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one of everything; the string `bad` holds a byte that is no UTF-8."""
    path = tmp_path / "in spect.gguf"
    writer = gguf.GGUFWriter(path, "test")
    writer.add_string("long", LONG)
    writer.add_string("bad", "@bad@")
    writer.add_uint64("big", 2**64 - 1)
    writer.add_int64("small", -(2**63))
    writer.add_float32("eps", 1e-5)
    writer.add_float64("tenth", 0.1)
    writer.add_float32("nan", float("nan"))
    writer.add_bool("yes", True)
    writer.add_array("tokens", [f"t{i}" for i in range(20)])
    writer.add_array("scores", [0.1, 0.2])
    writer.add_tensor("w", np.zeros((3, 5), np.float32))
    writer.add_tensor("v", np.zeros(7, np.float32))
    writer.add_tensor("h", np.zeros((1000, 2), np.float16))
    for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        finish()
    writer.close()
    path.write_bytes(path.read_bytes().replace(b"@bad@", b"\xffbad\x00"))
    return path


def inspect(*arguments: str | Path) -> str:
    frspec = Path(sysconfig.get_path("scripts"), "frspec")
    return subprocess.run([frspec, "inspect", *arguments], check=True, capture_output=True).stdout.decode()


def test_json(path: Path) -> None:
    found = json.loads(inspect(path, "--json"))
    assert {key: found[key] for key in ("path", "version", "alignment", "bytes")} == {
        "path": str(path),
        "version": 3,
        "alignment": 32,
        "bytes": path.stat().st_size,
    }
    assert {key: item["value"] for key, item in found["metadata"].items() if "value" in item} == {
        "general.architecture": "test",
        "long": LONG,
        "bad": "\ufffdbad\0",
        "big": 2**64 - 1,
        "small": -(2**63),
        "eps": 1e-5,
        "tenth": 0.1,
        "nan": None,
        "yes": True,
    }
    assert found["metadata"]["yes"] == {"type": "bool", "value": True}
    assert found["metadata"]["tokens"] == {
        "type": "array",
        "element_type": "string",
        "count": 20,
        "first": [f"t{i}" for i in range(8)],
    }
    assert found["metadata"]["scores"]["first"] == [0.1, 0.2]
    assert found["tensors"] == [
        {"name": "w", "type": "F32", "shape": [5, 3], "bytes": 60},
        {"name": "v", "type": "F32", "shape": [7], "bytes": 28},
        {"name": "h", "type": "F16", "shape": [2, 1000], "bytes": 4000},
    ]
    assert found["totals"] == {"F32": {"tensors": 2, "bytes": 88}, "F16": {"tensors": 1, "bytes": 4000}}


def test_text(path: Path) -> None:
    text = inspect(path)
    lines = [line.split() for line in text.splitlines()]
    assert ["eps", "f32", "1e-05"] in lines
    assert ["tokens", "string[20]", '["t0",', '"t1",', '"t2",', '"t3",', '"t4",', "...]"] in lines
    assert ["h", "F16", "2", "x", "1000", "4.00", "kB"] in lines
    assert ["F32", "2", "tensors", "88", "B"] in lines
    assert r"break, größe, \x1b[2J" in text
    assert "x" * 60 not in text
    assert all(line.isprintable() for line in text.splitlines())


def test_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0))
    frspec = Path(sysconfig.get_path("scripts"), "frspec")
    done = subprocess.run([frspec, "inspect", path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{path}: the header declares {2**60} tensors" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- whether it would run


@pytest.fixture(scope="module")
def drafters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny ones of each kind, and a model that has one in its file."""
    folder = tmp_path_factory.mktemp("drafters")
    target = make_checkpoint(folder / "target", "llama")
    convert(target, folder / "target.gguf", "f16", quiet=True)
    paths = {}
    for kind, make in (("eagle2", make_eagle2), ("eagle3", make_eagle3)):
        paths[kind] = folder / f"{kind}.gguf"
        convert(make(folder / kind, target), paths[kind], "f16", target=folder / "target.gguf", quiet=True)
    model = make_nextn(folder / "nextn", "qwen3")
    return {"target": folder / "target.gguf", **paths, "whole": model.whole, "sidecar": model.sidecar}


def expect_refused(path: Path, *parts: str) -> None:
    found = json.loads(inspect(path, "--json"))
    assert found["runs"] is False
    assert len(found["reasons"]) == 1
    assert found["reasons"][0].startswith(str(path))
    for part in parts:
        assert part in found["reasons"][0]
    text = inspect(path)
    assert f"\nruns: no\n  {found['reasons'][0]}\n" in text


def test_what_runs(demo_target: Path, demo_drafter: Path) -> None:
    for path, use in (demo_target, "a model"), (demo_drafter, "a drafter beside its target"):
        found = json.loads(inspect(path, "--json"))
        assert (found["runs"], found["reasons"]) == (True, [])
        assert inspect(path).endswith(f"\nruns: yes, as {use}\n")


def test_what_does_not_run(drafters: dict[str, Path], tmp_path: Path) -> None:
    def edited(change: Callable[[GgufEditor], object]) -> Path:
        file = GgufEditor(drafters["target"])
        change(file)
        return file.write(tmp_path / "edited.gguf")

    name = "blk.0.ffn_up.weight"
    expect_refused(
        edited(lambda file: file.set("general.architecture", "mamba")), "'general.architecture'", "'mamba'", "'llama'"
    )
    expect_refused(edited(lambda file: file.tensors.pop(name)), f'tensor "{name}" is missing')
    expect_refused(edited(lambda file: file.set_floats("blk.0.odd.weight", np.ones((1, 8)))), "'blk.0.odd.weight'")
    rows, cols = GgufEditor(drafters["target"]).floats(name).shape
    expect_refused(edited(lambda file: file.set_zeros(name, rows, cols, Type.NVFP4)), name, "NVFP4", "IQ4_XS")
    expect_refused(edited(lambda file: file.set("tokenizer.ggml.pre", "tomorrow")), "'tokenizer.ggml.pre'", "tomorrow")
    expect_refused(edited(lambda file: file.set("llama.block_count", 2**20)), "block_count")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("eagle2", "blk.0.ffn_down.weight"),
        ("eagle3", "fc.weight"),
        ("eagle3", "blk.0.attn_norm_2.weight"),
        ("sidecar", "blk.2.nextn.enorm.weight"),
        ("sidecar", "blk.2.attn_q.weight"),
    ],
)
def test_drafters_that_do_not_run(drafters: dict[str, Path], tmp_path: Path, kind: str, name: str) -> None:
    """A tensor is missing, has another shape, or is one too many; without the target all of that is seen."""
    assert inspect(drafters[kind]).endswith("\nruns: yes, as a drafter beside its target\n")
    file = GgufEditor(drafters[kind])
    values = file.floats(name)
    del file.tensors[name]
    expect_refused(file.write(tmp_path / "missing.gguf"), f'tensor "{name}" is missing')
    file.set_floats(name, np.concatenate([values, values], axis=-1))
    expect_refused(file.write(tmp_path / "wide.gguf"), f"'{name}'", "found shape", "expected")
    file.set_floats(name, values)
    file.set_floats("blk.0.odd.weight", np.ones((1, 8)))
    expect_refused(file.write(tmp_path / "odd.gguf"), "'blk.0.odd.weight'")


def test_a_model_whose_own_drafter_does_not_run(drafters: dict[str, Path], tmp_path: Path) -> None:
    file = GgufEditor(drafters["whole"])
    assert "runs: yes, as a model that brings a drafter along (-d mtp)\n" in inspect(drafters["whole"])
    del file.tensors["blk.2.nextn.enorm.weight"]
    found = inspect(file.write(tmp_path / "edited.gguf"))
    assert "runs: yes, as a model, without the drafter that it brings along: " in found
    assert 'tensor "blk.2.nextn.enorm.weight" is missing' in found


def test_all_reasons_are_told(drafters: dict[str, Path], tmp_path: Path) -> None:
    file = GgufEditor(drafters["target"])
    file.set("general.architecture", "mamba")
    file.set("tokenizer.ggml.pre", "tomorrow")
    reasons = json.loads(inspect(file.write(tmp_path / "both.gguf"), "--json"))["reasons"]
    assert ["mamba" in reason for reason in reasons] == [True, False]
    assert ["tomorrow" in reason for reason in reasons] == [False, True]


def test_a_vocabulary_is_no_model(drafters: dict[str, Path], tmp_path: Path) -> None:
    """Its tokens are read all the same, as are those beside weights of a type that nothing computes with."""
    file = GgufEditor(drafters["target"])
    file.tensors.clear()
    path = file.write(tmp_path / "vocabulary.gguf")
    expect_refused(path, "found no tensors")
    file = GgufEditor(drafters["target"])
    for tensor in ("token_embd.weight", "blk.0.ffn_up.weight"):
        rows, cols = file.floats(tensor).shape
        file.set_zeros(tensor, rows, cols, Type.NVFP4)
    frspec = Path(sysconfig.get_path("scripts"), "frspec")
    texts = [
        subprocess.run([frspec, "tokenize", "-m", model, "-p", "a word"], check=True, capture_output=True).stdout
        for model in (drafters["target"], path, file.write(tmp_path / "types.gguf"))
    ]
    assert len(set(texts)) == 1
