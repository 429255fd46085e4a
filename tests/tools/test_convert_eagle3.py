"""Conversion of EAGLE-3 drafters: field by field what llama.cpp reads, from every key style, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint, make_eagle2
from eagle3_checkpoints import STYLES, make_eagle3, weights_of, write_style
from frspec_cpp.tools.convert import convert, main
from frspec_cpp.tools.ranks_file import Ranks, write_ranks
from gguf_values import metadata, paired, tensors, types
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]
HEAD_IDS = [7, 399, 2, 0, 1, 56, 57, 300]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny target of 8 layers: 64 wide, 400 tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("target") / "target", "llama", num_hidden_layers=8)


def converted(folder: Path, target: Path, **options: Any) -> Path:
    output = folder.parent / f"{folder.name}.gguf"
    convert(folder, output, "f32", target=target, quiet=True, **options)
    return output


def edit_config(folder: Path, **changes: Any) -> None:
    """Sets keys of config.json; None takes one away."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


# The table of llama.cpp's architecture. n 48, three taps of 64, 4 heads and 2 key/value heads of 32, V 400, 8 rows.
KEYS: dict[str, tuple[str, Any]] = {
    "general.architecture": ("STRING", "eagle3"),
    "eagle3.block_count": ("UINT32", 1),
    "eagle3.context_length": ("UINT32", 512),
    "eagle3.embedding_length": ("UINT32", 48),
    "eagle3.feed_forward_length": ("UINT32", 96),
    "eagle3.attention.head_count": ("UINT32", 4),
    "eagle3.attention.head_count_kv": ("UINT32", 2),
    "eagle3.attention.key_length": ("UINT32", 32),
    "eagle3.attention.value_length": ("UINT32", 32),
    "eagle3.attention.layer_norm_rms_epsilon": ("FLOAT32", np.float32(1e-5)),
    "eagle3.vocab_size": ("UINT32", 400),
    "eagle3.rope.dimension_count": ("UINT32", 32),
    "eagle3.rope.freq_base": ("FLOAT32", 10000.0),
    "eagle3.target_layers": ("ARRAY of INT32", [2, 4, 8]),
    "eagle3.target_hidden_size": ("UINT32", 64),
    "eagle3.norm_before_residual": ("BOOL", True),
    "eagle3.norm_before_fc": ("BOOL", True),
}
TENSORS: dict[str, tuple[str, list[int], str]] = {  # type, ne, and where the values come from
    "fc.weight": ("F32", [192, 48], "fc.weight"),
    "enc.output_norm.weight": ("F32", [192], "input_norm.weight"),
    "token_embd.weight": ("F32", [48, 400], "embed_tokens.weight"),
    "output.weight": ("F32", [48, 8], "lm_head.weight"),
    "output_norm.weight": ("F32", [48], "norm.weight"),
    "d2t": ("I64", [8], "d2t"),
    "blk.0.attn_norm.weight": ("F32", [48], "midlayer.input_layernorm.weight"),
    "blk.0.attn_norm_2.weight": ("F32", [48], "midlayer.hidden_norm.weight"),
    "blk.0.attn_q.weight": ("F32", [96, 128], "midlayer.self_attn.q_proj.weight"),
    "blk.0.attn_k.weight": ("F32", [96, 64], "midlayer.self_attn.k_proj.weight"),
    "blk.0.attn_v.weight": ("F32", [96, 64], "midlayer.self_attn.v_proj.weight"),
    "blk.0.attn_output.weight": ("F32", [128, 48], "midlayer.self_attn.o_proj.weight"),
    "blk.0.ffn_norm.weight": ("F32", [48], "midlayer.post_attention_layernorm.weight"),
    "blk.0.ffn_gate.weight": ("F32", [48, 96], "midlayer.mlp.gate_proj.weight"),
    "blk.0.ffn_up.weight": ("F32", [48, 96], "midlayer.mlp.up_proj.weight"),
    "blk.0.ffn_down.weight": ("F32", [96, 48], "midlayer.mlp.down_proj.weight"),
    "rope_freqs.weight": ("F32", [16], ""),
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def test_field_by_field(tmp_path: Path, target: Path) -> None:
    folder = make_eagle3(
        tmp_path / "drafter",
        target,
        hidden_size=48,
        head_dim=32,
        head_ids=HEAD_IDS,
        norm_before_fc=True,
        norm_before_residual=True,
        rope_scaling=LLAMA3_ROPE,
        eagle_aux_hidden_state_layer_ids=[2, 4, 8],
    )
    path = converted(folder, target)
    reader = gguf.GGUFReader(path)
    keys: dict[str, tuple[str, Any]] = {}
    for key, field in reader.fields.items():
        kind = field.types[0].name
        keys[key] = (f"ARRAY of {field.types[-1].name}" if kind == "ARRAY" else kind, field.contents())
    assert {key: value for key, value in keys.items() if key in KEYS} == KEYS
    rest = {key for key in keys.keys() - KEYS.keys() if not key.startswith(("GGUF.", "tokenizer."))}
    general = ("type", "name", "size_label", "file_type", "quantization_version")
    assert rest == {f"general.{name}" for name in general}
    assert {t.name: (t.tensor_type.name, t.shape.tolist()) for t in reader.tensors} == {
        name: (kind, ne) for name, (kind, ne, _) in TENSORS.items()
    }
    source, found = weights_of(folder), tensors(path)
    for name, (_, _, origin) in TENSORS.items():
        if not origin:
            continue
        expected = source[origin].numpy()
        if name == "d2t":
            expected = np.array(HEAD_IDS)
        elif name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
            expected = paired(expected, 4 if name == "blk.0.attn_q.weight" else 2)
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    factors = found["rope_freqs.weight"]
    assert factors[0] == 1.0
    assert factors[-1] == 8.0


def test_the_whole_tokenizer_of_the_target(tmp_path: Path, target: Path) -> None:
    convert(target, tmp_path / "target.gguf", "q8_0", quiet=True)
    of_target = metadata(tmp_path / "target.gguf")
    expected = {key: value for key, value in of_target.items() if key.startswith("tokenizer.")}
    folder = make_eagle3(tmp_path / "drafter", target)
    for of in (target, tmp_path / "target.gguf"):
        found = metadata(converted(folder, of))
        assert {key: value for key, value in found.items() if key.startswith("tokenizer.")} == expected


def test_quantized_types(tmp_path: Path, target: Path) -> None:
    """Matrices only, and never d2t."""
    folder = make_eagle3(tmp_path / "drafter", target, head_ids=HEAD_IDS, norm_before_fc=True)
    output = tmp_path / "out.gguf"
    convert(folder, output, "q8_0", target=target, quiet=True)
    found = types(output)
    assert found.pop("d2t") == "I64"
    assert {name for name, kind in found.items() if kind == "F32"} == {n for n in found if "norm" in n}
    assert set(found.values()) == {"F32", "Q8_0"}


@pytest.mark.parametrize("settings", [{}, {"norm_before_fc": True}, {"fc_norm": True}], ids=str)
def test_key_styles_give_the_same_file(tmp_path: Path, target: Path, settings: dict[str, Any]) -> None:
    files = []
    for number, style in enumerate(STYLES):
        folder = make_eagle3(
            tmp_path / str(number) / "drafter", target, style=style, head_ids=HEAD_IDS, own_embedding=True, **settings
        )
        names = weights_of(folder)
        assert f"{style}.hidden_norm.weight" in names
        files.append(converted(folder, target).read_bytes())
    assert files[0] == files[1] == files[2]


def test_config_of_speculators(tmp_path: Path, target: Path) -> None:
    """The layer's hyper-parameters in a section of their own; a missing norm_before_residual means true there."""
    plain = make_eagle3(tmp_path / "plain" / "drafter", target, head_ids=HEAD_IDS, norm_before_residual=True)
    config = json.loads((plain / "config.json").read_text())
    outside = ("draft_vocab_size", "eagle_aux_hidden_state_layer_ids", "tie_word_embeddings")
    nested = make_eagle3(tmp_path / "nested" / "drafter", target, head_ids=HEAD_IDS, style="layers.0")
    layer = {key: value for key, value in config.items() if key not in (*outside, "norm_before_residual")}
    values = {key: config[key] for key in outside} | {"speculators_model_type": "eagle3"}
    (nested / "config.json").write_text(json.dumps({**values, "transformer_layer_config": layer}))
    assert converted(nested, target).read_bytes() == converted(plain, target).read_bytes()


# ---- the layers that are tapped


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({}, {}, [0, 1, 2]),
        ({"eagle_aux_hidden_state_layer_ids": None}, {}, [2, 4, 5]),  # 2, N // 2, N - 3
        ({"eagle_aux_hidden_state_layer_ids": [3, 8, 8]}, {}, [3, 8, 8]),
        (
            {
                "eagle_aux_hidden_state_layer_ids": None,
                "eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 3, 7], "use_aux_hidden_state": True},
            },
            {},
            [2, 3, 7],
        ),
        ({"eagle_aux_hidden_state_layer_ids": None, "target_layer_ids": [0, 4, 6]}, {}, [0, 4, 6]),
        ({}, {"target_layers": [2, 4, 8]}, [2, 4, 8]),
    ],
)
def test_target_layers(
    tmp_path: Path, target: Path, changes: dict[str, Any], options: dict[str, Any], expected: list[int]
) -> None:
    folder = make_eagle3(tmp_path / "drafter", target)
    edit_config(folder, **changes)
    assert metadata(converted(folder, target, **options))["eagle3.target_layers"] == expected


