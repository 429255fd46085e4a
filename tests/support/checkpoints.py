"""Tiny Hugging Face checkpoints with random weights and a tokenizer of their own, for tests.

`make_checkpoint(folder, "qwen3")` writes a target model, `make_eagle2(folder, target)` a drafter for one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEXT = """The river carries the snow of the mountains to the sea, and the sea gives it back as rain.
There was a tale the old people told: that the river had once been a road, and the road a river.
def accumulate(values, start=0):
    total = start
    for value in values:
        total += value  # the running total, in 1234 or 56789 steps
    return total
She'll say it's nothing, they've heard that we're late; I'm sure you'd know. Größe, naïve, 東京, déjà vu!
"""
_SHARED_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 16,
}
_DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "tie_word_embeddings": True}
# Class, usual tokenizer, and settings in which everything shows that the architecture does otherwise than Llama:
# windows shorter than texts, soft caps that bite, more layers than a period of windows has.
_CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "llama-bpe", {}),
    "mistral": ("Mistral", "spm", {}),
    "qwen2": ("Qwen2", "qwen2", {}),
    "qwen3": ("Qwen3", "qwen2", {}),
    "gemma3": (
        "Gemma3",
        "spm",
        {
            **_GEMMA,
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": _DEFAULT_ROPE,
            },
        },
    ),
    "gemma2": (
        "Gemma2",
        "spm",
        {**_GEMMA, "num_hidden_layers": 3, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "mistral3": (
        "Ministral3",
        "llama-bpe",
        {"rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}},
    ),
    "phi3": (
        "Phi3",
        "spm",
        {
            "head_dim": None,
            "sliding_window": 24,
            "pad_token_id": 1,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.1, 1.2, 1.5, 1.7, 2.0],
                "long_factor": [1.0, 1.5, 2.5, 4.0, 7.0, 9.0],
            },
        },
    ),
    "smollm3": ("SmolLM3", "llama-bpe", {"head_dim": None, "num_hidden_layers": 5, "pad_token_id": 1}),
    "olmo2": ("Olmo2", "qwen2", {"head_dim": None}),
    "olmo3": (
        "Olmo3",
        "qwen2",
        {
            "head_dim": None,
            "num_hidden_layers": 5,
            "sliding_window": 8,
            "rope_parameters": {
                "full_attention": {**_YARN, "attention_factor": 1.2},
                "sliding_attention": _DEFAULT_ROPE,
            },
        },
    ),
    "granite": (
        "Granite",
        "qwen2",
        {
            "head_dim": None,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0156,
        },
    ),
    "mixtral": ("Mixtral", "spm", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3moe": (
        "Qwen3Moe",
        "qwen2",
        {"moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True},
    ),
    "qwen35": (
        "Qwen3_5",
        "qwen35",
        {
            "num_hidden_layers": 8,
            "head_dim": 32,
            "rms_norm_eps": 1e-6,  # transformers has no other for queries and keys of the delta net
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 6,  # several for each key head: their order shows
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "rope_parameters": {**_DEFAULT_ROPE, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1]},
        },
    ),
    "gpt-oss": (
        "GptOss",
        "qwen2",
        {
            "num_hidden_layers": 3,
            "sliding_window": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "rope_parameters": {**_YARN, "truncate": False},
        },
    ),
}
# Keys of _CLASSES: blocks that do otherwise than Llama's.
UNLIKE_LLAMA = (
    "gemma3",
    "gemma2",
    "mistral3",
    "phi3",
    "smollm3",
    "olmo2",
    "olmo3",
    "granite",
    "mixtral",
    "qwen3moe",
    "gpt-oss",
)
_CONFIG_CLASSES = {"Gemma3": "Gemma3TextConfig", "Qwen3_5": "Qwen3_5TextConfig"}
# Models that add their norms to 1.
_ADDS_ONE = ("Gemma", "Qwen3_5")


def make_checkpoint(
    folder: Path,
    architecture: str,
    *,
    tokenizer: str | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    seed: int = 0,
    mtp: bool = False,
    **config_overrides: Any,
) -> Path:
    """Writes a tiny random model into `folder` and returns it.

    Args:
        folder: is made where it is absent.
        architecture: a key of _CLASSES.
        tokenizer: a kind that make_tokenizer knows; default: what the architecture's models use.
        dtype: of the stored weights.
        max_shard_size: a small one ("20KB") makes a sharded checkpoint.
        seed: of the weights.
        mtp: with an MTP block, which transformers' classes leave out (qwen35).
        config_overrides: keys of the architecture's transformers config.
    """
    class_name, usual_tokenizer, own = _CLASSES[architecture]
    vocabulary = make_tokenizer(folder, tokenizer or usual_tokenizer)
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    }
    settings = {key: value for key, value in {**settings, **own, **config_overrides}.items() if value is not None}
    config = getattr(transformers, _CONFIG_CLASSES.get(class_name, f"{class_name}Config"))(**settings)
    config._attn_implementation = "eager"  # others leave soft caps and sinks out
    model = getattr(transformers, f"{class_name}ForCausalLM")(config)
    _randomize(model, seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    if mtp:
        _add_mtp(folder, dtype, seed)
    return folder


def _add_mtp(folder: Path, dtype: torch.dtype, seed: int) -> None:
    """An MTP block in the published layout: a layer of full attention, and what joins its inputs."""
    file, config_file = folder / "model.safetensors", folder / "config.json"
    tensors, config = load_file(file), json.loads(config_file.read_text())
    layer = config["layer_types"].index("full_attention")
    prefix, hidden = f"model.layers.{layer}.", config["hidden_size"]
    shapes = {
        f"mtp.layers.0.{name.removeprefix(prefix)}": tensor.shape
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    shapes["mtp.fc.weight"] = torch.Size([hidden, 2 * hidden])
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        shapes[f"mtp.{name}.weight"] = torch.Size([hidden])
    generator = torch.Generator().manual_seed(seed + 1000)
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        tensors[name] = (noise * (0.2 if "norm" in name else shape[-1] ** -0.5)).to(dtype)
    save_file(tensors, file, {"format": "pt"})
    config_file.write_text(json.dumps({**config, "mtp_num_hidden_layers": 1}))


def _randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough to show in the logits; as initialized, norms and biases do nothing."""
    generator = torch.Generator().manual_seed(seed)
    adds_one = type(model).__name__.startswith(_ADDS_ONE)  # but for the norm inside a delta net
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(
                    0.2 * noise + (0.0 if adds_one and not name.endswith("linear_attn.norm.weight") else 1.0)
                )
            elif name.endswith("conv1d.weight"):
                parameter.copy_(0.6 * noise)
            elif name.endswith(("A_log", "dt_bias")):  # decays from almost none to almost all
                parameter.copy_(noise)
            elif name.endswith(("_bias", "router.bias")):
                parameter.copy_(0.3 * noise)
            elif name.endswith(("gate_up_proj", "down_proj")):  # fused experts of gpt-oss: inputs before outputs
                parameter.copy_(noise * parameter.shape[-2] ** -0.5)
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)


