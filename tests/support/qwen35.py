"""Tiny random Qwen3.5 models, as transformers' own classes and as GGUF files: trunk and nextn block, in one or two.

What the files hold is written here from what the format says, and shares nothing with the converter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from gguf_edit import GgufEditor

WIDTH, HEAD, HEADS, KV_HEADS, FF = 64, 32, 4, 2, 96
KEY_HEADS, STATE = 2, 32
EPSILON, BASE, ROTATED = 1e-6, 1e4, 8


@dataclass
class Qwen35:
    """A model, and its parts by GGUF name."""

    model: Any  # Qwen3_5ForCausalLM
    editor: GgufEditor  # with the tokenizer's keys and the trunk's
    layers: int
    trunk: dict[str, np.ndarray]
    shared: dict[str, np.ndarray]  # embedding, final norm and head
    nextn: dict[str, np.ndarray]  # names without "blk.N."
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, path: Path, *parts: str, **keys: Any) -> Path:
        """Writes a file of these parts ("trunk", "nextn"; the shared tensors always); `keys` replace entries."""
        file = self.editor
        nextn = "nextn" in parts
        file.tensors.clear()
        file.set("qwen35.block_count", self.layers + nextn)
        file.set("qwen35.nextn_predict_layers", int(nextn))
        for key, value in keys.items():
            file.set(f"qwen35.{key.replace('__', '.')}", value)
        tensors = {**self.shared, **(self.trunk if "trunk" in parts else {}), **self.extra}
        if nextn:
            tensors.update({f"blk.{self.layers}.{name}": value for name, value in self.nextn.items()})
        for name, value in tensors.items():
            file.set_floats(name, value)
        return file.write(path)


def write_hybrid(folder: Path) -> Path:
    """A small model of delta layers and attention with its nextn block, which agrees with it now and then."""
    made = make_qwen35(folder, layers=4, interval=2, disturbance=0.2)
    return made.write(folder / "hybrid.gguf", "trunk", "nextn")


def make_qwen35(
    folder: Path,
    *,
    layers: int = 8,
    value_heads: int = 6,
    tied: bool = False,
    disturbance: float = 1.0,
    seed: int = 0,
    interval: int = 4,
    kinds: list[str] | None = None,
) -> Qwen35:
    """A random model with a random nextn block.

    Args:
        folder: for a tokenizer.
        layers: of the trunk; the last of each `interval` has attention.
        value_heads: of delta layers, which have two key heads.
        tied: whether the embedding is the head.
        disturbance: how much layers add, compared with the token's own embedding; below 1 the block agrees with the
            trunk now and then, so that drafts are accepted.
        seed: of all weights.
        interval: see `layers`.
        kinds: of the layers, as transformers names them, where there is no interval.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "tokenizer.gguf"
    convert(make_checkpoint(folder / "tokenizer", "qwen2"), plain, "f32", quiet=True)
    editor = GgufEditor(plain)
    vocab = len(editor.entries["tokenizer.ggml.tokens"].value)
    editor.entries = {k: v for k, v in editor.entries.items() if not k.startswith("qwen2.")}
    editor.set("general.architecture", "qwen35")
    editor.set("tokenizer.ggml.pre", "qwen35")
    types = kinds or ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)]
    config = transformers.Qwen3_5TextConfig(
        vocab_size=vocab,
        hidden_size=WIDTH,
        intermediate_size=FF,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD,
        rms_norm_eps=EPSILON,
        tie_word_embeddings=tied,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": BASE,
            "partial_rotary_factor": ROTATED / HEAD,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
        linear_num_key_heads=KEY_HEADS,
        linear_num_value_heads=value_heads,
        linear_key_head_dim=STATE,
        linear_value_head_dim=STATE,
        layer_types=types,
        max_position_embeddings=4096,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.Qwen3_5ForCausalLM(config).to(torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    _randomize(model, generator, disturbance)
    keys: dict[str, Any] = {
        "embedding_length": WIDTH,
        "feed_forward_length": FF,
        "context_length": 4096,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.layer_norm_rms_epsilon": EPSILON,
        "full_attention_interval": interval,
        "rope.freq_base": BASE,
        "rope.dimension_count": ROTATED,
        "rope.dimension_sections": [2, 1, 1, 0],
        "ssm.conv_kernel": 4,
        "ssm.state_size": STATE,
        "ssm.group_count": KEY_HEADS,
        "ssm.time_step_rank": value_heads,
        "ssm.inner_size": value_heads * STATE,
    }
    for key, value in keys.items():
        editor.set(f"qwen35.{key}", value)
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    shared = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": 1 + weights["model.norm.weight"],
    }
    if not tied:
        shared["output.weight"] = weights["lm_head.weight"]
    trunk: dict[str, np.ndarray] = {}
    for i in range(layers):
        names = _block(weights, f"model.layers.{i}.", value_heads)
        trunk.update({f"blk.{i}.{name}": value for name, value in names.items()})
    nextn = _random_nextn(generator, disturbance)
    return Qwen35(model, editor, layers, trunk, shared, nextn)


def _randomize(model: torch.nn.Module, generator: torch.Generator, disturbance: float) -> None:
    """Weights that show: norms beside 0, decays from slow to fast."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_((1.0 if "linear_attn.norm" in name else 0.0) + 0.2 * noise)
            elif name.endswith("A_log"):
                parameter.copy_(noise)
            elif name.endswith("dt_bias"):
                parameter.copy_(noise - 1)
            elif name.endswith("conv1d.weight"):
                parameter.copy_(0.6 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(noise * (8 if disturbance < 1 else 1) * parameter.shape[-1] ** -0.5)
            else:
                last = any(part in name for part in ("o_proj", "down_proj", "out_proj"))
                parameter.copy_(noise * parameter.shape[-1] ** -0.5 * (disturbance if last else 1))


def _tiled(rows: np.ndarray, value_heads: int) -> np.ndarray:
    """Value heads in GGUF's order: that of key head g and number j within it is j * key heads + g."""
    each = value_heads // KEY_HEADS
    heads = rows.reshape(KEY_HEADS, each, -1, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(rows.shape)


def _block(weights: dict[str, np.ndarray], prefix: str, value_heads: int) -> dict[str, np.ndarray]:
    def of(name: str) -> np.ndarray:
        return weights[prefix + name]

    names = {
        "attn_norm.weight": 1 + of("input_layernorm.weight"),
        "post_attention_norm.weight": 1 + of("post_attention_layernorm.weight"),
        "ffn_gate.weight": of("mlp.gate_proj.weight"),
        "ffn_up.weight": of("mlp.up_proj.weight"),
        "ffn_down.weight": of("mlp.down_proj.weight"),
    }
    if prefix + "self_attn.q_proj.weight" in weights:
        for short, name in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "output": "o_proj"}.items():
            names[f"attn_{short}.weight"] = of(f"self_attn.{name}.weight")
        names["attn_q_norm.weight"] = 1 + of("self_attn.q_norm.weight")
        names["attn_k_norm.weight"] = 1 + of("self_attn.k_norm.weight")
        return names

    def tiled(rows: np.ndarray) -> np.ndarray:
        return _tiled(rows, value_heads)

    keys = 2 * KEY_HEADS * STATE
    mixed, taps = of("linear_attn.in_proj_qkv.weight"), of("linear_attn.conv1d.weight")[:, 0]
    names["attn_qkv.weight"] = np.concatenate([mixed[:keys], tiled(mixed[keys:])])
    names["ssm_conv1d.weight"] = np.concatenate([taps[:keys], tiled(taps[keys:])])
    names["attn_gate.weight"] = tiled(of("linear_attn.in_proj_z.weight"))
    names["ssm_alpha.weight"] = tiled(of("linear_attn.in_proj_a.weight"))
    names["ssm_beta.weight"] = tiled(of("linear_attn.in_proj_b.weight"))
    names["ssm_a"] = tiled(-np.exp(of("linear_attn.A_log")))
    names["ssm_dt.bias"] = tiled(of("linear_attn.dt_bias"))
    names["ssm_norm.weight"] = of("linear_attn.norm.weight")
    names["ssm_out.weight"] = np.ascontiguousarray(tiled(of("linear_attn.out_proj.weight").T).T)
    return names


def _random_nextn(generator: torch.Generator, disturbance: float) -> dict[str, np.ndarray]:
    shapes = {
        "attn_norm": (WIDTH,),
        "post_attention_norm": (WIDTH,),
        "attn_q": (2 * HEADS * HEAD, WIDTH),
        "attn_k": (KV_HEADS * HEAD, WIDTH),
        "attn_v": (KV_HEADS * HEAD, WIDTH),
        "attn_output": (WIDTH, HEADS * HEAD),
        "attn_q_norm": (HEAD,),
        "attn_k_norm": (HEAD,),
        "ffn_gate": (FF, WIDTH),
        "ffn_up": (FF, WIDTH),
        "ffn_down": (WIDTH, FF),
        "nextn.eh_proj": (WIDTH, 2 * WIDTH),
        "nextn.enorm": (WIDTH,),
        "nextn.hnorm": (WIDTH,),
        "nextn.shared_head_norm": (WIDTH,),
    }
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator).numpy()
        scale = disturbance if name in ("attn_output", "ffn_down", "nextn.eh_proj") else 1.0
        weights[f"{name}.weight"] = 1 + 0.2 * noise if len(shape) == 1 else noise * shape[-1] ** -0.5 * scale
    if disturbance < 1:  # mostly the token that was read, as in the trunk
        weights["nextn.eh_proj.weight"][:, :WIDTH] += np.eye(WIDTH, dtype=np.float32)
    return {name: np.asarray(value, dtype=np.float32) for name, value in weights.items()}
