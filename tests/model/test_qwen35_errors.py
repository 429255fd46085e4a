"""What is wrong with a Qwen3.5 file, or with the MTP drafter in it or beside it, is said in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor
from qwen35 import Qwen35, make_qwen35
from refused import Edit, engine_error, expect_parts, key, without_key

from frspec_cpp import LLM, _core

LAYERS = 4
FLAGS = "qwen35.attention.recurrent_layers"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Qwen35:
    return make_qwen35(tmp_path_factory.mktemp("qwen35"), layers=LAYERS)


@pytest.fixture(scope="module")
def files(made: Qwen35, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "whole": made.write(folder / "whole.gguf", "trunk", "nextn"),
        "trunk": made.write(folder / "trunk.gguf", "trunk"),
        "sidecar": made.write(folder / "sidecar.gguf", "nextn"),
    }


def without(*names: str) -> Edit:
    def edit(file: GgufEditor) -> None:
        for name in names:
            del file.tensors[name]

    return edit


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return lambda file: file.set_floats(name, np.ascontiguousarray(change(file.floats(name))))


def extra(name: str) -> Edit:
    return lambda file: file.set_floats(name, np.ones(64))


def of_family(file: GgufEditor, name: str) -> GgufEditor:
    """The file with another architecture's name, in its keys, too."""
    file.entries = {key.replace("qwen35.", f"{name}.", 1): entry for key, entry in file.entries.items()}
    file.set("general.architecture", name)
    return file


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        *((without_key(f"qwen35.{name}"), (f"qwen35.{name}",)) for name in (
            "attention.key_length", "rope.freq_base", "rope.dimension_count", "ssm.conv_kernel", "ssm.state_size",
            "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size",
        )),
        (key("qwen35.ssm.state_size", 24), ("qwen35.ssm.state_size", "24", "a multiple of 32")),
        (key("qwen35.ssm.time_step_rank", 5), ("qwen35.ssm.time_step_rank", "5", "a multiple of ssm.group_count, 2")),
        (key("qwen35.ssm.inner_size", 64), ("qwen35.ssm.inner_size", "64", "192")),
        (key("qwen35.ssm.group_count", 0), ("qwen35.ssm.group_count", "0")),
        (key("qwen35.ssm.group_count", 1), ("blk.0.attn_qkv.weight", "64, 320", "64, 256")),
        (key("qwen35.full_attention_interval", 0), ("qwen35.full_attention_interval", "0")),
        (key("qwen35.full_attention_interval", 2), ("blk.1.attn_q.weight",)),
        (key(FLAGS, [True] * 3), (FLAGS, "3 flags", "5 blocks")),
        (key(FLAGS, [True] * 5), (FLAGS, "true for block 4")),
        (key(FLAGS, [True, False, True, False, False]), ("blk.1.attn_q.weight",)),
        (key("qwen35.nextn_predict_layers", 5), ("qwen35.nextn_predict_layers", "5", "0 to 4")),
        (key("qwen35.nextn_predict_layers", 0), ("blk.4.attn_qkv.weight",)),
        (changed("blk.0.ssm_a", lambda a: -a), ("blk.0.ssm_a", "expected at most 0")),
        (changed("blk.0.ssm_dt.bias", lambda b: b * np.nan), ("blk.0.ssm_dt.bias", "NaN")),
        (changed("blk.1.ssm_conv1d.weight", lambda w: w[:, 1:]), ("blk.1.ssm_conv1d.weight", "3, 320", "4, 320")),
        (changed("blk.3.attn_q.weight", lambda w: w[:128]), ("blk.3.attn_q.weight", "64, 128", "64, 256")),
        (without("blk.2.ssm_norm.weight"), ("blk.2.ssm_norm.weight",)),
        (without("blk.2.post_attention_norm.weight"), ("blk.2.post_attention_norm.weight",)),
        (extra("blk.0.ffn_norm.weight"), ("blk.0.ffn_norm.weight", "qwen35")),
        (extra("blk.0.attn_q.bias"), ("blk.0.attn_q.bias", "qwen35")),
        (key("general.architecture", "qwen3next"), ("general.architecture", "qwen3next", "qwen35")),
        (key("general.architecture", "qwen35moe"), ("general.architecture", "qwen35moe")),
    ],
)  # fmt: skip
def test_targets(files: dict[str, Path], tmp_path: Path, edit: Edit, parts: tuple[str, ...]) -> None:
    file = GgufEditor(files["whole"])
    edit(file)
    path = file.write(tmp_path / "model.gguf")
    expect_parts(engine_error(path), (path.name, *parts))


