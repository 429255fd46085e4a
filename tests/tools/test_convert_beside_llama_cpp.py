"""Conversion beside llama.cpp's own converter, checkpoint by checkpoint: the same keys, and tensors of the same bytes.

FRSPEC_LLAMA_CPP names a checkout of llama.cpp; without one the tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
from checkpoints import UNLIKE_LLAMA, make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_values import metadata
from packed_experts import packed_gpt_oss
from sentencepiece_files import ADDS_SPACE, BYTE_FALLBACK, KEEPS_SPACES, sentencepiece_model

PACKED = "gpt-oss as published"
NAMES = ("llama", "mistral", "qwen2", "qwen3", "qwen35", *UNLIKE_LLAMA, PACKED)

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

# It knows a splitting rule by what it does to one text, which a vocabulary of 400 tokens cuts otherwise; and a model's
# own class of tokenizers would add tokens that these do not have.
CONVERT_ALL = """
import json, sys
sys.path.insert(0, sys.argv[1])
import transformers
transformers.AutoTokenizer = transformers.PreTrainedTokenizerFast
import convert_hf_to_gguf as converter
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "unknown"
for source, target in json.loads(sys.argv[2]):
    sys.argv[1:] = [source, "--outfile", target, "--outtype", "f16"]
    converter.main()
"""


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
    checkout = os.environ.get("FRSPEC_LLAMA_CPP")
    if not checkout:
        pytest.skip("FRSPEC_LLAMA_CPP names no checkout of llama.cpp")
    root = tmp_path_factory.mktemp("beside")
    folders = {}
    for name in NAMES:
        folder = root / name.replace(" ", "-")
        folders[name] = (
            packed_gpt_oss(folder) if name == PACKED else make_checkpoint(folder, name, mtp=name == "qwen35")
        )
        use_sentencepiece(folder, name)
    jobs = [(str(folder), f"{folder}.theirs.gguf") for folder in folders.values()]
    done = subprocess.run(
        [sys.executable, "-c", CONVERT_ALL, checkout, json.dumps(jobs)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
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
NAMED_OTHERWISE = {"general.name", "tokenizer.ggml.pre"}  # with capitals there; see CONVERT_ALL
# Its converter writes a key that its olmo2 does not read; ours is read by both.
OF_OLMO_3 = {"olmo2.rope.scaling.attn_factor", "olmo2.rope.scaling.yarn_attn_factor"}


@pytest.mark.parametrize("name", NAMES)
def test_keys(pairs: dict[str, tuple[Path, Path]], name: str) -> None:
    ours, theirs = (with_defaults(path) for path in pairs[name])
    allowed = NAMED_OTHERWISE | (OF_OLMO_3 if name == "olmo3" else set())
    assert {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} <= allowed
