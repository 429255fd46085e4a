"""The pre-tokenizer of a byte-level tokenizer.json, by the name that GGUF gives to its expression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .text_preparation import steps

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_GPT2_FORMS = (f"{_GPT2}|\\s+", _GPT2)

# The same expression under two names: with `ignore_merges` a piece that is a whole token is never merged.
_NAMES = {
    (_LLAMA3, True): "llama-bpe",
    (_LLAMA3, False): "smaug-bpe",
    (_QWEN2, False): "qwen2",
}


def pretokenizer_name(path: Path, tokenizer: dict[str, Any]) -> str:
    """The GGUF name; raises ValueError that shows the splitting rules where no name is known for them."""
    stages = steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    ignore_merges = bool(tokenizer["model"].get("ignore_merges", False))
    byte_level = stages[-1] if stages and stages[-1].get("type") == "ByteLevel" else None
    if byte_level is None:
        raise _unknown(path, stages, ignore_merges)
    if byte_level.get("add_prefix_space", True):
        raise ValueError(f"{path}: the ByteLevel pre-tokenizer adds a space before each text, which is not supported")
    split = [_describe(step) for step in stages[:-1]]
    if byte_level.get("use_regex", True):
        if not split and not ignore_merges:
            return "gpt-2"
        if split == ["Digits"] and not ignore_merges:
            return "smollm"
    elif len(split) == 1:
        name = _NAMES.get((split[0], ignore_merges))
        if name is not None:
            return name
        if split[0] in _GPT2_FORMS and not ignore_merges:
            return "gpt-2"
    raise _unknown(path, stages, ignore_merges)


def _describe(step: dict[str, Any]) -> str:
    """The expression of a step that isolates its matches, "Digits" for single digits, else its JSON."""
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert", False):
        pattern = step.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            return str(pattern["Regex"])
    if step.get("type") == "Digits" and step.get("individual_digits", False):
        return "Digits"
    return repr(step)


def _unknown(path: Path, stages: list[dict[str, Any]], ignore_merges: bool) -> ValueError:
    shown = "; ".join(_describe(step) if step.get("type") == "Split" else repr(step) for step in stages) or "nothing"
    return ValueError(
        f"{path}: no known pre-tokenizer splits like this: {shown} "
        f"(ignore_merges {str(ignore_merges).lower()}); expected the rules of Llama 3, Qwen2, GPT-2 or SmolLM"
    )
