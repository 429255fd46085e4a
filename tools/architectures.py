"""Hugging Face architectures and their GGUF names: one table entry per architecture."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from . import architecture_keys as keys
from .checkpoint import Checkpoint
from .config import Config
from .gguf_output import Entry, OutputTensor, f32, u32
from .rope import Rope, read_ropes
from .source_tensor import SourceTensor, StackedTensor

# Buffers that old checkpoints carry; the engine computes them.
_IGNORED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.(attn|masked)_bias$")
# Of a model that reads pictures or sounds: only what reads text is converted.
_OTHER_SENSES = re.compile(r"(^|\.)(vision_tower|vision_model|multi_modal_projector|audio_tower|embed_vision)\.")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

_LLAMA_NORMS = (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"))
_GEMMA_NORMS = (
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
)
_OLMO_NORMS = (
    ("post_attention_layernorm", "post_attention_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
)


@dataclasses.dataclass(frozen=True)
class ExpertNames:
    """How a checkpoint names its experts."""

    count: str  # keys of config.json
    width: str
    router: str  # tensors, below the layer
    each: str | None = None  # an expert's matrix, with {expert} and {matrix}; None: gpt-oss's, all in one tensor
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    own_width: bool = True  # whether GGUF keeps it under a key of its own


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How the checkpoints of one Hugging Face class differ from plain Llama."""

    gguf: str  # general.architecture
    paired_rope: bool  # GGUF's NORM rope: Q and K rows are reordered at conversion; else NEOX, rows stay
    qkv_bias: bool | None = None  # None: as config.json's `attention_bias` says (with a bias on the output, too)
    qk_norm: str | None = None  # "head": one for all heads; "whole": over a row of all heads
    head_dim: int | None = None  # default where config.json has no `head_dim`; None: hidden size / heads
    norms: tuple[tuple[str, str], ...] = _LLAMA_NORMS  # of a layer
    norm_offset: float = 0.0  # GGUF holds so much more than the checkpoint, whose model adds it
    gelu: bool = False
    fused: bool = False  # Phi-3: qkv_proj and gate_up_proj
    experts: ExpertNames | None = None
    sinks: bool = False
    mlp_bias: bool = False  # may be there, as `mlp_bias` says
    entries: Callable[[Config, str], list[Entry]] | None = None  # keys beyond Llama's
    tied: bool = False  # where config.json does not say it
    required: tuple[tuple[str, object], ...] = ()  # (key of config.json, the only value that GGUF can express)


_LLAMA = Architecture("llama", paired_rope=True, mlp_bias=True)
_MIXTRAL = ExpertNames(
    "num_local_experts",
    "intermediate_size",
    "block_sparse_moe.gate",
    "block_sparse_moe.experts.{expert}.{matrix}.weight",
    ("w1", "w3", "w2"),
    own_width=False,
)
_QWEN_EXPERTS = ExpertNames("num_experts", "moe_intermediate_size", "mlp.gate", "mlp.experts.{expert}.{matrix}.weight")
_GPT_OSS_EXPERTS = ExpertNames("num_local_experts", "intermediate_size", "mlp.router")
_MISTRAL3 = Architecture("mistral3", paired_rope=True, qkv_bias=False, head_dim=128, entries=keys.mistral3_entries)
_GEMMA2 = Architecture(
    "gemma2",
    paired_rope=False,
    qkv_bias=False,
    head_dim=256,
    norms=_GEMMA_NORMS,
    norm_offset=1.0,
    gelu=True,
    tied=True,
    entries=keys.gemma2_entries,
)
_GEMMA3 = dataclasses.replace(
    _GEMMA2,
    gguf="gemma3",
    qk_norm="head",
    entries=keys.gemma3_entries,
    required=(("use_bidirectional_attention", False),),
)
_OLMO2 = Architecture("olmo2", paired_rope=False, qk_norm="whole", norms=_OLMO_NORMS)

