"""Models that llama.cpp loads although their files are unusual: they load, and mean the same."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor, Type, Value
from processes import program
from refused import key

import frspec_cpp

PROMPT = [0, 40, 41, 42, 99, 200, 7]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint(tmp_path_factory.mktemp("qwen2"), "qwen2")
    convert(folder, folder / "model.gguf", "f32", quiet=True)
    return folder / "model.gguf"


def logits(path: Path) -> np.ndarray:
    return frspec_cpp.LLM(path, n_threads=1).forward(PROMPT)


def join_qkv(file: GgufEditor) -> None:
    """Q, K and V of each layer become one matrix, and their biases one vector in the first layer only."""
    for layer in range(2):
        for kind in ("weight", "bias"):
            if (layer, kind) == (1, "bias"):
                continue
            names = [f"blk.{layer}.attn_{part}.{kind}" for part in "qkv"]
            joined = np.concatenate([file.floats(name) for name in names])
            for name in names:
                del file.tensors[name]
            file.set_floats(f"blk.{layer}.attn_qkv.{kind}", joined)


def reverse_tensors(file: GgufEditor) -> None:
    file.tensors = dict(reversed(file.tensors.items()))


LOOSE: dict[str, Any] = {
    "feed-forward widths of all layers": key("qwen2.feed_forward_length", [96, 96]),
    "heads of all layers": key("qwen2.attention.head_count", [4, 4]),
    "K/V heads of all layers": key("qwen2.attention.head_count_kv", [2, 2]),
    "numbers of other types": lambda file: (
        file.set("qwen2.block_count", 2, Value.UINT64),
        file.set("qwen2.attention.layer_norm_rms_epsilon", 1e-5, Value.FLOAT64),
    ),
    "a rope factor of 0": lambda file: (
        file.set("qwen2.rope.scaling.type", "linear"),
        file.set("qwen2.rope.scaling.factor", 0.0),
    ),
    "another file type": key("general.file_type", 15),
    "keys that nobody knows": lambda file: (
        file.set("qwen2.no_such_key", 5),
        file.set("some.array", ["a", "b"]),
        file.set("quantize.imatrix.file", "x.dat"),
    ),
    "another order of tensors": reverse_tensors,
    "one matrix for Q, K and V": join_qkv,
}


@pytest.mark.parametrize("case", LOOSE)
def test_loose_models(tmp_path: Path, model: Path, case: str) -> None:
    file = GgufEditor(model)
    LOOSE[case](file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = logits(file.write(tmp_path / "loose.gguf"))
    assert np.array_equal(found, logits(model))


def test_an_original_context_of_0_is_unknown(tmp_path: Path, model: Path) -> None:
    file = GgufEditor(model)
    file.set("qwen2.rope.scaling.type", "yarn")
    file.set("qwen2.rope.scaling.factor", 4.0)
    absent = logits(file.write(tmp_path / "absent.gguf"))
    file.set("qwen2.rope.scaling.original_context_length", 0)
    assert np.array_equal(logits(file.write(tmp_path / "zero.gguf")), absent)
    assert not np.array_equal(absent, logits(model))


def test_norms_and_biases_of_other_types(tmp_path: Path, model: Path) -> None:
    file = GgufEditor(model)
    names = [name for name, tensor in file.tensors.items() if tensor.data.ndim == 1]
    halves = {name: file.floats(name).astype(np.float16).astype(np.float32) for name in names}
    for name in names:
        file.set_floats(name, halves[name])
    rounded = logits(file.write(tmp_path / "rounded.gguf"))
    for name in names:
        file.set_floats(name, halves[name], Type.F16)
    assert np.array_equal(logits(file.write(tmp_path / "f16.gguf")), rounded)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("qwen2.feed_forward_length", [96, 64], "feed_forward_length': found different numbers per layer"),
        ("qwen2.attention.causal", False, "attention.causal': found false, expected true"),
    ],
)
def test_what_would_give_other_text_is_an_error(
    tmp_path: Path, model: Path, name: str, value: Any, expected: str
) -> None:
    file = GgufEditor(model)
    file.set(name, value)
    with pytest.raises(ValueError, match=expected):
        frspec_cpp.LLM(file.write(tmp_path / "wrong.gguf"))


@pytest.fixture
def corrected(tmp_path: Path, model: Path) -> Path:
    """A model with an id that is no token, and an end of turn of type normal."""
    file = GgufEditor(model)
    file.set("tokenizer.ggml.padding_token_id", 2**32 - 1)
    file.entries["tokenizer.ggml.token_type"].value[1] = 1
    return file.write(tmp_path / "corrected.gguf")


def test_llm_warns_where_it_is_made(corrected: Path) -> None:
    with pytest.warns(frspec_cpp.ModelWarning) as caught:
        llm = frspec_cpp.LLM(corrected)
    assert {Path(warning.filename).name for warning in caught} == {Path(__file__).name}
    assert sorted("padding_token_id" in str(warning.message) for warning in caught) == [False, True]
    assert llm.tokenizer.is_eog(1)


def test_the_drafters_file_is_warned_of_too(corrected: Path, model: Path) -> None:
    with pytest.warns(frspec_cpp.ModelWarning) as caught:
        frspec_cpp.LLM(model, drafter=corrected, head="full")
    assert {str(warning.message).split(":")[0] for warning in caught} == {str(corrected)}


def test_the_binary_warns_on_standard_error(corrected: Path) -> None:
    for arguments in (["generate", "-n", "2", "-m"], ["tokenize", "-m"]):
        command = [program("frspec"), *arguments, corrected, "-p", "a tale"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        lines = [line for line in done.stderr.splitlines() if "warning" in line]
        assert len(lines) == 2
        assert all(line.startswith(f"frspec: warning: {corrected}: key 'tokenizer.ggml.") for line in lines)
        assert "warning" not in done.stdout
