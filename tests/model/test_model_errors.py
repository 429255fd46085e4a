"""Target models that are damaged, unknown or absurd, and prompts and options out of range: one clear error each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor, Type
from refused import Edit, engine_error, expect_parts, key, without_key

from frspec_cpp import _core

WIDTH, FEED_FORWARD, VOCAB, CONTEXT = 64, 96, 400, 512  # of the tiny checkpoints


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny target of each architecture, F32."""
    paths = {}
    for architecture in ("llama", "qwen2", "qwen3"):
        folder = make_checkpoint(tmp_path_factory.mktemp(architecture), architecture)
        paths[architecture] = folder / "model.gguf"
        convert(folder, paths[architecture], "f32", quiet=True)
    return paths


# ---- metadata


METADATA: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "unknown architecture": (
        key("general.architecture", "mamba"),
        ("general.architecture", "'mamba'", "'llama'", "'qwen2'", "'qwen3'"),
    ),
    "no architecture name": (key("general.architecture", ""), ("general.architecture",)),
    "experts of which none is used": (key("llama.expert_count", 8), ("llama.expert_used_count", "missing")),
    "head counts that differ": (
        key("llama.attention.head_count", [4, 2]),
        ("llama.attention.head_count", "different"),
    ),
    "kv head counts that differ": (
        key("llama.attention.head_count_kv", [2, 1]),
        ("llama.attention.head_count_kv", "different"),
    ),
    "no head counts": (
        lambda file: file.set("llama.attention.head_count_kv", "2"),
        ("llama.attention.head_count_kv",),
    ),
    "heads that do not divide": (
        key("llama.attention.head_count_kv", 3),
        ("llama.attention.head_count_kv", "3", "4"),
    ),
    "more kv heads than heads": (
        key("llama.attention.head_count_kv", 8),
        ("llama.attention.head_count_kv", "8", "4"),
    ),
    "0 heads": (key("llama.attention.head_count", 0), ("llama.attention.head_count", "0", "1 to 4096")),
    "negative heads": (key("llama.attention.head_count", -4), ("llama.attention.head_count", "-4")),
    "0 kv heads": (key("llama.attention.head_count_kv", 0), ("llama.attention.head_count_kv", "0")),
    "keys and values of different width": (
        key("llama.attention.value_length", 8),
        ("llama.attention.value_length", "8", "16"),
    ),
    "2^31 layers": (key("llama.block_count", 2**31), ("llama.block_count", str(2**31), "1 to 4096")),
    "2^64 - 1 layers": (key("llama.block_count", 2**64 - 1), ("llama.block_count", str(2**64 - 1))),
    "0 layers": (key("llama.block_count", 0), ("llama.block_count", "0", "1 to 4096")),
    "layers that are not there": (key("llama.block_count", 4096), ("blk.2.attn_norm.weight",)),
    "width of 2^40": (key("llama.embedding_length", 2**40), ("llama.embedding_length", str(2**40))),
    "width of 2^20": (key("llama.embedding_length", 2**20), ("token_embd.weight", "{64, 400}", f"{2**20}, 400")),
    "width as text": (key("llama.embedding_length", "64"), ("llama.embedding_length",)),
    "width as a fraction": (key("llama.embedding_length", 64.5), ("llama.embedding_length",)),
    "width as an array": (key("llama.embedding_length", [64, 64]), ("llama.embedding_length",)),
    "no width": (without_key("llama.embedding_length"), ("llama.embedding_length",)),
    "no epsilon": (
        without_key("llama.attention.layer_norm_rms_epsilon"),
        ("llama.attention.layer_norm_rms_epsilon",),
    ),
    "feed-forward of 2^40": (
        key("llama.feed_forward_length", 2**40),
        ("llama.feed_forward_length", str(2**40)),
    ),
    "context of 2^40": (key("llama.context_length", 2**40), ("llama.context_length", str(2**40))),
    "context of 0": (key("llama.context_length", 0), ("llama.context_length", "0")),
    "head of 2^40": (key("llama.attention.key_length", 2**40), ("llama.attention.key_length", str(2**40))),
    "odd rope": (key("llama.rope.dimension_count", 15), ("llama.rope.dimension_count", "15", "even")),
    "rope wider than a head": (
        key("llama.rope.dimension_count", 18),
        ("llama.rope.dimension_count", "18", "1 to 16"),
    ),
    "rope base 0": (key("llama.rope.freq_base", 0.0), ("llama.rope.freq_base", "0", "above 0")),
    "rope base NaN": (key("llama.rope.freq_base", float("nan")), ("llama.rope.freq_base", "nan")),
    "unknown rope scaling": (
        key("llama.rope.scaling.type", "ntk"),
        ("llama.rope.scaling.type", "'ntk'", "'yarn'", "'longrope'"),
    ),
    "negative epsilon": (
        key("llama.attention.layer_norm_rms_epsilon", -1e-5),
        ("llama.attention.layer_norm_rms_epsilon", "above 0"),
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata(models: dict[str, Path], tmp_path: Path, case: str) -> None:
    edit, parts = METADATA[case]
    file = GgufEditor(models["llama"])
    edit(file)
    path = file.write(tmp_path / "edited.gguf")
    message = engine_error(path)
    assert message.startswith(str(path))
    expect_parts(message, parts)


# ---- tensors


def without_tensor(name: str) -> Edit:
    def edit(file: GgufEditor) -> None:
        del file.tensors[name]

    return edit


def tensor(name: str, *shape: int, kind: Type = Type.F32) -> Edit:
    return lambda file: file.set_floats(name, np.ones(shape, dtype=np.float32), kind)


def zeros(name: str, rows: int, cols: int, kind: Type) -> Edit:
    return lambda file: file.set_zeros(name, rows, cols, kind)


def poisoned(name: str, value: float, kind: Type = Type.F32) -> Edit:
    """One value of a tensor replaced, in the middle row."""

    def edit(file: GgufEditor) -> None:
        values = file.floats(name)
        values.flat[values.size // 2] = value
        file.set_floats(name, values, kind)

    return edit


def poisoned_scale(name: str, kind: Type, block_bytes: int, value: float) -> Edit:
    """The scale (half precision, first in its block) of the last block of row 3 replaced."""

    def edit(file: GgufEditor) -> None:
        file.set_floats(name, file.floats(name), kind)
        row = file.tensors[name].data[3]
        row[-block_bytes : len(row) - block_bytes + 2] = np.array([value], dtype="<f2").view(np.uint8)

    return edit


def poisoned_block(name: str, kind: Type, at: int, value: int) -> Edit:
    """Zero blocks, but for one byte of the last block of row 3."""

    def edit(file: GgufEditor) -> None:
        file.set_zeros(name, FEED_FORWARD, WIDTH, kind)
        file.tensors[name].data[3, at - gguf.GGML_QUANT_SIZES[kind][1]] = value

    return edit


UP, Q_BIAS, Q_NORM = "blk.1.ffn_up.weight", "blk.0.attn_q.bias", "blk.1.attn_q_norm.weight"
TENSORS: dict[str, tuple[str, Edit, tuple[str, ...]]] = {
    "embedding missing": ("llama", without_tensor("token_embd.weight"), ("token_embd.weight",)),
    "final norm missing": ("llama", without_tensor("output_norm.weight"), ("output_norm.weight",)),
    "matrix missing": ("llama", without_tensor(UP), (UP,)),
    "norm missing": ("llama", without_tensor("blk.0.attn_norm.weight"), ("blk.0.attn_norm.weight",)),
    "q norm missing": ("qwen3", without_tensor(Q_NORM), (Q_NORM,)),
    "transposed": ("llama", tensor(UP, WIDTH, FEED_FORWARD), (UP, "{96, 64}", "{64, 96}")),
    "a row too few": ("llama", tensor(UP, FEED_FORWARD - 1, WIDTH), (UP, "{64, 95}", "{64, 96}")),
    "a matrix as vector": ("llama", tensor(UP, FEED_FORWARD * WIDTH), (UP, "{6144}", "{64, 96}")),
    "a long norm": ("llama", tensor("output_norm.weight", 65), ("output_norm.weight", "{65}", "{64}")),
    "a short bias": ("qwen2", tensor(Q_BIAS, 63), (Q_BIAS, "{63}", "{64}")),
    "q norm of the whole width": ("qwen3", tensor(Q_NORM, WIDTH), (Q_NORM, "{64}", "{16}")),
    "a head of other rows": (
        "llama",
        tensor("output.weight", VOCAB + 1, WIDTH),
        ("output.weight", "{64, 401}", "{64, 400}"),
    ),
    "rope factors": ("llama", tensor("rope_freqs.weight", 9), ("rope_freqs.weight", "{9}", "{8}")),
    "unknown tensor": ("llama", tensor("blk.0.extra.weight", 4), ("blk.0.extra.weight", "'llama'")),
    "a layer too many": ("llama", tensor("blk.2.attn_q.weight", 64, 64), ("blk.2.attn_q.weight", "'llama'")),
    "a norm of another architecture": ("llama", tensor(Q_NORM, 16), (Q_NORM, "'llama'")),
    "experts' gate": ("llama", tensor("blk.0.ffn_gate_inp.weight", 8, 64), ("blk.0.ffn_gate_inp.weight",)),
    "unsupported type": ("llama", zeros(UP, FEED_FORWARD, WIDTH, Type.NVFP4), (UP, "NVFP4", "F32", "Q8_0", "TQ1_0")),
    "64-bit floats": ("llama", zeros(UP, FEED_FORWARD, WIDTH, Type.F64), (UP, "F64", "F32")),
    "integers": ("llama", zeros("token_embd.weight", VOCAB, WIDTH, Type.I32), ("token_embd.weight", "I32")),
    "a norm of integers": ("llama", zeros("output_norm.weight", 1, WIDTH, Type.I8), ("output_norm.weight", "I8")),
    "NaN in F32": ("llama", poisoned(UP, np.nan), (UP, "row 48", "NaN")),
    "infinity in F32": ("llama", poisoned(UP, -np.inf), (UP, "row 48", "infinite")),
    "NaN in F16": ("llama", poisoned(UP, np.nan, Type.F16), (UP, "row 48", "NaN")),
    "infinity in BF16": ("llama", poisoned(UP, np.inf, Type.BF16), (UP, "row 48", "infinite")),
    "NaN in the embedding": ("llama", poisoned("token_embd.weight", np.nan), ("token_embd.weight", "row 200")),
    "NaN in the head": ("llama", poisoned("output.weight", np.nan), ("output.weight", "row 200", "NaN")),
    "NaN in a norm": ("llama", poisoned("blk.1.ffn_norm.weight", np.nan), ("blk.1.ffn_norm.weight", "NaN")),
    "infinity in a bias": ("qwen2", poisoned(Q_BIAS, np.inf), (Q_BIAS, "infinite")),
    "NaN scale in Q8_0": ("llama", poisoned_scale(UP, Type.Q8_0, 34, np.nan), (UP, "row 3", "NaN")),
    "infinite scale in Q8_0": ("llama", poisoned_scale(UP, Type.Q8_0, 34, np.inf), (UP, "row 3", "infinite")),
    "NaN scale in Q4_0": ("llama", poisoned_scale(UP, Type.Q4_0, 18, np.nan), (UP, "row 3", "NaN")),
    "NaN scale in IQ4_NL": ("llama", poisoned_block(UP, Type.IQ4_NL, 1, 0x7E), (UP, "row 3", "NaN")),
    "NaN scale in MXFP4": ("llama", poisoned_block(UP, Type.MXFP4, 0, 0xFF), (UP, "row 3", "NaN")),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors(models: dict[str, Path], tmp_path: Path, case: str) -> None:
    architecture, edit, parts = TENSORS[case]
    file = GgufEditor(models[architecture])
    edit(file)
    path = file.write(tmp_path / "edited.gguf")
    message = engine_error(path)
    assert message.startswith(str(path))
    expect_parts(message, parts)


def test_rope_factors_that_divide_by_zero(models: dict[str, Path], tmp_path: Path) -> None:
    file = GgufEditor(models["llama"])
    file.set_floats("rope_freqs.weight", np.array([1, 1, 1, 0, 1, 1, 1, 1]))
    message = engine_error(file.write(tmp_path / "edited.gguf"))
    expect_parts(message, ("rope_freqs.weight", "0"))


@pytest.mark.parametrize("rows", [VOCAB - 1, VOCAB + 16])
def test_embedding_rows_are_tokens(models: dict[str, Path], tmp_path: Path, rows: int) -> None:
    file = GgufEditor(models["llama"])
    for name in ("token_embd.weight", "output.weight"):
        file.set_floats(name, np.ones((rows, WIDTH)))
    message = engine_error(file.write(tmp_path / "edited.gguf"))
    expect_parts(message, ("token_embd.weight", str(rows), str(VOCAB)))


def test_the_editor_changes_nothing_else(models: dict[str, Path], tmp_path: Path) -> None:
    """A file that is written again unchanged works: the errors above are about the edits."""
    for architecture, path in models.items():
        copy = GgufEditor(path).write(tmp_path / f"{architecture}.gguf")
        tokens = [3, 1, 4, 1, 5]
        again, original = (_core.Engine(str(p)).forward(tokens) for p in (copy, path))
        assert np.array_equal(again, original)


def test_head_counts_as_equal_arrays_are_taken(models: dict[str, Path], tmp_path: Path) -> None:
    file = GgufEditor(models["llama"])
    file.set("llama.attention.head_count", [4, 4])
    file.set("llama.attention.head_count_kv", [2, 2])
    path = file.write(tmp_path / "edited.gguf")
    found, expected = (_core.Engine(str(p)).forward([3, 1, 4]) for p in (path, models["llama"]))
    assert np.array_equal(found, expected)


# ---- absurd sizes

_PEAK = """
import resource, sys
from frspec_cpp import _core
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    _core.Engine(sys.argv[1], n_ctx=int(sys.argv[2]))
except (ValueError, MemoryError) as error:
    print(type(error).__name__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def refuse(path: Path, context: int = 0) -> tuple[str, int]:
    """In a process of its own: the exception that making the engine raises, and the growth of its peak, in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path), str(context)], capture_output=True, text=True, timeout=60, check=True
    )
    name, peak = done.stdout.split()
    return name, int(peak)


