"""Vocabularies that llama.cpp loads although something in them is wrong: they load, and a warning says what is done."""

from __future__ import annotations

import itertools
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from gguf_edit import GgufEditor

from frspec_cpp import ModelWarning, Tokenizer

from .conftest import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, VocabularyWriter, byte_level

SPM_TOKENS = ["<unk>", "<s>", "</s>", "\u2581", "a", "b"]
SPM = {"scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0], "token_type": [UNKNOWN, CONTROL, CONTROL, NORMAL, NORMAL, NORMAL]}


def load(path: Path) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of a file, and the warnings that loading gave; each names the file and is one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = Tokenizer(path)
    messages = [str(warning.message) for warning in caught]
    assert all(warning.category is ModelWarning and warning.filename == __file__ for warning in caught)
    assert all(path.name in message and "\n" not in message for message in messages)
    return tokenizer, messages


# ---- ids of special tokens


ROLES = ["bos", "eos", "eot", "eom", "unknown", "padding", "fim_pad", "fim_rep", "fim_sep"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("number", [6, 99, 2**32 - 1, -1])
def test_ids_that_are_no_tokens_are_ignored(write: VocabularyWriter, role: str, number: int) -> None:
    sound, none = load(write("llama", SPM_TOKENS, **SPM))
    tokenizer, messages = load(write("llama", SPM_TOKENS, **SPM, **{f"{role}_token_id": number}))
    assert none == []
    assert [f"{role}_token_id" in message and f"found {number}, expected" in message for message in messages] == [True]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("ab") == sound.encode("ab") == [1, 3, 4, 5]
    assert [tokenizer.is_eog(i) for i in range(6)] == [sound.is_eog(i) for i in range(6)]


def test_a_bos_that_is_asked_for_but_no_token_is_an_error(write: VocabularyWriter) -> None:
    tokenizer, messages = load(write.bpe(["ab"], bos_token_id=5000)[0])
    assert (tokenizer.bos_id, len(messages)) == (None, 1)
    path, _ = write.bpe(["ab"], bos_token_id=5000, add_bos_token=True)
    with pytest.raises(ValueError, match="add_bos_token"):
        Tokenizer(path)


# ---- types


MARKS = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[EOT]",
    "<|tool_response>",
    "</s>",
]


@pytest.mark.parametrize("kind", [NORMAL, UNUSED, USER_DEFINED])
@pytest.mark.parametrize("mark", MARKS)
def test_end_of_turn_tokens_of_other_types(write: VocabularyWriter, mark: str, kind: int) -> None:
    named = {"eos_token_id": 257} if (mark, kind) == ("</s>", USER_DEFINED) else {}
    path, tokens = write.bpe([], {mark: kind}, **named)
    mark_id = tokens.index(mark)
    tokenizer, messages = load(path)
    assert len(messages) == 1
    assert f"found type {kind} for token {mark_id}" in messages[0]
    assert int(tokenizer.token_type(mark_id)) == CONTROL
    assert tokenizer.is_eog(mark_id)
    assert tokenizer.encode(f"a{mark}", parse_special=True) == [ord("a"), mark_id]
    assert mark_id not in tokenizer.encode(f"a{mark}")
    assert tokenizer.decode([mark_id]) == ""
    assert tokenizer.decode([mark_id], special=True) == mark


def test_marks_that_end_nothing_are_found_in_templates(write: VocabularyWriter) -> None:
    marks = {"<|im_start|>": NORMAL, "<start_of_turn>": NORMAL, "<\uff5cUser\uff5c>": NORMAL, "<|fim_prefix|>": NORMAL}
    path, tokens = write.bpe([], marks)
    tokenizer, messages = load(path)
    assert len(messages) == 1
    assert "and the like for 3 more" in messages[0]
    for mark in marks:
        assert tokenizer.encode(mark, parse_special=True) == [tokens.index(mark)]
        assert not tokenizer.is_eog(tokens.index(mark))


def test_marks_of_code_to_fill_in(write: VocabularyWriter) -> None:
    marks = dict.fromkeys(
        ["\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "<fim_prefix>"], USER_DEFINED
    )  # CodeLlama's, and Granite's
    path, tokens = write.bpe([], marks)
    tokenizer, messages = load(path)
    assert len(messages) == 1
    assert [int(tokenizer.token_type(tokens.index(mark))) for mark in marks] == [CONTROL] * 4
    assert tokenizer.encode("".join(marks), parse_special=True) == [tokens.index(mark) for mark in marks]


def test_named_ends_are_control_tokens(write: VocabularyWriter) -> None:
    path, _ = write.bpe([], {"~end of turn~": NORMAL, "~begin~": NORMAL}, eot_token_id=257, bos_token_id=258)
    tokenizer, messages = load(path)
    assert len(messages) == 1
    assert [tokenizer.is_eog(i) for i in (257, 258)] == [True, False]
    assert tokenizer.encode("~begin~~end of turn~", parse_special=True) == [258, 257]


def test_words_are_no_marks(write: VocabularyWriter) -> None:
    # Merges make these from ordinary text, so they are text.
    path, tokens = write.bpe(["<PRE>", "</s>", "<|end|>"])
    tokenizer, messages = load(path)
    assert messages == []
    for word in ("<PRE>", "</s>", "<|end|>"):
        assert int(tokenizer.token_type(tokens.index(word))) == NORMAL
        assert not tokenizer.is_eog(tokens.index(word))
    # And so is a tag that was added beside another end of texts.
    path, tokens = write.bpe([], {"</s>": USER_DEFINED, "<|im_end|>": CONTROL})
    tokenizer, messages = load(path)
    assert messages == []
    assert [tokenizer.is_eog(tokens.index(text)) for text in ("</s>", "<|im_end|>")] == [False, True]
    assert tokenizer.decode(tokenizer.encode("<s>x</s>")) == "<s>x</s>"


def test_spm_marks(write: VocabularyWriter) -> None:
    tokens = [*SPM_TOKENS, "<|im_end|>", "<start_of_turn>", "<P", "<PA", "<PAD", "<PAD>"]
    scores = [*SPM["scores"], 0.0, -1000.0, -4.0, -5.0, -6.0, -7.0]
    tokenizer, messages = load(write("llama", tokens, scores=scores, token_type=[2, 1, 1, *[1] * 9]))
    assert len(messages) == 1
    assert "and the like for 3 more" in messages[0]
    assert tokenizer.encode("<s><|im_end|><start_of_turn></s>", parse_special=True) == [1, 6, 7, 2]
    assert [i for i in range(len(tokens)) if tokenizer.is_eog(i)] == [2, 6]
    assert tokenizer.encode("<PAD>", add_special=False) == [3, 11]


def test_unknown_types_are_undefined(write: VocabularyWriter) -> None:
    path = write("gpt2", ["a", "b", "ab"], merges=["a b"], pre="gpt-2", token_type=[1, 7, -1])
    tokenizer, messages = load(path)
    assert len(messages) == 1
    assert "token_type': found 7 for token 1, expected" in messages[0]
    assert [int(tokenizer.token_type(i)) for i in range(3)] == [1, 0, 0]
    assert tokenizer.encode("abb") == [2, 1]


def test_vocabularies_without_types(write: VocabularyWriter) -> None:
    tokenizer, messages = load(write("llama", [*SPM_TOKENS, "<0x63>"], scores=[*SPM["scores"], 0.0]))
    assert (tokenizer.bos_id, tokenizer.eos_id, len(messages)) == (1, 2, 1)
    assert tokenizer.encode("ac") == [1, 3, 4, 6]
    assert tokenizer.decode([1, 3, 4, 6, 2]) == "ac"
    assert int(tokenizer.token_type(6)) == BYTE


def test_arrays_beside_the_tokens(write: VocabularyWriter) -> None:
    sound, _ = load(write("llama", SPM_TOKENS, **SPM))
    longer = {"scores": [*SPM["scores"], -4.0], "token_type": [*SPM["token_type"], NORMAL, NORMAL]}
    tokenizer, messages = load(write("llama", SPM_TOKENS, **longer))
    assert ["scores" in messages[0], "token_type" in messages[1], len(messages)] == [True, True, 2]
    whole, none = load(write("llama", SPM_TOKENS, **{**SPM, "scores": [0, 0, 0, -1, -2, -3]}))
    assert none == []
    for text in ("ab ba", "a  b"):
        assert tokenizer.encode(text) == whole.encode(text) == sound.encode(text)
    # Byte-level BPE has no use for scores.
    path, _ = write.bpe(["ab"], scores=[float("nan")])
    assert load(path)[1] == []


# ---- merges


def llama_cpp_bpe(word: str, ranks: dict[tuple[str, str], int], tokens: list[str]) -> list[int]:
    """Byte-level BPE over texts: pieces need not be tokens; what is none in the end is spelled byte by byte."""
    symbols = list(word)
    while True:
        pairs = [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]
        if not pairs:
            break
        at = min(pairs)[1]
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
    pieces = [piece for s in symbols for piece in ([s] if s in tokens else s)]
    return [tokens.index(piece) for piece in pieces]


def test_merges_of_pieces_that_are_no_tokens(write: VocabularyWriter) -> None:
    source = random.Random(7)
    words = ["abcabc", "abacus", "cab", "bcd", "caf\u00e9", "dabba", "ccc"]
    _, whole = write.bpe(words)
    merges = [f"{byte_level(w)[:end]} {byte_level(w)[end]}" for w in words for end in range(1, len(byte_level(w)))]
    assert len(merges) > len(set(merges))  # the first of a pair counts
    for _ in range(8):
        gone = set(source.sample(range(256, len(whole)), 8))
        tokens = [text for i, text in enumerate(whole) if i not in gone]
        path = write("gpt2", tokens, merges=merges, pre="gpt-2", token_type=[NORMAL] * len(tokens))
        tokenizer, messages = load(path)
        assert any("expected two tokens that together are a token" in message for message in messages)
        ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed(list(enumerate(merges)))}
        for _ in range(60):
            text = "".join(source.choices("abcd\u00e9us", k=source.randrange(1, 150)))
            assert tokenizer.encode(text) == llama_cpp_bpe(byte_level(text), ranks, tokens), text
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("merges", "found"),
    [
        (["ab", "a b"], '"ab" as merge 0'),
        (["a ", "a b"], '"a " as merge 0'),
        ([" b", "a b"], '" b" as merge 0'),
        (["a b", "", "ba"], '"" as merge 1, and 1 more like it'),
        (["a b", "a b"], '"a b" as merge 1'),
        (["a b", "a b c"], '"a b c" as merge 1'),
        (["a b", "a x"], '"a x" as merge 1'),
        (["a b", "x y"], '"x y" as merge 1'),
    ],
)
def test_merges_that_do_nothing(write: VocabularyWriter, merges: list[str], found: str) -> None:
    tokenizer, messages = load(write("gpt2", ["a", "b", "ab"], merges=merges, pre="gpt-2", token_type=[NORMAL] * 3))
    assert len(messages) == 1
    assert f"tokenizer.ggml.merges': found {found}, expected" in messages[0]
    assert tokenizer.encode("abba") == [2, 1, 0]


