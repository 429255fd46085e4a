"""frspec-make-random-model: GGUF files of any shape and type with random weights, for timing.

Such a model says nothing sensible, but it takes as long as a real one of its shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .console import note, progress_bar, require, run
from .delta_net import DeltaNet
from .eagle import ARCHITECTURE as EAGLE2
from .eagle3 import ARCHITECTURE as EAGLE3
from .eagle3 import default_layers
from .fingerprint import vocabulary_fingerprint
from .gguf_output import Encoded, Entry, OutputTensor, array, f32, string, u32, write_gguf
from .random_blocks import block_elements, random_weights
from .ranks_file import RANKS, Ranks
from .target import open_gguf

PROGRAM = "frspec-make-random-model"
DRAFT_VOCABULARY = 32000  # rows of published EAGLE-3 heads


@dataclasses.dataclass(frozen=True)
class Shape:
    """The hyper-parameters of a published model."""

    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope_base: float
    tied: bool = False
    epsilon: float = 1e-5
    rope_factors: bool = False  # Llama 3.1's and later: a tensor rope_freqs
    qkv_bias: bool = False
    qk_norm: bool = False
    rotated: float = 1.0  # of each head
    experts: int = 0  # each as wide as feed_forward
    experts_used: int = 0
    delta: DeltaNet | None = None  # Qwen3.5: three of four layers have it, attention has gates, an MTP block follows

    @property
    def blocks(self) -> int:
        """The layers, and the MTP block."""
        return self.layers + (1 if self.delta else 0)


def _qwen35(
    layers: int, hidden: int, feed_forward: int, heads: int, kv_heads: int, value_heads: int, tied: bool = False
) -> Shape:
    net = DeltaNet(kernel=4, key_heads=16, value_heads=value_heads, head_dim=128, interval=4)
    return Shape(
        "qwen35", layers, hidden, feed_forward, heads, kv_heads, 256, 262144, 1e7, tied, 1e-6,
        qk_norm=True, rotated=0.25, delta=net,
    )  # fmt: skip


# fmt: off
SHAPES = {
    "tiny": Shape("llama", 2, 256, 512, 4, 2, 64, 2048, 1e4),
    "llama3.2-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 131072, 5e5, tied=True, rope_factors=True),
    "llama3.2-3b": Shape("llama", 28, 3072, 8192, 24, 8, 128, 131072, 5e5, tied=True, rope_factors=True),
    "llama3-8b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 8192, 5e5),
    "mistral-7b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 32768, 1e6),
    "qwen2.5-0.5b": Shape("qwen2", 24, 896, 4864, 14, 2, 64, 32768, 1e6, tied=True, epsilon=1e-6, qkv_bias=True),
    "qwen2.5-7b": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 32768, 1e6, epsilon=1e-6, qkv_bias=True),
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, 40960, 1e6, tied=True, epsilon=1e-6, qk_norm=True),
    "qwen3-4b": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 40960, 1e6, tied=True, epsilon=1e-6, qk_norm=True),
    "qwen3-8b": Shape("qwen3", 36, 4096, 12288, 32, 8, 128, 40960, 1e6, epsilon=1e-6, qk_norm=True),
    "qwen3-30b-a3b": Shape("qwen3moe", 48, 2048, 768, 32, 4, 128, 40960, 1e6, epsilon=1e-6, qk_norm=True,
                           experts=128, experts_used=8),
    "qwen3.5-0.8b": _qwen35(24, 1024, 3584, 8, 2, 16, tied=True),
    "qwen3.5-4b": _qwen35(32, 2560, 9216, 16, 4, 32, tied=True),
    "qwen3.5-9b": _qwen35(32, 4096, 12288, 16, 4, 32),
    "qwen3.5-27b": _qwen35(64, 5120, 17408, 24, 4, 48),
}
# Option -> the type of most matrices, llama.cpp's number of such a file (general.file_type).
TYPES = {
    "f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32), "q8_0": ("Q8_0", 7),
    "q4_0": ("Q4_0", 2), "q4_1": ("Q4_1", 3), "q5_0": ("Q5_0", 8), "q5_1": ("Q5_1", 9),
    "q4_k": ("Q4_K", 14), "q5_k": ("Q5_K", 16), "q6_k": ("Q6_K", 18),
    "q4_k_m": ("Q4_K", 15), "q5_k_m": ("Q5_K", 17),
    "q2_k": ("Q2_K", 10), "q3_k": ("Q3_K", 12),
    "iq4_nl": ("IQ4_NL", 25), "iq4_xs": ("IQ4_XS", 30), "mxfp4": ("MXFP4", 38),
}
# fmt: on
# Those whose head llama.cpp's quantizer stores in Q6_K.
_BETTER_HEAD = ("q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q5_k_m")
# What llama.cpp's quantizer takes for rows that are no multiple of a type's block.
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "IQ4_NL"}


def use_more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's rule for the layers whose attn_v, attn_qkv and ffn_down a mix stores in Q6_K."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def matrix_type(option: str, name: str, cols: int, shape: Shape) -> str:
    """The GGUF type of a matrix, as llama.cpp's quantizer chooses it for a file of type `option`."""
    kind = TYPES[option][0]
    part = name.split(".")[-2]
    if option in _BETTER_HEAD and part == ("token_embd" if shape.tied else "output"):
        kind = "Q6_K"
    mixed = option in ("q4_k_m", "q5_k_m") and part in ("attn_v", "attn_qkv", "ffn_down", "ffn_down_exps")
    if mixed and use_more_bits(int(name.split(".")[1]), shape.blocks):
        kind = "Q6_K"
    if cols % block_elements(kind):
        kind = _FALLBACK.get(kind, "F16")
    return "F16" if cols % block_elements(kind) else kind


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's metadata and the number of its tokens."""

    entries: list[Entry]
    tokens: list[str]