@pytest.mark.parametrize(
    "edits",
    [
        {"llama.block_count": 2**31},
        {"llama.embedding_length": 2**40},
        {"llama.embedding_length": 2**20, "llama.feed_forward_length": 2**22},
        {"llama.attention.head_count": 4096, "llama.attention.key_length": 2**14},
        {"llama.context_length": 2**40},
    ],
    ids=str,
)
def test_absurd_sizes_take_no_memory(models: dict[str, Path], tmp_path: Path, edits: dict[str, int]) -> None:
    file = GgufEditor(models["llama"])
    for name, value in edits.items():
        file.set(name, value)
    name, peak = refuse(file.write(tmp_path / "edited.gguf"))
    assert name == "ValueError"
    assert peak < 64 * 1024


def test_a_context_larger_than_the_memory(models: dict[str, Path], tmp_path: Path) -> None:
    """The model may have been trained for that many tokens; the cache has no room for them."""
    file = GgufEditor(models["llama"])
    file.set("llama.context_length", 2**30)
    name, peak = refuse(file.write(tmp_path / "edited.gguf"), 2**30)
    assert name == "MemoryError"
    assert peak < 64 * 1024


# ---- options and prompts

OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "n_ctx 1": ({"n_ctx": 1}, ("context", "1", "2 to 512")),
    "n_ctx -1": ({"n_ctx": -1}, ("context", "-1", "2 to 512")),
    "n_ctx too large": ({"n_ctx": CONTEXT + 1}, ("context", "513", "2 to 512")),
    "n_batch 0": ({"n_batch": 0}, ("batch", "0", "1 to 65536")),
    "n_batch -1": ({"n_batch": -1}, ("batch", "-1", "1 to 65536")),
    "n_batch 2^31 - 1": ({"n_batch": 2**31 - 1}, ("batch", str(2**31 - 1), "1 to 65536")),
    "n_threads -2": ({"n_threads": -2}, ("threads", "-2", "1 to 1024")),
    "n_threads 2^31 - 1": ({"n_threads": 2**31 - 1}, ("threads", str(2**31 - 1), "1 to 1024")),
    "unknown device": ({"device": "tpu"}, ("device", "'tpu'", "'cpu'", "'cuda'")),
    "no device": ({"device": ""}, ("device", "''", "'cpu'")),
    "device number x": ({"device": "cuda:x"}, ("device", "'cuda:x'", "number")),
    "device number -1": ({"device": "cuda:-1"}, ("device", "'cuda:-1'", "number")),
    "second emulated device": ({"device": "cuda-emulated:1"}, ("device", "'cuda-emulated:1'", "0")),
    "tap -1": ({"taps": [0, -1]}, ("layer -1", "0 to 2")),
    "tap behind the last layer": ({"taps": [3]}, ("layer 3", "0 to 2")),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(models: dict[str, Path], case: str) -> None:
    options, parts = OPTIONS[case]
    expect_parts(engine_error(models["llama"], **options), parts)


