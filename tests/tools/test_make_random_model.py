"""frspec-make-random-model: files of published shapes that load, with the types llama.cpp would choose."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools import random_blocks
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.delta_net import DeltaNet
from frspec_cpp.tools.make_random_model import SHAPES, TYPES, main, make_random_model, matrix_type, use_more_bits

from frspec_cpp import LLM, GgufFile, _core

PROMPT = "def f(x): return x"


def types_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a small vocabulary: 400 tokens."""
    folder = tmp_path_factory.mktemp("vocab")
    path = folder / "vocab.gguf"
    convert(make_checkpoint(folder / "checkpoint", "llama"), path, "f32", quiet=True)
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_loads_and_drafts(vocab: Path, tmp_path: Path, kind: str) -> None:
    """Plain and drafted texts of a pair in each type are equal."""
    target, drafter = tmp_path / "target.gguf", tmp_path / "drafter.gguf"
    make_random_model(target, "tiny", kind, vocab, eagle2=drafter, quiet=True)
    llm = LLM(target, drafter=drafter, head="ranked:100", tree_depth=2, tree_branch=3, tree_size=10, n_ctx=128)
    for temperature in (0.0, 0.8):
        options = {"max_tokens": 24, "temperature": temperature, "seed": 1, "ignore_eos": True}
        assert llm.generate(PROMPT, draft=True, **options).tokens == llm.generate(PROMPT, draft=False, **options).tokens
    logits = llm.forward(llm.tokenize(PROMPT))
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 30


@pytest.mark.parametrize(("rows", "kind"), [(None, "q8_0"), (400, "q4_k_m"), (100, "q4_0"), (1, "f16")])
def test_eagle3_drafters(vocab: Path, tmp_path: Path, rows: int | None, kind: str) -> None:
    target, drafter = tmp_path / "target.gguf", tmp_path / "drafter.gguf"
    make_random_model(target, "tiny", kind, vocab, eagle3=drafter, draft_vocab=rows, quiet=True)
    names = {tensor.name: tensor.shape for tensor in GgufFile(drafter).tensors}
    assert names["output.weight"][1] == (rows or 400)
    assert ("d2t" in names) == (rows in (1, 100))
    llm = LLM(target, drafter=drafter, tree_depth=2, tree_branch=min(3, rows or 3), tree_size=10, n_ctx=128)
    found = llm.generate(PROMPT, 24, draft=True, ignore_eos=True)
    assert found.tokens == llm.generate(PROMPT, 24, draft=False, ignore_eos=True).tokens
    assert found.stats.drafted_steps > 0
    assert found.stats.drafter_error is None


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_sizes_of_their_models(vocab: Path, tmp_path: Path, shape: str) -> None:
    """One layer of each kind and shape with few tokens: every key and tensor that the engine wants is there."""
    published = SHAPES[shape]
    net = published.delta and dataclasses.replace(published.delta, interval=2)
    model = dataclasses.replace(
        published, layers=2 if net else 1, feed_forward=512, delta=net, experts=min(published.experts, 8)
    )
    path = tmp_path / "model.gguf"
    make_random_model(path, model, "q4_0", vocab, quiet=True)
    llm = LLM(path, n_ctx=16)
    assert llm.architecture == published.architecture
    assert len(llm.generate([5, 6], max_tokens=3, ignore_eos=True).tokens) == 3
    file = GgufFile(path)
    names = {tensor.name for tensor in file.tensors}
    assert ("output.weight" in names) != published.tied
    assert ("rope_freqs.weight" in names) == published.rope_factors
    attention = f"blk.{model.layers - 1}"
    assert (f"{attention}.attn_q.bias" in names) == published.qkv_bias
    assert (f"{attention}.attn_q_norm.weight" in names) == published.qk_norm
    assert ("blk.0.ffn_gate_exps.weight" in names) == (published.experts > 0)
    assert ("blk.0.ssm_a" in names) == (net is not None)


