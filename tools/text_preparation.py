"""What a tokenizer.json does to texts beside merging.

GGUF files say little of that. What they cannot say is an error that tells what would differ; what llama.cpp leaves out
as well, so that everyone who runs such a file has the same tokens, is a remark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_SPACE = "\u2581"
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # how SentencePiece writes the bytes of characters without a token
# What decoders of SentencePiece-style vocabularies do, as GGUF's SPM does: by type, with the keys that matter.
_PIECE_DECODERS: dict[str, dict[str, Any]] = {
    "Replace": {"pattern": {"String": _SPACE}, "content": " "},
    "ByteFallback": {},
    "Fuse": {},
    "Strip": {"content": " ", "start": 1, "stop": 0},
    "Metaspace": {"replacement": _SPACE},
}


def steps(stage: Any, parts: str) -> list[dict[str, Any]]:
    """The steps of one stage: a sequence's (listed under `parts`, to any depth), the stage itself, or nothing."""
    if not isinstance(stage, dict):
        return []
    if stage.get("type") != "Sequence":
        return [stage]
    return [step for part in stage.get(parts, []) for step in steps(part, parts)]


def byte_level_remarks(path: Path, tokenizer: dict[str, Any]) -> list[str]:
    """Remarks on the normalizer of a byte-level BPE; raises ValueError where texts would become other tokens."""
    remarks = []
    for step in steps(tokenizer.get("normalizer"), "normalizers"):
        if step.get("type") != "NFC":
            raise ValueError(
                f"{path}: the normalizer {step!r} changes texts before they are split, which GGUF cannot say: they "
                "would be tokenized as they are written; expected none, or NFC"
            )
        remarks.append(
            "texts are not brought to NFC, as llama.cpp does not either: letters that are followed by a combining "
            "accent (e + U+0301) become other tokens than with Hugging Face"
        )
    _check_decoder(path, tokenizer, {"ByteLevel": {}, "Fuse": {}})
    return remarks


def spm_remarks(path: Path, tokenizer: dict[str, Any]) -> list[str]:
    """The same for a vocabulary of SPM's kind, whose normalizer is looked at elsewhere."""
    model = tokenizer["model"]
    if model.get("ignore_merges"):
        raise ValueError(
            f"{path}: key 'model.ignore_merges': found true: whole words would be merged, which SPM always does; "
            "expected false"
        )
    if not model.get("byte_fallback") and not model.get("fuse_unk", False):
        raise ValueError(
            f"{path}: key 'model.fuse_unk': found false without byte_fallback: unknown characters in a row would "
            "become one unknown token; expected true"
        )
    byte_tokens = [text for text in model["vocab"] if BYTE_TOKEN.fullmatch(text)]
    if byte_tokens and not model.get("byte_fallback"):
        raise ValueError(
            f"{path}: key 'model.byte_fallback': found false beside tokens such as {byte_tokens[0]!r}: unknown "
            "characters would be spelled with them; expected true"
        )
    _check_decoder(path, tokenizer, _PIECE_DECODERS)
    remarks = []
    if any(step.get("type") == "Prepend" for step in steps(tokenizer.get("normalizer"), "normalizers")):
        inside = [token for token in tokenizer.get("added_tokens") or [] if token.get("normalized")]
        if inside:
            remarks.append(
                f"behind {_named(inside)} (normalized) Hugging Face puts no space before the text; GGUF cannot say so, "
                "and one is put there, as in llama.cpp"
            )
        return remarks  # what Metaspace does beside it changes nothing
    schemes = {prepend_scheme(step) for step in steps(tokenizer.get("pre_tokenizer"), "pretokenizers")}
    if schemes & {"always", "first"}:
        remarks.append(
            "where a text begins with a space, Hugging Face puts no other before it (Metaspace); GGUF cannot say so, "
            "and one is put there, as in llama.cpp"
        )
    if "first" in schemes:
        remarks.append(
            "behind control tokens Hugging Face puts no space before the text (prepend_scheme 'first'); GGUF cannot "
            "say so, and one is put there, as in llama.cpp"
        )
    return remarks


def prepend_scheme(step: dict[str, Any]) -> str:
    """When a Metaspace pre-tokenizer puts a space before a text: "always", "first" or "never"."""
    return str(step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never"))


def added_token_remarks(added: Iterable[dict[str, Any]]) -> list[str]:
    """Remarks on added tokens that look at what stands beside them."""
    remarks = []
    for flag, meaning, but in (
        ("lstrip", "takes the spaces before {} along", ""),
        ("rstrip", "takes the spaces behind {} along", " but for models named phi-3 or phi3"),
        ("single_word", "finds {} between other characters than letters only", ""),
    ):
        found = [token for token in added if token.get(flag)]
        if found:
            remarks.append(
                f"Hugging Face {meaning.format(_named(found))} ({flag}); GGUF cannot say so, and{but} texts that hold "
                "it become other tokens, as in llama.cpp"
            )
    return remarks


def merged_token_remarks(added: list[dict[str, Any]]) -> list[str]:
    """A remark on added tokens that byte-level merges make, too."""
    if not added:
        return []
    return [
        f"Hugging Face finds {_named(added)} where a text is spelled so, too; GGUF cannot say so of tokens that merges "
        "make, and they come from merges alone"
    ]


def added_around(path: Path, tokenizer: dict[str, Any]) -> tuple[list[int], list[int]] | None:
    """Ids of the tokens that the post-processor puts before and after each text; None: there is none that adds any.

    Raises ValueError where it does something else.
    """
    result = None
    for step in steps(tokenizer.get("post_processor"), "processors"):
        kind = step.get("type")
        if kind == "ByteLevel":  # offsets only
            continue
        if kind == "TemplateProcessing" and result is None:
            result = _template(path, step)
        elif kind in ("RobertaProcessing", "BertProcessing") and result is None:
            result = [int(step["cls"][1])], [int(step["sep"][1])]
        else:
            raise ValueError(f"{path}: the post-processor {step!r} is not one that GGUF can express")
    return result


def _template(path: Path, step: dict[str, Any]) -> tuple[list[int], list[int]]:
    around: tuple[list[int], list[int]] = [], []
    texts = 0
    for piece in step.get("single", []):
        if "Sequence" in piece:
            texts += 1
            continue
        name = str(piece["SpecialToken"]["id"])
        known = step.get("special_tokens", {}).get(name)
        if known is None:
            raise ValueError(f"{path}: the post-processor's template holds {name!r}, which its special_tokens lack")
        around[min(texts, 1)].extend(int(number) for number in known["ids"])  # what is written beside is a name
    if texts != 1:
        raise ValueError(f"{path}: the post-processor's template {step.get('single')!r} holds the text {texts} times")
    return around


def _check_decoder(path: Path, tokenizer: dict[str, Any], known: Mapping[str, Mapping[str, Any]]) -> None:
    for step in steps(tokenizer.get("decoder"), "decoders"):
        expected = known.get(str(step.get("type")))
        if expected is None or any(step.get(key) != value for key, value in expected.items()):
            raise ValueError(
                f"{path}: the decoder {step!r} makes other texts of tokens than GGUF can say; expected "
                f"{', '.join(known)}"
            )


def _named(tokens: list[dict[str, Any]]) -> str:
    shown = ", ".join(repr(token.get("content")) for token in tokens[:3])
    return f"{shown} and {len(tokens) - 3} more" if len(tokens) > 3 else shown
