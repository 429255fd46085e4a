"""EAGLE-1/2 drafters: recognising their checkpoints, and their GGUF form (architecture "eagle2").

The network: `fc` joins the target's embedding of a token with its hidden state, then Llama layers without a
norm before the first attention and without a final norm; embedding and head are the target's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .architectures import Architecture, Mapped, Sizes, collect, layer_tensors, read_sizes
from .checkpoint import Checkpoint
from .gguf_output import Entry, OutputTensor, u32
from .target import Target

ARCHITECTURE = "eagle2"
_NETWORK = Architecture(ARCHITECTURE, paired_rope=True)
_EAGLE3_NAMES = ("midlayer.", "d2t", "t2d", "fc_norm.", "model.midlayer.")


def is_drafter(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is an EAGLE-1/2 drafter; raises ValueError for an EAGLE-3 one."""
    names = checkpoint.tensors
    telling = next((n for n in names if n.startswith(_EAGLE3_NAMES) or "hidden_norm." in n), None)
    if telling is not None:
        raise ValueError(
            f"{checkpoint.folder}: found an EAGLE-3 drafter (it has the tensor '{telling}'), "
            "expected a target model or an EAGLE-1/2 drafter"
        )
    return "fc.weight" in names and not any(n.startswith("model.") for n in names)


def drafter_entries(checkpoint: Checkpoint, target: Target) -> list[Entry]:
    """The drafter's hyper-parameters; raises ValueError where they do not fit the target."""
    sizes = read_sizes(checkpoint.config)
    if sizes.hidden != target.hidden:
        raise checkpoint.config.wrong("hidden_size", f"{target.hidden}, as {target.path} has")
    if sizes.vocabulary != target.vocabulary:
        raise checkpoint.config.wrong("vocab_size", f"{target.vocabulary}, as {target.path} has")
    return [*sizes.entries(ARCHITECTURE), u32(f"{ARCHITECTURE}.target_hidden_size", target.hidden)]


def drafter_tensors(checkpoint: Checkpoint, target: Target) -> tuple[list[OutputTensor], list[str]]:
    """The drafter's tensors, and remarks on decisions taken; raises ValueError where one is wrong."""
    sizes, config, remarks = read_sizes(checkpoint.config), checkpoint.config, []
    # The published code takes a missing key for true. The weights outrank the key: a bias that is there was
    # trained.
    fc_bias = config.flag("bias", True) or "fc.bias" in checkpoint.tensors
    if fc_bias and not config.flag("bias", True):
        remarks.append("config.json says 'bias': false, but the checkpoint has fc.bias: it is kept")
    wanted = list(_wanted(sizes, fc_bias, config.flag("qkv_bias", False)))
    embedding = Mapped("embed_tokens.weight", "token_embd.weight", (sizes.vocabulary, sizes.hidden))
    if embedding.source in checkpoint.tensors:
        wanted.append(embedding)
    tensors = collect(checkpoint, wanted)
    own = next((tensor for tensor in tensors if tensor.name == embedding.name), None)
    if own is not None:
        if _same_embedding(own, target):
            tensors.remove(own)
            remarks.append("embed_tokens.weight is the target's own embedding: the copy is dropped")
        else:
            remarks.append("embed_tokens.weight differs from the target's embedding: it is kept")
    return [*tensors, *sizes.rope.tensors()], remarks


def _wanted(sizes: Sizes, fc_bias: bool, qkv_bias: bool) -> Iterator[Mapped]:
    yield Mapped("fc.weight", "fc.weight", (sizes.hidden, 2 * sizes.hidden))
    if fc_bias:
        yield Mapped("fc.bias", "fc.bias", (sizes.hidden,))
    for layer in range(sizes.layers):
        for mapped in layer_tensors(sizes, layer, "", _NETWORK, qkv_bias, out_bias=False, mlp_bias=False):
            if mapped.name != "blk.0.attn_norm.weight":
                yield mapped


def _same_embedding(own: OutputTensor, target: Target) -> bool:
    """Whether the copy is the target's, up to the rounding of the target's type."""
    assert own.weights is not None
    step = 4096  # rows at a time
    for start in range(0, own.shape[0], step):
        theirs = target.embedding_rows(start, start + step)
        if theirs is None:
            return False
        ours = own.weights.floats(start, start + step)
        error = float(np.square(ours - theirs, dtype=np.float64).sum())
        scale = float(np.square(ours, dtype=np.float64).sum())
        if error > target.embedding_tolerance**2 * scale:
            return False
    return True