def read_vocabulary(path: Path, size: int | None = None) -> Vocabulary:
    """The tokenizer of a GGUF file, padded with unused tokens to `size`; raises ValueError naming the file."""
    entries = []
    for name, field in open_gguf(path).fields.items():
        if name.startswith("tokenizer."):
            kinds = [kind.name for kind in field.types]
            entries.append(Entry(name, field.contents(), kinds[0], kinds[-1] if kinds[0] == "ARRAY" else None))
    by_key = {entry.key: entry for entry in entries}
    found = by_key.get("tokenizer.ggml.tokens")
    if found is None or not found.value:
        raise ValueError(f"{path}: has no tokenizer (key 'tokenizer.ggml.tokens')")
    tokens = list(found.value)
    missing = (size or len(tokens)) - len(tokens)
    if missing < 0:
        raise ValueError(f"--vocab-size: found {size}, expected at least {len(tokens)}, the tokens of {path}")
    padding: dict[str, list[object]] = {
        "tokenizer.ggml.tokens": [f"[PAD{len(tokens) + i}]" for i in range(missing)],
        "tokenizer.ggml.scores": [0.0] * missing,
        "tokenizer.ggml.token_type": [5] * missing,  # unused
    }
    for key, more in padding.items():
        if key in by_key:
            entry = by_key[key]
            entries[entries.index(entry)] = dataclasses.replace(entry, value=[*entry.value, *more])
    return Vocabulary(entries, [*tokens, *(str(token) for token in padding["tokenizer.ggml.tokens"])])


