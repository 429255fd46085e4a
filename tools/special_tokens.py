"""BOS, EOS and their kin, what is added to a text, and the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config import Config, read_json_if_there
from .text_preparation import added_around
from .vocabulary import Vocabulary

# GGUF's name -> the name in tokenizer_config.json and config.json.
_ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
# Further ends of generation are known by their text.
_END_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<EOT>",
    "<|end_of_text|>",
)
_END_OF_MESSAGE = ("<|eom_id|>",)


def add_special_tokens(vocabulary: Vocabulary, folder: Path, config: Config, tokenizer: dict[str, Any]) -> None:
    """Fills in `special_ids`, `add_bos`, `add_eos` and `chat_templates` of `vocabulary`."""
    settings = read_json_if_there(folder / "tokenizer_config.json")
    fallback = read_json_if_there(folder / "special_tokens_map.json")
    # Later occurrences (padding) do not hide the token itself.
    ids = {text: number for number, text in reversed(list(enumerate(vocabulary.tokens)))}
    for ours, theirs in _ROLES.items():
        text = _text(settings.get(f"{theirs}_token")) or _text(fallback.get(f"{theirs}_token"))
        if text and text not in ids:
            vocabulary.remarks.append(f"{theirs}_token is {text!r}, which is no token: left out")
        number = ids.get(text or "")
        if number is None:
            number = _in_range(vocabulary, f"{theirs}_token_id", _first(config.get(f"{theirs}_token_id")))
        if number is not None:
            vocabulary.special_ids[ours] = number
    _add_ends(vocabulary, read_json_if_there(folder / "generation_config.json"), config)
    vocabulary.add_bos = _is_added(vocabulary, "bos", settings, tokenizer)
    vocabulary.add_eos = _is_added(vocabulary, "eos", settings, tokenizer)
    vocabulary.chat_templates = _chat_templates(folder, settings)


def _text(token: Any) -> str | None:
    """A special token's text, written plainly or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _first(ids: Any) -> int | None:
    """A token id, or the first of a list of them."""
    first = ids[0] if isinstance(ids, list) and ids else ids
    return first if isinstance(first, int) and not isinstance(first, bool) else None


def _in_range(vocabulary: Vocabulary, key: str, number: int | None) -> int | None:
    """`number`, or None where it is no token: configs write -1, or the vocabulary's size, for none."""
    if number is None or 0 <= number < len(vocabulary.tokens):
        return number
    if number != -1:
        vocabulary.remarks.append(f"{key} is {number}, expected a token id below {len(vocabulary.tokens)}: left out")
    return None


def _add_ends(vocabulary: Vocabulary, generation: dict[str, Any], config: Config) -> None:
    """Lists of several ends of generation: beside EOS, GGUF has one end of turn and one end of message."""
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    if not isinstance(ends, list):
        ends = [ends]
    eos = vocabulary.special_ids.get("eos")
    known = [_in_range(vocabulary, "eos_token_id", _first(end)) for end in ends]
    rest = [end for end in known if end is not None and end != eos]
    by_text = {**dict.fromkeys(_END_OF_TURN, "eot"), **dict.fromkeys(_END_OF_MESSAGE, "eom")}
    # First those whose role their text tells; then any other end takes the role that is left.
    for end in sorted(rest, key=lambda end: vocabulary.tokens[end] not in by_text):
        role = by_text.get(vocabulary.tokens[end], "eot")
        if role not in vocabulary.special_ids:
            vocabulary.special_ids[role] = end
        elif vocabulary.tokens[end] not in by_text:
            vocabulary.remarks.append(
                f"token {end} {vocabulary.tokens[end]!r} ends a generation, but GGUF has no key left"
            )


def _is_added(vocabulary: Vocabulary, role: str, settings: dict[str, Any], tokenizer: dict[str, Any]) -> bool:
    """Whether the tokenizer puts BOS before, or EOS after, each text.

    Llama's tokenizer classes rebuild the post-processor from `add_bos_token`, so the key outranks it there;
    for other classes the post-processor is what happens.
    """
    number = vocabulary.special_ids.get(role)
    setting = settings.get(f"add_{role}_token")
    rebuilds = str(settings.get("tokenizer_class", "")).startswith(("Llama", "CodeLlama", "Gemma"))
    around = added_around(vocabulary.path, tokenizer)
    if isinstance(setting, bool) and (rebuilds or around is None):
        return setting and number is not None
    if around is None:
        # tokenizer.model alone says nothing: SentencePiece-style models put BOS before each text.
        return role == "bos" and not tokenizer and number is not None
    added = around[0 if role == "bos" else 1]
    own = [] if number is None else [number]
    if added not in ([], own):
        found, expected = (
            [vocabulary.tokens[token] if 0 <= token < len(vocabulary.tokens) else token for token in ids]
            for ids in (added, own)
        )
        raise ValueError(
            f"{vocabulary.path}: the post-processor puts {found!r} {'before' if role == 'bos' else 'behind'} each "
            f"text, which GGUF cannot say; expected nothing or the {role} token, {expected}"
        )
    return bool(added)


def _chat_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The templates by name, "" the default one: from all places that transformers knows, newer ones last."""
    result: dict[str, str] = {}
    processor = read_json_if_there(folder / "chat_template.json")
    for value in (settings.get("chat_template"), processor.get("chat_template")):
        if isinstance(value, str):
            result[""] = value
        elif isinstance(value, list):  # several, each with a name
            value = {template.get("name"): template.get("template") for template in value}
        if isinstance(value, dict):
            result |= {"" if name == "default" else str(name): str(template) for name, template in value.items()}
    files = {"": folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, path in files.items():
        if path.is_file():
            try:
                result[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: byte {error.start}: not valid UTF-8 ({error.reason})") from None
    return result