@pytest.mark.parametrize("tied", [False, True])
def test_qwen35_is_what_the_converter_writes(tmp_path: Path, tied: bool) -> None:
    """Names, shapes and keys are those of a checkpoint of the same sizes."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "qwen35", mtp=True, tie_word_embeddings=tied)
    converted, random = tmp_path / "converted.gguf", tmp_path / "random.gguf"
    convert(checkpoint, converted, "f32", quiet=True)
    net = DeltaNet(kernel=4, key_heads=2, value_heads=6, head_dim=32, interval=4)
    published = SHAPES["qwen3.5-0.8b"]
    shape = dataclasses.replace(
        published, layers=8, hidden=64, feed_forward=96, heads=4, kv_heads=2, head_dim=32, tied=tied, delta=net
    )
    make_random_model(random, shape, "f32", converted, quiet=True)
    shapes = [{tensor.name: tuple(tensor.shape) for tensor in GgufFile(path).tensors} for path in (converted, random)]
    assert shapes[0] == shapes[1]
    keys = [
        {key: value for key, value in GgufFile(path).metadata.items() if key.startswith("qwen35.")}
        for path in (converted, random)
    ]
    # The checkpoint says which layers have a delta net one by one, and other values of these.
    own = {"attention.recurrent_layers", "context_length", "rope.freq_base", "rope.dimension_sections"}
    assert {key for key in keys[0] if keys[0][key] != keys[1].get(key)} == {f"qwen35.{key}" for key in own}
    assert keys[1].keys() <= keys[0].keys()


def test_types_of_qwen35(vocab: Path, tmp_path: Path) -> None:
    """As llama.cpp's quantizer mixes Q4_K_M for 4 layers and an MTP block."""
    path = tmp_path / "model.gguf"
    shape = dataclasses.replace(SHAPES["qwen3.5-0.8b"], layers=4, feed_forward=512)
    make_random_model(path, shape, "q4_k_m", vocab, quiet=True)
    types = types_of(path)
    better = [layer for layer in range(5) if use_more_bits(layer, 5)]
    assert better == [2, 4]
    for layer in range(5):
        value = "attn_v" if layer in (3, 4) else "attn_qkv"
        for part in (value, "ffn_down"):
            assert types[f"blk.{layer}.{part}.weight"] == ("Q6_K" if layer in better else "Q4_K"), (layer, part)
    assert types["blk.4.nextn.eh_proj.weight"] == types["blk.0.ssm_alpha.weight"] == "Q4_K"
    assert types["blk.0.ssm_conv1d.weight"] == types["blk.0.ssm_a"] == "F32"
    assert types["token_embd.weight"] == "Q6_K"


PARAMETERS = {  # as published, in billions, with the published vocabulary
    "llama3.2-1b": (128256, 1.24), "llama3.2-3b": (128256, 3.21), "llama3-8b": (128256, 8.03),
    "mistral-7b": (32768, 7.25), "qwen2.5-0.5b": (151936, 0.49), "qwen2.5-7b": (152064, 7.62),
    "qwen3-0.6b": (151936, 0.60), "qwen3-4b": (151936, 4.02), "qwen3-8b": (151936, 8.19),
    "qwen3.5-0.8b": (248320, 0.773), "qwen3.5-4b": (248320, 4.326), "qwen3.5-9b": (248320, 9.197),
    "qwen3.5-27b": (248320, 27.317), "qwen3-30b-a3b": (151936, 30.53),
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_published(name: str) -> None:
    vocab, expected = PARAMETERS[name]
    s = SHAPES[name]
    attention = s.hidden * s.head_dim * ((2 if s.delta is None else 3) * s.heads + 2 * s.kv_heads)
    feed_forward = max(1, s.experts) * 3 * s.hidden * s.feed_forward + s.experts * s.hidden
    total = vocab * s.hidden * (1 if s.tied else 2) + s.layers * (attention + feed_forward)
    if s.delta is not None:  # three of four layers have it, and there is an MTP block
        own = s.hidden * (s.delta.channels + 2 * s.delta.values + 2 * s.delta.value_heads)
        total += s.layers * 3 // 4 * (own - attention) + 2 * s.hidden**2 + attention + feed_forward
    assert total / 1e9 == pytest.approx(expected, abs=0.0051)


def test_mixes_are_those_of_llama_cpp(vocab: Path, tmp_path: Path) -> None:
    """Q4_K_M as llama.cpp's quantizer makes it for Llama-3.2-1B: these 8 of 16 layers, and the tied head, in Q6_K."""
    better = [layer for layer in range(16) if use_more_bits(layer, 16)]
    assert better == [0, 1, 4, 7, 10, 13, 14, 15]
    model = dataclasses.replace(SHAPES["tiny"], layers=16, tied=True)
    for option, base in (("q4_k_m", "Q4_K"), ("q5_k_m", "Q5_K")):
        path = tmp_path / f"{option}.gguf"
        make_random_model(path, model, option, vocab, quiet=True)
        types = types_of(path)
        assert types["token_embd.weight"] == "Q6_K"
        assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"
        for layer in range(16):
            for part in ("attn_v", "ffn_down"):
                assert types[f"blk.{layer}.{part}.weight"] == ("Q6_K" if layer in better else base)
            for part in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
                assert types[f"blk.{layer}.{part}.weight"] == base
        assert GgufFile(path).metadata["general.file_type"] == TYPES[option][1]


def test_rows_that_fit_no_block_fall_back() -> None:
    """As llama.cpp's quantizer does for the 896 columns of Qwen2.5-0.5B, and where not even 32 divides."""
    shape = SHAPES["qwen2.5-0.5b"]
    assert matrix_type("q4_k_m", "blk.3.attn_q.weight", 896, shape) == "Q5_0"
    assert matrix_type("q4_k_m", "token_embd.weight", 896, shape) == "Q8_0"
    assert matrix_type("q5_k_m", "blk.3.attn_q.weight", 896, shape) == "Q5_1"
    assert matrix_type("q8_0", "blk.3.attn_q.weight", 40, shape) == "F16"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_weights_have_the_wanted_size(kind: str) -> None:
    rng = np.random.default_rng(0)
    data = random_blocks.random_weights(kind, 64, 1024, 0.05, rng)
    values = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    assert values.shape == (64, 1024)
    assert values.std() == pytest.approx(0.05, rel=0.15)
    assert abs(values.mean()) < 0.006


def test_the_same_seed_gives_the_same_files(vocab: Path, tmp_path: Path) -> None:
    files = []
    for seed in (1, 1, 2):
        target, drafter = tmp_path / f"{len(files)}.gguf", tmp_path / f"{len(files)}-eagle2.gguf"
        make_random_model(target, "tiny", "q4_k_m", vocab, eagle2=drafter, seed=seed, quiet=True)
        files.append((target.read_bytes(), drafter.read_bytes()))
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]
    assert files[0][1] != files[2][1]


