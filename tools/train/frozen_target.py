"""The target model that drafters learn from: frozen, with its states, head and embedding at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
import transformers
from torch import Tensor

from ..architectures import ARCHITECTURES
from ..config import Config, read_json
from ..sizes import Sizes, read_sizes

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclasses.dataclass(frozen=True)
class States:
    """What one pass of the target gives: `final` (B, T, h), after the last norm; `taps` (B, T, taps * h) or None."""

    final: Tensor
    taps: Tensor | None


class FrozenTarget:
    """A causal language model out of a Hugging Face folder.

    Args:
        folder: with config.json, weights and tokenizer.
        device: where it runs.
        dtype: in which it computes; its head and embedding are kept in this type, too.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder holds what cannot be a target of ours, or cannot be read.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        path = folder / "config.json"
        self.folder = folder
        self.config = Config(read_json(path), path)
        names = self.config.get("architectures")
        architecture = ARCHITECTURES.get(str(names[0])) if isinstance(names, list) and names else None
        if architecture is None:
            raise self.config.wrong("architectures", f"one of {', '.join(ARCHITECTURES)}")
        self.sizes: Sizes = read_sizes(self.config, architecture)
        self.device, self.dtype = device, dtype
        self.stored_dtype = _DTYPES.get(str(self.config.get("dtype") or self.config.get("torch_dtype")), torch.bfloat16)
        self.model = _load(folder, dtype).to(device)
        self.embedding: Tensor = self.model.get_input_embeddings().weight.detach()  # (V, h)
        self.head: Tensor = self.model.get_output_embeddings().weight.detach()  # (V, h)

    @property
    def vocabulary(self) -> int:
        """Rows of the head."""
        return int(self.head.shape[0])

    def states(self, tokens: Tensor, taps: tuple[int, ...] = ()) -> States:
        """Runs the target over `tokens`, (B, T); `taps` are ids of layers whose inputs are wanted, in order."""
        with torch.no_grad():
            out = self.model.model(tokens, use_cache=False, output_hidden_states=bool(taps))
        # hidden_states[i] is the input of layer i; the last entry is the output of the final norm.
        joined = torch.cat([out.hidden_states[i] for i in taps], dim=-1) if taps else None
        return States(out.last_hidden_state, joined)

    def layer(self, number: int) -> dict[str, Tensor]:
        """Weights of a layer, float32, under their names below it."""
        return {name: value.float() for name, value in self.model.model.layers[number].named_parameters()}

    def head_rows(self, ids: np.ndarray) -> Tensor:
        """Rows of the head, float32 (n, h)."""
        return self.head[torch.from_numpy(ids)].float()

    def final_norm(self) -> Tensor:
        """Weights of the norm behind the last layer, (h) float32."""
        weight: Tensor = self.model.model.norm.weight
        return weight.float()

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the embedding: (..., h)."""
        return F.embedding(tokens, self.embedding)


def _load(folder: Path, dtype: torch.dtype) -> Any:
    try:
        transformers.utils.logging.disable_progress_bar()  # its bar ignores --quiet
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # transformers raises what its parts raise: pickle, safetensors, KeyError ...
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{folder}: the target cannot be loaded: {lines[0]}") from error
    model.requires_grad_(False)
    return model.eval()
