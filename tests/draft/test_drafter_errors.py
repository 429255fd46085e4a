"""Drafters, ranks, heads and trees that do not fit: one clear error each, which names what was found and expected."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_edit import GgufEditor, Type
from refused import Edit, engine_error, expect_parts, key, without_key
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import _core

WIDTH, VOCAB = 64, 400


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"), bias=True)


@pytest.fixture(scope="module")
def fingerprint(pair: TinyPair) -> str:
    return str(_core.Tokenizer(str(pair.target_gguf)).fingerprint)


# ---- the drafter's file


def without_tensor(name: str) -> Edit:
    def edit(file: GgufEditor) -> None:
        del file.tensors[name]

    return edit


def tensor(name: str, *shape: int) -> Edit:
    return lambda file: file.set_floats(name, np.ones(shape, dtype=np.float32))


def poisoned(name: str, value: float) -> Edit:
    def edit(file: GgufEditor) -> None:
        values = file.floats(name)
        values.flat[values.size // 2] = value
        file.set_floats(name, values)

    return edit


def poisoned_scale(file: GgufEditor) -> None:
    """A NaN in the scale of one Q8_0 block of row 3."""
    file.set_floats("blk.0.ffn_up.weight", file.floats("blk.0.ffn_up.weight"), Type.Q8_0)
    blocks = file.tensors["blk.0.ffn_up.weight"].data
    blocks[3, 34:36] = np.array([np.nan], dtype="<f2").view(np.uint8)


def other_vocabulary(file: GgufEditor) -> None:
    tokens = list(file.entries["tokenizer.ggml.tokens"].value)
    assert tokens[1] == "<|end|>"  # a special token: no merge speaks of it
    file.entries["tokenizer.ggml.tokens"].value = [tokens[0], "<|stop|>", *tokens[2:]]


def narrow(file: GgufEditor) -> None:
    """A drafter for a target of 32 columns."""
    for name in ("eagle2.embedding_length", "eagle2.target_hidden_size"):
        file.set(name, 32)


DRAFTERS: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "other target width": (key("eagle2.target_hidden_size", 128), ("eagle2.target_hidden_size", "128", "64")),
    "other width": (narrow, ("32", "64", "the target's hidden size")),
    "other vocabulary size": (key("eagle2.vocab_size", 401), ("eagle2.vocab_size", "401", "400")),
    "other tokens": (other_vocabulary, ("tokenizer.ggml.tokens", "fingerprint", "400")),
    "a tensor is missing": (without_tensor("blk.0.ffn_down.weight"), ("blk.0.ffn_down.weight",)),
    "fc is missing": (without_tensor("fc.weight"), ("fc.weight",)),
    "fc of one input": (tensor("fc.weight", 64, 64), ("fc.weight", "{64, 64}", "{128, 64}")),
    "fc of three inputs": (tensor("fc.weight", 64, 192), ("fc.weight", "{192, 64}", "{128, 64}")),
    "long bias": (tensor("fc.bias", 65), ("fc.bias", "{65}", "{64}")),
    "bias as a matrix": (tensor("fc.bias", 2, 64), ("fc.bias", "{64, 2}", "{64}")),
    "misshapen keys": (
        tensor("blk.0.attn_k.weight", 64, 64),
        ("blk.0.attn_k.weight", "{64, 64}", "{64, 32}"),
    ),
    "embedding of another vocabulary": (
        tensor("token_embd.weight", 300, 64),
        ("token_embd.weight", "{64, 300}", "{64, 400}"),
    ),
    "first norm": (tensor("blk.0.attn_norm.weight", 64), ("blk.0.attn_norm.weight", "eagle2")),
    "final norm": (tensor("output_norm.weight", 64), ("output_norm.weight", "eagle2")),
    "own head": (tensor("output.weight", 400, 64), ("output.weight", "eagle2")),
    "a layer too many": (tensor("blk.1.ffn_up.weight", 96, 64), ("blk.1.ffn_up.weight", "eagle2")),
    "a layer too few": (key("eagle2.block_count", 2), ("blk.1.attn_norm.weight",)),
    "NaN in a matrix": (poisoned("blk.0.attn_q.weight", np.nan), ("blk.0.attn_q.weight", "row 32", "NaN")),
    "infinity in fc": (poisoned("fc.weight", -np.inf), ("fc.weight", "row 32", "infinite")),
    "NaN in a norm": (poisoned("blk.0.ffn_norm.weight", np.nan), ("blk.0.ffn_norm.weight", "NaN")),
    "NaN in a bias": (poisoned("fc.bias", np.nan), ("fc.bias", "NaN")),
    "NaN scale": (poisoned_scale, ("blk.0.ffn_up.weight", "row 3", "NaN")),
    "unknown element type": (
        lambda file: file.set_zeros("fc.weight", 64, 128, Type.NVFP4),
        ("fc.weight", "NVFP4", "Q8_0"),
    ),
    "another drafter": (key("general.architecture", "medusa"), ("general.architecture", "medusa", "eagle2", "eagle3")),
    "no vocabulary size": (without_key("eagle2.vocab_size"), ("eagle2.vocab_size",)),
    "heads that do not divide": (
        key("eagle2.attention.head_count_kv", 3),
        ("eagle2.attention.head_count_kv", "3", "4"),
    ),
    "hidden size of 2^40": (
        key("eagle2.target_hidden_size", 2**40),
        ("eagle2.target_hidden_size", str(2**40)),
    ),
    "vocabulary of 2^60": (key("eagle2.vocab_size", 2**60), ("eagle2.vocab_size", str(2**60))),
    "2^31 layers": (key("eagle2.block_count", 2**31), ("eagle2.block_count", str(2**31))),
    "size as text": (key("eagle2.embedding_length", "64"), ("eagle2.embedding_length",)),
}


@pytest.mark.parametrize("case", DRAFTERS)
def test_drafter_file(pair: TinyPair, tmp_path: Path, case: str) -> None:
    edit, parts = DRAFTERS[case]
    file = GgufEditor(pair.drafter_gguf)
    edit(file)
    path = file.write(tmp_path / "edited.gguf")
    message = engine_error(pair.target_gguf, drafter=str(path))
    assert message.startswith(str(path))
    expect_parts(message, parts)


def test_files_in_each_others_place(pair: TinyPair, tmp_path: Path) -> None:
    message = engine_error(pair.drafter_gguf, drafter=str(pair.target_gguf))
    assert message.startswith(str(pair.drafter_gguf))
    expect_parts(message, ("general.architecture", "eagle2", "llama"))
    ranks = GgufEditor(pair.drafter_gguf)
    ranks.entries = {}
    ranks.set("general.architecture", "frspec_ranks")
    ranks.tensors = {}
    ranks.set_ints("token_ranks", np.arange(VOCAB))
    path = ranks.write(tmp_path / "ranks.gguf")
    message = engine_error(pair.target_gguf, drafter=str(path))
    expect_parts(message, ("general.architecture", "frspec_ranks", "eagle2"))


def test_a_drafter_without_a_vocabulary_is_taken(pair: TinyPair, tmp_path: Path) -> None:
    """The size is all there is to compare then; the edits above fail for what they change, not for being edited."""
    file = GgufEditor(pair.drafter_gguf)
    for name in [name for name in file.entries if name.startswith("tokenizer.")]:
        del file.entries[name]
    engine = _core.Engine(str(pair.target_gguf), drafter=str(file.write(tmp_path / "bare.gguf")))
    assert len(engine.begin([5, 6, 7], max_tokens=8, ignore_eos=True, draft="always").run()) == 8


@pytest.mark.parametrize("name", ["drafter", "ranks"])
def test_a_file_that_is_not_there(pair: TinyPair, tmp_path: Path, name: str) -> None:
    options = {"drafter": str(pair.drafter_gguf), "head": "ranked:50", name: str(tmp_path / "absent.gguf")}
    with pytest.raises(FileNotFoundError, match=r"absent\.gguf"):
        _core.Engine(str(pair.target_gguf), **options)


@pytest.mark.parametrize("name", ["drafter", "ranks"])
def test_a_file_that_is_no_gguf(pair: TinyPair, tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    for content in (b"", b"GGUF", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        options = {"drafter": str(pair.drafter_gguf), "head": "ranked:50", name: str(path)}
        assert engine_error(pair.target_gguf, **options).startswith(str(path))


# ---- ranks


@dataclass
class Ranks:
    """A ranks file; `keys` beside the two that tell the vocabulary."""

    ids: Any = field(default_factory=lambda: np.arange(VOCAB))
    kind: Type = Type.I32
    keys: dict[str, Any] = field(default_factory=dict)
    name: str = "token_ranks"


RANKS: dict[str, tuple[Ranks, tuple[str, ...]]] = {
    "for a larger vocabulary": (
        Ranks(keys={"frspec.ranks.vocab_size": 500}),
        ("frspec.ranks.vocab_size", "500", "400"),
    ),
    "for other tokens": (
        Ranks(keys={"frspec.ranks.vocab_fingerprint": "0123456789abcdef"}),
        ("frspec.ranks.vocab_fingerprint", "0123456789abcdef"),
    ),
    "an id twice": (Ranks(ids=[5, 9, 7, 9]), ("token_ranks", "entry 3", "id 9")),
    "an id of the size": (Ranks(ids=[5, VOCAB, 7]), ("token_ranks", "entry 1", "400", "0 to 399")),
    "a negative id": (Ranks(ids=[5, 6, -1]), ("token_ranks", "entry 2", "-1", "0 to 399")),
    "64-bit ids": (Ranks(kind=Type.I64), ("token_ranks", "I64", "I32")),
    "floats": (Ranks(kind=Type.F32), ("token_ranks", "F32", "I32")),
    "a matrix": (Ranks(ids=np.arange(VOCAB).reshape(2, 200)), ("token_ranks", "2 dimensions", "I32")),
    "another tensor": (Ranks(name="token_counts"), ("token_ranks",)),
    "too few": (Ranks(ids=np.arange(2, 32)), ("ranked:50", "32")),
}


def write_ranks(path: Path, ranks: Ranks, fingerprint: str, base: GgufEditor) -> str:
    keys = {"frspec.ranks.vocab_size": VOCAB, "frspec.ranks.vocab_fingerprint": fingerprint, **ranks.keys}
    for name, value in keys.items():
        base.set(name, value)
    if ranks.kind == Type.F32:
        base.set_floats(ranks.name, np.array(ranks.ids))
    else:
        base.set_ints(ranks.name, ranks.ids, ranks.kind)
    return str(base.write(path))


# A drafter without the tensor has no ranks, which is no error: others stand in.
PLACES = [
    (case, where) for case in RANKS for where in ("file", "drafter") if (case, where) != ("another tensor", "drafter")
]


@pytest.mark.parametrize(("case", "where"), PLACES)
def test_ranks(pair: TinyPair, fingerprint: str, tmp_path: Path, case: str, where: str) -> None:
    ranks, parts = RANKS[case]
    path = tmp_path / "ranks.gguf"
    base = GgufEditor(pair.drafter_gguf)
    if where == "file":
        base.entries, base.tensors = {}, {}
        base.set("general.architecture", "frspec_ranks")
    options = {"drafter": str(pair.drafter_gguf), "head": "ranked:50"}
    options["ranks" if where == "file" else "drafter"] = write_ranks(path, ranks, fingerprint, base)
    message = engine_error(pair.target_gguf, **options)
    assert str(path) in message
    expect_parts(message, parts)


# ---- heads and trees

OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "ranked:0": ({"head": "ranked:0"}, ("'ranked:0'", "'ranked:N'")),
    "ranked:-3": ({"head": "ranked:-3"}, ("'ranked:-3'", "'ranked:N'")),
    "ranked:V+1": ({"head": "ranked:401"}, ("ranked:401", "1 to 400")),
    "ranked:2^31": ({"head": f"ranked:{2**31}"}, (f"ranked:{2**31}",)),
    "ranked:2^70": ({"head": f"ranked:{2**70}"}, (f"ranked:{2**70}",)),
    "ranked:x": ({"head": "ranked:x"}, ("'ranked:x'", "'full'", "'ranked:N'")),
    "ranked:": ({"head": "ranked:"}, ("'ranked:'", "'full'", "'ranked:N'")),
    "ranked:8k": ({"head": "ranked:8k"}, ("'ranked:8k'", "'full'", "'ranked:N'")),
    "ranked: 8": ({"head": "ranked: 8"}, ("'ranked: 8'", "'full'", "'ranked:N'")),
    "speculated:": ({"head": "speculated:"}, ("'speculated:'", "'speculated[:N]'")),
    "contextual:0": ({"head": "contextual:0"}, ("'contextual:0'", "'contextual[:N]'")),
    "full:3": ({"head": "full:3"}, ("'full:3'", "'full'")),
    "auto and more": ({"head": "auto+ranked:8"}, ("'auto+ranked:8'", "union")),
    "full and more": ({"head": "full+ranked:8"}, ("'full+ranked:8'", "union")),
    "twice": ({"head": "ranked:8+ranked:9"}, ("'ranked:8+ranked:9'", "union")),
    "half a union": ({"head": "ranked:8+"}, ("'ranked:8+'", "union")),
    "learned": ({"head": "learned"}, ("learned", "'output.weight' and 'd2t'")),
    "no sketch": ({"head": "speculated"}, ("speculated:2048", "'sketch_down.weight'", "frspec-sketch")),
    "no sketch for a union": ({"head": "ranked:8+speculated:9"}, ("'sketch_down.weight'",)),
    "sketch for nothing": ({"head": "full", "sketch": "x.gguf"}, ("x.gguf", "'full'", "'speculated'")),
    "no name": ({"head": ""}, ("''", "'full'", "'ranked:N'")),
    "fewer rows than control tokens": ({"head": "ranked:1"}, ("ranked:1", "at least 2", "control tokens")),
    "branch > rows": ({"head": "ranked:9", "tree_branch": 10}, ("branch", "10", "at most 9")),
    "branch 0": ({"tree_branch": 0}, ("branch", "0", "1 to 256")),
    "branch 257": ({"tree_branch": 257}, ("branch", "257", "1 to 256")),
    "depth -1": ({"tree_depth": -1}, ("depth", "-1", "0 to 64")),
    "depth 65": ({"tree_depth": 65}, ("depth", "65", "0 to 64")),
    "size 0": ({"tree_size": 0}, ("size", "0", "1 to 4096")),
    "size 4097": ({"tree_size": 4097}, ("size", "4097", "1 to 4096")),
    "size -2^31": ({"tree_size": -(2**31)}, ("size", str(-(2**31)), "1 to 4096")),
}


@pytest.fixture(scope="module")
def ranked_drafter(pair: TinyPair, fingerprint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ranked") / "drafter.gguf"
    return write_ranks(path, Ranks(), fingerprint, GgufEditor(pair.drafter_gguf))


@pytest.mark.parametrize("case", OPTIONS)
def test_options(pair: TinyPair, ranked_drafter: str, case: str) -> None:
    options, parts = OPTIONS[case]
    expect_parts(engine_error(pair.target_gguf, drafter=ranked_drafter, **options), parts)


def test_the_limits_themselves_are_allowed(pair: TinyPair, ranked_drafter: str) -> None:
    for options in (
        {"head": "ranked:2", "tree_branch": 2},
        {"head": "ranked:400", "tree_branch": 256, "tree_depth": 1, "tree_size": 4096},
        {"tree_depth": 64, "tree_branch": 1, "tree_size": 66},
        {"tree_size": 1},
    ):
        engine = _core.Engine(str(pair.target_gguf), drafter=ranked_drafter, **{"head": "full", **options})
        assert len(engine.begin([5, 6], max_tokens=6, ignore_eos=True, draft="always").run()) == 6


@pytest.mark.parametrize("options", [{"head": "ranked:100"}, {"ranks": "ranks.gguf"}], ids=str)
def test_ranks_without_a_drafter(pair: TinyPair, options: dict[str, str]) -> None:
    assert "no drafter" in engine_error(pair.target_gguf, **options)
