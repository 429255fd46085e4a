"""A tokenizer as GGUF files hold it."""

from __future__ import annotations

import dataclasses
from enum import IntEnum
from pathlib import Path

from .gguf_output import Entry, array, boolean, string, u32


class TokenType(IntEnum):
    """The numbers in `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclasses.dataclass
class Vocabulary:
    """`model` is "gpt2" (byte-level BPE, with `pre` and `merges`) or "llama" (SPM, with `scores`)."""

    path: Path  # the file it was read from
    model: str
    tokens: list[str]
    types: list[TokenType]
    pre: str = "default"
    merges: list[str] = dataclasses.field(default_factory=list)
    scores: list[float] = dataclasses.field(default_factory=list)
    add_space_prefix: bool | None = None
    special_ids: dict[str, int] = dataclasses.field(default_factory=dict)  # "bos", "eos", "eot" ... -> id
    add_bos: bool = False
    add_eos: bool = False
    chat_templates: dict[str, str] = dataclasses.field(default_factory=dict)  # "" is the default one
    remarks: list[str] = dataclasses.field(default_factory=list)

    def pad(self, size: int) -> None:
        """Fills the ids up to `size` with unused tokens; raises ValueError where there are more."""
        if len(self.tokens) > size:
            raise ValueError(
                f"{self.path}: found {len(self.tokens)} tokens, expected at most {size} (vocab_size in config.json)"
            )
        for token in range(len(self.tokens), size):
            self.tokens.append(f"[PAD{token}]")
            self.types.append(TokenType.UNUSED)
            if self.scores:
                self.scores.append(-10000.0)  # as llama.cpp's converter gives to padding

    def entries(self) -> list[Entry]:
        """All metadata below `tokenizer.`."""
        result = [string("tokenizer.ggml.model", self.model), string("tokenizer.ggml.pre", self.pre)]
        result.append(array("tokenizer.ggml.tokens", self.tokens, "STRING"))
        if self.scores:
            result.append(array("tokenizer.ggml.scores", self.scores, "FLOAT32"))
        result.append(array("tokenizer.ggml.token_type", [int(kind) for kind in self.types], "INT32"))
        if self.merges:
            result.append(array("tokenizer.ggml.merges", self.merges, "STRING"))
        result += [u32(f"tokenizer.ggml.{name}_token_id", token) for name, token in self.special_ids.items()]
        result.append(boolean("tokenizer.ggml.add_bos_token", self.add_bos))
        result.append(boolean("tokenizer.ggml.add_eos_token", self.add_eos))
        if self.add_space_prefix is not None:
            result.append(boolean("tokenizer.ggml.add_space_prefix", self.add_space_prefix))
        named = sorted(name for name in self.chat_templates if name)
        if named:
            result.append(array("tokenizer.chat_templates", named, "STRING"))
        for name, template in self.chat_templates.items():
            result.append(string(f"tokenizer.chat_template{'.' + name if name else ''}", template))
        return result