# ---- the rest


@pytest.mark.parametrize("pre", ["", None])
def test_no_pre_tokenizer_is_the_default_one(write: VocabularyWriter, pre: str | None) -> None:
    path, _ = write.bpe(["don't", " 1234"], pre=pre)
    tokenizer, messages = load(path)
    assert len(messages) == 1
    assert "tokenizer.ggml.pre': found nothing" in messages[0]
    named, _ = load(write.bpe(["don't", " 1234"], pre="default")[0])
    assert tokenizer.pre == "default"
    assert tokenizer.encode("don't 1234 5") == named.encode("don't 1234 5")


@pytest.mark.parametrize("text", ["a b", "\u4e2d", b"\xff"])
def test_added_tokens_of_type_normal_spell_their_text(write: VocabularyWriter, text: str | bytes) -> None:
    tokens: list[Any] = ["a", "b", "ab", text]
    tokenizer, messages = load(write("gpt2", tokens, merges=["a b"], pre="gpt-2", token_type=[NORMAL] * 4))
    assert len(messages) == 1
    assert "as token 3, which is of type normal" in messages[0]
    assert tokenizer.token_bytes(3) == (text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("value", [["a", "b"], 5, True])
def test_chat_templates_that_are_no_text_are_ignored(write: VocabularyWriter, tmp_path: Path, value: Any) -> None:
    file = GgufEditor(write.bpe(["ab"], chat_template="{{ messages }}")[0])
    file.set("tokenizer.chat_template.rag", "{{ rag }}")
    tokenizer, messages = load(file.write(tmp_path / "sound.gguf"))
    assert (tokenizer.chat_templates, messages) == ({"": "{{ messages }}", "rag": "{{ rag }}"}, [])
    file.set("tokenizer.chat_template", value)
    tokenizer, messages = load(file.write(tmp_path / "loose.gguf"))
    assert tokenizer.chat_templates == {"rag": "{{ rag }}"}
    assert len(messages) == 1
    assert "'tokenizer.chat_template': found" in messages[0]
    assert tokenizer.encode("ab") == [256]


def test_warnings_may_be_errors(write: VocabularyWriter) -> None:
    path, _ = write.bpe(["ab"], padding_token_id=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModelWarning, match="padding_token_id"):
            Tokenizer(path)
    assert issubclass(ModelWarning, UserWarning)
