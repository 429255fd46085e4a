"""The hyper-parameters of a decoder, as config.json gives them, and their keys in GGUF."""

from __future__ import annotations

import dataclasses

from .architectures import LLAMA, Architecture
from .config import Config
from .delta_net import DeltaNet, read_delta_net
from .gguf_output import Entry, f32, u32
from .rope import Rope, read_ropes


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
    packed_experts: bool = False  # in MXFP4
    delta: DeltaNet | None = None  # what some layers have in the place of attention
    mtp_blocks: int = 0  # drafting blocks behind the layers, that predict a token more

    def entries(self, arch: str) -> list[Entry]:
        """Their metadata below `arch`."""
        return [
            u32(f"{arch}.block_count", self.layers + self.mtp_blocks),
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
            *(self.delta.entries(arch, self.layers + self.mtp_blocks) if self.delta else []),
            *([u32(f"{arch}.nextn_predict_layers", self.mtp_blocks)] if self.mtp_blocks else []),
        ]

    def _expert_entries(self, arch: str) -> list[Entry]:
        if self.experts == 0:
            return []
        result = [u32(f"{arch}.expert_count", self.experts), u32(f"{arch}.expert_used_count", self.experts_used)]
        if self.own_expert_width:
            result.append(u32(f"{arch}.expert_feed_forward_length", self.expert_width))
        return result


def read_sizes(config: Config, arch: Architecture = LLAMA) -> Sizes:
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
        packed_experts="quantization_config" in config,
        delta=read_delta_net(config) if arch.delta_net else None,
    )