def _sizes(shape: Shape, arch: str, vocabulary: int) -> list[Entry]:
    return [
        u32(f"{arch}.block_count", shape.blocks),
        u32(f"{arch}.context_length", shape.context),
        u32(f"{arch}.embedding_length", shape.hidden),
        u32(f"{arch}.feed_forward_length", shape.feed_forward),
        u32(f"{arch}.attention.head_count", shape.heads),
        u32(f"{arch}.attention.head_count_kv", shape.kv_heads),
        u32(f"{arch}.attention.key_length", shape.head_dim),
        u32(f"{arch}.attention.value_length", shape.head_dim),
        f32(f"{arch}.attention.layer_norm_rms_epsilon", shape.epsilon),
        f32(f"{arch}.rope.freq_base", shape.rope_base),
        u32(f"{arch}.rope.dimension_count", int(shape.head_dim * shape.rotated)),
        u32(f"{arch}.vocab_size", vocabulary),
        *(_delta_entries(shape.delta, arch, shape.blocks) if shape.delta else []),
        *(_expert_entries(shape, arch) if shape.experts else []),
    ]


def _expert_entries(shape: Shape, arch: str) -> list[Entry]:
    return [
        u32(f"{arch}.expert_count", shape.experts),
        u32(f"{arch}.expert_used_count", shape.experts_used),
        u32(f"{arch}.expert_feed_forward_length", shape.feed_forward),
    ]


def _delta_entries(net: DeltaNet, arch: str, blocks: int) -> list[Entry]:
    return [
        *net.entries(arch, blocks),
        u32(f"{arch}.nextn_predict_layers", 1),
        array(f"{arch}.rope.dimension_sections", [11, 11, 10, 0], "INT32"),
    ]


