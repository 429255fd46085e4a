"""Metadata that only some architectures have: what a config.json says beside Llama's hyper-parameters.

Each function gives the entries below an architecture's name, and raises ValueError naming a key of config.json whose
value GGUF has no place for.
"""

from __future__ import annotations

from .config import Config
from .gguf_output import Entry, array, f32, u32

_SCALES = {  # Granite's, in config.json and below the architecture in GGUF
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def gemma2_entries(config: Config, arch: str) -> list[Entry]:
    """Windows and both soft caps."""
    _check_score_scale(config, layers_of_wide_scale=46)
    entries = _windows(config, arch, period=2)
    for key, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        if key in list(config) and key not in config:
            raise config.wrong(key, "a number: a missing one means one in GGUF")
        entries.append(f32(f"{arch}.{key}", config.number(key, default)))
    return entries


def gemma3_entries(config: Config, arch: str) -> list[Entry]:
    """Windows, and the soft cap of logits, where there is one."""
    _check_score_scale(config, layers_of_wide_scale=62)
    if "attn_logit_softcapping" in config:
        raise config.wrong("attn_logit_softcapping", "nothing: GGUF's gemma3 has no soft cap of scores")
    entries = _windows(config, arch, period=6)
    if "final_logit_softcapping" in config:
        entries.append(f32(f"{arch}.final_logit_softcapping", config.number("final_logit_softcapping")))
    return entries


def granite_entries(config: Config, arch: str) -> list[Entry]:
    """The four scales."""
    return [f32(f"{arch}.{ours}", config.number(theirs, 1.0)) for theirs, ours in _SCALES.items()]


def gpt_oss_entries(config: Config, arch: str) -> list[Entry]:
    """Windows."""
    return _windows(config, arch, period=2)


def mistral3_entries(config: Config, arch: str) -> list[Entry]:
    """How queries grow with their position."""
    rope = config.section("rope_parameters")
    if "llama_4_scaling_beta" not in rope:
        return []
    return [f32(f"{arch}.attention.temperature_scale", rope.number("llama_4_scaling_beta"))]


def olmo3_entries(config: Config, arch: str) -> list[Entry]:
    """Windows, layer by layer."""
    return _windows(config, arch, period=4, always_array=True)


def phi3_entries(config: Config, arch: str) -> list[Entry]:
    """The window of all layers, 0 for none."""
    return [u32(f"{arch}.attention.sliding_window", config.integer("sliding_window", 0))]


def qwen35_entries(config: Config, arch: str) -> list[Entry]:
    """How positions of pictures are divided among the rotated dimensions, which llama.cpp demands."""
    rope = config.section("rope_scaling" if config.section("rope_scaling") else "rope_parameters")
    sections = rope.get("mrope_section") or [11, 11, 10]
    if not isinstance(sections, list) or len(sections) > 4 or not all(isinstance(n, int) and n >= 0 for n in sections):
        raise rope.wrong("mrope_section", "at most 4 numbers")
    return [array(f"{arch}.rope.dimension_sections", [*sections, 0, 0, 0, 0][:4], "INT32")]


def smollm3_entries(config: Config, _: str) -> list[Entry]:
    """Nothing: which layers have no rope is a property of the architecture."""
    layers = config.integer("num_hidden_layers")
    pattern = [int((layer + 1) % 4 != 0) for layer in range(layers)]
    if "no_rope_layers" in config and config.get("no_rope_layers") != pattern:
        raise config.wrong("no_rope_layers", "0 for every fourth layer, 1 for the others")
    if config.integer("no_rope_layer_interval", 4) != 4:
        raise config.wrong("no_rope_layer_interval", "4")
    return []


def _windows(config: Config, arch: str, period: int, always_array: bool = False) -> list[Entry]:
    """The window, and which layers have it where these are not all but the last of each `period`."""
    layers = config.integer("num_hidden_layers")
    stated = config.integer("sliding_window_pattern", period)
    windowed = [(layer + 1) % stated != 0 for layer in range(layers)]
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
            raise config.wrong("layer_types", f"'sliding_attention' or 'full_attention' for each of {layers} layers")
        windowed = [kind == "sliding_attention" for kind in kinds]
    if not any(windowed):
        return []
    entries = [u32(f"{arch}.attention.sliding_window", config.integer("sliding_window"))]
    if always_array or windowed != [(layer + 1) % period != 0 for layer in range(layers)]:
        entries.append(array(f"{arch}.attention.sliding_window_pattern", windowed, "BOOL"))
    return entries


def _check_score_scale(config: Config, layers_of_wide_scale: int) -> None:
    """Scores are scaled by the root of the head, but for one size of each family; no key says it."""
    wide = config.integer("num_hidden_layers") == layers_of_wide_scale
    ratio = config.integer("hidden_size") // config.integer("num_attention_heads")
    expected = ratio if wide else config.integer("head_dim", 256)
    if config.number("query_pre_attn_scalar", 256.0) != expected:
        raise config.wrong("query_pre_attn_scalar", f"{expected}: GGUF has no place for another scale")
