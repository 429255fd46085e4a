"""Hugging Face architectures and their GGUF names: one table entry per architecture."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

from .checkpoint import Checkpoint
from .config import Config
from .gguf_output import Entry, OutputTensor, f32, u32
from .rope import Rope, read_rope

# Buffers that old checkpoints carry; the engine computes them.
_IGNORED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.(attn|masked)_bias$")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How the checkpoints of one Hugging Face class differ from plain Llama."""

    gguf: str  # general.architecture
    paired_rope: bool  # GGUF's NORM rope: Q and K rows are reordered at conversion; else NEOX, rows stay
    qkv_bias: bool | None = None  # None: as config.json's `attention_bias` says (with a bias on the output, too)
    qk_norm: bool = False
    head_dim: int | None = None  # default where config.json has no `head_dim`; None: hidden size / heads


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", paired_rope=True),
    "MistralForCausalLM": Architecture("llama", paired_rope=True, qkv_bias=False),
    "Qwen2ForCausalLM": Architecture("qwen2", paired_rope=False, qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("qwen3", paired_rope=False, qk_norm=True, head_dim=128),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The hyper-parameters of a decoder, as config.json gives them."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    epsilon: float
    rope: Rope

    def entries(self, arch: str) -> list[Entry]:
        """Their metadata below `arch`."""
        return [
            u32(f"{arch}.block_count", self.layers),
            u32(f"{arch}.context_length", self.context),
            u32(f"{arch}.embedding_length", self.hidden),
            u32(f"{arch}.feed_forward_length", self.feed_forward),
            u32(f"{arch}.attention.head_count", self.heads),
            u32(f"{arch}.attention.head_count_kv", self.kv_heads),
            u32(f"{arch}.attention.key_length", self.head_dim),
            u32(f"{arch}.attention.value_length", self.head_dim),
            f32(f"{arch}.attention.layer_norm_rms_epsilon", self.epsilon),
            u32(f"{arch}.vocab_size", self.vocabulary),
            *self.rope.entries(arch),
        ]


def read_sizes(config: Config, default_head_dim: int | None = None) -> Sizes:
    """Reads the hyper-parameters; raises ValueError naming the key, what was found and what was expected."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if default_head_dim is None and "head_dim" not in config and hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden})")
    head_dim = config.integer("head_dim", default_head_dim or hidden // heads)
    if head_dim % 2:
        raise config.wrong("head_dim", "an even number")
    if config.text("hidden_act", "silu") != "silu":
        raise config.wrong("hidden_act", "'silu'")
    return Sizes(
        layers=config.integer("num_hidden_layers"),
        hidden=hidden,
        feed_forward=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings", 2048),
        epsilon=config.number("rms_norm_eps", 1e-6),
        rope=read_rope(config, head_dim),
    )


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A tensor that must be in the checkpoint under `source`, and what it becomes."""

    source: str
    name: str
    shape: tuple[int, ...]
    paired_heads: int = 0  # > 0: Q or K rows of so many heads, to be reordered for NORM rope


def layer_tensors(
    sizes: Sizes, layer: int, prefix: str, arch: Architecture, qkv_bias: bool, out_bias: bool, mlp_bias: bool
) -> Iterator[Mapped]:
    """Those of one decoder layer: `{prefix}layers.N...` in the checkpoint, `blk.N...` in GGUF."""
    source, name = f"{prefix}layers.{layer}.", f"blk.{layer}."
    hidden, feed_forward = sizes.hidden, sizes.feed_forward
    q_rows, kv_rows = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    yield Mapped(f"{source}input_layernorm.weight", f"{name}attn_norm.weight", (hidden,))
    for theirs, ours, rows, heads in (
        ("q_proj", "attn_q", q_rows, sizes.heads if arch.paired_rope else 0),
        ("k_proj", "attn_k", kv_rows, sizes.kv_heads if arch.paired_rope else 0),
        ("v_proj", "attn_v", kv_rows, 0),
    ):
        yield Mapped(f"{source}self_attn.{theirs}.weight", f"{name}{ours}.weight", (rows, hidden), heads)
        if qkv_bias:
            yield Mapped(f"{source}self_attn.{theirs}.bias", f"{name}{ours}.bias", (rows,), heads)
    if arch.qk_norm:
        yield Mapped(f"{source}self_attn.q_norm.weight", f"{name}attn_q_norm.weight", (sizes.head_dim,))
        yield Mapped(f"{source}self_attn.k_norm.weight", f"{name}attn_k_norm.weight", (sizes.head_dim,))
    yield Mapped(f"{source}self_attn.o_proj.weight", f"{name}attn_output.weight", (hidden, q_rows))
    if out_bias:
        yield Mapped(f"{source}self_attn.o_proj.bias", f"{name}attn_output.bias", (hidden,))
    yield Mapped(f"{source}post_attention_layernorm.weight", f"{name}ffn_norm.weight", (hidden,))
    for theirs, ours, shape in (
        ("gate_proj", "ffn_gate", (feed_forward, hidden)),
        ("up_proj", "ffn_up", (feed_forward, hidden)),
        ("down_proj", "ffn_down", (hidden, feed_forward)),
    ):
        yield Mapped(f"{source}mlp.{theirs}.weight", f"{name}{ours}.weight", shape)
        if mlp_bias:
            yield Mapped(f"{source}mlp.{theirs}.bias", f"{name}{ours}.bias", shape[:1])


def model_tensors(sizes: Sizes, checkpoint: Checkpoint, arch: Architecture, tied: bool) -> Iterator[Mapped]:
    """All tensors of a whole model. A tied head has no tensor of its own."""
    config = checkpoint.config
    out_bias = config.flag("attention_bias", False) if arch.qkv_bias is None else False
    qkv_bias = out_bias if arch.qkv_bias is None else arch.qkv_bias
    mlp_bias = arch.gguf == "llama" and config.flag("mlp_bias", False)
    embedding = _EMBEDDING
    if tied and embedding not in checkpoint.tensors and _HEAD in checkpoint.tensors:
        embedding = _HEAD  # tied tensors may be stored under either name
    yield Mapped(embedding, "token_embd.weight", (sizes.vocabulary, sizes.hidden))
    for layer in range(sizes.layers):
        yield from layer_tensors(sizes, layer, "model.", arch, qkv_bias, out_bias, mlp_bias)
    yield Mapped("model.norm.weight", "output_norm.weight", (sizes.hidden,))
    if not tied:
        yield Mapped(_HEAD, "output.weight", (sizes.vocabulary, sizes.hidden))


def is_tied(checkpoint: Checkpoint, remarks: list[str]) -> bool:
    """Whether the head is the embedding. Two tensors that differ were trained, whatever config.json says."""
    if not checkpoint.config.flag("tie_word_embeddings", False):
        return False
    head, embedding = checkpoint.tensors.get(_HEAD), checkpoint.tensors.get(_EMBEDDING)
    if head is None or embedding is None or head.same_as(embedding):
        return True
    remarks.append(
        f"config.json says 'tie_word_embeddings': true, but {_HEAD} differs from the embedding: it is kept, as "
        "transformers and llama.cpp do"
    )
    return False


def collect(checkpoint: Checkpoint, wanted: list[Mapped], ignored: Iterable[str] = ()) -> list[OutputTensor]:
    """The wanted tensors in order; raises ValueError for one that is missing, misshapen or unexpected.

    `ignored`: tensors that may be there, too.
    """
    result = []
    for mapped in wanted:
        tensor = checkpoint.tensors.get(mapped.source)
        if tensor is None:
            raise ValueError(f"{checkpoint.folder}: tensor '{mapped.source}' is missing, expected {mapped.shape}")
        if tensor.shape != mapped.shape:
            raise ValueError(
                f"{tensor.file}: tensor '{mapped.source}': found shape {tensor.shape}, expected {mapped.shape}"
            )
        if mapped.paired_heads:
            tensor = tensor.with_rotary_pairs(mapped.paired_heads)
        result.append(OutputTensor(mapped.name, weights=tensor))
    known = {mapped.source for mapped in wanted} | set(ignored)
    if checkpoint.config.flag("tie_word_embeddings", False):
        known.add(_HEAD)  # some checkpoints store the tied head a second time
    for name, tensor in checkpoint.tensors.items():
        if name not in known and not _IGNORED.search(name):
            raise ValueError(
                f"{tensor.file}: unexpected tensor '{name}' {tensor.shape}: config.json describes a model without it"
            )
    return result