def test_vocabularies(demo_target: Path, tmp_path: Path) -> None:
    """The tokenizer is the given one, padded if asked."""
    path = tmp_path / "model.gguf"
    make_random_model(path, "tiny", "q8_0", demo_target, vocab_size=65600, quiet=True)
    mine, theirs = _core.Tokenizer(str(path)), _core.Tokenizer(str(demo_target))
    assert (mine.vocab_size, theirs.vocab_size) == (65600, 65536)
    assert mine.encode(PROMPT) == theirs.encode(PROMPT)
    assert mine.token_text(65599) == "[PAD65599]"
    assert LLM(path, n_ctx=32).forward([65599]).shape == (1, 65600)


def test_command_line(vocab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, drafter = tmp_path / "a.gguf", tmp_path / "b.gguf"
    arguments = ["--shape", "tiny", "--layers", "3", "--type", "q4_0", "--vocab", str(vocab)]
    arguments += ["--eagle2", str(drafter), "--drafter-type", "f16"]
    assert main([str(target), *arguments]) == 0
    assert capsys.readouterr().err == f"frspec-make-random-model: wrote {target} and {drafter}\n"
    assert types_of(target)["blk.2.ffn_up.weight"] == "Q4_0"
    assert types_of(drafter)["fc.weight"] == "F16"
    assert GgufFile(target).metadata["general.tags"] == ["random-weights"]
    assert GgufFile(target).metadata["general.name"] == "custom q4_0 random"
    assert main([str(target), "--shape", "tiny", "--vocab", str(vocab), "-q"]) == 0
    assert GgufFile(target).metadata["general.name"] == "tiny q8_0 random"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0"], "--layers: found 0, expected at least 1"),
        (["--vocab-size", "100"], "--vocab-size: found 100, expected at least 400"),
        (["--vocab", "nowhere.gguf"], "nowhere.gguf"),
        (["--eagle2", "OUTPUT"], "is the model's own file"),
        (["--eagle2", "nowhere/drafter.gguf"], "nowhere"),
        (["--eagle3", "OUTPUT"], "is the model's own file"),
        (["--eagle2", "d.gguf", "--eagle3", "d.gguf"], "is the other drafter's own file"),
        (["--draft-vocab", "100"], "--draft-vocab: found 100, expected 1 to 400"),
        (["--eagle3", "d.gguf", "--draft-vocab", "401"], "--draft-vocab: found 401, expected 1 to 400"),
        (["--eagle3", "d.gguf", "--draft-vocab", "0"], "--draft-vocab: found 0, expected 1 to 400"),
        (["--vocab", "OUTPUT"], "expected another one to write"),
    ],
)
def test_errors(
    vocab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output = tmp_path / "model.gguf"
    if arguments == ["--vocab", "OUTPUT"]:
        output.write_bytes(vocab.read_bytes())
    before = output.read_bytes() if output.exists() else None
    given = [str(output) if value == "OUTPUT" else value for value in arguments]
    assert main([str(output), "--shape", "tiny", "--vocab", str(vocab), "-q", *given]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    if before is not None:
        assert output.read_bytes() == before


def test_unknown_names_are_errors(vocab: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found shape 'llama9', expected one of tiny, "):
        make_random_model(tmp_path / "m.gguf", "llama9", "q8_0", vocab)
    with pytest.raises(ValueError, match="found type 'q3_x', expected one of f32, "):
        make_random_model(tmp_path / "m.gguf", "tiny", "q3_x", vocab)
    with pytest.raises(ValueError, match="has no tokenizer"):
        make_random_model(tmp_path / "m.gguf", "tiny", "q8_0", _without_tokenizer(tmp_path))
    assert not (tmp_path / "m.gguf").exists()


def _without_tokenizer(folder: Path) -> Path:
    path = folder / "empty.gguf"
    writer = gguf.GGUFWriter(path, "test")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