def test_a_first_layer_of_1_is_remarked_on(tmp_path: Path, target: Path) -> None:
    folder = make_eagle3(tmp_path / "drafter", target, eagle_aux_hidden_state_layer_ids=[1, 3, 5])
    remarks = convert(folder, tmp_path / "out.gguf", "f32", target=target, quiet=True)
    assert any("--target-layers 2,4,6" in remark for remark in remarks)
    arguments = [str(folder), "-o", str(tmp_path / "out.gguf"), "--target", str(target), "-q"]
    assert main([*arguments, "--target-layers", "2,4,6"]) == 0
    assert metadata(tmp_path / "out.gguf")["eagle3.target_layers"] == [2, 4, 6]
    with pytest.raises(SystemExit):
        main([*arguments, "--target-layers", "2,x,6"])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([2, 4], r"found \[2, 4\]"),
        ([2, 4, 9], r"found \[2, 4, 9\] \(key 'eagle_aux_.*from 0 to 8"),
        ([-1, 4, 5], "from 0 to 8"),
        ([2, 4, 5.5], "3 numbers"),
        ("2,4,5", "an array of 3 layers"),
    ],
)
def test_wrong_target_layers(tmp_path: Path, target: Path, layers: Any, expected: str) -> None:
    folder = make_eagle3(tmp_path / "drafter", target, eagle_aux_hidden_state_layer_ids=layers)
    with pytest.raises(ValueError, match=expected):
        converted(folder, target)


