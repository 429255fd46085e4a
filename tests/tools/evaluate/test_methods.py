"""Methods: what each makes of the given drafters and heads, and why one does not apply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from eagle3_checkpoints import make_tiny_eagle3
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.evaluate.drafters import DrafterFile, look_at
from frspec_cpp.tools.evaluate.engines import Loader, pieces_of, token_label
from frspec_cpp.tools.evaluate.methods import Choice, custom, make_contenders, rows_of

import frspec_cpp
from frspec_cpp import _core

TREE = {"tree_depth": 3, "tree_branch": 4, "tree_size": 12}
EAGLE2 = DrafterFile(Path("e2.gguf"), "eagle2", 1000)
EAGLE3 = DrafterFile(Path("e3.gguf"), "eagle3", 1000, has_sketch=True)
REDUCED = DrafterFile(Path("r3.gguf"), "eagle3", 300, reduced=True)
MTP = DrafterFile(Path("m.gguf"), "mtp", 1000, shared=1000)
SAME = DrafterFile(Path("small.gguf"), "model", 1000, shared=1000)
OTHER = DrafterFile(Path("other.gguf"), "model", 500, same_vocabulary=False, shared=200)
LETTERS = DrafterFile(Path("letters.gguf"), "model", 90, same_vocabulary=False, characters=True)


def choice(*drafters: DrafterFile, **changes: Any) -> Choice:
    return Choice(**{"drafters": drafters, "heads": [], "ranks": None, "sketch": None, "ngram": 8, "tree": TREE,
                     **changes})  # fmt: skip


def rows(kinds: list[str] | None, given: Choice) -> dict[str, tuple[str | None, int | None]]:
    """Head and rows of each method but plain decoding."""
    first, *others = make_contenders(kinds, given)
    assert (first.method.name, first.draft, first.options) == ("plain", False, {})
    return {one.method.name: (one.method.head, one.method.rows) for one in others}


def test_eagle_kinds_take_their_own_drafters() -> None:
    given = choice(EAGLE2, EAGLE3)
    assert rows(["eagle2"], given) == {"eagle2": ("full", 1000)}
    assert rows(["eagle3", "plain"], given) == {"eagle3": ("full", 1000)}
    assert rows(["eagle3"], choice(REDUCED)) == {"eagle3": ("learned", 300)}
    assert rows(["mtp", "frspec"], choice(MTP)) == {"mtp": ("full", 1000), "frspec ranked:250": ("ranked:250", 250)}
    (_, one) = make_contenders(["eagle2"], given)
    assert one.options == {"drafter": "e2.gguf", "head": "full", **TREE}
    assert one.draft is True
    assert one.method.drafter == "e2.gguf"


def test_frspec_makes_a_method_of_each_ranked_head() -> None:
    heads = ["ranked:100", "full", "ranked:200"]
    given = choice(EAGLE2, heads=[*heads])
    assert rows(["frspec", "heads"], given) == {
        "frspec ranked:100": ("ranked:100", 100),
        "frspec ranked:200": ("ranked:200", 200),
        "ranked:100": ("ranked:100", 100),
        "full": ("full", 1000),
        "ranked:200": ("ranked:200", 200),
    }
    assert rows(["frspec"], choice(EAGLE2)) == {"frspec ranked:250": ("ranked:250", 250)}
    assert rows(["frspec"], choice(EAGLE2, EAGLE3, heads=["ranked:9"])) == {
        "frspec ranked:9 e2": ("ranked:9", 9),
        "frspec ranked:9 e3": ("ranked:9", 9),
    }


def test_files_go_to_the_heads_that_use_them() -> None:
    given = choice(EAGLE2, heads=["full", "ranked:5", "speculated:7", "auto"], ranks=Path("r"), sketch=Path("s"))
    found = {one.method.name: one.options for one in make_contenders(["heads"], given)}
    assert {name: ("ranks" in options, "sketch" in options) for name, options in found.items()} == {
        "plain": (False, False),
        "full": (False, False),
        "ranked:5": (True, False),
        "speculated:7": (False, True),
        "auto, always drafting": (True, True),
    }


def test_specvocab_needs_a_sketch() -> None:
    assert rows(["specvocab"], choice(EAGLE3)) == {"specvocab speculated": ("speculated", None)}
    assert rows(["specvocab"], choice(EAGLE2, sketch=Path("s"), heads=["speculated:64"])) == {
        "specvocab speculated:64": ("speculated:64", None)
    }


def test_models_are_understood_by_their_vocabulary() -> None:
    given = choice(SAME, OTHER, LETTERS)
    assert rows(["model"], given) == {"model": ("full", 1000)}
    assert rows(["slem"], given) == {"slem other": ("full", 500), "slem letters": ("full", 90)}
    assert rows(["tli"], given) == {"tli": ("full", 200)}
    assert rows(["slrs"], given) == {"slrs": ("full", 90)}
    (_, one) = make_contenders(["slrs"], given)
    assert one.options["translate"] == "slrs"


def test_auto_and_ngram() -> None:
    (_, auto, ngram) = make_contenders(["auto", "ngram"], choice(OTHER, ranks=Path("r")))
    assert (auto.draft, auto.options) == ("auto", {"drafter": "other.gguf", "head": "auto"})
    assert (ngram.draft, ngram.options) == (True, {"ngram": 8, **TREE})


def test_by_default_what_applies() -> None:
    assert list(rows(None, choice(EAGLE2))) == ["eagle2", "frspec ranked:250", "ngram", "auto"]
    assert list(rows(None, choice(OTHER))) == ["slem", "tli", "ngram", "auto"]
    assert list(rows(None, choice())) == ["ngram"]
    heads = ["ranked:5", "contextual:6"]
    assert list(rows(None, choice(EAGLE2, heads=heads))) == [
        "eagle2",
        "frspec ranked:5",
        "ngram",
        "auto",
        "contextual:6",
    ]


@pytest.mark.parametrize(
    ("kind", "given", "parts"),
    [
        ("eagle2", choice(), ("found no drafter", "expected an EAGLE-2 drafter")),
        ("eagle2", choice(EAGLE3), ("e3.gguf is an EAGLE-3 drafter", "expected an EAGLE-2 drafter")),
        ("eagle3", choice(EAGLE2, SAME), ("e2.gguf is an EAGLE-2", "small.gguf is a language model")),
        ("frspec", choice(SAME), ("small.gguf is a language model", "an EAGLE or MTP drafter and")),
        ("frspec", choice(EAGLE2, heads=["full"]), ("--head full", "a 'ranked:N' among --head")),
        ("specvocab", choice(EAGLE2), ("e2.gguf is an EAGLE-2 drafter without a sketch", "or --sketch")),
        ("heads", choice(EAGLE2), ("found no --head", "and --head")),
        ("heads", choice(OTHER, heads=["contextual"]), ("other.gguf is a language model with another vocabulary",)),
        (
            "model",
            choice(OTHER),
            ("with another vocabulary", "expected a language model with the target's vocabulary"),
        ),
        ("slem", choice(SAME), ("with the target's vocabulary", "expected a language model with another vocabulary")),
        ("tli", choice(LETTERS), ("with no token in common",)),
        ("slrs", choice(OTHER), ("tokens of several characters", "of characters or bytes")),
        ("mtp", choice(EAGLE2), ("e2.gguf is an EAGLE-2", "expected an MTP drafter")),
        ("model", choice(MTP), ("m.gguf has an MTP block", "expected a language model with the target's vocabulary")),
        ("auto", choice(), ("found no drafter", "expected a drafter")),
    ],
)
def test_what_does_not_apply_is_explained(kind: str, given: Choice, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"--methods {kind}: ") as caught:
        make_contenders([kind], given)
    for part in parts:
        assert part in str(caught.value)


def test_bad_lists() -> None:
    with pytest.raises(ValueError, match=r"found 'eagle4', expected some of plain, eagle2"):
        make_contenders(["eagle4"], choice(EAGLE2))
    with pytest.raises(ValueError, match="found 'ngram' twice"):
        make_contenders(["ngram", "ngram"], choice())
    with pytest.raises(ValueError, match=r"--head ranked:7: none of the methods uses it"):
        make_contenders(["eagle2"], choice(EAGLE2, heads=["ranked:7"]))
    with pytest.raises(ValueError, match="two methods of the name 'eagle2 e2'"):
        make_contenders(["eagle2"], choice(EAGLE2, replace(EAGLE2, path=Path("other/e2.gguf"))))


def test_rows() -> None:
    assert [rows_of(head, EAGLE2) for head in ("full", "ranked:7", "contextual", "ranked:7+contextual:3")] == [
        1000, 7, 1000, 10,
    ]  # fmt: skip
    assert [rows_of(head, EAGLE2) for head in ("auto", "speculated:5", "ranked:7+speculated", "nonsense")] == [None] * 4
    assert rows_of("ranked:400", REDUCED) == 300


def test_custom_methods() -> None:
    one = custom("my tree=d.gguf,head=ranked:5,tree_size=4,draft=auto", choice())
    assert (one.method.name, one.method.drafter, one.method.head) == ("my tree", "d.gguf", "ranked:5")
    assert one.options == {**TREE, "tree_size": 4, "head": "ranked:5", "drafter": "d.gguf"}
    assert one.draft == "auto"
    assert custom("n=,ngram=3", choice()).options["drafter"] is None
    for text in ("name", "=d.gguf", "n=d.gguf,head", "n=d.gguf,draft=often"):
        with pytest.raises(ValueError, match="--custom"):
            custom(text, choice())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF files of every kind of drafter, for one target."""
    folder = tmp_path_factory.mktemp("methods")
    pair = make_tiny_eagle3(folder / "pair", head_ids=range(0, 240, 2))
    other = make_checkpoint(folder / "other", "qwen2", seed=3)
    convert(other, folder / "other.gguf", "f32", quiet=True)
    return {"target": pair.target_gguf, "eagle3": pair.drafter_gguf, "other": folder / "other.gguf"}


