"""EAGLE-3 files that do not fit: one clear error each, which names what was found and expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from eagle3_checkpoints import make_tiny_eagle3
from gguf_edit import GgufEditor, Type
from refused import Edit, engine_error, expect_parts, key, without_key
from tiny_pair import TinyPair

from frspec_cpp import _core

HEAD_IDS = list(range(0, 400, 4))  # 100 of 400 tokens


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_eagle3(tmp_path_factory.mktemp("pair"), head_ids=HEAD_IDS, norm_before_fc=True)


def without_tensor(*names: str) -> Edit:
    def edit(file: GgufEditor) -> None:
        for name in names:
            del file.tensors[name]

    return edit


def tensor(name: str, *shape: int) -> Edit:
    return lambda file: file.set_floats(name, np.ones(shape, dtype=np.float32))


def d2t(ids: object, kind: Type = Type.I64) -> Edit:
    return lambda file: file.set_ints("d2t", ids, kind)


def entry(row: int, token: int) -> Edit:
    def edit(file: GgufEditor) -> None:
        file.tensors["d2t"].data[row] = token

    return edit


def narrow(file: GgufEditor) -> None:
    file.set("eagle3.embedding_length", 32)


def poisoned_head(file: GgufEditor) -> None:
    values = file.floats("output.weight")
    values[3, 5] = np.nan
    file.set_floats("output.weight", values)


FILES: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "no d2t": (without_tensor("d2t"), ("'d2t' is missing", "100", "output.weight", "400")),
    "short d2t": (d2t(HEAD_IDS[:-1]), ("d2t", "99", "100")),
    "long d2t": (d2t([*HEAD_IDS, 1]), ("d2t", "101", "100")),
    "d2t of 32 bits": (d2t(HEAD_IDS, Type.I32), ("d2t", "I32", "I64")),
    "d2t as a matrix": (d2t(np.array(HEAD_IDS).reshape(2, 50)), ("d2t", "2 dimensions", "I64")),
    "an id of the size": (entry(7, 400), ("d2t", "entry 7", "400", "0 to 399")),
    "a negative id": (entry(7, -1), ("d2t", "entry 7", "-1", "0 to 399")),
    "an id of 2^40": (entry(7, 2**40), ("d2t", "entry 7", str(2**40), "0 to 399")),
    "an id twice": (entry(7, 12), ("d2t", "entry 7", "12", "entry 3")),
    "d2t without a head": (without_tensor("output.weight"), ("'output.weight' is missing", "100", "d2t")),
    "misshapen head": (tensor("output.weight", 100, 32), ("output.weight", "{32, 100}", "{64, 100}")),
    "no target layers": (without_key("eagle3.target_layers"), ("eagle3.target_layers", "nothing")),
    "two target layers": (key("eagle3.target_layers", [0, 1]), ("eagle3.target_layers", "2 layers", "3 layers")),
    "target layers as text": (key("eagle3.target_layers", "0,1,2"), ("eagle3.target_layers",)),
    "a layer too far": (key("eagle3.target_layers", [0, 1, 3]), ("eagle3.target_layers", "3", "0 to 2")),
    "a negative layer": (key("eagle3.target_layers", [-1, 1, 2]), ("eagle3.target_layers", "-1")),
    "other target width": (key("eagle3.target_hidden_size", 128), ("eagle3.target_hidden_size", "128", "64")),
    "no target width": (without_key("eagle3.target_hidden_size"), ("eagle3.target_hidden_size",)),
    "other width": (narrow, ("token_embd.weight", "eagle3.embedding_length", "32", "64")),
    "other vocabulary size": (key("eagle3.vocab_size", 401), ("eagle3.vocab_size", "401", "400")),
    "two blocks": (key("eagle3.block_count", 2), ("eagle3.block_count", "2", "1")),
    "two kinds of norm": (key("eagle3.fc_norm", True), ("eagle3.fc_norm", "norm_before_fc")),
    "a norm without its key": (
        key("eagle3.norm_before_fc", False),
        ("enc.output_norm.weight", "eagle3"),
    ),
    "a key without its norm": (without_tensor("enc.output_norm.weight"), ("enc.output_norm.weight",)),
    "a short norm": (tensor("enc.output_norm.weight", 64), ("enc.output_norm.weight", "{64}", "{192}")),
    "fc of two taps": (tensor("fc.weight", 64, 128), ("fc.weight", "{128, 64}", "{192, 64}")),
    "fc is missing": (without_tensor("fc.weight"), ("fc.weight",)),
    "no second norm": (without_tensor("blk.0.attn_norm_2.weight"), ("blk.0.attn_norm_2.weight",)),
    "no final norm": (without_tensor("output_norm.weight"), ("output_norm.weight",)),
    "queries of one input": (
        tensor("blk.0.attn_q.weight", 256, 64),
        ("blk.0.attn_q.weight", "{64, 256}", "{128, 256}"),
    ),
    "embedding of another vocabulary": (
        tensor("token_embd.weight", 300, 64),
        ("token_embd.weight", "{64, 300}", "{64, 400}"),
    ),
    "a tensor too many": (tensor("blk.0.post_norm.weight", 64), ("blk.0.post_norm.weight", "eagle3")),
    "a layer too many": (tensor("blk.1.ffn_up.weight", 96, 64), ("blk.1.ffn_up.weight", "eagle3")),
    "fc bias": (tensor("fc.bias", 64), ("fc.bias", "eagle3")),
    "NaN in the head": (poisoned_head, ("output.weight", "row 3", "NaN")),
    "flag as a number": (key("eagle3.norm_output", 1), ("eagle3.norm_output",)),
}


@pytest.mark.parametrize("case", FILES)
def test_file(pair: TinyPair, tmp_path: Path, case: str) -> None:
    edit, parts = FILES[case]
    file = GgufEditor(pair.drafter_gguf)
    edit(file)
    path = file.write(tmp_path / "edited.gguf")
    message = engine_error(pair.target_gguf, drafter=str(path))
    assert message.startswith(str(path))
    expect_parts(message, parts)


def test_a_truncated_file(pair: TinyPair, tmp_path: Path) -> None:
    data = pair.drafter_gguf.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:size])
        assert engine_error(pair.target_gguf, drafter=str(path)).startswith(str(path))


def test_what_llama_cpp_leaves_out_is_taken(pair: TinyPair, tmp_path: Path) -> None:
    """Keys with defaults may be absent; the edits above fail for what they change, not for being edited."""
    file = GgufEditor(pair.drafter_gguf)
    optional = ("norm_before_residual", "vocab_size", "rope.freq_base", "rope.dimension_count")
    for name in optional:
        del file.entries[f"eagle3.{name}"]
    engine = _core.Engine(str(pair.target_gguf), drafter=str(file.write(tmp_path / "bare.gguf")))
    assert len(engine.begin([5, 6, 7], max_tokens=8, ignore_eos=True, draft="always").run()) == 8


def ranked_error(pair: TinyPair, folder: Path, head: str, ranks: list[int]) -> str:
    file = GgufEditor(pair.drafter_gguf)
    file.set_ints("token_ranks", ranks)
    file.set("frspec.ranks.vocab_size", 400)
    return engine_error(pair.target_gguf, drafter=str(file.write(folder / "ranked.gguf")), head=head)


def test_ranked_heads_that_are_too_large(pair: TinyPair, tmp_path: Path) -> None:
    expect_parts(ranked_error(pair, tmp_path, "ranked:101", list(range(400))), ("ranked:101", "1 to 100"))
    expect_parts(ranked_error(pair, tmp_path, "ranked:0", list(range(400))), ("ranked:0", "'ranked:N'"))
    # Token 0, which is a control token, and 20 that are ranked.
    expect_parts(ranked_error(pair, tmp_path, "ranked:60", list(range(2, 83))), ("ranked:60", "at most 21"))


def test_more_children_than_rows(pair: TinyPair) -> None:
    message = engine_error(pair.target_gguf, drafter=str(pair.drafter_gguf), tree_branch=101)
    expect_parts(message, ("branch", "101", "at most 100"))
