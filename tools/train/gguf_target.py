"""A target in a GGUF file, as far as a trainer needs it: sizes, rows of its embedding and head, single layers.

The engine runs it; nothing else of it is dequantized.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..architectures import ARCHITECTURES
from ..config import Config
from ..console import progress_bar
from ..rope import Rope
from ..sizes import Sizes
from ..target import dequantized, open_gguf

_ROWS = 4096  # of a matrix that are dequantized at once
_HASHED = 1 << 24  # bytes at a time
_LAYER = {
    "input_layernorm.weight": "attn_norm",
    "self_attn.q_proj.weight": "attn_q",
    "self_attn.k_proj.weight": "attn_k",
    "self_attn.v_proj.weight": "attn_v",
    "self_attn.o_proj.weight": "attn_output",
    "post_attention_layernorm.weight": "ffn_norm",
    "mlp.gate_proj.weight": "ffn_gate",
    "mlp.up_proj.weight": "ffn_up",
    "mlp.down_proj.weight": "ffn_down",
}


class GgufTarget:
    """Opens `path`; `feed_forward` is the width of a drafter's feed-forward, None: the target's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no target; the message names the key or tensor, what was found and what was expected.
    """

    def __init__(self, path: Path, device: torch.device, feed_forward: int | None = None) -> None:
        self.folder = self.path = path
        self.device, self.stored_dtype = device, torch.float32
        self._reader = open_gguf(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._arch = str(self._value("general.architecture"))
        if self._arch.startswith("eagle"):
            raise ValueError(f"{path}: found architecture '{self._arch}', expected a target model, not a drafter")
        if (parts := int(self._value("split.count", 1))) > 1:
            raise ValueError(f"{path}: found one of {parts} parts, expected a whole file (gguf-split --merge)")
        self._tokens = len(self._value("tokenizer.ggml.tokens"))
        fields = self._reader.fields
        ids = [name for name in ("bos_token_id", "eos_token_id") if f"tokenizer.ggml.{name}" in fields]
        self.config = Config({name: self._value(f"tokenizer.ggml.{name}") for name in ids}, path)
        self.sizes = self._sizes(feed_forward)
        self._head = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        self._tensor("token_embd.weight", (self._tokens, self.sizes.hidden))
        self._tensor(self._head, (self._tokens, self.sizes.hidden))

    @property
    def vocabulary(self) -> int:
        """Tokens."""
        return self._tokens

    def fingerprint(self, quiet: bool = False) -> str:
        """32 hex digits for the bytes of the file: whatever else is called so is another target."""
        digest = hashlib.blake2b(digest_size=16)
        with self.path.open("rb") as file, progress_bar(self.path.stat().st_size, "reading target", quiet) as bar:
            while piece := file.read(_HASHED):
                digest.update(piece)
                bar.update(len(piece))
        return digest.hexdigest()

    def embedding_rows(self, ids: np.ndarray) -> Tensor:
        """Rows of the embedding, float32 (n, h), as a drafter reads them."""
        return torch.from_numpy(self._rows("token_embd.weight", ids))

    def head_rows(self, ids: np.ndarray) -> Tensor:
        """Rows of the head, float32 (n, h), times what the target's logits are multiplied with."""
        scale = 1.0 / float(self._value(f"{self._arch}.logit_scale", 1.0))
        return torch.from_numpy(self._rows(self._head, ids)).mul_(scale)

    def final_norm(self) -> Tensor:
        """Weights of the norm behind the last layer, (h) float32."""
        return torch.from_numpy(self._whole(self._tensor("output_norm.weight", (self.sizes.hidden,))))

    def layer(self, number: int) -> dict[str, Tensor]:
        """Weights of a layer under the names of Hugging Face's Llama, float32; biases and other norms are left out."""
        result = {}
        pairs = {a.gguf: a.paired_rope for a in ARCHITECTURES.values()}
        heads = {"attn_q": self.sizes.heads, "attn_k": self.sizes.kv_heads}
        for theirs, ours in _LAYER.items():
            tensor = self._tensors.get(f"blk.{number}.{ours}.weight")
            if tensor is None:
                continue
            values = self._whole(tensor)
            if ours in heads and pairs.get(self._arch, False):
                values = _without_pairs(values, heads[ours])
            result[theirs] = torch.from_numpy(np.ascontiguousarray(values))
        return result

    def _sizes(self, feed_forward: int | None) -> Sizes:
        arch = self._arch
        hidden, heads = self._whole_number("embedding_length"), self._whole_number("attention.head_count")
        head_dim = self._whole_number("attention.key_length", hidden // heads)
        context = self._whole_number("context_length")
        theta = float(self._value(f"{arch}.rope.freq_base", 10000.0))
        return Sizes(
            layers=self._whole_number("block_count"),
            hidden=hidden,
            feed_forward=feed_forward or self._whole_number("feed_forward_length"),
            heads=heads,
            kv_heads=self._whole_number("attention.head_count_kv", heads),
            head_dim=head_dim,
            vocabulary=self._tokens,
            context=context,
            epsilon=float(self._value(f"{arch}.attention.layer_norm_rms_epsilon", 1e-6)),
            rope=Rope(theta, "default", Config({}, self.path), head_dim, context),
        )

    def _whole_number(self, key: str, default: int | None = None) -> int:
        value = self._value(f"{self._arch}.{key}", default)
        if not isinstance(value, int):
            raise ValueError(f"{self.path}: key '{self._arch}.{key}': found {value!r}, expected a number")
        return value

    def _value(self, key: str, default: Any = None) -> Any:
        field = self._reader.fields.get(key)
        if field is None and default is None:
            raise ValueError(f"{self.path}: key '{key}' is missing")
        return default if field is None else field.contents()

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        tensor = self._tensors.get(name)
        found = None if tensor is None else tuple(int(n) for n in tensor.shape[::-1])
        if found != shape:
            raise ValueError(f"{self.path}: tensor '{name}': found {found or 'nothing'}, expected shape {shape}")
        return tensor

    def _whole(self, tensor: Any) -> np.ndarray:
        return self._dequantized(tensor, tensor.data)

    def _rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        tensor = self._tensors[name]
        result = np.empty((len(ids), self.sizes.hidden), dtype=np.float32)
        for first in range(0, len(ids), _ROWS):
            some = ids[first : first + _ROWS]
            result[first : first + len(some)] = self._dequantized(tensor, tensor.data[some])
        return result

    def _dequantized(self, tensor: Any, data: np.ndarray) -> np.ndarray:
        values = dequantized(tensor, data)
        if values is None:
            raise ValueError(
                f"{self.path}: tensor '{tensor.name}': found type {tensor.tensor_type.name}, which the gguf package "
                "cannot read"
            )
        return values


def _without_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Q/K rows from rotary pairs (GGUF's NORM rope) to rotary halves (Hugging Face)."""
    rows = weight.shape[0] // heads
    return np.asarray(weight.reshape(heads, rows // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape))