def test_files_are_recognised(files: dict[str, Path], demo_target: Path, demo_drafter: Path) -> None:
    target = _core.Tokenizer(str(files["target"]))
    eagle3 = look_at(files["eagle3"], target)
    assert (eagle3.kind, eagle3.rows, eagle3.reduced, eagle3.reads_states) == ("eagle3", 120, True, True)
    same = look_at(files["target"], target)
    assert (same.kind, same.same_vocabulary, same.rows, same.shared) == ("model", True, target.size, target.size)
    other = look_at(demo_target, target)
    assert (other.kind, other.same_vocabulary, other.characters) == ("model", False, False)
    assert 0 < other.shared < target.size
    eagle2 = look_at(demo_drafter, _core.Tokenizer(str(demo_target)))
    assert (eagle2.kind, eagle2.rows, eagle2.has_sketch) == ("eagle2", 65536, False)


def test_files_that_are_no_drafters(files: dict[str, Path], tmp_path: Path) -> None:
    from reference_steps import write_vocabulary_ranks

    target = _core.Tokenizer(str(files["target"]))
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        look_at(tmp_path / "none.gguf", target)
    import numpy as np

    write_vocabulary_ranks(tmp_path / "ranks.gguf", files["target"], np.arange(target.size, dtype=np.int32))
    with pytest.raises(ValueError, match=r"ranks\.gguf: key 'general\.architecture': found 'frspec_ranks'"):
        look_at(tmp_path / "ranks.gguf", target)


