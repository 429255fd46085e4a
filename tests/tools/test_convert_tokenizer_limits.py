"""What a tokenizer.json does and GGUF cannot say: an error, or a remark where llama.cpp leaves it out as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from checkpoints import make_tokenizer
from hf_tokenizers import edit, read


def _set_regex(value: dict[str, Any]) -> None:
    value["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\p{Han}+"}


def _template(before: list[str], after: list[str]) -> dict[str, Any]:
    """A post-processor that puts tokens around each text."""
    special = [{"SpecialToken": {"id": text, "type_id": 0}} for text in [*before, *after]]
    single = [*special[: len(before)], {"Sequence": {"id": "A", "type_id": 0}}, *special[len(before) :]]
    ids = {"<|begin|>": 0, "<|end|>": 1}
    tokens = {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in {*before, *after}}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens}


def _renamed() -> dict[str, Any]:
    """A post-processor that calls <|end|> <|begin|>: Hugging Face goes by the ids."""
    value = _template(["<|begin|>"], [])
    value["special_tokens"]["<|begin|>"]["ids"] = [1]
    return value


@pytest.mark.parametrize(
    ("processor", "around"),
    [
        (None, ([], [])),
        (_template([], []), ([], [])),
        (_template(["<|begin|>"], []), ([0], [])),
        (_template(["<|begin|>"], ["<|end|>"]), ([0], [1])),
        ({"type": "RobertaProcessing", "cls": ["<|begin|>", 0], "sep": ["<|end|>", 1]}, ([0], [1])),
        (
            {"type": "Sequence", "processors": [{"type": "ByteLevel"}, _template([], ["<|end|>"])]},
            ([], [1]),
        ),
    ],
)
def test_post_processors(tmp_path: Path, processor: Any, around: tuple[list[int], list[int]]) -> None:
    make_tokenizer(tmp_path, "qwen2")
    if processor is not None and processor["type"] == "RobertaProcessing":
        processor = {**processor, "trim_offsets": True, "add_prefix_space": False}
    if processor is not None and processor["type"] == "Sequence":
        plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        processor = {**processor, "processors": [plain, processor["processors"][1]]}
    edit(tmp_path / "tokenizer.json", lambda value: value.update(post_processor=processor))
    vocabulary = read(tmp_path)
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain_ids = hugging_face.encode("tale", add_special_tokens=False).ids
    assert hugging_face.encode("tale").ids == [*around[0], *plain_ids, *around[1]]
    assert (vocabulary.add_bos, vocabulary.add_eos) == (bool(around[0]), bool(around[1]))


@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
def test_nfc_is_remarked(tmp_path: Path, normalizer: dict[str, Any]) -> None:
    make_tokenizer(tmp_path, "qwen2")
    assert read(tmp_path).remarks == []
    edit(tmp_path / "tokenizer.json", lambda value: value.update(normalizer=normalizer))
    (remark,) = read(tmp_path).remarks
    assert "NFC" in remark
    assert "U+0301" in remark


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json"])
def test_flags_of_added_tokens_are_remarked(tmp_path: Path, flag: str, place: str) -> None:
    size = make_tokenizer(tmp_path, "qwen2")
    token = {"id": size, "content": "<tool>", "special": False, "normalized": False}
    edit(tmp_path / "tokenizer.json", lambda value: value["added_tokens"].append(token))
    assert read(tmp_path, vocab_size=size + 1).remarks == []
    if place == "tokenizer.json":
        edit(tmp_path / place, lambda value: value["added_tokens"][-1].update({flag: True}))
    else:
        flagged = {"content": "<tool>", "special": True, flag: True}
        edit(tmp_path / place, lambda value: value.update(added_tokens_decoder={str(size): flagged}))
    vocabulary = read(tmp_path, vocab_size=size + 1)
    (remark,) = vocabulary.remarks
    assert "'<tool>'" in remark
    assert f"({flag})" in remark
    assert vocabulary.types[size] == (4 if place == "tokenizer.json" else 3)


def test_added_tokens_that_merges_make(tmp_path: Path) -> None:
    """Hugging Face takes their texts for bytes, as those of other tokens: \u0120 is a space."""
    make_tokenizer(tmp_path, "qwen2")
    vocab = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    text = next(text for text in vocab if text.startswith("\u0120") and len(text) > 3)
    flags = dict.fromkeys(("special", "normalized", "single_word", "lstrip", "rstrip"), False)
    token = {"id": vocab[text], "content": text, **flags}
    edit(tmp_path / "tokenizer.json", lambda value: value["added_tokens"].append(token))
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert hugging_face.encode(text).ids == hugging_face.encode(text.replace("\u0120", " ")).ids == [vocab[text]]
    assert hugging_face.decode([vocab[text]]) == text.replace("\u0120", " ")
    vocabulary = read(tmp_path)
    assert vocabulary.types[vocab[text]] == 1
    (remark,) = vocabulary.remarks
    assert repr(text) in remark


def test_spaces_that_metaspace_leaves_out_are_remarked(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "spm")
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False}
    edit(tmp_path / "tokenizer.json", lambda value: value.update(normalizer=None, pre_tokenizer=metaspace))
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert hugging_face.encode(" tale").ids == hugging_face.encode("tale").ids  # what the remark is about
    assert any("begins with a space" in remark for remark in read(tmp_path).remarks)


@pytest.mark.parametrize("kind", ["qwen2", "spm"])
def test_sequences_in_sequences(tmp_path: Path, kind: str) -> None:
    make_tokenizer(tmp_path, kind)
    before = read(tmp_path)
    for stage, parts in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        edit(
            tmp_path / "tokenizer.json",
            lambda value, stage=stage, parts=parts: (
                value.update({stage: {"type": "Sequence", parts: [value[stage], {"type": "Sequence", parts: []}]}})
                if value[stage]
                else None
            ),
        )
    tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # is a tokenizer
    assert read(tmp_path) == before


def test_spaces_behind_added_tokens_are_remarked(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "spm")
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    edit(tmp_path / "tokenizer.json", lambda value: value["added_tokens"][1].update(normalized=True))
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "a<|end|>b"
    assert other.encode(text).ids != hugging_face.encode(text).ids  # what the remark is about
    assert any("'<|end|>' (normalized)" in remark for remark in read(tmp_path).remarks)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v["model"].update(ignore_merges=True), "ignore_merges"),
        (lambda v: v["model"].update(byte_fallback=False, fuse_unk=False), "fuse_unk"),
        (lambda v: v["model"].update(byte_fallback=False), "byte_fallback.*'<0x00>'"),
        (lambda v: v.update(decoder={"type": "ByteLevel"}), "decoder .*'ByteLevel'"),
        (lambda v: v["decoder"]["decoders"][0].update(content="_"), "decoder .*'Replace'"),
        (lambda v: v["decoder"]["decoders"][3].update(start=2), "decoder .*'Strip'"),
        (lambda v: v["normalizer"]["normalizers"].append({"type": "Prepend", "prepend": "\u2581"}), "'Prepend'"),
        (lambda v: v["normalizer"]["normalizers"].append({"type": "Lowercase"}), "'Lowercase'"),
    ],
)
def test_spm_tokenizers_that_cannot_be_expressed(tmp_path: Path, change: Any, expected: str) -> None:
    make_tokenizer(tmp_path, "spm")
    edit(tmp_path / "tokenizer.json", change)
    with pytest.raises(ValueError, match=expected):
        read(tmp_path)


@pytest.mark.parametrize("number", [-1, 400, 2**32 - 1])
def test_special_ids_that_are_no_tokens_are_left_out(tmp_path: Path, number: int) -> None:
    make_tokenizer(tmp_path, "qwen2")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "unk_token": "<none>"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, number]}))
    vocabulary = read(tmp_path, pad_token_id=number, bos_token_id=number)
    assert vocabulary.special_ids == {"eos": 1}
    named = ["unk_token"] if number == -1 else ["bos_token_id", "unk_token", "pad_token_id", "eos_token_id"]
    assert [remark.split(" ")[0] for remark in vocabulary.remarks] == named


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set_regex, r"splits like this: \\p\{Han\}\+.*expected the rules of one of"),
        (lambda v: v["model"].update(ignore_merges=True), "ignore_merges true"),
        (
            lambda v: v["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
            "adds a space before",
        ),
        (lambda v: v["model"].update(type="Unigram"), "found tokenizer model 'Unigram', expected 'BPE'"),
        (lambda v: v["model"]["merges"].append(["Z", "QQ"]), "merge of 'Z' and 'QQ'"),
        (lambda v: v["model"]["merges"].append("a b c"), "found merge 'a b c'"),
        (lambda v: v["model"]["vocab"].update(extra=900), "token 'extra': found id 900"),
        (lambda v: v["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (lambda v: v["added_tokens"].append({"id": 5, "content": "<other>"}), "token 5: found '<other>'"),
        (lambda v: v.update(pre_tokenizer=None), "neither byte-level rules nor spaces"),
        (lambda v: v.update(pre_tokenizer=None, normalizer={"type": "Lowercase"}), "'Lowercase'"),
        (lambda v: v.update(normalizer={"type": "Lowercase"}), "normalizer .'type': 'Lowercase'.*as they are written"),
        (lambda v: v.update(normalizer={"type": "NFKC"}), "'NFKC'"),
        (
            lambda v: v.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}),
            "'Strip'",
        ),
        (lambda v: v.update(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "b"}), "'Replace'"),
        (lambda v: v.update(decoder={"type": "WordPiece", "prefix": "##"}), "decoder .*'WordPiece'"),
        (lambda v: v.update(post_processor=_template(["<|end|>"], [])), "puts .'<.end.>'. before each text"),
        (lambda v: v.update(post_processor=_template(["<|begin|>"] * 2, [])), "puts .* before each text"),
        (lambda v: v.update(post_processor=_renamed()), "puts .'<.end.>'. before each text"),
        (
            lambda v: v.update(post_processor={**_renamed(), "special_tokens": {}}),
            "'<.begin.>', which its special_tokens",
        ),
        (lambda v: v.update(post_processor=_template([], ["<|begin|>"])), "puts .'<.begin.>'. behind each text"),
        (
            lambda v: v.update(
                post_processor={"type": "BertProcessing", "sep": ["<|end|>", 1], "cls": ["<|begin|>", 5]}
            ),
            r"puts .'\$'. before each text",  # the id counts, not the text beside it
        ),
        (lambda v: v.update(post_processor={"type": "Odd"}), "post-processor .*'Odd'"),
    ],
)
def test_tokenizers_that_cannot_be_expressed(tmp_path: Path, change: Any, expected: str) -> None:
    make_tokenizer(tmp_path, "qwen2")
    edit(tmp_path / "tokenizer.json", change)
    with pytest.raises(ValueError, match=expected) as error:
        read(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        read(tmp_path, vocab_size=5)