class _Maker:
    """Makes the tensors of one file, in order, from one generator."""

    def __init__(self, shape: Shape, option: str, seed: int) -> None:
        self.shape, self.option = shape, option
        self.rng = np.random.default_rng(seed)

    def matrix(self, name: str, rows: int, cols: int, gain: float = 1.0) -> OutputTensor:
        kind = matrix_type(self.option, name, cols, self.shape)
        make = partial(random_weights, kind, rows, cols, gain / math.sqrt(cols), self.rng)
        return OutputTensor(name, encoded=Encoded(kind, (rows, cols), make))

    def experts(self, name: str, rows: int, cols: int, gain: float = 1.0) -> OutputTensor:
        """A matrix for each of the experts."""
        count = self.shape.experts
        encoded = self.matrix(name, count * rows, cols, gain).encoded
        assert encoded is not None
        return OutputTensor(name, encoded=dataclasses.replace(encoded, shape=(count, rows, cols)))

    def vector(self, name: str, size: int, sigma: float = 0.0) -> OutputTensor:
        """Ones, or, given `sigma`, a bias."""
        values = self.rng.standard_normal(size) * sigma if sigma else np.ones(size)
        return OutputTensor(name, values=values.astype(np.float32))

    def layer(self, index: int, attention_norm: bool = True, joined: bool = False) -> Iterator[OutputTensor]:
        """A layer; `joined`: its attention reads two vectors."""
        s, name = self.shape, f"blk.{index}."
        back = 1 / math.sqrt(2 * s.layers)  # what returns to the residual stream, so that it does not explode
        if attention_norm:
            yield self.vector(f"{name}attn_norm.weight", s.hidden)
        if s.delta is not None and index < s.layers and s.delta.has(index):
            yield from self._delta_net(s.delta, name, back)
        else:
            yield from self._attention(name, back, joined)
        ffn_norm = "ffn_norm" if s.delta is None else "post_attention_norm"
        yield self.vector(f"{name}{ffn_norm}.weight", s.hidden)
        matrix, suffix = (self.experts, "_exps") if s.experts else (self.matrix, "")
        if s.experts:
            router = self.rng.standard_normal((s.experts, s.hidden)) / math.sqrt(s.hidden)
            yield OutputTensor(f"{name}ffn_gate_inp.weight", values=router.astype(np.float32))
        yield matrix(f"{name}ffn_gate{suffix}.weight", s.feed_forward, s.hidden)
        yield matrix(f"{name}ffn_up{suffix}.weight", s.feed_forward, s.hidden)
        yield matrix(f"{name}ffn_down{suffix}.weight", s.hidden, s.feed_forward, back)

    def _attention(self, name: str, back: float, joined: bool) -> Iterator[OutputTensor]:
        s = self.shape
        q_rows, kv_rows = s.heads * s.head_dim, s.kv_heads * s.head_dim
        gates = 1 if s.delta is None else 2
        for part, rows in (("attn_q", gates * q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)):
            yield self.matrix(f"{name}{part}.weight", rows, s.hidden * (2 if joined else 1))
            if s.qkv_bias:
                yield self.vector(f"{name}{part}.bias", rows, 0.1)
        if s.qk_norm:
            yield self.vector(f"{name}attn_q_norm.weight", s.head_dim)
            yield self.vector(f"{name}attn_k_norm.weight", s.head_dim)
        yield self.matrix(f"{name}attn_output.weight", s.hidden, q_rows, back)

    def _delta_net(self, net: DeltaNet, name: str, back: float) -> Iterator[OutputTensor]:
        """Decays as Qwen initializes them: exponents of 1 to 16, and biases of 1."""
        hidden, heads = self.shape.hidden, net.value_heads
        for part, rows in (("attn_qkv", net.channels), ("attn_gate", net.values), ("ssm_beta", heads)):
            yield self.matrix(f"{name}{part}.weight", rows, hidden)
        yield self.matrix(f"{name}ssm_alpha.weight", heads, hidden)
        taps = self.rng.standard_normal((net.channels, net.kernel)) / math.sqrt(net.kernel)
        yield OutputTensor(f"{name}ssm_conv1d.weight", values=taps.astype(np.float32))
        yield self.vector(f"{name}ssm_dt.bias", heads)
        yield OutputTensor(f"{name}ssm_a", values=-self.rng.uniform(1, 16, heads).astype(np.float32))
        yield self.vector(f"{name}ssm_norm.weight", net.head_dim)
        yield self.matrix(f"{name}ssm_out.weight", hidden, net.values, back)

    def mtp(self) -> Iterator[OutputTensor]:
        """The MTP block of a model that has one."""
        if self.shape.delta is None:
            return
        hidden, name = self.shape.hidden, f"blk.{self.shape.layers}.nextn."
        yield self.matrix(f"{name}eh_proj.weight", hidden, 2 * hidden)
        for part in ("enorm", "hnorm", "shared_head_norm"):
            yield self.vector(f"{name}{part}.weight", hidden)
        yield from self.layer(self.shape.layers)

    def rope_factors(self) -> Iterator[OutputTensor]:
        """Llama 3.2's, by its published rule: factor 32, between 1 and 4 turns within 8192 positions."""
        if not self.shape.rope_factors:
            return
        half = self.shape.head_dim // 2
        lengths = 2 * np.pi * self.shape.rope_base ** (np.arange(half) / half)
        turns = 8192 / lengths
        smooth = np.clip((turns - 1) / 3, 0, 1)
        yield OutputTensor("rope_freqs.weight", values=(1 / ((1 - smooth) / 32 + smooth)).astype(np.float32))


def _target_tensors(shape: Shape, option: str, vocabulary: int, seed: int) -> Iterator[OutputTensor]:
    maker = _Maker(shape, option, seed)
    yield maker.matrix("token_embd.weight", vocabulary, shape.hidden)
    yield from maker.rope_factors()
    for layer in range(shape.layers):
        yield from maker.layer(layer)
    yield from maker.mtp()
    yield maker.vector("output_norm.weight", shape.hidden)
    if not shape.tied:
        yield maker.matrix("output.weight", vocabulary, shape.hidden)


def _drafter_tensors(shape: Shape, option: str, ranks: np.ndarray, seed: int) -> Iterator[OutputTensor]:
    maker = _Maker(dataclasses.replace(shape, layers=1, tied=False), option, seed + 1)
    yield maker.matrix("fc.weight", shape.hidden, 2 * shape.hidden)
    yield from maker.rope_factors()
    yield from maker.layer(0, attention_norm=False)
    yield OutputTensor(RANKS, values=ranks.astype("<i4"))