def test_target_layers_that_do_not_fit(tmp_path: Path, target: Path) -> None:
    folder = make_eagle3(tmp_path / "drafter", target)
    with pytest.raises(ValueError, match=r"found \[1, 2, 30\] \(--target-layers\)"):
        converted(folder, target, target_layers=[1, 2, 30])
    with pytest.raises(ValueError, match="--target-layers is for EAGLE-3 drafters"):
        converted(make_eagle2(tmp_path / "eagle2", target), target, target_layers=[1, 2, 3])


# ---- embedding, head, vocabulary


def with_weights(folder: Path, change: Callable[[Weights], Any]) -> Path:
    weights = weights_of(folder)
    change(weights)
    write_style(folder, weights, "midlayer")
    return folder


@pytest.mark.parametrize("kind", ["checkpoint", "f16", "q8_0"])
def test_copies_of_the_target_are_dropped(tmp_path: Path, target: Path, kind: str) -> None:
    folder = make_eagle3(tmp_path / "drafter", target, own_embedding=True, own_head=True)
    of = target
    if kind != "checkpoint":
        of = tmp_path / "target.gguf"
        convert(target, of, kind, quiet=True)
    remarks = convert(folder, tmp_path / "kept.gguf", "f32", target=of, quiet=True)
    assert sum("it is kept" in remark for remark in remarks) == 2
    assert {"token_embd.weight", "output.weight"} < tensors(tmp_path / "kept.gguf").keys()
    of_target = weights_of(target)
    copies = {
        "embed_tokens.weight": of_target["model.embed_tokens.weight"],
        "lm_head.weight": of_target["lm_head.weight"].half(),
    }
    with_weights(folder, lambda w: w.update(copies))
    remarks = convert(folder, tmp_path / "out.gguf", "f32", target=of, quiet=True)
    assert sum("the copy is dropped" in remark for remark in remarks) == 2
    assert not {"token_embd.weight", "output.weight"} & tensors(tmp_path / "out.gguf").keys()


