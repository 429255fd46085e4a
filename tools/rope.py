"""Rotary position settings of a Hugging Face config, and how GGUF spells them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from .config import Config
from .gguf_output import Entry, OutputTensor, f32, string, u32

_KNOWN_TYPES = ("default", "linear", "yarn", "llama3", "longrope")
_PARTS = {"phi3": 1.0, "qwen35": 0.25}  # of a head that is rotated, where the architecture can say it, and by default
_OLD_NAMES = {"su": "longrope"}


@dataclasses.dataclass(frozen=True)
class Rope:
    """`scaling` is the config section that holds the parameters of `type`."""

    theta: float
    type: str
    scaling: Config
    dims: int  # that are rotated, of each head
    context: int = 0

    def entries(self, arch: str) -> list[Entry]:
        """The metadata below `{arch}.rope`."""
        result = [
            u32(f"{arch}.rope.dimension_count", self.dims),
            f32(f"{arch}.rope.freq_base", self.theta),
        ]
        if self.type in ("default", "llama3"):  # the factors of llama3 are a tensor
            return result
        key, scaling = f"{arch}.rope.scaling.", self.scaling
        if self.type == "longrope":  # its factors are tensors, and no key names the type
            return [
                *result,
                u32(f"{key}original_context_length", scaling.integer("original_max_position_embeddings")),
                f32(f"{key}attn_factor", self._longrope_magnitude()),
            ]
        result += [string(f"{key}type", self.type), f32(f"{key}factor", scaling.number("factor"))]
        if self.type == "yarn":
            original = scaling.integer("original_max_position_embeddings")
            result.append(u32(f"{key}original_context_length", original))
            for name in ("beta_fast", "beta_slow"):
                if name in scaling:
                    result.append(f32(f"{key}yarn_{name}", scaling.number(name)))
            if "attention_factor" in scaling:
                magnitude = scaling.number("attention_factor")
            elif arch == "mistral3" and scaling.get("mscale") == scaling.get("mscale_all_dim") is not None:
                result.append(f32(f"{key}yarn_log_multiplier", scaling.number("mscale_all_dim")))
                return result
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

    def _longrope_magnitude(self) -> float:
        original = self.scaling.integer("original_max_position_embeddings")
        stretch = self.scaling.number("factor", self.context / original)
        default = math.sqrt(1.0 + math.log(stretch) / math.log(original)) if stretch > 1.0 else 1.0
        return self.scaling.number("attention_factor", default)

    def tensors(self) -> list[OutputTensor]:
        """The divisors of the frequencies: `rope_freqs.weight` for llama3 scaling, two sets for longrope."""
        if self.type == "llama3":
            return [OutputTensor("rope_freqs.weight", values=llama3_divisors(self.theta, self.dims, self.scaling))]
        if self.type == "longrope":
            return [
                OutputTensor(f"rope_factors_{length}.weight", values=self._longrope_divisors(f"{length}_factor"))
                for length in ("long", "short")
            ]
        return []

    def _longrope_divisors(self, key: str) -> np.ndarray:
        values = self.scaling.get(key)
        expected = f"{self.dims // 2} numbers above 0"
        if not isinstance(values, list) or len(values) != self.dims // 2:
            raise self.scaling.wrong(key, expected)
        if not all(isinstance(value, (int, float)) and value > 0 for value in values):
            raise self.scaling.wrong(key, expected)
        return np.asarray(values, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Ropes:
    """Those of a model's layers. `local`: of layers with a window, where it is another one."""

    all: Rope
    local: Rope | None = None


_LOCAL = ("gemma3", "olmo2")  # whose windowed layers have a rope without scaling


def read_ropes(config: Config, head_dim: int, arch: str = "llama") -> Ropes:
    """One rope for all layers, or one for each kind of layer; raises ValueError as read_rope."""
    section = config.section("rope_parameters")
    if arch not in _LOCAL or not ("full_attention" in section or "rope_local_base_freq" in config):
        return Ropes(read_rope(config, head_dim, arch))
    everywhere = Config({"rope_theta": config.get("rope_theta")}, config.path)
    if "full_attention" not in section:  # as older configs write it
        local = Config({"rope_theta": config.number("rope_local_base_freq")}, config.path)
        return Ropes(read_rope(config, head_dim, arch), _rope(local, everywhere, head_dim))
    sliding = section.section("sliding_attention")
    of_windows = _rope(sliding, everywhere, head_dim, arch)
    if of_windows.type != "default":
        raise sliding.wrong("rope_type", "'default': layers with a window are not scaled")
    return Ropes(_rope(section.section("full_attention"), config, head_dim, arch), of_windows)


def read_rope(config: Config, head_dim: int, arch: str = "llama") -> Rope:
    """The settings spelled as `rope_theta` and `rope_scaling`, or as transformers 5's `rope_parameters`.

    Raises ValueError for a kind of scaling that GGUF files of the architecture cannot express.
    """
    # Where both are there, transformers takes the older one.
    name = "rope_scaling" if config.section("rope_scaling") else "rope_parameters"
    section = config.section(name)
    nested = [key for key in section if isinstance(section.get(key), dict)]
    if nested:
        raise section.wrong(nested[0], "one rope for all layers: settings for each kind of layer are not supported")
    return _rope(section, config, head_dim, arch)


def _rope(section: Config, config: Config, head_dim: int, arch: str = "llama") -> Rope:
    theta = section.number("rope_theta", config.number("rope_theta", 10000.0))
    kind = section.text("rope_type", section.text("type", "default"))
    kind = _OLD_NAMES.get(kind, kind)
    if arch == "phi3" and kind == "yarn":  # an old name, too
        kind = "longrope"
    if kind not in _KNOWN_TYPES or (kind == "longrope" and arch != "phi3"):
        key = "rope_type" if "rope_type" in section else "type"
        raise section.wrong(key, f"one of {', '.join(_KNOWN_TYPES)}" + ("" if arch == "phi3" else " but longrope"))
    default = _PARTS.get(arch, 1.0)
    part = section.number("partial_rotary_factor", config.number("partial_rotary_factor", default))
    if part != 1.0 and arch not in _PARTS:
        raise ValueError(f"{config.path}: a partial_rotary_factor other than 1 is not supported")
    truncated = arch != "gpt-oss"
    if kind == "yarn" and section.flag("truncate", True) != truncated:
        raise section.wrong("truncate", str(truncated).lower())
    if kind == "longrope" and "original_max_position_embeddings" not in section:
        original = config.integer("original_max_position_embeddings")
        section = section.with_value("original_max_position_embeddings", original)
    context = config.integer("max_position_embeddings", 2048)
    return Rope(theta, kind, section, int(head_dim * part), context)


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
