"""GGUF files of the `gguf` Python package and real vocabularies: what was written is read back."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from frspec_cpp._core import GgufFile


def test_every_metadata_type_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "types.gguf"
    writer = gguf.GGUFWriter(path, "test")
    scalars: dict[str, tuple[str, Any]] = {
        "u8": ("uint8", 255),
        "i8": ("int8", -128),
        "u16": ("uint16", 65535),
        "i16": ("int16", -32768),
        "u32": ("uint32", 2**32 - 1),
        "i32": ("int32", -(2**31)),
        "f32": ("float32", 0.1),
        "u64": ("uint64", 2**64 - 1),
        "i64": ("int64", -(2**63)),
        "f64": ("float64", 0.1),
        "true": ("bool", True),
        "false": ("bool", False),
        "string": ("string", 'tab\t "quotes" größe 漢字 \U0001f600'),
    }
    for key, (kind, value) in scalars.items():
        getattr(writer, f"add_{kind}")(key, value)
    arrays: dict[str, list[Any]] = {
        "ints": [1, -2, 2**31 - 1],
        "floats": [0.5, -1.25, 1e30],
        "bools": [True, False, True],
        "strings": ["a", "", "größe"],
    }
    for key, values in arrays.items():
        writer.add_array(key, values)
    for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.close):
        finish()

    found = GgufFile(path).metadata
    expected: dict[str, Any] = {key: value for key, (_, value) in scalars.items()}
    expected["f32"] = float(np.float32(0.1))
    expected |= arrays | {"general.architecture": "test"}
    expected["floats"] = [float(np.float32(value)) for value in arrays["floats"]]
    assert found == expected
    assert all(type(found[key]) is type(value) for key, value in expected.items())


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_tensors_of_the_reference_writer(tmp_path: Path, version: int, alignment: int) -> None:
    path = tmp_path / "tensors.gguf"
    writer = gguf.GGUFWriter(path, "test")
    writer.add_custom_alignment(alignment)
    rng = np.random.default_rng(1)
    written: dict[str, np.ndarray[Any, Any]] = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "f16": rng.standard_normal((2, 3, 7)).astype(np.float16),
        "i8": rng.integers(-128, 127, 11).astype(np.int8),
        "i64": rng.integers(-(2**62), 2**62, (1, 2, 3, 4)),
        "f64": rng.standard_normal(1),
    }
    for name, values in written.items():
        writer.add_tensor(name, values)
    quantized = gguf.quants.quantize(rng.standard_normal((4, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        finish()
    writer.close()
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", version)
    path.write_bytes(data)

    file = GgufFile(path)
    assert (file.version, file.alignment, Path(file.path)) == (version, alignment, path)
    assert [item.name for item in file.tensors] == [*written, "q8"]
    for item in file.tensors[:-1]:
        values = written[item.name]
        assert item.type == item.name.upper()
        assert item.shape == values.shape[::-1]
        assert item.data.tobytes() == values.tobytes()
    assert (file.tensors[-1].type, file.tensors[-1].shape) == ("Q8_0", (64, 4))
    assert file.tensors[-1].data.tobytes() == quantized.tobytes()


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "llama-spm", "qwen2"])
def test_real_vocabularies(shared: Path, name: str) -> None:
    path = shared / "data" / "vocabularies" / f"{name}.gguf"
    reference = {
        key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")
    }
    assert GgufFile(path).metadata == reference
    assert len(reference["tokenizer.ggml.tokens"]) >= 32000


def test_split_file_of_the_reference_writer(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "test", split_max_tensors=2)
    written = {f"t{i}": np.full((i + 1, 2), i, dtype=np.float32) for i in range(5)}
    for name, values in written.items():
        writer.add_tensor(name, values)
    for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        finish()
    writer.close()
    file = GgufFile(tmp_path / "model-00001-of-00003.gguf")
    assert {item.name: bytes(item.data) for item in file.tensors} == {k: v.tobytes() for k, v in written.items()}
    assert file.metadata["general.architecture"] == "test"