def test_d2t_of_all_tokens(tmp_path: Path, target: Path) -> None:
    """One that says nothing is dropped; an order of its own is kept."""
    folder = make_eagle3(tmp_path / "drafter", target, own_head=True)
    with_weights(folder, lambda w: w.update(d2t=torch.zeros(400, dtype=torch.int64), t2d=torch.ones(400).bool()))
    found = tensors(converted(folder, target))
    assert "d2t" not in found
    assert found["output.weight"].shape == (400, 64)
    backwards = torch.arange(399, -1, -1) - torch.arange(400)
    with_weights(folder, lambda w: w.update(d2t=backwards))
    assert tensors(converted(folder, target))["d2t"].tolist() == list(range(399, -1, -1))


def test_ranks_and_llama_cpp(tmp_path: Path, target: Path) -> None:
    folder = make_eagle3(tmp_path / "drafter", target)
    torch.save([5, 3, 1], tmp_path / "freq_3.pt")
    ranks = {"ranks": tmp_path / "freq_3.pt"}
    remarks = convert(folder, tmp_path / "out.gguf", "f32", target=target, quiet=True, **ranks)
    assert any("llama.cpp refuses" in remark for remark in remarks)
    assert tensors(tmp_path / "out.gguf")["token_ranks"].tolist() == [5, 3, 1]
    assert converted(folder, target).stat().st_size < (tmp_path / "out.gguf").stat().st_size
    write_ranks(tmp_path / "other.gguf", Ranks(np.arange(3, dtype=np.int32), 400, "0123456789abcdef"))
    with pytest.raises(ValueError, match="for the vocabulary 0123456789abcdef"):
        converted(folder, target, ranks=tmp_path / "other.gguf")


# ---- version 3.1


def test_norms_of_version_3_1(tmp_path: Path, target: Path) -> None:
    one = make_eagle3(tmp_path / "one", target, norm_before_fc=True)
    with_weights(one, lambda w: w.update({"fc_norm.weight": w.pop("input_norm.weight")}))  # another spelling
    three = make_eagle3(tmp_path / "three", target, fc_norm=True, norm_output=True)
    remarks = convert(three, tmp_path / "out.gguf", "f32", target=target, quiet=True)
    assert any("llama.cpp, which will refuse" in remark for remark in remarks)
    assert any("llama.cpp, whose drafts will be worse" in remark for remark in remarks)
    norm = tensors(tmp_path / "out.gguf")["enc.output_norm.weight"]
    parts = weights_of(three)
    np.testing.assert_array_equal(norm, torch.cat([parts[f"fc_norm.{i}.weight"] for i in range(3)]).numpy())
    found = metadata(tmp_path / "out.gguf")
    assert (found["eagle3.norm_before_fc"], found["eagle3.fc_norm"], found["eagle3.norm_output"]) == (False, True, True)
    found = metadata(converted(one, target))
    assert found["eagle3.norm_before_fc"] is True
    assert not {"eagle3.fc_norm", "eagle3.norm_output"} & found.keys()
    np.testing.assert_array_equal(
        tensors(converted(one, target))["enc.output_norm.weight"], weights_of(one)["fc_norm.weight"].numpy()
    )
    edit_config(one, norm_before_fc=None, eagle_config={"norm_before_fc": True, "norm_output": True})  # as NVIDIA's
    assert metadata(converted(one, target))["eagle3.norm_output"] is True


# ---- what is refused

