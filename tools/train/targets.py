"""What training a drafter has to know of its target, wherever that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..sizes import Sizes


class DraftedTarget(Protocol):
    """A Hugging Face folder (`FrozenTarget`) or a GGUF file (`GgufTarget`)."""

    folder: Path  # or the file
    config: Config  # whose ids of BOS and EOS are the drafter's, too
    sizes: Sizes
    device: torch.device
    stored_dtype: torch.dtype  # that checkpoints of drafters are written in

    @property
    def vocabulary(self) -> int:
        """Tokens."""

    def layer(self, number: int) -> dict[str, Tensor]:
        """Weights of a layer, float32, under the names of Hugging Face's Llama; others may be absent."""

    def head_rows(self, ids: np.ndarray) -> Tensor:
        """Rows of the head, float32 (n, h)."""

    def final_norm(self) -> Tensor:
        """Weights of the norm behind the last layer, (h) float32."""


def default_taps(layers: int) -> tuple[int, int, int]:
    """EAGLE-3's layers whose inputs the drafter sees: low, middle and high.

    The published 2, L // 2, L - 3 where these are three layers; a shallower target is tapped at a quarter, half and
    its last layer, since the same state twice would teach nothing.
    """
    published = (2, layers // 2, layers - 3)
    if published[0] < published[1] < published[2]:
        return published
    return (layers // 4, layers // 2, layers - 1)
