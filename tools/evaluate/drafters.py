"""What a drafter's file is, as far as choosing methods needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ... import _core
from ..target import has_mtp, mtp_head

_LONGEST_CHARACTER = 4  # bytes of a token that SLRS takes


@dataclass(frozen=True)
class DrafterFile:
    """A drafter.

    Attributes:
        path: Its GGUF file.
        kind: ``"eagle2"`` (EAGLE-1 as well), ``"eagle3"``, ``"mtp"`` or ``"model"``, a whole language model.
        rows: Rows of the head that it drafts with; for a model of another vocabulary those of its own.
        reduced: It has a learned head of fewer rows than the target's (d2t).
        same_vocabulary: Its tokens are the target's, padding aside.
        shared: Tokens that mean the same in both vocabularies.
        characters: Each of its tokens is at most one character.
        has_sketch: A sketch of the head is in its file.
    """

    path: Path
    kind: str
    rows: int
    reduced: bool = False
    same_vocabulary: bool = True
    shared: int = 0
    characters: bool = False
    has_sketch: bool = False

    @property
    def reads_states(self) -> bool:
        """Whether it drafts from the target's states, with one level of layers: EAGLE, MTP."""
        return self.kind != "model"

    def describe(self) -> str:
        """It in words, for messages."""
        name = self.path.name
        if self.kind == "eagle3":
            return f"{name} is an EAGLE-3 drafter{' with a learned head' if self.reduced else ''}"
        if self.kind == "eagle2":
            return f"{name} is an EAGLE-2 drafter"
        if self.kind == "mtp":
            return f"{name} has an MTP block"
        whose = "the target's" if self.same_vocabulary else "another"
        return f"{name} is a language model with {whose} vocabulary"


def look_at(path: Path, target: _core.Tokenizer) -> DrafterFile:
    """What the file at `path` is, for a target of this vocabulary.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is damaged, or no drafter.
    """
    file = _core.GgufFile(str(path))
    shapes = {tensor.name: tensor.shape for tensor in file.tensors}
    architecture = file.metadata.get("general.architecture")
    has_sketch = "sketch_vocab.weight" in shapes
    if architecture in ("eagle2", "eagle3"):
        reduced = "d2t" in shapes
        rows = int(shapes["output.weight"][1]) if reduced and "output.weight" in shapes else target.size
        return DrafterFile(path, str(architecture), rows, reduced, shared=target.size, has_sketch=has_sketch)
    if has_mtp(shapes):
        head = mtp_head(shapes)
        rows = int(shapes[head][1]) if head is not None else target.size
        return DrafterFile(path, "mtp", rows, "d2t" in shapes, shared=target.size, has_sketch=has_sketch)
    if not isinstance(architecture, str) or architecture.startswith("frspec"):
        raise ValueError(
            f"{path}: key 'general.architecture': found {architecture!r}, expected 'eagle2', 'eagle3' or a language "
            "model"
        )
    own = _core.Tokenizer(str(path))
    aligned = _core.align_vocabularies(target, own)
    return DrafterFile(
        path,
        "model",
        own.size,
        same_vocabulary=_core.same_vocabulary(target, own),
        shared=sum(token >= 0 for token in aligned),
        characters=_spells_characters(own),
        has_sketch=has_sketch,
    )


def _spells_characters(tokenizer: _core.Tokenizer) -> bool:
    special = (_core.TokenType.CONTROL, _core.TokenType.UNKNOWN)
    return all(
        len(tokenizer.token_bytes(token)) <= _LONGEST_CHARACTER or tokenizer.token_type(token) in special
        for token in range(tokenizer.size)
    )
