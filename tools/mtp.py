"""MTP blocks ("nextn"), with which some models draft for themselves: which parts of a checkpoint a file takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from .architectures import Architecture
from .checkpoint import Checkpoint
from .gguf_output import OutputTensor
from .mapped import Mapped, collect
from .model_tensors import is_tied, model_tensors, mtp_tensors
from .ranks_file import Ranks
from .sizes import Sizes
from .source_tensor import SourceTensor
from .vocabulary import TokenType, Vocabulary

_COMMON = ("token_embd.weight", "output_norm.weight", "output.weight")  # what a sidecar repeats, as llama.cpp's does


@dataclasses.dataclass(frozen=True)
class Parts:
    """What is taken of a model that may have an MTP block."""

    layers: bool = True
    block: bool = True  # where there is one; without layers: there must be
    head: bool = True  # a sidecar's: with the embedding
    head_rows: int | None = None  # a sidecar's: as many, of the most frequent tokens

    def __post_init__(self) -> None:
        alone = self.block and not self.layers
        if not alone and (not self.head or self.head_rows is not None):
            option = "--headless" if not self.head else "--draft-vocab"
            raise ValueError(f"{option}: found a file with the model's layers, expected --mtp: the MTP block alone")
        if not self.head and self.head_rows is not None:
            raise ValueError("--draft-vocab: found --headless, expected a file with a head")

    def sizes(self, sizes: Sizes, checkpoint: Checkpoint, arch: Architecture, remarks: list[str]) -> Sizes:
        """The sizes with the number of MTP blocks in the file; raises ValueError where one is missing."""
        blocks = mtp_blocks(checkpoint, remarks) if arch.delta_net else 0
        if not self.layers and not blocks:
            raise ValueError(
                f"{checkpoint.folder}: --mtp: found no tensors 'mtp.*', expected a model with an MTP block"
            )
        return dataclasses.replace(sizes, mtp_blocks=blocks if self.block else 0)

    def tensors(
        self, sizes: Sizes, checkpoint: Checkpoint, arch: Architecture, remarks: list[str]
    ) -> list[OutputTensor]:
        """The tensors of the file; raises as `collect`."""
        tied = is_tied(checkpoint, arch, remarks)
        every = [*model_tensors(sizes, checkpoint, arch, tied), *mtp_tensors(sizes, arch)]
        wanted = [mapped for mapped in every if self.layers or self._of_sidecar(mapped, sizes)]
        left = {source for mapped in every for source in mapped.stacked or (mapped.source,)}
        left |= {name for name in checkpoint.tensors if not self.block and name.startswith("mtp.")}
        return collect(checkpoint, wanted, left, arch.tied)

    def _of_sidecar(self, mapped: Mapped, sizes: Sizes) -> bool:
        common = _COMMON if self.head else _COMMON[1:2]
        return mapped.name in common or mapped.name.startswith(f"blk.{sizes.layers}.")

    def trim(self, tensors: list[OutputTensor], vocabulary: Vocabulary, ranks: Ranks, source: Path) -> None:
        """Leaves `head_rows` rows in the head, and adds `d2t`, the token of each."""
        assert self.head_rows is not None
        ids = head_tokens(vocabulary, ranks, self.head_rows, source)
        heads = {tensor.name: tensor.weights for tensor in tensors}
        head = heads.get("output.weight", heads["token_embd.weight"])  # tied
        assert isinstance(head, SourceTensor)
        tensors[:] = [tensor for tensor in tensors if tensor.name != "output.weight"]
        tensors.append(OutputTensor("output.weight", weights=head.with_rows(ids)))
        tensors.append(OutputTensor("d2t", values=ids))


def mtp_blocks(checkpoint: Checkpoint, remarks: list[str]) -> int:
    """How many MTP blocks the checkpoint has, 0 or 1. Its tensors outrank config.json."""
    config = checkpoint.text_config
    key = "mtp_num_hidden_layers"
    stated = config.get(key) if key in config else 0
    if stated not in (0, 1):
        raise config.wrong(key, "1, or 0: a file has one MTP block at most")
    if any(name.startswith("mtp.") for name in checkpoint.tensors):
        return 1
    if stated:
        remarks.append(f"config.json says '{key}': {stated}, but the checkpoint has no tensors 'mtp.*'")
    return 0


def head_tokens(vocabulary: Vocabulary, ranks: Ranks, rows: int, source: Path) -> np.ndarray:
    """The tokens of a head of so many rows: control tokens, then the most frequent ones; int64, ascending.

    Raises ValueError where there are fewer.
    """
    types = np.asarray(vocabulary.types)
    control = np.flatnonzero(types == TokenType.CONTROL)
    others = ranks.tokens[~np.isin(types[ranks.tokens], (TokenType.CONTROL, TokenType.UNUSED))]  # no padding
    most = len(control) + len(others)
    if not len(control) < rows <= most:
        raise ValueError(
            f"--draft-vocab: found {rows}, expected {len(control) + 1} to {most}: {len(control)} control tokens, and "
            f"those that {source} ranks"
        )
    return np.sort(np.concatenate([control, others[: rows - len(control)]])).astype(np.int64)