def _eagle3_tensors(shape: Shape, option: str, vocabulary: int, rows: int, seed: int) -> Iterator[OutputTensor]:
    maker = _Maker(dataclasses.replace(shape, layers=1, tied=False), option, seed + 2)
    yield maker.matrix("fc.weight", shape.hidden, 3 * shape.hidden)
    yield from maker.rope_factors()
    yield from maker.layer(0, joined=True)
    yield maker.vector("blk.0.attn_norm_2.weight", shape.hidden)
    yield maker.vector("output_norm.weight", shape.hidden)
    yield maker.matrix("output.weight", rows, shape.hidden)
    if rows < vocabulary:
        yield OutputTensor("d2t", values=np.arange(rows, dtype=np.int64) * vocabulary // rows)


def _general(name: str, option: str) -> list[Entry]:
    gguf = require("gguf", PROGRAM)
    return [
        string("general.type", "model"),
        string("general.name", name),
        u32("general.file_type", TYPES[option][1]),
        u32("general.quantization_version", gguf.GGML_QUANT_VERSION),
        array("general.tags", ["random-weights"], "STRING"),
    ]


def _write(
    path: Path, arch: str, entries: list[Entry], make: Callable[[], Iterator[OutputTensor]], quiet: bool
) -> None:
    gguf = require("gguf", PROGRAM)
    tensors = list(make())
    total = 0
    for tensor in tensors:
        if tensor.encoded is not None:
            elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.encoded.kind]]
            total += math.prod(tensor.shape) // elements * size
    with progress_bar(total, path.name, quiet) as bar:
        write_gguf(path, arch, entries, tensors, advance=bar.update)


def make_random_model(
    output: Path,
    shape: str | Shape,
    type: str,  # noqa: A002 - named as the option
    vocab: Path,
    vocab_size: int | None = None,
    eagle2: Path | None = None,
    drafter_type: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    eagle3: Path | None = None,
    draft_vocab: int | None = None,
) -> None:
    """Writes a model with random weights to `output`, and with `eagle2` or `eagle3` a drafter for it.

    Args:
        output: the GGUF file to write; an existing one is replaced once the new one is complete.
        shape: a key of SHAPES, or a Shape.
        type: a key of TYPES: one type for all matrices, or one of llama.cpp's mixes.
        vocab: a GGUF file whose tokenizer the model takes; its tokens make the size of the vocabulary.
        vocab_size: pads the vocabulary with unused tokens.
        eagle2: where to write an EAGLE-2 drafter of the same shape, with token ranks in the order of ids.
        drafter_type: type of the drafters; default: `type`.
        seed: the same seed gives the same files.
        quiet: show no progress bar.
        eagle3: where to write an EAGLE-3 drafter of the same shape.
        draft_vocab: rows of its head; default: 32000, or all tokens where there are fewer.

    Raises:
        FileNotFoundError: the vocabulary is missing.
        ValueError: an argument does not fit, or a file is damaged; the message names it.
        OSError: a file cannot be written. Nothing is left behind then.
    """
    name = shape if isinstance(shape, str) else "custom"
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise ValueError(f"found shape {shape!r}, expected one of {', '.join(SHAPES)}")
        shape = SHAPES[shape]
    for option in (type, drafter_type or type):
        if option not in TYPES:
            raise ValueError(f"found type {option!r}, expected one of {', '.join(TYPES)}")
    written: list[Path] = []
    for path in filter(None, (output, eagle2, eagle3)):
        if path.exists() and vocab.exists() and path.samefile(vocab):
            raise ValueError(f"{path}: is the vocabulary's file, expected another one to write")
        if path.resolve() in written:
            whose = "the model's" if path.resolve() == written[0] else "the other drafter's"
            raise ValueError(f"{path}: is {whose} own file, expected another one for the drafter")
        written.append(path.resolve())
    vocabulary = read_vocabulary(vocab, vocab_size)
    size = len(vocabulary.tokens)
    rows = min(DRAFT_VOCABULARY, size) if draft_vocab is None else draft_vocab
    if not 1 <= rows <= size or (draft_vocab is not None and eagle3 is None):
        expected = f"1 to {size}, the size of the vocabulary, and an EAGLE-3 drafter to write"
        raise ValueError(f"--draft-vocab: found {rows}, expected {expected}")
    entries = [*_general(f"{name} {type} random", type), *_sizes(shape, shape.architecture, size), *vocabulary.entries]
    _write(output, shape.architecture, entries, partial(_target_tensors, shape, type, size, seed), quiet)
    of_drafter = drafter_type or type
    # Drafters are a Llama block, whatever the target is.
    plain = dataclasses.replace(shape, layers=1, qkv_bias=False, qk_norm=False, rotated=1.0, experts=0, delta=None)

    def drafter(path: Path, arch: str, more: list[Entry], make: Callable[[], Iterator[OutputTensor]]) -> None:
        known = [*_general(f"{name} {arch.upper().replace('EAGLE', 'EAGLE-')} {of_drafter} random", of_drafter)]
        known += [*_sizes(plain, arch, size), u32(f"{arch}.target_hidden_size", plain.hidden), *vocabulary.entries]
        _write(path, arch, [*known, *more], make, quiet)

    if eagle2 is not None:
        ranks = Ranks(np.arange(size), size, vocabulary_fingerprint(vocabulary.tokens), source="random")
        make = partial(_drafter_tensors, plain, of_drafter, ranks.tokens, seed)
        drafter(eagle2, EAGLE2, list(ranks.entries()), make)
    if eagle3 is not None:
        layers = sorted(min(max(layer, 0), shape.layers) for layer in default_layers(shape.layers))
        make = partial(_eagle3_tensors, plain, of_drafter, size, rows, seed)
        drafter(eagle3, EAGLE3, [array(f"{EAGLE3}.target_layers", layers, "INT32")], make)


