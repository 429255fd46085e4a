"""Special tokens: BOS and EOS, finding them in texts, the end of a generation, fingerprints."""

from __future__ import annotations

import random

import pytest
from frspec_cpp._core import TokenType, pretokenizers
from tokenizers import AddedToken

from frspec_cpp import Tokenizer

from .conftest import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, VocabularyWriter, byte_level, hf_from_gguf


def test_control_tokens_only_on_request(write: VocabularyWriter) -> None:
    path, tokens = write.bpe(["hello"], {"<|a|>": CONTROL, "<|user|>": USER_DEFINED, "<|gone|>": UNUSED})
    tokenizer = Tokenizer(path)
    control, user = tokens.index("<|a|>"), tokens.index("<|user|>")
    plain = tokenizer.encode("hello<|a|><|user|>hello")
    assert control not in plain
    assert user in plain
    assert tokenizer.decode(plain) == "hello<|a|><|user|>hello"
    parsed = tokenizer.encode("hello<|a|><|user|>hello", parse_special=True)
    hello = tokens.index("hello")
    assert parsed == [hello, control, user, hello]
    assert tokenizer.decode(parsed) == "hello<|user|>hello"
    assert tokenizer.decode(parsed, special=True) == "hello<|a|><|user|>hello"
    assert tokens.index("<|gone|>") not in tokenizer.encode("<|gone|>", parse_special=True)
    assert tokenizer.control_ids() == [control]
    assert tokenizer.token_type(control) == TokenType.CONTROL == 3
    assert tokenizer.token_bytes(control) == b"<|a|>"


def leftmost_longest(text: str, special: list[str]) -> list[str]:
    """Text cut at special tokens: the leftmost, the longest of those."""
    pieces, plain, at = [], "", 0
    while at < len(text):
        match = max((s for s in special if text.startswith(s, at)), key=len, default="")
        if match:
            pieces += [plain, match] if plain else [match]
            plain = ""
            at += len(match)
        else:
            plain += text[at]
            at += 1
    return [*pieces, plain] if plain else pieces


def test_leftmost_longest_special_tokens(write: VocabularyWriter) -> None:
    source = random.Random(3)
    for _ in range(40):
        special = {"".join(source.choice("XYZ") for _ in range(source.randrange(2, 7))) for _ in range(8)}
        path, tokens = write.bpe([], dict.fromkeys(sorted(special), CONTROL))
        tokenizer = Tokenizer(path)
        for _ in range(100):
            text = "".join(source.choice("XYZ.") for _ in range(source.randrange(1, 30)))
            expected = []
            for piece in leftmost_longest(text, sorted(special)):
                if piece in special:
                    expected.append(tokens.index(piece))
                else:
                    expected += [tokens.index(c) for c in piece]
            assert tokenizer.encode(text, parse_special=True) == expected, (text, special)


@pytest.mark.parametrize("name", ["Phi-3 mini 4k", "microsoft_PHI3", "Phi 3.5 mini", None])
def test_tokens_of_phi3_take_whitespace_along(write: VocabularyWriter, name: str | None) -> None:
    """As its tokenizer.json says (rstrip). GGUF has no key: llama.cpp goes by the model's name, and so do we."""
    strips = {"<|user|>": CONTROL, "<|tag|>": USER_DEFINED, "</s>": CONTROL}
    others = {"<s>": CONTROL, "<unk>": UNKNOWN, "<|endoftext|>": CONTROL}
    path, _ = write.bpe(["hello"], {**strips, **others}, model_name=name)
    ours, theirs = Tokenizer(path), hf_from_gguf(path)
    is_phi3 = name is not None and "3.5" not in name
    theirs.add_special_tokens(
        [AddedToken(text, rstrip=is_phi3 and text in strips, normalized=False) for text in [*strips, *others]]
    )
    source = random.Random(5)
    pieces = [" ", "\n", "\t", "\u3000", "a", "hello", *strips, *others]
    for _ in range(300):
        text = "".join(source.choice(pieces) for _ in range(source.randrange(1, 12)))
        assert ours.encode(text, parse_special=True) == theirs.encode(text).ids, repr(text)
    # A text of no control tokens: those that are always found strip, too.
    tag = ours.find("<|tag|>")
    assert tag is not None
    assert (ours.encode("<|tag|> \nhello") == [tag, *ours.encode("hello")]) is is_phi3
    assert ours.decode(ours.encode("<|user|> \nhello")) == "<|user|> \nhello"  # ordinary text here


def test_special_tokens_take_linear_time(write: VocabularyWriter) -> None:
    path, tokens = write.bpe([], {"Q" * 50_000 + "!": CONTROL, "Q" * 40_000 + "?": CONTROL})
    ids = Tokenizer(path).encode("Q" * 400_000, parse_special=True)
    assert ids == [tokens.index("Q")] * 400_000


