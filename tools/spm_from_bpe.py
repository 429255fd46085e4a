"""A tokenizer.json BPE with U+2581 for spaces and bytes as fallback, as an SPM vocabulary ("llama").

SPM merges the neighbours whose joined token has the highest score, so a token's score is minus the index of
the first merge that makes it: the order of scores is the order of merges. SPM does not know *which* pieces a
token may be made of; the order agrees as long as every pair that joins to a token is a merge, as in
tokenizers made by SentencePiece.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .text_preparation import BYTE_TOKEN, prepend_scheme, steps
from .vocabulary import TokenType, Vocabulary

_SPACE = "\u2581"


def spm_vocabulary(
    path: Path, tokenizer: dict[str, Any], tokens: list[str], merges: list[tuple[str, str]]
) -> Vocabulary:
    """The vocabulary; raises ValueError where text is prepared in another way than SPM does."""
    prefix = _adds_space_prefix(path, tokenizer, tokens)
    first_merge: dict[str, int] = {}
    for index, (left, right) in enumerate(merges):
        first_merge.setdefault(left + right, index)
    unknown = tokenizer["model"].get("unk_token")
    types, scores = [], []
    for text in tokens:
        if text == unknown:
            types.append(TokenType.UNKNOWN)
        elif tokenizer["model"].get("byte_fallback") and BYTE_TOKEN.fullmatch(text):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
        # What no merge makes is worth less than any merge; single characters are never chosen by score.
        scores.append(-float(first_merge.get(text, len(merges))) if types[-1] == TokenType.NORMAL else 0.0)
    vocabulary = Vocabulary(path, "llama", tokens, types, scores=scores, add_space_prefix=prefix)
    other = _other_merges(tokens, types, merges)
    if other:
        vocabulary.remarks.append(
            f"{other} pairs of tokens join to a token without being a merge of tokenizer.json: "
            "GGUF's SPM may split some words otherwise"
        )
    return vocabulary


def _other_merges(tokens: list[str], types: list[TokenType], merges: list[tuple[str, str]]) -> int:
    """How many pairs SPM would join although no merge says so."""
    normal = {text for text, kind in zip(tokens, types, strict=True) if kind == TokenType.NORMAL}
    made = set(merges)
    return sum(
        text[:cut] in normal and text[cut:] in normal and (text[:cut], text[cut:]) not in made
        for text in normal
        for cut in range(1, len(text))
    )


def _adds_space_prefix(path: Path, tokenizer: dict[str, Any], tokens: list[str]) -> bool:
    """Whether a space is put before each text; the rest of the preparation must be SPM's."""
    prefix = replaces = False
    for step in steps(tokenizer.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == _SPACE and not prefix:
            prefix = True
        elif step.get("type") == "Replace" and step.get("content") == _SPACE and step.get("pattern") == {"String": " "}:
            replaces = True
        else:
            raise ValueError(f"{path}: the normalizer {step!r} is not one that SPM knows")
    for step in steps(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") != "Metaspace" or step.get("replacement") != _SPACE:
            raise ValueError(f"{path}: found the pre-tokenizer {step!r}, expected byte-level or SPM rules")
        if step.get("split", True) and any(_SPACE in text[1:] for text in tokens):
            raise ValueError(f"{path}: words are split at spaces, but some tokens have a space inside")
        prefix, replaces = prefix or prepend_scheme(step) in ("always", "first"), True
    if not replaces:
        raise ValueError(f"{path}: found neither byte-level rules nor spaces written as U+2581: kind not supported")
    return prefix
