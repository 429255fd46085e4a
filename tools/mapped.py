"""From the tensors of a checkpoint to those of a GGUF file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

from .checkpoint import Checkpoint
from .gguf_output import Encoded, OutputTensor
from .source_tensor import SourceTensor, StackedTensor

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

# Buffers that old checkpoints carry; the engine computes them.
_IGNORED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.(attn|masked)_bias$")
# Of a model that reads pictures or sounds: only what reads text is converted.
_OTHER_SENSES = re.compile(r"(^|\.)(vision_tower|vision_model|visual|multi_modal_projector|audio_tower|embed_vision)\.")


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A tensor that must be in the checkpoint under `source`, and what it becomes."""

    source: str
    name: str
    shape: tuple[int, ...]  # in the checkpoint
    rows: np.ndarray | None = None  # which row each one is taken from
    columns: np.ndarray | None = None  # the same, of the last dimension
    view: Callable[[np.ndarray], np.ndarray] | None = None  # what is taken of it
    change: Callable[[np.ndarray], np.ndarray] | None = None  # what becomes of its values, float32
    stacked: tuple[str, ...] = ()  # the names of several of this shape, of which `source` is the first
    encode: Callable[[list[SourceTensor]], Encoded] | None = None  # of all `stacked`, which have shapes of their own


def plus(offset: float) -> Callable[[np.ndarray], np.ndarray] | None:
    """The change that adds `offset`."""
    return (lambda values: values + np.float32(offset)) if offset else None


def rotary_pairs(heads: int, rows: int) -> np.ndarray | None:
    """The order of Q or K rows from rotary halves (Hugging Face) to rotary pairs (GGUF's NORM rope); 0 heads: as is.

    Row `j` and row `j + head_dim / 2` of each head become neighbours.
    """
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel() if heads else None


def collect(
    checkpoint: Checkpoint, wanted: list[Mapped], ignored: Iterable[str] = (), tied: bool = False
) -> list[OutputTensor]:
    """The wanted tensors in order; raises ValueError for one that is missing, misshapen or unexpected.

    `ignored`: tensors that may be there, too. `tied`: whether the head is, where config.json does not say it.
    """
    result = [_output(checkpoint, mapped) for mapped in wanted]
    known = {source for mapped in wanted for source in mapped.stacked or (mapped.source,)} | set(ignored)
    if checkpoint.text_config.flag("tie_word_embeddings", tied):
        known.add(HEAD)  # some checkpoints store the tied head a second time
    for name, tensor in checkpoint.tensors.items():
        if name not in known and not _IGNORED.search(name) and not _OTHER_SENSES.search(name):
            raise ValueError(
                f"{tensor.file}: unexpected tensor '{name}' {tensor.shape}: config.json describes a model without it"
            )
    return result


def _output(checkpoint: Checkpoint, mapped: Mapped) -> OutputTensor:
    if mapped.encode is not None:
        return OutputTensor(mapped.name, encoded=mapped.encode([_found(checkpoint, s, "") for s in mapped.stacked]))
    parts = [_part(checkpoint, mapped, source) for source in mapped.stacked or (mapped.source,)]
    return OutputTensor(mapped.name, weights=StackedTensor(parts) if mapped.stacked else parts[0])


def _found(checkpoint: Checkpoint, source: str, expected: str) -> SourceTensor:
    tensor = checkpoint.tensors.get(source)
    if tensor is None:
        raise ValueError(f"{checkpoint.folder}: tensor '{source}' is missing{expected}")
    return tensor


def _part(checkpoint: Checkpoint, mapped: Mapped, source: str) -> SourceTensor:
    tensor = _found(checkpoint, source, f", expected {mapped.shape}")
    if tensor.shape != mapped.shape:
        raise ValueError(f"{tensor.file}: tensor '{source}': found shape {tensor.shape}, expected {mapped.shape}")
    raw = mapped.view(tensor.raw) if mapped.view is not None else tensor.raw
    return dataclasses.replace(tensor, raw=raw, rows=mapped.rows, columns=mapped.columns, change=mapped.change)