ARCHITECTURES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": dataclasses.replace(_LLAMA, qkv_bias=False),
    "MixtralForCausalLM": dataclasses.replace(_LLAMA, qkv_bias=False, experts=_MIXTRAL),
    "Qwen2ForCausalLM": Architecture("qwen2", paired_rope=False, qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("qwen3", paired_rope=False, qk_norm="head", head_dim=128),
    "Qwen3MoeForCausalLM": Architecture(
        "qwen3moe",
        paired_rope=False,
        qk_norm="head",
        experts=_QWEN_EXPERTS,
        required=(("norm_topk_prob", True), ("mlp_only_layers", []), ("decoder_sparse_step", 1)),
    ),
    "Ministral3ForCausalLM": _MISTRAL3,
    "Mistral3ForConditionalGeneration": _MISTRAL3,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "Phi3ForCausalLM": Architecture("phi3", paired_rope=False, qkv_bias=False, fused=True, entries=keys.phi3_entries),
    "SmolLM3ForCausalLM": Architecture(
        "smollm3",
        paired_rope=True,
        mlp_bias=True,
        tied=True,
        entries=keys.smollm3_entries,
        required=(("use_sliding_window", False),),
    ),
    "Olmo2ForCausalLM": _OLMO2,
    "Olmo3ForCausalLM": dataclasses.replace(_OLMO2, entries=keys.olmo3_entries),
    "GraniteForCausalLM": Architecture("granite", paired_rope=True, mlp_bias=True, entries=keys.granite_entries),
    "GptOssForCausalLM": Architecture(
        "gpt-oss",
        paired_rope=False,
        qkv_bias=True,
        head_dim=64,
        norms=(("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm")),
        experts=_GPT_OSS_EXPERTS,
        sinks=True,
        entries=keys.gpt_oss_entries,
        required=(("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)),
    ),
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
    local_rope: Rope | None = None  # of layers with a window, where it is another one
    experts: int = 0
    experts_used: int = 0
    expert_width: int = 0
    own_expert_width: bool = False  # whether it has a key of its own, or is `feed_forward`

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
            *([f32(f"{arch}.rope.freq_base_swa", self.local_rope.theta)] if self.local_rope else []),
            *self._expert_entries(arch),
        ]

    def _expert_entries(self, arch: str) -> list[Entry]:
        if self.experts == 0:
            return []
        result = [u32(f"{arch}.expert_count", self.experts), u32(f"{arch}.expert_used_count", self.experts_used)]
        if self.own_expert_width:
            result.append(u32(f"{arch}.expert_feed_forward_length", self.expert_width))
        return result


def read_sizes(config: Config, arch: Architecture = _LLAMA) -> Sizes:
    """Reads the hyper-parameters; raises ValueError naming the key, what was found and what was expected."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if arch.head_dim is None and "head_dim" not in config and hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden})")
    head_dim = config.integer("head_dim", arch.head_dim or hidden // heads)
    if head_dim % 2:
        raise config.wrong("head_dim", "an even number")
    key = "hidden_activation" if arch.gelu and "hidden_activation" in config else "hidden_act"
    expected = "gelu_pytorch_tanh" if arch.gelu else "silu"
    if config.text(key, expected) != expected:
        raise config.wrong(key, f"'{expected}'")
    for key, only in arch.required:
        if key in config and config.get(key) != only:
            raise config.wrong(key, f"{only}: GGUF's {arch.gguf} cannot say anything else")
    ropes = read_ropes(config, head_dim, arch.gguf)
    experts = arch.experts
    count = 0
    if experts is not None:
        key = experts.count if experts.count in config else "num_local_experts"
        count = config.integer(key)
        if config.integer("num_experts_per_tok") > count:
            raise config.wrong("num_experts_per_tok", f"at most {key} ({count})")
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
        rope=ropes.all,
        local_rope=ropes.local,
        experts=count,
        experts_used=config.integer("num_experts_per_tok") if experts is not None else 0,
        expert_width=config.integer(experts.width) if experts is not None else 0,
        own_expert_width=experts is not None and experts.own_width,
    )


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A tensor that must be in the checkpoint under `source`, and what it becomes."""

    source: str
    name: str
    shape: tuple[int, ...]  # in the checkpoint
    paired_heads: int = 0  # > 0: Q or K rows of so many heads, to be reordered for NORM rope
    offset: float = 0.0  # added to every value
    view: Callable[[np.ndarray], np.ndarray] | None = None  # what is taken of it
    stacked: tuple[str, ...] = ()  # the names of several of this shape, of which `source` is the first


def layer_tensors(
    sizes: Sizes, layer: int, prefix: str, arch: Architecture, qkv_bias: bool, out_bias: bool, mlp_bias: bool
) -> Iterator[Mapped]:
    """Those of one decoder layer: `{prefix}layers.N...` in the checkpoint, `blk.N...` in GGUF."""
    source, name = f"{prefix}layers.{layer}.", f"blk.{layer}."
    norms = {
        ours: Mapped(f"{source}{theirs}.weight", f"{name}{ours}.weight", (sizes.hidden,), offset=arch.norm_offset)
        for theirs, ours in arch.norms
    }
    if "attn_norm" in norms:
        yield norms.pop("attn_norm")
    yield from _attention_tensors(sizes, source, name, arch, qkv_bias, out_bias)
    yield from norms.values()
    if arch.experts is not None:
        yield from _expert_tensors(sizes, source, name, arch.experts)
        return
    hidden, feed_forward = sizes.hidden, sizes.feed_forward
    matrices = [("gate_proj", "ffn_gate", (feed_forward, hidden)), ("up_proj", "ffn_up", (feed_forward, hidden))]
    if arch.fused:
        matrices = [("gate_up_proj", "ffn_up", (2 * feed_forward, hidden))]
    for theirs, ours, shape in (*matrices, ("down_proj", "ffn_down", (hidden, feed_forward))):
        yield Mapped(f"{source}mlp.{theirs}.weight", f"{name}{ours}.weight", shape)
        if mlp_bias:
            yield Mapped(f"{source}mlp.{theirs}.bias", f"{name}{ours}.bias", shape[:1])


def _attention_tensors(
    sizes: Sizes, source: str, name: str, arch: Architecture, qkv_bias: bool, out_bias: bool
) -> Iterator[Mapped]:
    hidden = sizes.hidden
    q_rows, kv_rows = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    matrices = [
        ("q_proj", "attn_q", q_rows, sizes.heads if arch.paired_rope else 0),
        ("k_proj", "attn_k", kv_rows, sizes.kv_heads if arch.paired_rope else 0),
        ("v_proj", "attn_v", kv_rows, 0),
    ]
    if arch.fused:
        matrices = [("qkv_proj", "attn_qkv", q_rows + 2 * kv_rows, 0)]
    for theirs, ours, rows, heads in matrices:
        yield Mapped(f"{source}self_attn.{theirs}.weight", f"{name}{ours}.weight", (rows, hidden), heads)
        if qkv_bias:
            yield Mapped(f"{source}self_attn.{theirs}.bias", f"{name}{ours}.bias", (rows,), heads)
    if arch.qk_norm is not None:
        whole, offset = arch.qk_norm == "whole", arch.norm_offset
        q_size, k_size = (q_rows, kv_rows) if whole else (sizes.head_dim, sizes.head_dim)
        yield Mapped(f"{source}self_attn.q_norm.weight", f"{name}attn_q_norm.weight", (q_size,), offset=offset)
        yield Mapped(f"{source}self_attn.k_norm.weight", f"{name}attn_k_norm.weight", (k_size,), offset=offset)
    if arch.sinks:
        yield Mapped(f"{source}self_attn.sinks", f"{name}attn_sinks.weight", (sizes.heads,))
    yield Mapped(f"{source}self_attn.o_proj.weight", f"{name}attn_output.weight", (hidden, q_rows))
    if out_bias:
        yield Mapped(f"{source}self_attn.o_proj.bias", f"{name}attn_output.bias", (hidden,))


def _every_second_output(raw: np.ndarray, first: int) -> np.ndarray:
    return np.asarray(raw[:, :, first::2].swapaxes(1, 2))


def _every_second_bias(raw: np.ndarray, first: int) -> np.ndarray:
    return raw[:, first::2]


def _expert_tensors(sizes: Sizes, source: str, name: str, experts: ExpertNames) -> Iterator[Mapped]:
    hidden, width, count = sizes.hidden, sizes.expert_width, sizes.experts
    router = f"{source}{experts.router}"
    yield Mapped(f"{router}.weight", f"{name}ffn_gate_inp.weight", (count, hidden))
    if experts.each is not None:
        for matrix, ours, shape in zip(
            experts.matrices, ("gate", "up", "down"), ((width, hidden), (width, hidden), (hidden, width)), strict=True
        ):
            each = [f"{source}{experts.each.format(expert=e, matrix=matrix)}" for e in range(count)]
            yield Mapped(each[0], f"{name}ffn_{ours}_exps.weight", shape, stacked=tuple(each))
        return
    yield Mapped(f"{router}.bias", f"{name}ffn_gate_inp.bias", (count,))
    # gpt-oss: inputs before outputs, and the outputs of gate and up alternate.
    joined, down = f"{source}mlp.experts.gate_up_proj", f"{source}mlp.experts.down_proj"
    for first, ours in ((0, "gate"), (1, "up")):
        yield Mapped(
            joined,
            f"{name}ffn_{ours}_exps.weight",
            (count, hidden, 2 * width),
            view=functools.partial(_every_second_output, first=first),
        )
        yield Mapped(
            f"{joined}_bias",
            f"{name}ffn_{ours}_exps.bias",
            (count, 2 * width),
            view=functools.partial(_every_second_bias, first=first),
        )
    yield Mapped(down, f"{name}ffn_down_exps.weight", (count, width, hidden), view=lambda raw: raw.swapaxes(1, 2))
    yield Mapped(f"{down}_bias", f"{name}ffn_down_exps.bias", (count, hidden))


def model_tensors(sizes: Sizes, checkpoint: Checkpoint, arch: Architecture, tied: bool) -> Iterator[Mapped]:
    """All tensors of a whole model. A tied head has no tensor of its own."""
    config = checkpoint.text_config
    bias = config.flag("attention_bias", False)
    qkv_bias = bias if arch.qkv_bias is None else arch.qkv_bias
    out_bias = arch.sinks or (arch.qkv_bias is None and bias)
    mlp_bias = arch.mlp_bias and config.flag("mlp_bias", False)
    embedding = _EMBEDDING
    if tied and embedding not in checkpoint.tensors and _HEAD in checkpoint.tensors:
        embedding = _HEAD  # tied tensors may be stored under either name
    yield Mapped(embedding, "token_embd.weight", (sizes.vocabulary, sizes.hidden))
    for layer in range(sizes.layers):
        yield from layer_tensors(sizes, layer, "model.", arch, qkv_bias, out_bias, mlp_bias)
    yield Mapped("model.norm.weight", "output_norm.weight", (sizes.hidden,), offset=arch.norm_offset)
    if not tied:
        yield Mapped(_HEAD, "output.weight", (sizes.vocabulary, sizes.hidden))


def is_tied(checkpoint: Checkpoint, arch: Architecture, remarks: list[str]) -> bool:
    """Whether the head is the embedding. Two tensors that differ were trained, whatever config.json says."""
    if not _says_tied(checkpoint, arch):
        return False
    head, embedding = checkpoint.tensors.get(_HEAD), checkpoint.tensors.get(_EMBEDDING)
    if head is None or embedding is None or head.same_as(embedding):
        return True
    remarks.append(
        f"config.json says 'tie_word_embeddings': true, but {_HEAD} differs from the embedding: it is kept, as "
        "transformers and llama.cpp do"
    )
    return False


def _says_tied(checkpoint: Checkpoint, arch: Architecture) -> bool:
    return checkpoint.text_config.flag("tie_word_embeddings", arch.tied)


def collect(
    checkpoint: Checkpoint, wanted: list[Mapped], ignored: Iterable[str] = (), arch: Architecture = _LLAMA
) -> list[OutputTensor]:
    """The wanted tensors in order; raises ValueError for one that is missing, misshapen or unexpected.

    `ignored`: tensors that may be there, too.
    """
    result = []
    for mapped in wanted:
        parts = [_part(checkpoint, mapped, source) for source in mapped.stacked or (mapped.source,)]
        result.append(OutputTensor(mapped.name, weights=StackedTensor(parts) if mapped.stacked else parts[0]))
    known = {source for mapped in wanted for source in mapped.stacked or (mapped.source,)} | set(ignored)
    if _says_tied(checkpoint, arch):
        known.add(_HEAD)  # some checkpoints store the tied head a second time
    for name, tensor in checkpoint.tensors.items():
        if name not in known and not _IGNORED.search(name) and not _OTHER_SENSES.search(name):
            raise ValueError(
                f"{tensor.file}: unexpected tensor '{name}' {tensor.shape}: config.json describes a model without it"
            )
    return result


def _part(checkpoint: Checkpoint, mapped: Mapped, source: str) -> SourceTensor:
    tensor = checkpoint.tensors.get(source)
    if tensor is None:
        raise ValueError(f"{checkpoint.folder}: tensor '{source}' is missing, expected {mapped.shape}")
    if tensor.shape != mapped.shape:
        raise ValueError(f"{tensor.file}: tensor '{source}': found shape {tensor.shape}, expected {mapped.shape}")
    if mapped.paired_heads:
        tensor = tensor.with_rotary_pairs(mapped.paired_heads)
    raw = mapped.view(tensor.raw) if mapped.view is not None else tensor.raw
    return dataclasses.replace(tensor, raw=raw, offset=mapped.offset)
