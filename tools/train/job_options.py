"""What both kinds of runs make of their options: checks, the device, defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .draft_vocabulary import check_count, choose_draft_ids
from .sampled_softmax import ALL_ROWS_UP_TO, DEFAULT_SAMPLES
from .settings import Settings
from .targets import DraftedTarget, default_taps

BLOCK = 32  # elements of a row in Q8_0 and Q4_0
TYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


_THIN = 0.5  # nearly twice as many tokens per second as with 1
_GGUF_SAMPLES = 4096  # rows: half of a step's time is the head's where there are 8192
# Options of one kind of target.
_OF_GGUF = ("prompts", "data", "draft_with", "prompt_weight", "thin")
_OF_FOLDER = ("generate", "feature_loss")
# Lengths of rows, tokens of the target's own and of a batch, temperatures and epochs where the user names none. On
# processors many small steps teach more in an hour than few large ones (docs/training.md); on GPUs it was not measured.
_FOLDER_DEFAULTS = (512, 1_000_000, 4096, (0.0,), None)
_GGUF_DEFAULTS = (1024, 300_000, 1024, (0.0, 0.8), 8.0)


def check(settings: Settings) -> None:
    """Options that contradict each other, the kind of target or that of drafter; raises ValueError."""
    asked = "--prompts" if settings.from_gguf else "--generate"
    if not settings.text and not settings.prompts and not settings.generate:
        raise ValueError(f"found neither --text nor {asked}, expected text to train on")
    for name in _OF_FOLDER if settings.from_gguf else _OF_GGUF:
        if getattr(settings, name):
            found, expected = ("GGUF file", "folder") if settings.from_gguf else ("folder", "GGUF file")
            raise ValueError(f"--{name.replace('_', '-')}: is for a target in a {expected}, found a {found}")
    if settings.steps is not None and settings.epochs is not None:
        raise ValueError("found both --steps and --epochs, expected one of them")
    if settings.kind == "specvocab" and settings.drafter is None:
        raise ValueError("specvocab: found no --drafter, expected the drafter whose states the sketch meets")
    only: dict[str, tuple[str, ...]] = {
        "eagle3": ("draft_vocab", "ranks", "own_head", "taps", "norm_before_fc", "fc_norm", "norm_output"),
        "specvocab": ("rank",),
        "eagle2": ("feature_loss",),
    }
    for kind, names in only.items():
        for name in names:
            if kind != settings.kind and getattr(settings, name):
                raise ValueError(f"--{name.replace('_', '-')}: is for {kind}, found {settings.kind}")
    if settings.norm_before_fc and settings.fc_norm:
        raise ValueError("found both --norm-before-fc and --fc-norm, expected one kind of norm before fc")
    if settings.ranks is not None and settings.draft_vocab is None:
        raise ValueError("--ranks: found no --draft-vocab, expected how many of the ranks the head keeps")
    if settings.start_layer is not None and settings.drafter is not None:
        raise ValueError("--start-layer: found --drafter, which a drafter begins as, expected one of them")
    if settings.length is not None and settings.length < settings.unroll + 2:
        raise ValueError(f"--length: found {settings.length}, expected more than --unroll ({settings.unroll}) + 1")


def device_of(name: str) -> torch.device:
    """The device of that name, or the best one for "auto"; raises ValueError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: found cuda, expected a CUDA device that this PyTorch can use (or --device cpu)")
    return torch.device(name)


def default_dtype(device: torch.device) -> str:
    """bf16 on CUDA and on processors with instructions for it, where it is several times faster; else f32."""
    if device.type == "cuda":
        return "bf16"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if supported() else "f32"


