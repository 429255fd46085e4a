"""Conversion of EAGLE-1/2 drafters, alone and with ranks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint, make_eagle2, make_tokenizer
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
from frspec_cpp.tools.ranks_file import Ranks, write_ranks
from gguf_values import expected_tensors, metadata, tensors, types
from safetensors.torch import load_file, save_file


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The checkpoint of a tiny target."""
    return make_checkpoint(tmp_path / "target", "llama")


def check_tensors(folder: Path, output: Path, without: str = "") -> None:
    expected = expected_tensors(folder, interleaved=True)
    expected.pop(without, None)
    found = tensors(output)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_drafter(tmp_path: Path, target: Path) -> None:
    folder = make_eagle2(tmp_path / "drafter", target, rope_theta=2000.0)
    convert(target, tmp_path / "target.gguf", "q8_0")
    for of in (target, tmp_path / "target.gguf"):
        convert(folder, tmp_path / "out.gguf", "f32", target=of)
        check_tensors(folder, tmp_path / "out.gguf")
        found = metadata(tmp_path / "out.gguf")
        expected = {
            "general.architecture": "eagle2",
            "eagle2.block_count": 1,
            "eagle2.context_length": 512,
            "eagle2.embedding_length": 64,
            "eagle2.feed_forward_length": 96,
            "eagle2.attention.head_count": 4,
            "eagle2.attention.head_count_kv": 2,
            "eagle2.attention.key_length": 16,
            "eagle2.attention.value_length": 16,
            "eagle2.attention.layer_norm_rms_epsilon": np.float32(1e-5),
            "eagle2.rope.freq_base": 2000.0,
            "eagle2.rope.dimension_count": 16,
            "eagle2.vocab_size": 400,
            "eagle2.target_hidden_size": 64,
        }
        assert {key: found.get(key) for key in expected} == expected
        of_target = metadata(tmp_path / "target.gguf")
        tokenizer = {key: value for key, value in of_target.items() if key.startswith("tokenizer.")}
        assert {key: value for key, value in found.items() if key.startswith("tokenizer.")} == tokenizer
        assert not any(key.startswith("frspec.") for key in found)


def test_rope_theta_of_the_target_is_not_assumed(tmp_path: Path) -> None:
    target = make_checkpoint(tmp_path / "target", "llama", rope_parameters={"rope_theta": 5e5})
    convert(make_eagle2(tmp_path / "drafter", target), tmp_path / "out.gguf", target=target)
    assert metadata(tmp_path / "out.gguf")["eagle2.rope.freq_base"] == 10000.0


@pytest.mark.parametrize("settings", [{"bias": True}, {"qkv_bias": True}, {"num_hidden_layers": 3}])
def test_variants(tmp_path: Path, target: Path, settings: dict[str, Any]) -> None:
    folder = make_eagle2(tmp_path / "drafter", target, **settings)
    convert(folder, tmp_path / "out.gguf", "f32", target=target)
    check_tensors(folder, tmp_path / "out.gguf")
    names = tensors(tmp_path / "out.gguf").keys()
    assert ("fc.bias" in names) == ("bias" in settings)
    assert ("blk.1.attn_norm.weight" in names) == ("num_hidden_layers" in settings)
    assert "blk.0.attn_norm.weight" not in names


def test_bias_is_the_default_and_a_stored_bias_is_kept(tmp_path: Path, target: Path) -> None:
    folder = make_eagle2(tmp_path / "drafter", target, bias=True)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in config.items() if key != "bias"}))
    assert convert(folder, tmp_path / "out.gguf", "f32", target=target) == []
    check_tensors(folder, tmp_path / "out.gguf")
    file.write_text(json.dumps({**config, "bias": False}))
    remarks = convert(folder, tmp_path / "out.gguf", "f32", target=target)
    assert any("fc.bias" in remark for remark in remarks)
    check_tensors(folder, tmp_path / "out.gguf")

    without = make_eagle2(tmp_path / "without", target, bias=False)
    (without / "config.json").write_text(file.read_text().replace('"bias": false', '"qkv_bias": false'))
    with pytest.raises(ValueError, match=r"tensor 'fc\.bias' is missing, expected \(64,\)"):
        convert(without, tmp_path / "out.gguf", "f32", target=target)


