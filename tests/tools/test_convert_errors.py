"""Bad input and bad places to write to: one clear error, and nothing left behind."""

from __future__ import annotations

import errno
import json
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert, main
from frspec_cpp.tools.fingerprint import fnv1a64, vocabulary_fingerprint
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint."""
    return make_checkpoint(tmp_path / "model", "qwen3")


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"architectures": ["FalconForCausalLM"]},
            "'architectures': found .*Falcon.*, expected one of LlamaFor",
        ),
        ({"architectures": None}, "'architectures': found nothing"),
        ({"hidden_size": "64"}, "'hidden_size': found '64', expected a positive integer"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers': found 0"),
        ({"num_hidden_layers": 3}, r"tensor 'model\.layers\.2\.input_layernorm\.weight' is missing"),
        ({"num_hidden_layers": 1}, r"unexpected tensor 'model\.layers\.1\."),
        ({"num_key_value_heads": 3}, "'num_key_value_heads': found 3, expected a divisor"),
        ({"head_dim": 15}, "'head_dim': found 15, expected an even number"),
        ({"head_dim": 8}, r"q_proj\.weight': found shape \(64, 64\), expected \(32, 64\)"),
        ({"hidden_act": "gelu"}, "'hidden_act': found 'gelu', expected 'silu'"),
        ({"rms_norm_eps": -1}, "'rms_norm_eps': found -1"),
        ({"tie_word_embeddings": "no"}, "'tie_word_embeddings': found 'no', expected true or false"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "'rope_parameters.rope_type': found 'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "'rope_parameters.factor': found nothing"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "'rope_parameters.full_attention': found .*, expected one rope for all layers",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor other than 1"),
        ({"rope_parameters": 5}, "'rope_parameters': found 5, expected a JSON object"),
        ({"quantization_config": {"bits": 4}}, "already quantized"),
        ({"vocab_size": 390}, "found 400 tokens, expected at most 390"),
        ({"vocab_size": 2**40}, "'vocab_size': found 1099511627776"),
    ],
)
def test_config(tmp_path: Path, folder: Path, changes: dict[str, Any], expected: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=expected):
        convert(folder, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(**changes: Any) -> bytes:
    return json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"abc", "has 3 bytes"),
        (
            struct.pack("<Q", 2**60) + b"{}",
            "the header claims 1152921504606846976 bytes, but the file has 10",
        ),
        (with_header(b"{nonsense"), "header is not valid JSON"),
        (with_header(b"[]"), "header is not a JSON object"),
        (with_header(entry(), b"1234"), "tensor 'x': lies at bytes 0 to 8, but the file has 4"),
        (with_header(entry(shape=[2**62]), bytes(8)), "tensor 'x': has 8 bytes, expected"),
        (with_header(entry(shape=[-2]), bytes(8)), "tensor 'x': found shape"),
        (with_header(entry(shape=None), bytes(8)), "tensor 'x': found shape None"),
        (with_header(entry(data_offsets=[8, 0]), bytes(8)), "tensor 'x': lies at bytes 8 to 0"),
        (with_header(entry(data_offsets=[0]), bytes(8)), "tensor 'x': found data_offsets"),
        (with_header(entry(dtype="F31"), bytes(8)), "tensor 'x': element type 'F31' is not known"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, folder: Path, content: bytes, expected: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=expected) as error:
        convert(folder, tmp_path / "out.gguf")
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("value", "type_name", "expected"),
    [
        (torch.tensor(float("nan")), "q8_0", "holds values that are not finite"),
        (torch.tensor(float("inf")), "f32", "holds values that are not finite"),
        (torch.tensor(1e6), "f16", "holds 1e[+]06, expected at most 65504 for F16"),
        (torch.tensor(1e9), "q8_0", ".* for Q8_0"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, folder: Path, value: Any, type_name: str, expected: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, folder / "model.safetensors")
    (tmp_path / "out.gguf").write_bytes(b"earlier")
    with pytest.raises(ValueError, match=rf"model\.layers\.1\.mlp\.up_proj\.weight' {expected}"):
        convert(folder, tmp_path / "out.gguf", type_name)
    assert (tmp_path / "out.gguf").read_bytes() == b"earlier"
    assert len(list(tmp_path.glob("*out.gguf*"))) == 1


def test_integer_weights(tmp_path: Path, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(64, dtype=torch.int32)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"'model\.norm\.weight': found element type I32"):
        convert(folder, tmp_path / "out.gguf")


def test_shards(tmp_path: Path, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    for weight_map, expected in (
        ({}, "'weight_map'"),
        ({"x": "../model.safetensors"}, "tensor 'x': found '../model.safetensors'"),
        ({"x": 3}, "tensor 'x': found 3"),
        ({"x": "model.safetensors"}, "tensor 'x' is missing, but model.safetensors.index.json names it"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match=expected):
            convert(folder, tmp_path / "out.gguf")
    index.write_text(json.dumps({"weight_map": {"x": "model-2.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"model-2\.safetensors"):
        convert(folder, tmp_path / "out.gguf")


def test_torch_files(tmp_path: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors, pytorch_model\.bin"):
        convert(folder, tmp_path / "out.gguf")
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: torch cannot read this file"):
        convert(folder, tmp_path / "out.gguf")
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="expected a dictionary of tensors"):
        convert(folder, tmp_path / "out.gguf")


def test_places_to_write(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        convert(folder, tmp_path / "absent" / "out.gguf")
    with pytest.raises(IsADirectoryError, match="model"):
        convert(folder, folder)
    with pytest.raises(ValueError, match="found type 'q5_k', expected one of"):
        convert(folder, tmp_path / "out.gguf", "q5_k")


def test_full_disk(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: gguf.GGUFWriter, tensor: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", no_space)
    with pytest.raises(OSError, match=r"the disk is full.*out\.gguf"):
        convert(folder, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "frspec_cpp.tools.convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_command_line(tmp_path: Path, folder: Path) -> None:
    done = run(folder, "-o", tmp_path / "out.gguf", "--type", "q8_0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out.gguf").is_file()
    failed = run(tmp_path / "absent", "-o", tmp_path / "other.gguf")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("frspec-convert: error: ")
    assert failed.stderr.count("\n") == 1
    assert "absent" in failed.stderr
    assert run(folder).returncode == 2
    assert run(folder, "-o", "x", "--type", "q9").returncode == 2


def test_full_disk_on_the_command_line(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    failed = run(folder, "-o", "/dev/full/out.gguf")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1


@pytest.mark.usefixtures("ctrl_c")
def test_interrupt_removes_the_temporary_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "big", "llama", hidden_size=256, intermediate_size=8192, num_hidden_layers=6)
    output = tmp_path / "out.gguf"
    command = [
        sys.executable,
        "-m",
        "frspec_cpp.tools.convert",
        str(folder),
        "-o",
        str(output),
        "--type",
        "q4_0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.gguf.*")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "frspec-convert: interrupted\n"
    assert not list(tmp_path.glob("*out.gguf*"))


@pytest.mark.parametrize("package", ["gguf", "tqdm"])
def test_missing_package(
    tmp_path: Path,
    folder: Path,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main([str(folder), "-o", str(tmp_path / "out.gguf")]) == 1
    message = f"frspec-convert needs the '{package}' package: pip install 'frspec_cpp[tools]'"
    assert message in capsys.readouterr().err


def test_torch_is_needed_only_for_its_own_files(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    convert(folder, tmp_path / "out.gguf")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match="needs the 'torch' package: pip install 'torch'"):
        convert(folder, tmp_path / "out.gguf")


def test_fingerprint() -> None:
    # Published test vectors of 64-bit FNV-1a.
    assert fnv1a64([b""]) == 0xCBF29CE484222325
    assert fnv1a64([b"a"]) == 0xAF63DC4C8601EC8C
    assert fnv1a64([b"foo", b"bar"]) == 0x85944171F73967E8
    spelled = fnv1a64([b"2", b"a\0", "\u0120b\0".encode()])
    assert vocabulary_fingerprint(["a", "\u0120b"]) == f"{spelled:016x}"
    assert vocabulary_fingerprint(["a", "b"]) != vocabulary_fingerprint(["b", "a"])