def test_every_kind_writes_the_plain_text(files: dict[str, Path]) -> None:
    tokenizer = _core.Tokenizer(str(files["target"]))
    drafters = [look_at(files[name], tokenizer) for name in ("eagle3", "target")]
    given = choice(*drafters, heads=["ranked:40"], ranks=_ranks(files))
    loader = Loader(str(files["target"]), {"n_threads": 1, "n_ctx": 128}, {"max_tokens": 24, "ignore_eos": True})
    prompt = list(range(5, 25))
    texts = {}
    for contender in make_contenders(["eagle3", "frspec", "model", "ngram", "auto"], given):
        text = loader.load(contender).write(prompt, traced=True)
        texts[contender.method.name] = text.tokens
        assert text.trace is not None
        assert sum(len(step.tokens) for step in text.trace) == text.step_tokens == 23
        assert len(text.trace) == text.steps
        if contender.method.name in ("eagle3", "model"):
            assert text.drafted_steps == text.steps
    assert len(texts) == 7
    assert all(tokens == texts["plain"] for tokens in texts.values())


def _ranks(files: dict[str, Path]) -> Path:
    import numpy as np
    from reference_steps import write_vocabulary_ranks

    path = files["target"].with_name("ranks.gguf")
    size = _core.Tokenizer(str(files["target"])).size
    write_vocabulary_ranks(path, files["target"], np.arange(size, dtype=np.int32))
    return path


def test_shared_engines_change_their_head(files: dict[str, Path]) -> None:
    tokenizer = _core.Tokenizer(str(files["target"]))
    given = choice(look_at(files["eagle3"], tokenizer), heads=["full", "ranked:40", "ranked:20"], ranks=_ranks(files))
    contenders = make_contenders(["heads"], given)
    loader = Loader(str(files["target"]), {"n_threads": 1, "n_ctx": 128}, {"max_tokens": 12, "ignore_eos": True}, True)
    engines = [loader.load(contender) for contender in contenders]
    assert len({id(engine.llm) for engine in engines}) == 3  # plain, full, and those with ranks
    prompt = list(range(5, 25))
    for _ in range(2):
        first, *others = [engine.write(prompt, traced=False).tokens for engine in engines]
        assert all(tokens == first for tokens in others)


def test_loading_errors_name_the_method(files: dict[str, Path]) -> None:
    tokenizer = _core.Tokenizer(str(files["target"]))
    given = choice(look_at(files["eagle3"], tokenizer), heads=["ranked:many"])
    loader = Loader(str(files["target"]), {}, {})
    with pytest.raises(ValueError, match=r"method 'ranked:many': head: found 'ranked:many', expected"):
        loader.load(make_contenders(["heads"], given)[1])
    with pytest.raises(ValueError, match=r"method 'mine': .*unknown"):
        loader.load(custom(f"mine={files['eagle3']},colour=red", choice()))


def test_pieces_are_the_text(demo_target: Path) -> None:
    llm = frspec_cpp.LLM(demo_target)
    tokens = llm.tokenize("naïve 東京 \U0001f30a and <|endoftext|> more", add_special=False)
    pieces = pieces_of(llm.tokenizer, tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == llm.detokenize(tokens)
    assert any(piece == "" for piece in pieces)  # in the middle of a character
    assert pieces_of(llm.tokenizer, tokens[:2])[-1] != ""
    eos = llm.tokenizer.eos_id
    assert eos is not None
    assert token_label(llm.tokenizer, eos) == llm.tokenizer.token_text(eos)