@pytest.mark.parametrize("target_type", ["checkpoint", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_copy_of_the_embedding_is_dropped(tmp_path: Path, target: Path, target_type: str, dtype: torch.dtype) -> None:
    folder = make_eagle2(tmp_path / "drafter", target)
    weights = load_file(folder / "model.safetensors")
    embedding = load_file(target / "model.safetensors")["model.embed_tokens.weight"]
    save_file({**weights, "embed_tokens.weight": embedding.to(dtype)}, folder / "model.safetensors")
    of = target
    if target_type != "checkpoint":
        of = tmp_path / "target.gguf"
        convert(target, of, target_type)
    remarks = convert(folder, tmp_path / "out.gguf", "f32", target=of)
    assert any("the copy is dropped" in remark for remark in remarks)
    check_tensors(folder, tmp_path / "out.gguf", without="token_embd.weight")


def test_embedding_of_its_own_is_kept(tmp_path: Path, target: Path) -> None:
    folder = make_eagle2(tmp_path / "drafter", target, own_embedding=True)
    convert(target, tmp_path / "target.gguf", "q4_0")
    for of in (target, tmp_path / "target.gguf"):
        remarks = convert(folder, tmp_path / "out.gguf", "f32", target=of)
        assert any("it is kept" in remark for remark in remarks)
        check_tensors(folder, tmp_path / "out.gguf")


def ranks_of(target_gguf: Path, tokens: list[int]) -> Ranks:
    texts = metadata(target_gguf)["tokenizer.ggml.tokens"]
    return Ranks(np.array(tokens, dtype=np.int32), len(texts), vocabulary_fingerprint(texts), None, 1234, "a.txt")


def test_embedded_ranks(tmp_path: Path, target: Path) -> None:
    folder = make_eagle2(tmp_path / "drafter", target)
    convert(target, tmp_path / "target.gguf")
    ranks = ranks_of(tmp_path / "target.gguf", [0, 1, 77, 5, 399])
    write_ranks(tmp_path / "ranks.gguf", ranks)
    convert(folder, tmp_path / "out.gguf", target=tmp_path / "target.gguf", ranks=tmp_path / "ranks.gguf")
    assert tensors(tmp_path / "out.gguf")["token_ranks"].tolist() == [0, 1, 77, 5, 399]
    assert types(tmp_path / "out.gguf")["token_ranks"] == "I32"
    found = metadata(tmp_path / "out.gguf")
    assert found["frspec.ranks.vocab_size"] == 400
    assert found["frspec.ranks.vocab_fingerprint"] == ranks.fingerprint
    assert found["frspec.ranks.tokens_counted"] == 1234
    assert found["frspec.ranks.source"] == "a.txt"


@pytest.mark.parametrize("value", [[3, 1, 2], torch.tensor([3, 1, 2])])
@pytest.mark.parametrize("zipped", [True, False])
def test_ranks_saved_by_torch(tmp_path: Path, target: Path, value: Any, zipped: bool) -> None:
    folder = make_eagle2(tmp_path / "drafter", target)
    torch.save(value, tmp_path / "freq_3.pt", _use_new_zipfile_serialization=zipped)
    convert(folder, tmp_path / "out.gguf", target=target, ranks=tmp_path / "freq_3.pt")
    assert tensors(tmp_path / "out.gguf")["token_ranks"].tolist() == [3, 1, 2]
    assert metadata(tmp_path / "out.gguf")["frspec.ranks.source"] == "freq_3.pt"


class Hostile:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


def test_ranks_that_do_not_fit(tmp_path: Path, target: Path) -> None:
    folder = make_eagle2(tmp_path / "drafter", target)
    other = make_tokenizer(tmp_path / "other", "smollm")
    assert other == 400
    fitting = ranks_of_checkpoint = [0, 1, 2]
    good = vocabulary_fingerprint(["a"])
    write_ranks(tmp_path / "other.gguf", Ranks(np.array(fitting, dtype=np.int32), 400, good))
    write_ranks(tmp_path / "size.gguf", Ranks(np.array(ranks_of_checkpoint, dtype=np.int32), 399, good))
    convert(target, tmp_path / "plain.gguf")
    torch.save([1, 2, 400], tmp_path / "range.pt")
    torch.save([1, 2, 1], tmp_path / "twice.pt")
    torch.save([], tmp_path / "empty.pt")
    torch.save(["1"], tmp_path / "strings.pt")
    torch.save([1, Hostile()], tmp_path / "hostile.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x80\x02noise")
    for name, expected in {
        "other.gguf": f"found ranks for the vocabulary {good}",
        "size.gguf": "ranks 399 tokens, but .* has 400",
        "plain.gguf": "tensor 'token_ranks': found nothing, expected a vector of I32",
        "range.pt": "found token id 400, expected ids below 400",
        "twice.pt": "token id 1 is ranked more than once",
        "empty.pt": "holds no token ids",
        "strings.pt": "expected a list of token ids",
        "hostile.pt": "torch cannot read it",
        "noise.pt": "torch cannot read it",
    }.items():
        with pytest.raises(ValueError, match=expected) as error:
            convert(folder, tmp_path / "out.gguf", target=target, ranks=tmp_path / name)
        assert name in str(error.value)
        assert not (tmp_path / "out.gguf").exists()
    with pytest.raises(FileNotFoundError, match=r"absent\.gguf"):
        convert(folder, tmp_path / "out.gguf", target=target, ranks=tmp_path / "absent.gguf")


def edited(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda w: w.pop("layers.0.mlp.up_proj.weight"),
            r"tensor 'layers\.0\.mlp\.up_proj\.weight' is missing, expected \(96, 64\)",
        ),
        (
            lambda w: w.update({"fc.weight": torch.zeros(64, 192)}),
            r"tensor 'fc\.weight': found shape \(64, 192\), expected \(64, 128\)",
        ),
        (lambda w: w.update({"norm.weight": torch.ones(64)}), r"unexpected tensor 'norm\.weight' \(64,\)"),
        (
            lambda w: w.update({"layers.0.input_layernorm.weight": torch.ones(64)}),
            r"unexpected tensor 'layers\.0\.input_layernorm\.weight'",
        ),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, target: Path, change: Any, expected: str) -> None:
    folder = make_eagle2(tmp_path / "drafter", target)
    edited(folder, change)
    with pytest.raises(ValueError, match=expected):
        convert(folder, tmp_path / "out.gguf", target=target)


def test_drafters_that_do_not_fit_the_target(tmp_path: Path, target: Path) -> None:
    convert(target, tmp_path / "target.gguf")
    folder = make_eagle2(tmp_path / "wide", target, hidden_size=32)
    for of in (target, tmp_path / "target.gguf"):
        with pytest.raises(ValueError, match=r"'hidden_size': found 32, expected 64, as .*target"):
            convert(folder, tmp_path / "out.gguf", target=of)
    folder = make_eagle2(tmp_path / "other", target, vocab_size=401)
    with pytest.raises(ValueError, match="'vocab_size': found 401, expected 400"):
        convert(folder, tmp_path / "out.gguf", target=target)
    with pytest.raises(ValueError, match="give its target model with --target"):
        convert(folder, tmp_path / "out.gguf")
    with pytest.raises(ValueError, match=r"--target is for EAGLE drafters, but .*no 'fc\.weight'"):
        convert(target, tmp_path / "out.gguf", target=tmp_path / "target.gguf")
    fitting = make_eagle2(tmp_path / "drafter", target)
    convert(fitting, tmp_path / "drafter.gguf", target=target)
    with pytest.raises(ValueError, match="found architecture 'eagle2', expected a target model"):
        convert(fitting, tmp_path / "out.gguf", target=tmp_path / "drafter.gguf")
    with pytest.raises(ValueError, match="is the target, expected another file"):
        convert(fitting, tmp_path / "target.gguf", target=tmp_path / "target.gguf")
    data = (tmp_path / "target.gguf").read_bytes()
    for cut in (3, 20, 3000):
        (tmp_path / "cut.gguf").write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"cut\.gguf: not a whole GGUF file"):
            convert(fitting, tmp_path / "out.gguf", target=tmp_path / "cut.gguf")
    with pytest.raises(FileNotFoundError, match="absent"):
        convert(fitting, tmp_path / "out.gguf", target=tmp_path / "absent")


def test_demo_pair(shared: Path, tmp_path: Path) -> None:
    pair = shared / "data" / "pair"
    convert(pair / "target", tmp_path / "target.gguf", "q8_0")
    assert convert(pair / "eagle2", tmp_path / "eagle2.gguf", "f32", target=tmp_path / "target.gguf") == []
    check_tensors(pair / "eagle2", tmp_path / "eagle2.gguf")
    found = metadata(tmp_path / "target.gguf")
    assert found["tokenizer.ggml.pre"] == "smaug-bpe"
    assert len(found["tokenizer.ggml.tokens"]) == 65536
    assert found["tokenizer.ggml.add_bos_token"]
    tokenizer = {key: value for key, value in found.items() if key.startswith("tokenizer.")}
    drafter = metadata(tmp_path / "eagle2.gguf")
    assert {key: value for key, value in drafter.items() if key.startswith("tokenizer.")} == tokenizer