def test_bos_and_eos(write: VocabularyWriter) -> None:
    special = {"<s>": CONTROL, "</s>": CONTROL}
    path, tokens = write.bpe(["hi"], special)
    bos, eos, hi = (tokens.index(text) for text in ("<s>", "</s>", "hi"))
    ids = {"bos_token_id": bos, "eos_token_id": eos}

    def encode(**metadata: object) -> list[int]:
        return Tokenizer(write.bpe(["hi"], special, **metadata)[0]).encode("hi")

    assert encode() == [hi]
    assert encode(**ids) == [hi]
    assert encode(**ids, add_bos_token=True) == [bos, hi]
    assert encode(**ids, add_bos_token=True, add_eos_token=True) == [bos, hi, eos]
    assert encode(**ids, pre="llama-bpe") == [bos, hi]
    assert encode(**ids, pre="llama-bpe", add_bos_token=False) == [hi]
    assert encode(pre="llama-bpe") == [hi]  # a default does not ask for a token that is not there
    assert Tokenizer(path).bos_id is None
    tokenizer = Tokenizer(write.bpe(["hi"], special, **ids, add_bos_token=True, add_eos_token=True)[0])
    assert tokenizer.encode("hi", add_special=False) == [hi]
    assert tokenizer.encode("") == [bos, eos]
    assert tokenizer.adds_bos is True


def test_names_that_skip_merging_and_add_bos(write: VocabularyWriter) -> None:
    """What a pre-tokenizer's name means beside its pattern, for all of llama.cpp's table."""
    # "abc" is a token that merges cannot reach: "b c" comes first and "a bc" does not exist.
    tokens = ["a", "b", "c", "bc", "ab", "abc", "<s>"]
    merges = ["b c", "a b", "ab c"]
    llama3 = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}
    skips = {*llama3, "tekken", "glm4", "glm5", "minicpm5", "youtu", "granite-embed-multi-97m"}
    for pre in pretokenizers():
        path = write("gpt2", tokens, merges=merges, token_type=[NORMAL] * 6 + [CONTROL], pre=pre, bos_token_id=6)
        expected = [5] if pre in skips else [0, 3]
        bos = [6] if pre in {*llama3, "tekken", "chameleon"} else []
        assert Tokenizer(path).encode("abc") == [*bos, *expected], pre


def test_merges_go_by_rank_and_from_the_left(write: VocabularyWriter) -> None:
    tokens = ["a", "b", "aa", "ab", "aab"]
    path = write("gpt2", tokens, merges=["a a", "a b", "a ab"], token_type=[NORMAL] * 5, pre="gpt-2")
    tokenizer = Tokenizer(path)
    assert tokenizer.encode("aaa") == [2, 0]
    assert tokenizer.encode("aaab") == [2, 3]
    assert tokenizer.encode("aab") == [2, 1]
    assert tokenizer.pre == "gpt-2"


@pytest.mark.parametrize(
    ("special", "metadata", "ends"),
    [
        ({"<|eot_id|>": CONTROL, "<|im_end|>": CONTROL, "<|x|>": CONTROL}, {}, {"<|eot_id|>", "<|im_end|>"}),
        ({"</s>": CONTROL, "<end_of_turn>": CONTROL, "<s>": CONTROL}, {}, {"</s>", "<end_of_turn>"}),
        ({"<|x|>": CONTROL, "<|y|>": CONTROL}, {"eos_token_id": 257, "eot_token_id": 258}, {"<|x|>", "<|y|>"}),
        ({"<|end|>": CONTROL}, {}, {"<|end|>"}),
        (
            {"<|end|>": CONTROL, "<|return|>": CONTROL, "<|call|>": CONTROL},
            {},
            {"<|return|>", "<|call|>"},
        ),
    ],
)
def test_end_of_generation(
    write: VocabularyWriter, special: dict[str, int], metadata: dict[str, int], ends: set[str]
) -> None:
    path, tokens = write.bpe([], special, **metadata)
    assert len(tokens) == 257 + len(special)
    tokenizer = Tokenizer(path)
    assert {tokens[i] for i in range(len(tokens)) if tokenizer.is_eog(i)} == ends


def fnv1a(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def test_fingerprint_is_fnv1a(write: VocabularyWriter) -> None:
    path, tokens = write.bpe(["caf\u00e9"], {"<s>": CONTROL})
    expected = fnv1a(str(len(tokens)).encode() + b"".join(text.encode() + b"\0" for text in tokens))
    assert Tokenizer(path).fingerprint == expected
    other, _ = write.bpe(["cafe"], {"<s>": CONTROL})
    assert Tokenizer(other).fingerprint != expected


def test_lookup_by_text(write: VocabularyWriter) -> None:
    path, tokens = write.bpe([" caf\u00e9"], chat_template="{{ x }}")
    tokenizer = Tokenizer(path)
    text = byte_level(" caf\u00e9")
    assert tokenizer.find(text) == tokens.index(text)
    assert tokenizer.token_bytes(tokens.index(text)) == " caf\u00e9".encode()
    assert tokenizer.token_text(tokens.index(text)) == text
    assert tokenizer.find("no such token") is None
    assert tokenizer.chat_template == "{{ x }}"
