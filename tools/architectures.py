"""Hugging Face architectures and their GGUF names: one table entry per architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from . import architecture_keys as keys
from .config import Config
from .gguf_output import Entry

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


_PLAIN_POST_NORMS = (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm"))


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
    output_gate: bool = False  # each head of Q is followed by as many rows of a gate
    delta_net: bool = False  # in the layers that are no full attention; and an MTP block may follow them
    mlp_bias: bool = False  # may be there, as `mlp_bias` says
    entries: Callable[[Config, str], list[Entry]] | None = None  # keys beyond Llama's
    tied: bool = False  # where config.json does not say it
    required: tuple[tuple[str, object], ...] = ()  # (key of config.json, the only value that GGUF can express)


LLAMA = Architecture("llama", paired_rope=True, mlp_bias=True)
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
_QWEN35 = Architecture(
    "qwen35",
    paired_rope=False,
    qkv_bias=False,
    qk_norm="head",
    head_dim=256,
    norms=_PLAIN_POST_NORMS,
    norm_offset=1.0,
    output_gate=True,
    delta_net=True,
    entries=keys.qwen35_entries,
    required=(("attention_bias", False), ("attn_output_gate", True), ("mtp_use_dedicated_embeddings", False)),
)
_OLMO2 = Architecture("olmo2", paired_rope=False, qk_norm="whole", norms=_OLMO_NORMS)

ARCHITECTURES = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": dataclasses.replace(LLAMA, qkv_bias=False),
    "MixtralForCausalLM": dataclasses.replace(LLAMA, qkv_bias=False, experts=_MIXTRAL),
    "Qwen2ForCausalLM": Architecture("qwen2", paired_rope=False, qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("qwen3", paired_rope=False, qk_norm="head", head_dim=128),
    "Qwen3MoeForCausalLM": Architecture(
        "qwen3moe",
        paired_rope=False,
        qk_norm="head",
        experts=_QWEN_EXPERTS,
        required=(("norm_topk_prob", True), ("mlp_only_layers", []), ("decoder_sparse_step", 1)),
    ),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5ForConditionalGeneration": _QWEN35,
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
        norms=_PLAIN_POST_NORMS,
        experts=_GPT_OSS_EXPERTS,
        sinks=True,
        entries=keys.gpt_oss_entries,
        required=(("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)),
    ),
}
