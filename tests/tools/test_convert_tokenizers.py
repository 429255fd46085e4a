"""Conversion of tokenizers: metadata against the tokenizer's own JSON and Hugging Face's behaviour."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from checkpoints import make_checkpoint, make_tokenizer
from frspec_cpp.tools.pretokenizers import pretokenizer_name
from frspec_cpp.tools.vocabulary import Vocabulary
from gguf_values import metadata
from hf_tokenizers import edit, read
from sentencepiece_files import sentencepiece_model


@pytest.mark.parametrize("kind", ["llama-bpe", "smaug-bpe", "qwen2", "qwen35", "gpt-2", "smollm"])
def test_byte_level_bpe(tmp_path: Path, kind: str) -> None:
    make_tokenizer(tmp_path, kind)
    vocabulary = read(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", kind)
    assert vocabulary.tokens == sorted(model["vocab"], key=model["vocab"].__getitem__)
    assert vocabulary.merges == [" ".join(merge) for merge in model["merges"]]
    assert vocabulary.types[:3] == [3, 3, 1]
    assert vocabulary.special_ids == {"bos": 0, "eos": 1}
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert vocabulary.add_bos == (hugging_face.encode("tale").ids[0] == 0)
    assert not vocabulary.add_eos
    assert vocabulary.chat_templates[""].startswith("{% for m in messages %}")


def test_both_spellings_of_merges(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "qwen2")
    lists = read(tmp_path)

    def as_strings(value: dict[str, Any]) -> None:
        value["model"]["merges"] = [" ".join(merge) for merge in value["model"]["merges"]]

    edit(tmp_path / "tokenizer.json", as_strings)
    assert read(tmp_path) == lists


def test_spm_scores_follow_the_merges(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "spm")
    vocabulary = read(tmp_path)
    assert (vocabulary.model, vocabulary.add_space_prefix, vocabulary.remarks) == ("llama", True, [])
    assert vocabulary.types[:4] == [3, 3, 2, 6]
    assert vocabulary.add_bos
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("The river carries the rain", "a  tale,\n\ntold", "Größe 東京 \U0001f30a", " x"):
        expected = hugging_face.encode(text, add_special_tokens=False).ids
        assert spm_reference(vocabulary, "\u2581" + text.replace(" ", "\u2581")) == expected, text


def spm_reference(vocabulary: Vocabulary, text: str) -> list[int]:
    """SPM as the GGUF describes it: join the best-scored neighbours until nothing joins; bytes for others."""
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    symbols = list(text)
    while True:
        joined = [
            (-vocabulary.scores[ids[left + right]], at)
            for at, (left, right) in enumerate(itertools.pairwise(symbols))
            if left + right in ids
        ]
        if not joined:
            break
        at = min(joined)[1]
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
    result = []
    for symbol in symbols:
        bytewise = [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
        result += [ids[symbol]] if symbol in ids else bytewise
    return result


def test_bpe_with_other_merges_than_spm_is_remarked(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "spm")
    edit(tmp_path / "tokenizer.json", lambda value: value["model"]["merges"].pop())
    assert any("without being a merge" in remark for remark in read(tmp_path).remarks)


def test_metaspace_pre_tokenizer(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "spm")

    def newer_style(value: dict[str, Any]) -> None:
        value["normalizer"] = None
        value["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        }

    edit(tmp_path / "tokenizer.json", newer_style)
    assert read(tmp_path).add_space_prefix is True
    edit(tmp_path / "tokenizer.json", lambda value: value["pre_tokenizer"].update(prepend_scheme="never"))
    assert read(tmp_path).add_space_prefix is False


def test_added_tokens(tmp_path: Path) -> None:
    size = make_tokenizer(tmp_path, "qwen2")

    def add(value: dict[str, Any]) -> None:
        for offset, (text, special) in enumerate(
            [("<|im_start|>", True), ("<tool>", False), ("<|fim|>", False)], start=size
        ):
            value["added_tokens"].append({"id": offset, "content": text, "special": special})

    edit(tmp_path / "tokenizer.json", add)
    vocabulary = read(tmp_path, vocab_size=size + 4)
    assert vocabulary.tokens[size:] == ["<|im_start|>", "<tool>", "<|fim|>", f"[PAD{size + 3}]"]
    assert vocabulary.types[size:] == [3, 4, 3, 5]
    with pytest.raises(ValueError, match=rf"tokenizer\.json: found {size + 3} tokens, expected at most {size}"):
        read(tmp_path, vocab_size=size)


def test_several_ends_of_generation(tmp_path: Path) -> None:
    size = make_tokenizer(tmp_path, "llama-bpe")
    texts = ["<|eom_id|>", "<|eot_id|>", "<|odd|>"]
    edit(
        tmp_path / "tokenizer.json",
        lambda value: value["added_tokens"].extend(
            {"id": size + i, "content": text, "special": True} for i, text in enumerate(texts)
        ),
    )
    ends = [1, size, size + 1, size + 2]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    vocabulary = read(tmp_path, vocab_size=size + 3)
    assert vocabulary.special_ids == {"bos": 0, "eos": 1, "eom": size, "eot": size + 1}
    assert any("<|odd|>" in remark for remark in vocabulary.remarks)


@pytest.mark.parametrize(
    ("tokenizer_class", "setting", "template", "expected"),
    [
        ("PreTrainedTokenizerFast", None, True, True),
        ("PreTrainedTokenizerFast", False, True, True),
        ("PreTrainedTokenizerFast", None, False, False),
        ("PreTrainedTokenizerFast", True, False, True),
        ("LlamaTokenizerFast", False, True, False),
        ("LlamaTokenizer", True, False, True),
    ],
)
def test_add_bos(tmp_path: Path, tokenizer_class: str, setting: bool | None, template: bool, expected: bool) -> None:
    make_tokenizer(tmp_path, "llama-bpe" if template else "qwen2")
    change = {"tokenizer_class": tokenizer_class, "add_bos_token": setting}
    edit(tmp_path / "tokenizer_config.json", lambda value: value.update(change))
    assert read(tmp_path).add_bos is expected


@pytest.mark.parametrize(
    ("tokenizer_class", "setting", "expected"),
    [
        ("LlamaTokenizerFast", False, False),
        ("LlamaTokenizer", True, True),
        ("CodeLlamaTokenizer", None, True),
        ("PreTrainedTokenizerFast", False, True),  # goes by tokenizer.json
    ],
)
def test_add_prefix_space(tmp_path: Path, tokenizer_class: str, setting: bool | None, expected: bool) -> None:
    make_tokenizer(tmp_path, "spm")
    settings = {"tokenizer_class": tokenizer_class, "add_prefix_space": setting, "bos_token": "<|begin|>"}
    edit(tmp_path / "tokenizer_config.json", lambda value: value.update(settings))
    assert read(tmp_path).add_space_prefix == expected
    if int(transformers.__version__.split(".")[0]) < 5:
        return  # it would need SentencePiece's own file
    hugging_face = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert hugging_face.tokenize("tale")[0].startswith("\u2581") == expected


@pytest.mark.parametrize(
    ("kind", "tokenizer_class", "refused"),
    [
        ("gpt-2", "PreTrainedTokenizerFast", True),
        ("qwen2", "GPT2TokenizerFast", True),
        ("qwen2", "PreTrainedTokenizerFast", False),
    ],
)
def test_add_prefix_space_of_byte_level_tokenizers(
    tmp_path: Path, kind: str, tokenizer_class: str, refused: bool
) -> None:
    make_tokenizer(tmp_path, kind)
    for setting in (False, True):
        settings = {"tokenizer_class": tokenizer_class, "add_prefix_space": setting}
        edit(tmp_path / "tokenizer_config.json", lambda value, new=settings: value.update(new))
        if not (setting and refused):
            assert read(tmp_path).pre == kind
            continue
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: key 'add_prefix_space': found true"):
            read(tmp_path)


def test_chat_templates(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "model", "llama-bpe")
    file = tmp_path / "model" / "tokenizer_config.json"
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    folder = make_checkpoint(tmp_path / "model", "llama")
    edit(file, lambda value: value.update(chat_template=named))
    from frspec_cpp.tools.convert import convert

    from frspec_cpp import Tokenizer

    convert(folder, tmp_path / "out.gguf")
    found = metadata(tmp_path / "out.gguf")
    assert found["tokenizer.chat_template"] == "D"
    assert found["tokenizer.chat_template.tool_use"] == "T"
    assert found["tokenizer.chat_templates"] == ["tool_use"]
    # As processors kept it, then as transformers does now.
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "P"}))
    convert(folder, tmp_path / "out.gguf")
    assert metadata(tmp_path / "out.gguf")["tokenizer.chat_template"] == "P"
    (folder / "chat_template.jinja").write_text("J")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    convert(folder, tmp_path / "out.gguf")
    found = metadata(tmp_path / "out.gguf")
    assert found["tokenizer.chat_template"] == "J"
    assert found["tokenizer.chat_templates"] == ["rag", "tool_use"]
    assert Tokenizer(tmp_path / "out.gguf").chat_templates == {"": "J", "rag": "R", "tool_use": "T"}
    (folder / "additional_chat_templates" / "rag.jinja").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"rag\.jinja: byte 2"):
        convert(folder, tmp_path / "out.gguf")


def test_sentencepiece_model(tmp_path: Path) -> None:
    pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0x41>", 0.0, 6),
        ("\u2581the", -1.5, 1),
    ]
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<extra>": 5}))
    vocabulary = read(tmp_path, vocab_size=6)
    assert vocabulary.model == "llama"
    assert vocabulary.tokens == [text for text, _, _ in pieces] + ["<extra>"]
    assert vocabulary.types == [2, 3, 3, 6, 1, 4]
    assert vocabulary.scores[4] == -1.5
    assert vocabulary.add_space_prefix is False
    assert vocabulary.special_ids == {"bos": 1, "eos": 2, "unknown": 0}
    assert vocabulary.add_bos


def test_what_sentencepiece_does_to_texts(tmp_path: Path) -> None:
    pieces = [("\u2581the", -1.5, 1)]
    charsmap, spaces, unescaped, suffix = b"\x12\x03abc", b"\x20\x01", b"\x28\x00", b"\xc0\x01\x01"
    for normalizer, expected in (
        (b"\x20\x00", []),
        (b"", ["remove_extra_whitespaces"]),
        (spaces, ["remove_extra_whitespaces"]),
        (charsmap + b"\x20\x00", ["precompiled_charsmap"]),
        (charsmap, ["precompiled_charsmap", "remove_extra_whitespaces"]),
    ):
        (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces, normalizer=normalizer))
        remarks = read(tmp_path, vocab_size=1).remarks
        assert [word in remark for word, remark in zip(expected, remarks, strict=True)] == [True] * len(expected)
    for model, expected_error in (
        (sentencepiece_model(pieces, normalizer=unescaped), "escape_whitespaces 0, expected 1"),
        (sentencepiece_model(pieces, trainer=suffix), "treat_whitespace_as_suffix 1, expected 0"),
    ):
        (tmp_path / "tokenizer.model").write_bytes(model)
        with pytest.raises(ValueError, match=expected_error):
            read(tmp_path, vocab_size=1)


def test_damaged_sentencepiece_models(tmp_path: Path) -> None:
    whole = sentencepiece_model([("\u2581the", -1.5, 1)])
    for data, expected in (
        (whole[:9], "not a whole SentencePiece model"),
        (b"\xff" * 40, "not a whole SentencePiece model"),
        (b"", "holds no tokens"),
        (sentencepiece_model([("a", 0.0, 1)], model_type=1), "model type 1, expected 2"),
    ):
        (tmp_path / "tokenizer.model").write_bytes(data)
        with pytest.raises(ValueError, match=expected):
            read(tmp_path, vocab_size=10)


def test_sentencepiece_agrees_with_the_package(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("the river carries the snow to the sea\nthere was a tale the old people told\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    size = processor.get_piece_size()
    vocabulary = read(tmp_path, vocab_size=size)
    assert vocabulary.tokens == [processor.id_to_piece(i) for i in range(size)]
    assert vocabulary.scores == [processor.get_score(i) for i in range(size)]
    assert [kind == 6 for kind in vocabulary.types] == [processor.is_byte(i) for i in range(size)]
    assert [kind == 3 for kind in vocabulary.types] == [processor.is_control(i) for i in range(size)]
    sentence = "the people told the sea"
    assert spm_reference(vocabulary, "\u2581" + sentence.replace(" ", "\u2581")) == processor.encode(sentence)


def test_steps_that_stand_for_expressions() -> None:
    """Chameleon's own tokenizer.json names two of its rules."""
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    expressions = ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )"]
    for behavior in ("Isolated", "Contiguous"):
        stages = [
            *({**isolated, "pattern": {"Regex": expression}} for expression in expressions),
            {"type": "Digits", "individual_digits": True},
            {"type": "Punctuation", "behavior": behavior},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]
        tokenizer = {"model": {}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": stages}}
        if behavior == "Isolated":
            assert pretokenizer_name(Path("tokenizer.json"), tokenizer) == "chameleon"
        else:
            with pytest.raises(ValueError, match="no known pre-tokenizer splits like this"):
                pretokenizer_name(Path("tokenizer.json"), tokenizer)