def with_defaults(settings: Settings, target: DraftedTarget, given: Any) -> Settings:
    """The settings with what depends on the target; `given` is the drafter that the run starts from, or None."""
    hidden = target.sizes.hidden
    # Wider networks want smaller steps (2203.03466): 1e-4, as published for 4096, and more for narrower ones.
    usual = 5e-5 if settings.kind == "specvocab" else min(1e-3, 0.4 / hidden)
    samples = settings.samples
    if samples is None:
        usual_rows = _GGUF_SAMPLES if settings.from_gguf and settings.kind != "specvocab" else DEFAULT_SAMPLES
        samples = 0 if target.vocabulary <= ALL_ROWS_UP_TO else usual_rows
    rank, taps = settings.rank, settings.taps
    if settings.kind == "specvocab":
        rank = rank or (max(BLOCK, hidden // 8 // BLOCK * BLOCK) if settings.from_gguf else max(1, hidden // 8))
    if settings.kind == "eagle3":
        taps = taps or (given.taps if given is not None else default_taps(target.sizes.layers))
    length, own, per_batch, temperature, epochs = _GGUF_DEFAULTS if settings.from_gguf else _FOLDER_DEFAULTS
    return dataclasses.replace(
        settings,
        lr=settings.lr or usual,
        samples=samples,
        rank=rank,
        taps=taps,
        length=settings.length or min(length, target.sizes.context),
        generate_tokens=settings.generate_tokens or own,
        tokens_per_batch=settings.tokens_per_batch or per_batch,
        temperature=settings.temperature or temperature,
        thin=settings.thin or (_THIN if settings.from_gguf else None),
        epochs=epochs if settings.epochs is None and settings.steps is None else settings.epochs,
    )


def check_fit(settings: Settings, target: DraftedTarget, control: Sequence[int], given: Any) -> None:
    """What does not fit the target or the drafter; raises ValueError before hours go into generating text."""
    layers, hidden, context = target.sizes.layers, target.sizes.hidden, target.sizes.context
    if given is not None and settings.kind not in (given.kind, "specvocab"):
        raise ValueError(f"{settings.drafter}: found an {given.kind} drafter, expected {settings.kind}")
    assert settings.length is not None
    if settings.length > context:
        raise ValueError(f"--length: found {settings.length}, expected at most {context}, that of {target.folder}")
    if settings.rank is not None and settings.rank > hidden:
        raise ValueError(f"--rank: found {settings.rank}, expected at most {hidden}, the width of {target.folder}")
    if settings.rank is not None and settings.from_gguf and settings.rank % BLOCK:
        raise ValueError(f"--rank: found {settings.rank}, expected a multiple of {BLOCK} for a GGUF file")
    taps = settings.taps
    if taps is not None and (list(taps) != sorted(taps) or not 0 <= taps[0] <= taps[-1] < layers):
        raise ValueError(f"--taps: found {taps}, expected ascending ids of layers below {layers}")
    if settings.draft_vocab is not None:
        check_count(settings.draft_vocab, settings.target, target.vocabulary, control)
        if settings.ranks is not None:
            choose_draft_ids(settings.draft_vocab, settings.ranks, settings.target, control, np.empty(0))
    if settings.start_layer is not None and settings.start_layer >= layers:
        raise ValueError(f"--start-layer: found {settings.start_layer}, expected a layer below {layers}")
    if settings.from_gguf and settings.max_new_tokens >= settings.length:
        raise ValueError(
            f"--max-new-tokens: found {settings.max_new_tokens}, expected less than --length ({settings.length}), of "
            "which the prompt takes a part"
        )
    if given is None:
        return
    if settings.ffn is not None and settings.ffn != given.sizes.feed_forward:
        raise ValueError(f"--ffn: found {settings.ffn}, expected {given.sizes.feed_forward}, as {settings.drafter} has")
    if settings.kind == "specvocab":
        if getattr(given, "draft_ids", ()):
            raise ValueError(
                f"{settings.drafter}: found a head of {len(given.draft_ids)} rows, "
                f"expected one with a row for each of the {target.vocabulary} tokens"
            )
        return
    if settings.kind == "eagle3":
        for name, asked, there in (
            ("taps", taps, given.taps),
            (
                "norm-before-fc",
                settings.norm_before_fc or given.input_norm is not None,
                given.input_norm is not None,
            ),
            ("fc-norm", settings.fc_norm or given.fc_norm is not None, given.fc_norm is not None),
            ("norm-output", settings.norm_output or given.norm_output, given.norm_output),
        ):
            if asked != there:
                raise ValueError(f"--{name}: found {asked}, expected {there}, as {settings.drafter} was trained")
