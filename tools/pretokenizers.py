"""The pre-tokenizer of a byte-level tokenizer.json, by the name that GGUF gives to its expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .splitting_rules import COVERING, GPT2, NAMES, PUNCTUATION, canonical
from .text_preparation import steps


def pretokenizer_name(path: Path, tokenizer: dict[str, Any]) -> str:
    """The GGUF name; raises ValueError that shows the splitting rules where no name is known for them."""
    stages = steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    ignore_merges = bool(tokenizer["model"].get("ignore_merges", False))
    byte_level = stages[-1] if stages and stages[-1].get("type") == "ByteLevel" else None
    if byte_level is None:
        raise _unknown(path, stages, ignore_merges)
    if byte_level.get("add_prefix_space", True):
        raise ValueError(f"{path}: the ByteLevel pre-tokenizer adds a space before each text, which is not supported")
    rules = [_rule(step) for step in stages[:-1]]
    if byte_level.get("use_regex", True):
        rules.append(GPT2)
    name = NAMES.get(tuple(rules), {}).get(ignore_merges)
    if name is None:
        raise _unknown(path, stages, ignore_merges)
    return name


def _rule(step: dict[str, Any]) -> str:
    """The expression whose matches the step sets apart; else its JSON."""
    if step.get("type") == "Split":
        pattern = step.get("pattern")
        expression = canonical(str(pattern.get("Regex"))) if isinstance(pattern, dict) else ""
        way = (step.get("behavior"), bool(step.get("invert", False)))
        # What lies between matches is dropped in the second way, so there must be nothing.
        if way == ("Isolated", False) or (way == ("Removed", True) and expression in COVERING):
            return expression
    if step.get("type") == "Digits" and step.get("individual_digits", False):
        return r"\p{N}"
    if step.get("type") == "Punctuation" and step.get("behavior", "Isolated") == "Isolated":
        return PUNCTUATION
    return repr(step)


def _unknown(path: Path, stages: list[dict[str, Any]], ignore_merges: bool) -> ValueError:
    shown = "; ".join(_rule(step) for step in stages) or "nothing"
    names = ", ".join(name for by_merging in NAMES.values() for name in by_merging.values())
    return ValueError(
        f"{path}: no known pre-tokenizer splits like this: {shown} "
        f"(ignore_merges {str(ignore_merges).lower()}); expected the rules of one of llama.cpp's: {names}"
    )
