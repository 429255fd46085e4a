"""Rotary position settings of a Hugging Face config, and how GGUF spells them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from .config import Config
from .gguf_output import Entry, OutputTensor, f32, string, u32

_KNOWN_TYPES = ("default", "linear", "yarn", "llama3")


@dataclasses.dataclass(frozen=True)
class Rope:
    """`scaling` is the config section that holds the parameters of `type`."""

    theta: float
    type: str
    scaling: Config
    head_dim: int

    def entries(self, arch: str) -> list[Entry]:
        """The metadata below `{arch}.rope`."""
        result = [
            u32(f"{arch}.rope.dimension_count", self.head_dim),
            f32(f"{arch}.rope.freq_base", self.theta),
        ]
        if self.type in ("default", "llama3"):  # the factors of llama3 are a tensor
            return result
        key, scaling = f"{arch}.rope.scaling.", self.scaling
        result += [string(f"{key}type", self.type), f32(f"{key}factor", scaling.number("factor"))]
        if self.type == "yarn":
            original = scaling.integer("original_max_position_embeddings")
            result.append(u32(f"{key}original_context_length", original))
            for name in ("beta_fast", "beta_slow"):
                if name in scaling:
                    result.append(f32(f"{key}yarn_{name}", scaling.number(name)))
            if "attention_factor" in scaling:
                magnitude = scaling.number("attention_factor")
            elif "mscale" in scaling and "mscale_all_dim" in scaling:
                magnitude = self._magnitude(scaling.number("mscale")) / self._magnitude(
                    scaling.number("mscale_all_dim")
                )
            else:
                return result
            # Transformers: the whole magnitude; GGUF: what YaRN's own magnitude is multiplied by.
            result.append(f32(f"{key}attn_factor", magnitude / self._magnitude(1.0)))
        return result

    def _magnitude(self, scale: float) -> float:
        return 1.0 + 0.1 * scale * math.log(max(1.0, self.scaling.number("factor")))

    def tensors(self) -> list[OutputTensor]:
        """`rope_freqs.weight`, the divisors of the frequencies, for llama3 scaling; else nothing."""
        if self.type != "llama3":
            return []
        return [OutputTensor("rope_freqs.weight", values=llama3_divisors(self.theta, self.head_dim, self.scaling))]


def read_rope(config: Config, head_dim: int) -> Rope:
    """The settings spelled as `rope_theta` and `rope_scaling`, or as transformers 5's `rope_parameters`.

    Raises ValueError for a kind of scaling that GGUF files of these architectures cannot express.
    """
    # Where both are there, transformers takes the older one.
    name = "rope_scaling" if config.section("rope_scaling") else "rope_parameters"
    section = config.section(name)
    nested = [key for key in section if isinstance(section.get(key), dict)]
    if nested:
        raise section.wrong(nested[0], "one rope for all layers: settings for each kind of layer are not supported")
    theta = section.number("rope_theta", config.number("rope_theta", 10000.0))
    kind = section.text("rope_type", section.text("type", "default"))
    if kind not in _KNOWN_TYPES:
        key = "rope_type" if "rope_type" in section else "type"
        raise section.wrong(key, f"one of {', '.join(_KNOWN_TYPES)}")
    if any(holder.number("partial_rotary_factor", 1.0) != 1.0 for holder in (section, config)):
        raise ValueError(f"{config.path}: a partial_rotary_factor other than 1 is not supported")
    if kind == "yarn" and not section.flag("truncate", True):
        raise section.wrong("truncate", "true")
    return Rope(theta, kind, section, head_dim)


def llama3_divisors(theta: float, head_dim: int, scaling: Config) -> np.ndarray:
    """What Llama-3 divides each rotary frequency by: float32, (head_dim / 2).

    1 for short wavelengths, `factor` for long ones, and a smooth passage between the two.
    """
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    original = scaling.integer("original_max_position_embeddings")
    if not low < high:
        raise scaling.wrong("high_freq_factor", f"more than low_freq_factor ({low:g})")
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    wavelengths = 2.0 * math.pi / frequencies
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth), dtype=np.float32)
