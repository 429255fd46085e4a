"""EAGLE-1/2 drafters: recognising their checkpoints, and their GGUF form (architecture "eagle2").

The network: `fc` joins the target's embedding of a token with its hidden state, then Llama layers without a
norm before the first attention and without a final norm; embedding and head are the target's.
"""

from __future__ import annotations

from collections.abc import Iterator

from .architectures import Architecture
from .checkpoint import Checkpoint
from .gguf_output import Entry, OutputTensor, u32
from .mapped import Mapped, collect
from .model_tensors import layer_tensors
from .sizes import Sizes, read_sizes
from .target import Target

ARCHITECTURE = "eagle2"
_NETWORK = Architecture(ARCHITECTURE, paired_rope=True)


def is_drafter(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is an EAGLE-1/2 drafter, where it is no EAGLE-3 drafter."""
    names = checkpoint.tensors
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
        assert own.weights is not None
        if target.embedding.same_as(own.weights):
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
