"""Which tensors a model has, by its architecture and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .architectures import Architecture
from .checkpoint import Checkpoint
from .expert_tensors import expert_tensors
from .mapped import EMBEDDING, HEAD, Mapped, plus, rotary_pairs
from .sizes import Sizes


def layer_tensors(
    sizes: Sizes, layer: int, prefix: str, arch: Architecture, qkv_bias: bool, out_bias: bool, mlp_bias: bool
) -> Iterator[Mapped]:
    """Those of one decoder layer: `{prefix}layers.N...` in the checkpoint, `blk.N...` in GGUF."""
    source, name = f"{prefix}layers.{layer}.", f"blk.{layer}."
    norms = {
        ours: Mapped(f"{source}{theirs}.weight", f"{name}{ours}.weight", (sizes.hidden,), change=plus(arch.norm_offset))
        for theirs, ours in arch.norms
    }
    if "attn_norm" in norms:
        yield norms.pop("attn_norm")
    if sizes.delta is not None and layer < sizes.layers and sizes.delta.has(layer):
        yield from sizes.delta.tensors(sizes.hidden, source, name)
    else:
        yield from _attention_tensors(sizes, source, name, arch, qkv_bias, out_bias)
    yield from norms.values()
    if arch.experts is not None:
        yield from expert_tensors(sizes, source, name, arch.experts)
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
        ("q_proj", "attn_q", q_rows * (2 if arch.output_gate else 1), sizes.heads if arch.paired_rope else 0),
        ("k_proj", "attn_k", kv_rows, sizes.kv_heads if arch.paired_rope else 0),
        ("v_proj", "attn_v", kv_rows, 0),
    ]
    if arch.fused:
        matrices = [("qkv_proj", "attn_qkv", q_rows + 2 * kv_rows, 0)]
    for theirs, ours, rows, heads in matrices:
        order = rotary_pairs(heads, rows)
        yield Mapped(f"{source}self_attn.{theirs}.weight", f"{name}{ours}.weight", (rows, hidden), order)
        if qkv_bias:
            yield Mapped(f"{source}self_attn.{theirs}.bias", f"{name}{ours}.bias", (rows,), order)
    if arch.qk_norm is not None:
        whole, change = arch.qk_norm == "whole", plus(arch.norm_offset)
        q_size, k_size = (q_rows, kv_rows) if whole else (sizes.head_dim, sizes.head_dim)
        yield Mapped(f"{source}self_attn.q_norm.weight", f"{name}attn_q_norm.weight", (q_size,), change=change)
        yield Mapped(f"{source}self_attn.k_norm.weight", f"{name}attn_k_norm.weight", (k_size,), change=change)
    if arch.sinks:
        yield Mapped(f"{source}self_attn.sinks", f"{name}attn_sinks.weight", (sizes.heads,))
    yield Mapped(f"{source}self_attn.o_proj.weight", f"{name}attn_output.weight", (hidden, q_rows))
    if out_bias:
        yield Mapped(f"{source}self_attn.o_proj.bias", f"{name}attn_output.bias", (hidden,))


def model_tensors(sizes: Sizes, checkpoint: Checkpoint, arch: Architecture, tied: bool) -> Iterator[Mapped]:
    """All tensors of a whole model. A tied head has no tensor of its own."""
    config = checkpoint.text_config
    bias = config.flag("attention_bias", False)
    qkv_bias = bias if arch.qkv_bias is None else arch.qkv_bias
    out_bias = arch.sinks or (arch.qkv_bias is None and bias)
    mlp_bias = arch.mlp_bias and config.flag("mlp_bias", False)
    embedding = EMBEDDING
    if tied and embedding not in checkpoint.tensors and HEAD in checkpoint.tensors:
        embedding = HEAD  # tied tensors may be stored under either name
    yield Mapped(embedding, "token_embd.weight", (sizes.vocabulary, sizes.hidden))
    for layer in range(sizes.layers):
        yield from layer_tensors(sizes, layer, "model.", arch, qkv_bias, out_bias, mlp_bias)
    yield Mapped("model.norm.weight", "output_norm.weight", (sizes.hidden,), change=plus(arch.norm_offset))
    if not tied:
        yield Mapped(HEAD, "output.weight", (sizes.vocabulary, sizes.hidden))


def mtp_tensors(sizes: Sizes, arch: Architecture) -> Iterator[Mapped]:
    """Those of the MTP block: what joins an embedding and a state, an attention layer, a norm; no head of its own."""
    if not sizes.mtp_blocks:
        return
    name, hidden, change = f"blk.{sizes.layers}.nextn.", sizes.hidden, plus(arch.norm_offset)
    yield Mapped("mtp.fc.weight", f"{name}eh_proj.weight", (hidden, 2 * hidden))
    for theirs, ours in (
        ("pre_fc_norm_embedding", "enorm"),
        ("pre_fc_norm_hidden", "hnorm"),
        ("norm", "shared_head_norm"),
    ):
        yield Mapped(f"mtp.{theirs}.weight", f"{name}{ours}.weight", (hidden,), change=change)
    for mapped in layer_tensors(sizes, sizes.layers, "mtp.", arch, False, False, False):
        source = mapped.source.replace(f"mtp.layers.{sizes.layers}.", "mtp.layers.0.")
        yield dataclasses.replace(mapped, source=source)


def is_tied(checkpoint: Checkpoint, arch: Architecture, remarks: list[str]) -> bool:
    """Whether the head is the embedding. Two tensors that differ were trained, whatever config.json says."""
    if not checkpoint.text_config.flag("tie_word_embeddings", arch.tied):
        return False
    head, embedding = checkpoint.tensors.get(HEAD), checkpoint.tensors.get(EMBEDDING)
    if head is None or embedding is None or head.same_as(embedding):
        return True
    remarks.append(
        f"config.json says 'tie_word_embeddings': true, but {HEAD} differs from the embedding: it is kept, as "
        "transformers and llama.cpp do"
    )
    return False