def parser() -> argparse.ArgumentParser:
    """The command line of frspec-make-random-model."""
    result = argparse.ArgumentParser(
        prog=PROGRAM, description="Write a GGUF model of any shape and type with random weights, for timing."
    )
    result.add_argument("output", type=Path, metavar="OUTPUT.gguf", help="the file to write")
    result.add_argument("--shape", choices=list(SHAPES), required=True, help="the model whose shape is taken")
    result.add_argument("--type", choices=list(TYPES), default="q8_0", help="type of matrices (default: q8_0)")
    result.add_argument("--vocab", type=Path, required=True, metavar="FILE.gguf", help="GGUF file with a tokenizer")
    result.add_argument("--vocab-size", type=int, metavar="N", help="pad the vocabulary with unused tokens")
    result.add_argument("--layers", type=int, metavar="N", help="other than the shape's number of layers")
    result.add_argument("--eagle2", type=Path, metavar="DRAFTER.gguf", help="write an EAGLE-2 drafter, too")
    result.add_argument("--eagle3", type=Path, metavar="DRAFTER.gguf", help="write an EAGLE-3 drafter, too")
    result.add_argument(
        "--draft-vocab", type=int, metavar="N", help="rows of the EAGLE-3 drafter's head (default: 32000, or all)"
    )
    result.add_argument("--drafter-type", choices=list(TYPES), help="type of the drafter (default: that of the model)")
    result.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    result.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)

    def command() -> None:
        shape: str | Shape = options.shape
        if options.layers is not None:
            if options.layers < 1:
                raise ValueError(f"--layers: found {options.layers}, expected at least 1")
            shape = dataclasses.replace(SHAPES[options.shape], layers=options.layers)
        make_random_model(
            options.output,
            shape,
            options.type,
            options.vocab,
            options.vocab_size,
            options.eagle2,
            options.drafter_type,
            options.seed,
            options.quiet,
            options.eagle3,
            options.draft_vocab,
        )
        if not options.quiet:
            written = [str(path) for path in (options.output, options.eagle2, options.eagle3) if path]
            note(f"{PROGRAM}: wrote {' and '.join(written)}")

    return run(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
