"""Whole models with weights of types that only some files have: experts in MXFP4, and mixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor, TensorData, Type
from matrices import CODEBOOKS, NARROW, random_matrix, rewritten

from frspec_cpp import LLM, _core

pytestmark = pytest.mark.every_device
TOKENS = np.random.default_rng(3).integers(3, 400, 21).tolist()


def retyped(file: GgufEditor, name: str, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Random rows of the type in the place of a tensor, experts included: (rows, bytes per row)."""
    shape = file.floats(name).shape
    data = random_matrix(kind, int(np.prod(shape[:-1])), shape[-1], rng)
    if kind == "MXFP4":  # near 1 / sqrt(width)
        data.reshape(len(data), -1, 17)[:, :, 0] = rng.integers(121, 124, (len(data), shape[-1] // 32))
    file.tensors[name] = TensorData(data.reshape(*shape[:-1], -1), Type[kind])
    return data


@pytest.mark.parametrize(("kind", "width"), [("MXFP4", 64), ("Q3_K", 256)])
def test_experts(tmp_path: Path, kind: str, width: int) -> None:
    """gpt-oss with experts of the type: the bits of a model whose experts say the same in another type."""
    folder = make_checkpoint(tmp_path / "hf", "gpt-oss", hidden_size=width, intermediate_size=width)
    convert(folder, tmp_path / "f32.gguf", "f32", quiet=True)
    rng = np.random.default_rng(0)
    files = [GgufEditor(tmp_path / "f32.gguf") for _ in range(2)]
    for name in files[0].tensors:
        if name.endswith("_exps.weight"):
            data = retyped(files[0], name, kind, rng)
            other, rows = rewritten(kind, data)
            shape = files[0].tensors[name].data.shape
            files[1].tensors[name] = TensorData(rows.reshape(*shape[:-1], -1), Type[other])
    logits = [_core.Engine(str(file.write(tmp_path / f"{i}.gguf"))).forward(TOKENS) for i, file in enumerate(files)]
    assert np.isfinite(logits[0]).all()
    assert np.array_equal(logits[0], logits[1])


def test_a_mix_of_everything(tmp_path: Path) -> None:
    """Each matrix has another type; a subset of the head's rows drafts, and no token changes."""
    folder = make_checkpoint(tmp_path / "hf", "llama", hidden_size=256, intermediate_size=256, head_dim=64)
    convert(folder, tmp_path / "f32.gguf", "f32", quiet=True)
    file = GgufEditor(tmp_path / "f32.gguf")
    rng = np.random.default_rng(1)
    kinds = ["Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4", *CODEBOOKS, *NARROW]
    matrices = [name for name, tensor in file.tensors.items() if tensor.data.ndim == 2]
    assert len(matrices) >= len(kinds)
    for i, name in enumerate(matrices):
        retyped(file, name, kinds[i % len(kinds)], rng)
    path = file.write(tmp_path / "mix.gguf")
    plain, drafted = LLM(path), LLM(path, drafter=path, head="ranked:200", tree="3,3,12")
    for sampling in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 5}):
        expected = plain.generate(TOKENS, 10, ignore_eos=True, **sampling).tokens
        assert drafted.generate(TOKENS, 10, ignore_eos=True, draft=True, **sampling).tokens == expected
