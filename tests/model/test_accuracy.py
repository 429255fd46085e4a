"""Quantized weights on a real model, whose activations have outliers, beside the same weights as F32.

`bench/accuracy.py` measures more, and llama.cpp beside it; this holds the order of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf_edit import GgufEditor

from frspec_cpp import LLM, _core

TEXT = """The heads of a model are matrices with a row for each token of its vocabulary. Most rows are never the
best one: in a billion tokens of text, a quarter of the vocabulary makes more than ninety-five in a hundred. So a
drafter that looks at the frequent tokens only writes nearly the same drafts in a fraction of the time, and the target,
which looks at all of them, decides."""


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))


def test_quantized_products_are_close_to_exact_ones(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    """llama.cpp is at 0.003 nats on this file, a scale per 128 elements of the activations was at 0.011."""
    model = real_model("smollm2-135m-instruct.q4_1.gguf")
    file = GgufEditor(model)
    for name in file.tensors:
        file.set_floats(name, file.floats(name))
    exact_file = file.write(tmp_path / "exact.gguf")
    with LLM(model, n_ctx=256) as llm:
        ids = llm.tokenize(TEXT)
        found = log_probabilities(llm.forward(ids))
    exact = log_probabilities(_core.Engine(str(exact_file), n_ctx=256, cache_type="f32").forward(ids))
    divergence = float((np.exp(exact) * (exact - found)).sum(1).mean())
    assert 1e-5 < divergence < 0.0022


@pytest.mark.parametrize("name", ["qwen2.5-coder-0.5b-instruct.q4_k_m.gguf", "gemma-3-270m.q4_k_m.gguf"])
def test_beside_llama_cpp(real_model: Callable[[str], Path], name: str) -> None:
    """The logits of llama-cpp-python, but for what it loses; its greedy text, but where two tokens are as likely."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model = real_model(name)
    with LLM(model, n_ctx=256) as llm:
        ids = llm.tokenize(TEXT)
        text = llm.generate(ids, 24, temperature=0.0, ignore_eos=True).tokens
        found = log_probabilities(llm.forward(ids))
    other = llama_cpp.Llama(
        str(model), n_ctx=len(ids) + 32, n_batch=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )
    assert other.tokenize(TEXT.encode()) == ids
    other.eval([*ids, *text])
    scores = log_probabilities(other.scores[: len(ids) + len(text)])
    other.close()
    assert float((np.exp(scores[: len(ids)]) * (scores[: len(ids)] - found)).sum(1).mean()) < 0.01
    behind = scores[len(ids) - 1 : -1]
    assert (behind.max(1) - behind[np.arange(len(text)), text] < 0.3).all()
