"""A Hugging Face tokenizer (tokenizer.json, or SentencePiece's tokenizer.model) as a GGUF vocabulary."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from .config import Config, read_json, read_json_if_there
from .pretokenizers import pretokenizer_name
from .sentencepiece_file import read_sentencepiece
from .special_tokens import add_special_tokens
from .spm_from_bpe import spm_vocabulary
from .text_preparation import added_token_remarks, byte_level_remarks, merged_token_remarks, spm_remarks, steps
from .vocabulary import TokenType, Vocabulary

_WIDE = ("<\uff5c", "\uff5c>")  # the brackets of DeepSeek's control tokens


def read_tokenizer(folder: Path, config: Config) -> Vocabulary:
    """The tokenizer of the checkpoint in `folder`, padded to config.json's vocab_size.

    Raises ValueError naming the file where the tokenizer is of a kind that GGUF files cannot express.
    """
    json_file, model_file = folder / "tokenizer.json", folder / "tokenizer.model"
    tokenizer: dict[str, Any] = {}
    if json_file.is_file():
        tokenizer = read_json(json_file)
        vocabulary = _from_json(json_file, tokenizer)
        # What tokenizer_config.json says of a token outranks tokenizer.json, as with transformers.
        added = {int(token["id"]): token for token in tokenizer.get("added_tokens") or []}
        added.update((token["id"], token) for token in _added_in_config(folder))
    elif model_file.is_file():
        vocabulary = read_sentencepiece(model_file)
        added = {token["id"]: token for token in _added_beside_sentencepiece(folder)}
    else:
        raise FileNotFoundError(errno.ENOENT, "no tokenizer.json or tokenizer.model in this folder", str(folder))
    _heed_prefix_setting(vocabulary, folder)
    _add_tokens(vocabulary, list(added.values()))
    vocabulary.remarks += added_token_remarks(added.values())
    vocabulary.pad(config.integer("vocab_size"))
    add_special_tokens(vocabulary, folder, config, tokenizer)
    return vocabulary


def _from_json(path: Path, tokenizer: dict[str, Any]) -> Vocabulary:
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        found = model.get("type") if isinstance(model, dict) else None
        raise ValueError(f"{path}: found tokenizer model {found!r}, expected 'BPE' with a vocabulary")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"{path}: key 'model.{key}': found {model[key]!r}, expected nothing")
    tokens = _in_order(path, model["vocab"])
    merges = [_merge(path, merge) for merge in model.get("merges", [])]
    known = set(tokens)
    for left, right in merges:
        if not {left, right, left + right} <= known:
            raise ValueError(f"{path}: the merge of {left!r} and {right!r} uses or makes a token that does not exist")
    if _is_byte_level(tokenizer):
        types = [TokenType.NORMAL] * len(tokens)
        vocabulary = Vocabulary(path, "gpt2", tokens, types, pretokenizer_name(path, tokenizer))
        vocabulary.merges = [f"{left} {right}" for left, right in merges]
        vocabulary.remarks = byte_level_remarks(path, tokenizer)
    else:
        vocabulary = spm_vocabulary(path, tokenizer, tokens, merges)
        vocabulary.remarks += spm_remarks(path, tokenizer)
    return vocabulary


def _heed_prefix_setting(vocabulary: Vocabulary, folder: Path) -> None:
    """Takes `add_prefix_space` of tokenizer_config.json, which some tokenizer classes of transformers go by."""
    path = folder / "tokenizer_config.json"
    settings = read_json_if_there(path)
    setting, kind = settings.get("add_prefix_space"), str(settings.get("tokenizer_class"))
    if vocabulary.model == "llama":
        if isinstance(setting, bool) and kind.startswith(("Llama", "CodeLlama")):
            vocabulary.add_space_prefix = setting
    elif setting and (kind.startswith("GPT2") or vocabulary.pre == "gpt-2"):
        raise ValueError(
            f"{path}: key 'add_prefix_space': found true: a space would be put before each text, which GGUF cannot say "
            "of byte-level BPE; expected false"
        )


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    return any(step.get("type") == "ByteLevel" for step in steps(tokenizer.get("pre_tokenizer"), "pretokenizers"))


def _in_order(path: Path, vocab: dict[str, Any]) -> list[str]:
    """The token texts by id. Ids that only added tokens have are filled in later."""
    tokens: list[str] = []
    for text, token in sorted(vocab.items(), key=lambda item: item[1] if isinstance(item[1], int) else -1):
        if not isinstance(token, int) or token != len(tokens):
            raise ValueError(f"{path}: token {text!r}: found id {token!r}, expected {len(tokens)}")
        tokens.append(text)
    return tokens


def _merge(path: Path, merge: Any) -> tuple[str, str]:
    """The two pieces of a merge, in either spelling: "a b" or ["a", "b"]."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(_is_piece(part) for part in parts):
        raise ValueError(f"{path}: found merge {merge!r}, expected two pieces without spaces")
    return parts[0], parts[1]


def _is_piece(part: Any) -> bool:
    # GGUF separates the pieces by a space; tokenizers spell a space inside as U+0120 or U+2581.
    return isinstance(part, str) and part != "" and " " not in part


def _looks_special(text: str) -> bool:
    """Spelled like a control token, whatever its flags say; llama.cpp's converter decides the same way."""
    return text in ("<pad>", "<mask>") or (text.startswith(("<|", _WIDE[0])) and text.endswith(("|>", _WIDE[1])))


def _add_tokens(vocabulary: Vocabulary, added: list[dict[str, Any]]) -> None:
    """Marks added tokens as control or user-defined, and appends those that are not in the vocabulary yet."""
    merged: list[dict[str, Any]] = []
    for token in sorted(added, key=lambda token: int(token["id"])):
        number, text = int(token["id"]), str(token["content"])
        while len(vocabulary.tokens) < number:  # a gap, as in padded vocabularies
            vocabulary.pad(len(vocabulary.tokens) + 1)
        kind = TokenType.CONTROL if token.get("special") or _looks_special(text) else TokenType.USER_DEFINED
        if number == len(vocabulary.tokens):
            vocabulary.tokens.append(text)
            vocabulary.types.append(kind)
            if vocabulary.scores:
                vocabulary.scores.append(0.0)
        elif vocabulary.tokens[number] != text:
            raise ValueError(
                f"{vocabulary.path}: token {number}: found {text!r} among the added tokens, "
                f"expected {vocabulary.tokens[number]!r} as in the vocabulary"
            )
        elif kind == TokenType.USER_DEFINED and vocabulary.merges and any("\u0100" <= c < "\u0144" for c in text):
            merged.append(token)  # it stands for a space, a line end or half a character, and stays an ordinary token
        elif vocabulary.types[number] not in (TokenType.UNKNOWN, TokenType.BYTE):
            vocabulary.types[number] = kind
    vocabulary.remarks += merged_token_remarks(merged)


def _added_beside_sentencepiece(folder: Path) -> list[dict[str, Any]]:
    """Added tokens of a checkpoint without tokenizer.json."""
    result = {text: {"id": number, "content": text} for text, number in read_json_if_there(
        folder / "added_tokens.json").items()}  # fmt: skip
    result.update((str(token["content"]), token) for token in _added_in_config(folder))
    return list(result.values())


def _added_in_config(folder: Path) -> list[dict[str, Any]]:
    decoder = read_json_if_there(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    return [{**token, "id": int(number)} for number, token in decoder.items()]