@pytest.mark.parametrize("name", ["n_ctx", "n_batch", "n_threads"])
@pytest.mark.parametrize("value", [2**31, 2**80, 1.5, "8", b"8"], ids=str)
def test_options_that_are_no_number(models: dict[str, Path], name: str, value: Any) -> None:
    with pytest.raises(TypeError):
        _core.Engine(str(models["llama"]), **{name: value})


def test_no_cuda(models: dict[str, Path]) -> None:
    """A build without the CUDA backend, or a machine without a GPU, says so, instead of computing elsewhere."""
    if _core.default_device().startswith("cuda:") or _core.default_device() == "cuda":
        pytest.skip("there is one")
    message = engine_error(models["llama"], device="cuda")
    expect_parts(message, ("device", "'cpu'"))
    assert any(part in message for part in ("no CUDA backend", "no NVIDIA driver", "no CUDA device", "driver for"))


@pytest.mark.parametrize("value", ["nonsense", "AVX2", "avx2,generic", " "])
def test_unknown_instruction_set(models: dict[str, Path], value: str) -> None:
    code = "import sys; from frspec_cpp import _core; _core.Engine(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(models["llama"])],
        env={**os.environ, "FRSPEC_CPU": value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ValueError: ")
    expect_parts(last, ("FRSPEC_CPU", f"'{value}'", "generic"))


def test_prompts(models: dict[str, Path]) -> None:
    engine = _core.Engine(str(models["llama"]), n_ctx=16)
    for tokens, parts in (
        ([], ("prompt", "no tokens")),
        ([5] * 16, ("prompt", "16", "15")),
        ([5] * 100000, ("prompt", "100000", "15")),
        ([5, VOCAB], ("prompt", "token 1", "400", "0 to 399")),
        ([-1], ("prompt", "token 0", "-1", "0 to 399")),
        ([5, 6, 2**31 - 1], ("prompt", "token 2", str(2**31 - 1), "0 to 399")),
    ):
        with pytest.raises(ValueError, match="prompt") as caught:
            engine.begin(tokens)
        expect_parts(str(caught.value), parts)
    with pytest.raises(TypeError):
        engine.begin([5, 2**31])
    # The largest prompt leaves room for one token.
    generation = engine.begin([5] * 15, ignore_eos=True)
    assert len(generation.run()) == 1
    assert generation.finish_reason == "length"


def test_generation_options(models: dict[str, Path]) -> None:
    engine = _core.Engine(str(models["llama"]))
    for options, parts in (
        ({"max_tokens": 0}, ("max_tokens", "0", "1")),
        ({"max_tokens": -5}, ("max_tokens", "-5", "1")),
        ({"temperature": -0.5}, ("temperature", "-0.5")),
        ({"temperature": float("nan")}, ("temperature", "nan")),
        ({"temperature": float("inf")}, ("temperature", "inf")),
    ):
        with pytest.raises(ValueError, match=next(iter(options))) as caught:
            engine.begin([5, 6], **options)
        expect_parts(str(caught.value), parts)


def test_forward_input(models: dict[str, Path]) -> None:
    engine = _core.Engine(str(models["llama"]), n_ctx=16, n_batch=8)
    assert engine.forward([5] * 16).shape == (16, VOCAB)
    for tokens, parts in (([], ("0", "1 to 16")), ([5] * 17, ("17", "1 to 16")), ([5, VOCAB], ("400", "0 to 399"))):
        with pytest.raises(ValueError, match="expected") as caught:
            engine.forward(tokens)
        expect_parts(str(caught.value), parts)
    for prefix, tokens, parents in (
        ([5], [6, 7], [-1]),  # lengths differ
        ([5], [], []),
        ([5], [6, 7], [-1, 1]),  # its own parent
        ([5], [6, 7], [-1, -1]),  # two roots
        ([5], [6, 7], [0, 0]),
        ([5], [6, 7, 8], [-1, 2, 0]),  # a parent that comes later
        ([5], [6, VOCAB], [-1, 0]),
        ([-5], [6], [-1]),
        ([5] * 15, [6, 7], [-1, 0]),  # longer than the context
        ([5], [6] * 9, [-1] + [0] * 8),  # larger than a batch
    ):
        with pytest.raises(ValueError, match="expected"):
            engine.forward_tree(prefix, tokens, parents)


def test_a_failed_call_leaves_the_engine_usable(models: dict[str, Path]) -> None:
    engine = _core.Engine(str(models["llama"]))
    expected = engine.begin([5, 6, 7], max_tokens=8, ignore_eos=True).run()
    for tokens in ([], [VOCAB], [5] * CONTEXT):
        with pytest.raises(ValueError, match="prompt"):
            engine.begin(tokens)
        assert engine.begin([5, 6, 7], max_tokens=8, ignore_eos=True).run() == expected


def test_weights_that_overflow(models: dict[str, Path], tmp_path: Path) -> None:
    """Finite weights whose logits are not: an error where the text would go wrong, and the engine says so again."""
    file = GgufEditor(models["llama"])
    file.set_floats("output.weight", np.full((VOCAB, WIDTH), 3e38, dtype=np.float32))
    engine = _core.Engine(str(file.write(tmp_path / "huge.gguf")))
    for _ in range(2):
        text = engine.begin([5, 6, 7], max_tokens=4)
        with pytest.raises(RuntimeError, match=r"huge\.gguf.*token 3 leave no token"):
            text.run()
        with pytest.raises(RuntimeError, match="cannot go on"):
            text.step()
