"""Layers with a gated delta net (Qwen3.5): their sizes, keys and tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from .config import Config
from .gguf_output import Entry, array, u32
from .mapped import Mapped

_KINDS = ("linear_attention", "full_attention")


@dataclasses.dataclass(frozen=True)
class DeltaNet:
    """The sizes of these layers, and which they are."""

    kernel: int  # rows that the convolution sees
    key_heads: int
    value_heads: int
    head_dim: int  # of keys and values
    interval: int  # a full attention is the last of so many layers, where `stated` does not say otherwise
    stated: tuple[bool, ...] | None = None  # layer by layer: whether it has a delta net

    def has(self, layer: int) -> bool:
        """Whether the layer has a delta net, not attention."""
        if self.stated is None:
            return (layer + 1) % self.interval != 0
        return layer < len(self.stated) and self.stated[layer]

    @property
    def values(self) -> int:
        """The width of all value heads."""
        return self.value_heads * self.head_dim

    @property
    def channels(self) -> int:
        """That of the convolution: queries, keys and values."""
        return 2 * self.key_heads * self.head_dim + self.values

    def entries(self, arch: str, blocks: int) -> list[Entry]:
        """Their metadata below `arch`, for a file of so many blocks."""
        result = [
            u32(f"{arch}.ssm.conv_kernel", self.kernel),
            u32(f"{arch}.ssm.state_size", self.head_dim),
            u32(f"{arch}.ssm.group_count", self.key_heads),
            u32(f"{arch}.ssm.time_step_rank", self.value_heads),
            u32(f"{arch}.ssm.inner_size", self.values),
            u32(f"{arch}.full_attention_interval", self.interval),
        ]
        if self.stated is not None:
            flags = [self.has(layer) for layer in range(blocks)]
            result.append(array(f"{arch}.attention.recurrent_layers", flags, "BOOL"))
        return result

    def tensors(self, hidden: int, source: str, name: str) -> Iterator[Mapped]:
        """Those of the layer `source` in the checkpoint, `name` in GGUF, in the place of its attention."""
        source = f"{source}linear_attn."
        values, channels, heads = self._tiled(self.head_dim), self._tiled_channels(), self._tiled(1)
        width = (self.values, hidden)
        yield Mapped(f"{source}in_proj_qkv.weight", f"{name}attn_qkv.weight", (self.channels, hidden), channels)
        yield Mapped(f"{source}in_proj_z.weight", f"{name}attn_gate.weight", width, values)
        for theirs, ours in (("in_proj_b", "ssm_beta"), ("in_proj_a", "ssm_alpha")):
            yield Mapped(f"{source}{theirs}.weight", f"{name}{ours}.weight", (self.value_heads, hidden), heads)
        yield Mapped(
            f"{source}conv1d.weight",
            f"{name}ssm_conv1d.weight",
            (self.channels, 1, self.kernel),
            channels,
            view=lambda raw: raw[:, 0],
        )
        yield Mapped(f"{source}dt_bias", f"{name}ssm_dt.bias", (self.value_heads,), heads)
        yield Mapped(f"{source}A_log", f"{name}ssm_a", (self.value_heads,), heads, change=_decay)
        yield Mapped(f"{source}norm.weight", f"{name}ssm_norm.weight", (self.head_dim,))
        yield Mapped(f"{source}out_proj.weight", f"{name}ssm_out.weight", width[::-1], columns=values)

    def _tiled(self, size: int) -> np.ndarray:
        """The order of value heads in GGUF: head n goes with key head n % key_heads.

        In checkpoints those of one key head are neighbours.
        """
        each = self.value_heads // self.key_heads
        order: np.ndarray = np.arange(self.value_heads * size).reshape(self.key_heads, each, size).swapaxes(0, 1)
        return order.ravel()

    def _tiled_channels(self) -> np.ndarray:
        keys = self.channels - self.values
        return np.concatenate([np.arange(keys), keys + self._tiled(self.head_dim)])


def _decay(a_log: np.ndarray) -> np.ndarray:
    decay: np.ndarray = -np.exp(a_log.astype(np.float64)).astype(np.float32)
    return decay


def read_delta_net(config: Config) -> DeltaNet:
    """Reads the sizes; raises ValueError naming the key, what was found and what was expected."""
    layers, heads = config.integer("num_hidden_layers"), config.integer("linear_num_value_heads", 32)
    net = DeltaNet(
        kernel=config.integer("linear_conv_kernel_dim", 4),
        key_heads=config.integer("linear_num_key_heads", 16),
        value_heads=heads,
        head_dim=config.integer("linear_key_head_dim", 128),
        interval=config.integer("full_attention_interval", 4),
    )
    if heads % net.key_heads:
        raise config.wrong("linear_num_value_heads", f"a multiple of linear_num_key_heads ({net.key_heads})")
    if config.integer("linear_value_head_dim", 128) != net.head_dim:
        raise config.wrong("linear_value_head_dim", f"linear_key_head_dim ({net.head_dim}): GGUF has one size for both")
    kinds = config.get("layer_types")
    if kinds is None:
        return net
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= set(_KINDS):
        raise config.wrong("layer_types", f"'{_KINDS[0]}' or '{_KINDS[1]}' for each of {layers} layers")
    return dataclasses.replace(net, stated=tuple(kind == _KINDS[0] for kind in kinds))