def make_eagle2(folder: Path, target: Path, *, own_embedding: bool = False, seed: int = 1, **overrides: Any) -> Path:
    """Writes a random EAGLE-2 drafter for the checkpoint in `target`, in the published layout.

    Args:
        folder: is made where it is absent.
        target: a folder of make_checkpoint.
        own_embedding: the drafter carries embedding weights that differ from the target's.
        seed: of the weights.
        overrides: keys of config.json; `bias` and `qkv_bias` add the tensors they speak of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_target = json.loads((target / "config.json").read_text())
    config: dict[str, Any] = {key: of_target[key] for key in _SHARED_KEYS if key in of_target}
    config.update(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        num_hidden_layers=1,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        hidden_act="silu",
        bias=False,
    )
    config.update(overrides)
    generator = torch.Generator().manual_seed(seed)
    shapes = _eagle2_shapes(config)
    if own_embedding:
        shapes["embed_tokens.weight"] = (config["vocab_size"], config["hidden_size"])
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        tensors[name] = 1.0 + 0.2 * noise if "layernorm" in name else noise * shape[-1] ** -0.5
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _eagle2_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    rows = {
        "q": config["num_attention_heads"] * head_dim,
        "k": config["num_key_value_heads"] * head_dim,
        "v": config["num_key_value_heads"] * head_dim,
    }
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (hidden, 2 * hidden)}
    if config.get("bias", True):
        shapes["fc.bias"] = (hidden,)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"layers.{layer}."
        if layer > 0:
            shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        for name, count in rows.items():
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (count, hidden)
            if config.get("qkv_bias", False):
                shapes[f"{prefix}self_attn.{name}_proj.bias"] = (count,)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, rows["q"])
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}mlp.gate_proj.weight"] = (feed_forward, hidden)
        shapes[f"{prefix}mlp.up_proj.weight"] = (feed_forward, hidden)
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, feed_forward)
    return shapes


def make_tokenizer(folder: Path, kind: str, vocab_size: int = 400) -> int:
    """Writes tokenizer.json and tokenizer_config.json into `folder`; returns the number of tokens.

    `kind`: llama-bpe, smaug-bpe, qwen2, qwen35, gpt-2, smollm (byte-level), or spm (as Llama 2's). Tokens 0 and 1 are
    <|begin|> and <|end|>; llama and spm kinds put the first before each text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _spm(vocab_size) if kind == "spm" else _byte_level(kind, vocab_size)
    adds_bos = kind in ("llama-bpe", "smaug-bpe", "spm")
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 0)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def _byte_level(kind: str, vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt-2", "smollm"))
    steps: list[Any] = [plain]
    if kind in ("llama-bpe", "smaug-bpe", "qwen2", "qwen35"):
        pattern = {"qwen2": _LLAMA3.replace("{1,3}", ""), "qwen35": _QWEN35}.get(kind, _LLAMA3)
        steps.insert(0, pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"))
    elif kind == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else plain
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT.splitlines(keepends=True), trainer)
    return tokenizer


def _spm(vocab_size: int) -> tokenizers.Tokenizer:
    """As converted from SentencePiece: bytes as fallback, and every pair that joins to a token is a merge."""
    special = ["<|begin|>", "<|end|>", "<unk>"]
    pieces = tokenizers.Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 259, show_progress=False)
    pieces.train_from_iterator(_TEXT.splitlines(), trainer)
    learned = [token for token, _ in sorted(pieces.get_vocab().items(), key=lambda item: item[1])]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [
        (token[:cut], token[cut:])
        for token in learned
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(special)
    return tokenizer