D2T_FILE = r"model\.safetensors: tensor 'd2t'"
REFUSED: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "d2t is missing": (lambda w: w.pop("d2t"), "tensor 'd2t' is missing: lm_head.weight has 8 rows, expected 400"),
    "no head for d2t": (lambda w: w.pop("lm_head.weight"), r"'lm_head\.weight' is missing, expected \(8, 64\)"),
    "another length": (lambda w: w.update(d2t=w["d2t"][:7].clone()), f"{D2T_FILE}: found 7 entries, expected 8"),
    "out of range": (lambda w: w["d2t"].__setitem__(3, 397), f"{D2T_FILE}, entry 3: found offset 397, .* id 400"),
    "negative": (lambda w: w["d2t"].__setitem__(3, -4), f"{D2T_FILE}, entry 3: found offset -4, which is id -1"),
    "twice": (lambda w: w["d2t"].__setitem__(3, 4), f"{D2T_FILE}, entry 3: found offset 4, .* id 7, expected each id"),
    "floats": (lambda w: w.update(d2t=w["d2t"].float()), f"{D2T_FILE}: found F32"),
    "t2d": (lambda w: w["t2d"].__setitem__(5, True), "tensor 't2d': found 9 tokens .* the 8 tokens"),
    "t2d of another size": (lambda w: w.update(t2d=w["t2d"][:399].clone()), "tensor 't2d': found"),
    "no hidden norm": (
        lambda w: w.pop("midlayer.hidden_norm.weight"),
        r"'midlayer\.hidden_norm\.weight' is missing, expected \(64,\)",
    ),
    "fc of two taps": (lambda w: w.update({"fc.weight": torch.zeros(64, 128)}), r"found shape \(64, 128\), .* 192\)"),
    "fc bias": (lambda w: w.update({"fc.bias": torch.zeros(64)}), r"unexpected tensor 'fc\.bias'"),
    "queries of one input": (
        lambda w: w.update({"midlayer.self_attn.q_proj.weight": torch.zeros(256, 64)}),
        r"found shape \(256, 64\), expected \(256, 128\)",
    ),
    "two norms": (
        lambda w: w.update({"input_norm.weight": torch.ones(192), "fc_norm.0.weight": torch.ones(64)}),
        "expected one kind of norm before fc",
    ),
    "one norm of three": (lambda w: w.update({"fc_norm.0.weight": torch.ones(64)}), r"'fc_norm\.1\.weight' is missing"),
    "two layers": (lambda w: w.update({"layers.1.mlp.up_proj.weight": torch.ones(96, 64)}), "unexpected tensor"),
    "norms of heads": (
        lambda w: w.update({"midlayer.self_attn.q_norm.weight": torch.ones(16)}),
        r"unexpected tensor 'midlayer\.self_attn\.q_norm",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_that_do_not_fit(tmp_path: Path, target: Path, case: str) -> None:
    change, expected = REFUSED[case]
    folder = with_weights(make_eagle3(tmp_path / "drafter", target, head_ids=HEAD_IDS), change)
    with pytest.raises(ValueError, match=expected):
        converted(folder, target)
    assert not (tmp_path / "drafter.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_hidden_layers": 2}, "'num_hidden_layers': found 2, expected 1"),
        ({"vocab_size": 401}, "'vocab_size': found 401, expected 400, as .*target"),
        ({"target_hidden_size": 128}, "'target_hidden_size': found 128, expected 64, as .*target"),
        ({"draft_vocab_size": 9}, "'draft_vocab_size': found 9, expected 8, the entries of tensor 'd2t'"),
        ({"norm_before_fc": True}, r"'input_norm\.weight' is missing, expected \(192,\)"),
        ({"fc_norm": True}, r"'fc_norm\.0\.weight' is missing, expected \(64,\)"),
        ({"norm_output": "yes"}, "'norm_output': found 'yes', expected true or false"),
        ({"hidden_size": 32, "head_dim": 64}, r"tensor 'fc\.weight': found shape"),
    ],
)
def test_configs_that_do_not_fit(tmp_path: Path, target: Path, changes: dict[str, Any], expected: str) -> None:
    folder = make_eagle3(tmp_path / "drafter", target, head_ids=HEAD_IDS)
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=expected):
        converted(folder, target)


def test_another_width_needs_embedding_and_head(tmp_path: Path, target: Path) -> None:
    folder = make_eagle3(tmp_path / "drafter", target, hidden_size=32)
    for name in ("embed_tokens.weight", "lm_head.weight"):
        whole = weights_of(folder)
        save_file({key: value for key, value in whole.items() if key != name}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=rf"'{name}' is missing, expected \(400, 32\)"):
            converted(folder, target)
        save_file(whole, folder / "model.safetensors")
    with pytest.raises(ValueError, match="give its target model with --target"):
        convert(folder, tmp_path / "out.gguf")
    with pytest.raises(ValueError, match="found architecture 'eagle3', expected a target model"):
        converted(make_eagle3(tmp_path / "other", target), converted(folder, target))
