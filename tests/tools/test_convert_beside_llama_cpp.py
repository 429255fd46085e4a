"""Conversion beside llama.cpp's own converter, checkpoint by checkpoint: the same keys, and tensors of the same bytes.

FRSPEC_LLAMA_CPP names a checkout of llama.cpp; without one the tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from checkpoints import UNLIKE_LLAMA, make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_values import metadata
from llama_cpp_converter import convert_there
from packed_experts import packed_gpt_oss
from sentencepiece_files import ADDS_SPACE, BYTE_FALLBACK, KEEPS_SPACES, sentencepiece_model

PACKED = "gpt-oss as published"
NAMES = ("llama", "mistral", "qwen2", "qwen3", "qwen35", *UNLIKE_LLAMA, PACKED)

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def use_sentencepiece(folder: Path, name: str) -> None:
    """Puts a tokenizer.model in the place of a tokenizer.json that is like one; llama.cpp needs it for some models."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    if not model.get("byte_fallback"):
        return
    kinds = {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    kinds |= {"<unk>": UNKNOWN, "<|begin|>": CONTROL, "<|end|>": CONTROL}
    numbers = sorted(model["vocab"].items(), key=lambda item: int(item[1]))
    pieces = [(text, -float(number), kinds.get(text, NORMAL)) for text, number in numbers]
    prefix = b"" if name.startswith("gemma") else ADDS_SPACE
    proto = sentencepiece_model(pieces, trainer=BYTE_FALLBACK, normalizer=prefix + KEEPS_SPACES)
    (folder / "tokenizer.model").write_bytes(proto)
    (folder / "tokenizer.json").unlink()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """What is made of each checkpoint, here and there."""
    root = tmp_path_factory.mktemp("beside")
    folders = {}
    for name in NAMES:
        folder = root / name.replace(" ", "-")
        folders[name] = (
            packed_gpt_oss(folder) if name == PACKED else make_checkpoint(folder, name, mtp=name == "qwen35")
        )
        use_sentencepiece(folder, name)
    convert_there(
        *([str(folder), "--outfile", f"{folder}.theirs.gguf", "--outtype", "f16"] for folder in folders.values())
    )
    for folder in folders.values():
        convert(folder, Path(f"{folder}.ours.gguf"), "f16", quiet=True)
    return {name: (Path(f"{f}.ours.gguf"), Path(f"{f}.theirs.gguf")) for name, f in folders.items()}


@pytest.mark.parametrize("name", NAMES)
def test_tensors(pairs: dict[str, tuple[Path, Path]], name: str) -> None:
    ours, theirs = (
        {t.name: (t.tensor_type.name, t.shape.tolist(), t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}
        for path in pairs[name]
    )
    assert ours.keys() == theirs.keys()
    assert [tensor for tensor in ours if ours[tensor] != theirs[tensor]] == []


def with_defaults(path: Path) -> dict[str, Any]:
    """The metadata of a file, and what llama.cpp takes for keys that it leaves out."""
    found = metadata(path)
    name, is_spm = found["general.architecture"], found["tokenizer.ggml.model"] == "llama"
    width = found[f"{name}.embedding_length"] // found[f"{name}.attention.head_count"]
    head = found.get(f"{name}.attention.key_length", width)
    return {
        f"{name}.vocab_size": len(found["tokenizer.ggml.tokens"]),
        f"{name}.attention.key_length": head,
        f"{name}.attention.value_length": head,
        f"{name}.rope.dimension_count": head,
        f"{name}.rope.freq_base": 10000.0,
        "tokenizer.ggml.add_space_prefix": is_spm,
        "tokenizer.ggml.add_bos_token": is_spm,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_sep_token": False,
        **found,
    }


# What may differ.
NAMED_OTHERWISE = {"general.name", "tokenizer.ggml.pre"}  # with capitals there; see llama_cpp_converter
# Its converter writes a key that its olmo2 does not read; ours is read by both.
OF_OLMO_3 = {"olmo2.rope.scaling.attn_factor", "olmo2.rope.scaling.yarn_attn_factor"}


@pytest.mark.parametrize("name", NAMES)
def test_keys(pairs: dict[str, tuple[Path, Path]], name: str) -> None:
    ours, theirs = (with_defaults(path) for path in pairs[name])
    allowed = NAMED_OTHERWISE | (OF_OLMO_3 if name == "olmo3" else set())
    assert {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} <= allowed