NEXTN = f"blk.{LAYERS}.nextn"


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (without(f"{NEXTN}.eh_proj.weight"), (f"{NEXTN}.eh_proj.weight", "qwen35.nextn_predict_layers", "promises")),
        (without(f"{NEXTN}.enorm.weight"), (f"{NEXTN}.enorm.weight",)),
        (without(f"{NEXTN}.hnorm.weight"), (f"{NEXTN}.hnorm.weight",)),
        (without(f"{NEXTN}.shared_head_norm.weight", "output_norm.weight"), ("output_norm.weight",)),
        (without(f"blk.{LAYERS}.attn_q.weight"), (f"blk.{LAYERS}.attn_q.weight",)),
        (changed(f"{NEXTN}.eh_proj.weight", lambda w: w[:, :64]), (f"{NEXTN}.eh_proj.weight", "64, 64", "128, 64")),
        (extra(f"blk.{LAYERS}.ffn_norm.weight"), (f"blk.{LAYERS}.ffn_norm.weight",)),
        # DeepSeek's blocks have latent attention, GLM's experts.
        (extra(f"blk.{LAYERS}.attn_kv_a_mqa.weight"), (f"blk.{LAYERS}.attn_kv_a_mqa.weight", "qwen35")),
        (extra(f"blk.{LAYERS}.ffn_gate_exps.weight"), (f"blk.{LAYERS}.ffn_gate_exps.weight", "qwen35")),
        (extra("blk.1.attn_norm.weight"), ("blk.1.attn_norm.weight",)),
        (key("qwen35.embedding_length", 32), ("qwen35.embedding_length", "32", "64")),
        (
            key("qwen35.nextn_predict_layers", 2),
            ("qwen35.nextn_predict_layers", "2", "1: a drafter is one nextn block"),
        ),
        (key("qwen35.nextn_predict_layers", 0), ("qwen35", "no nextn block")),
        (
            lambda file: file.set("tokenizer.ggml.tokens", ["other", *file.entries["tokenizer.ggml.tokens"].value[1:]]),
            ("tokenizer.ggml.tokens", "expected the target's"),
        ),
    ],
)
def test_drafters(files: dict[str, Path], tmp_path: Path, edit: Edit, parts: tuple[str, ...]) -> None:
    file = GgufEditor(files["sidecar"])
    edit(file)
    path = file.write(tmp_path / "sidecar.gguf")
    expect_parts(engine_error(files["trunk"], drafter=str(path)), (path.name, *parts))


@pytest.mark.parametrize("family", ["deepseek2", "glm4moe", "mimo2", "qwen35moe"])
def test_blocks_of_families_that_differ(files: dict[str, Path], tmp_path: Path, family: str) -> None:
    """In the model's file and beside a target: the family is named, and what would do."""
    for name, known in (("whole", ("qwen35", "qwen3")), ("sidecar", ("eagle3", "qwen35"))):
        path = of_family(GgufEditor(files[name]), family).write(tmp_path / f"{name}.gguf")
        message = engine_error(path) if name == "whole" else engine_error(files["trunk"], drafter=str(path))
        expect_parts(message, (path.name, "general.architecture", family, "expected", *known))


def test_a_projector_is_neither_a_model_nor_a_drafter(files: dict[str, Path], tmp_path: Path) -> None:
    """Files with images' or sounds' encoders lie beside models of the same name."""
    file = GgufEditor(files["trunk"])
    file.entries.clear()
    file.tensors.clear()
    file.set("general.architecture", "clip")
    file.set("general.type", "mmproj")
    file.set("clip.has_vision_encoder", True)
    file.set_floats("v.blk.0.attn_q.weight", np.ones((64, 64)))
    path = file.write(tmp_path / "mmproj-model.gguf")
    for message in (engine_error(path), engine_error(files["trunk"], drafter=str(path))):
        expect_parts(message, ("mmproj-model.gguf", "general.architecture", "clip", "mmproj", "expected", "qwen35"))


def test_a_promise_that_is_not_kept(files: dict[str, Path], tmp_path: Path) -> None:
    """Files of fine-tunes state a block that they do not have: the model works, its drafter does not."""
    file = GgufEditor(files["whole"])
    for name in [name for name in file.tensors if name.startswith(f"blk.{LAYERS}.")]:
        del file.tensors[name]
    path = file.write(tmp_path / "model.gguf")
    tokens = [5, 6, 7]
    assert np.array_equal(_core.Engine(str(path)).forward(tokens), _core.Engine(str(files["whole"])).forward(tokens))
    expect_parts(engine_error(path, drafter="mtp"), (path.name, f"{NEXTN}.eh_proj.weight", "promises"))


def test_no_block_at_all(files: dict[str, Path]) -> None:
    message = engine_error(files["trunk"], drafter="mtp")
    expect_parts(message, ("trunk.gguf", "qwen35.nextn_predict_layers", "0", "'mtp'"))


def test_a_whole_recurrent_model_does_not_draft(files: dict[str, Path], tmp_path: Path) -> None:
    """Beside a target of attention alone it is refused, and beside its own kind without a block, too."""
    plain = tmp_path / "plain.gguf"
    convert(make_checkpoint(tmp_path / "hf", "qwen2"), plain, "f32", quiet=True)
    expect_parts(engine_error(plain, drafter=str(files["trunk"])), ("trunk.gguf", "qwen35", "no nextn block"))
    message = engine_error(plain, drafter=str(files["sidecar"]))
    expect_parts(message, ("sidecar.gguf", "general.architecture", "qwen35", "qwen2"))


def test_translate_and_learned_need_other_drafters(files: dict[str, Path]) -> None:
    assert "MTP drafter" in engine_error(files["whole"], drafter="mtp", translate="tli")
    assert "no reduced head" in engine_error(files["whole"], drafter="mtp", head="learned")


def test_models_beside_it_draft_for_it(files: dict[str, Path], tmp_path: Path) -> None:
    """A whole model of attention with the same vocabulary, and n-grams: the text is the same."""
    plain = tmp_path / "plain.gguf"
    convert(make_checkpoint(tmp_path / "hf", "qwen2"), plain, "f32", quiet=True)
    options = {"max_tokens": 40, "ignore_eos": True, "draft": True}
    expected = LLM(files["trunk"]).generate([5, 6, 7, 8] * 20, **options).tokens
    for drafting in ({"drafter": plain, "tree": (3, 4, 20)}, {"ngram": 2, "tree": (5, 1, 7)}):
        assert LLM(files["trunk"], **drafting).generate([5, 6, 7, 8] * 20, **options).tokens == expected
