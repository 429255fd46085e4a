"""Counting and ranking of tokens: against plain counts with Hugging Face's tokenizer, and bad input."""

from __future__ import annotations

import collections
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from checkpoints import make_checkpoint
from frspec_cpp.tools import text_files
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
from frspec_cpp.tools.rank import coverage_table, main, rank, rank_by_count, rank_generated
from frspec_cpp.tools.text_files import pieces, read_texts
from gguf_values import metadata, tensors, types
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import Tokenizer, _core

TEXTS = [
    "The river carries the snow of the mountains to the sea.\n\nIt was told 1234 times, déjà vu!",
    "def accumulate(values):\n    return sum(values)  # 東京 \U0001f30a\n",
    "",
    "They've said <|end|> it's nothing\r\n\tto them.",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint and its `target.gguf`."""
    folder = make_checkpoint(tmp_path_factory.mktemp("rank") / "model", "llama")
    convert(folder, folder / "target.gguf")
    return folder


def reference_counts(model: Path, texts: list[str]) -> np.ndarray:
    """Counts with Hugging Face's tokenizer; the text of a control token is text here."""
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    counts = collections.Counter(
        token for text in texts for token in tokenizer.encode(text, add_special_tokens=False).ids
    )
    return np.array([counts[token] for token in range(tokenizer.get_vocab_size())])


def ranked(counts: np.ndarray, control: list[int]) -> list[int]:
    rest = sorted((i for i in range(len(counts)) if i not in control), key=lambda i: (-counts[i], i))
    return control + rest


def write_inputs(folder: Path, form: str) -> list[Path]:
    """TEXTS in one of the forms that are read."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {
        "strings": [json.dumps(text) for text in TEXTS],
        "objects": [json.dumps({"id": 1, "text": text}, ensure_ascii=False) for text in TEXTS],
        "pairs": [json.dumps({"prompt": a, "completion": b}) for a, b in (TEXTS[:2], TEXTS[2:])],
        "lists": [json.dumps({"turns": TEXTS[:3]}), "", json.dumps({"turns": TEXTS[3:]})],
    }
    path = folder / "input.jsonl"
    if form in lines:
        path.write_text("\n".join(lines[form]) + "\n", encoding="utf-8")
        return [path]
    if form == "txt":
        for i, text in enumerate(TEXTS):
            (folder / f"{i}.txt").write_bytes(text.encode())
        return sorted(folder.glob("*.txt"))
    data = "\n".join(lines["objects"]).encode()
    if form == "gz":
        path = folder / "input.jsonl.gz"
        # Two members in one file, cut in the middle of a line, as `cat` of two files gives.
        path.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))
    elif form == "zst":
        zstandard = pytest.importorskip("zstandard")
        path = folder / "input.jsonl.zst"
        parts = (data[:100], data[100:])
        path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(part) for part in parts))
    elif form == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = folder / "input.parquet"
        parquet.write_table(pyarrow.table({"n": [1, 2, 3, 4], "text": TEXTS}), path, row_group_size=3)
    return [path]


@pytest.mark.parametrize("form", ["txt", "strings", "objects", "pairs", "lists", "gz", "zst", "parquet"])
def test_counts_and_ranks(tmp_path: Path, model: Path, form: str) -> None:
    files = write_inputs(tmp_path / "in", form)
    output = tmp_path / "ranks.gguf"
    rank(model / "target.gguf", files, output, field="turns" if form == "lists" else None, quiet=True)
    expected = reference_counts(model, TEXTS)
    found = tensors(output)
    np.testing.assert_array_equal(found["token_counts"], expected)
    assert found["token_ranks"].tolist() == ranked(expected, [0, 1])
    assert types(output) == {"token_ranks": "I32", "token_counts": "I64"}
    assert metadata(output) == {
        "general.architecture": "frspec_ranks",
        "frspec.ranks.vocab_size": 400,
        "frspec.ranks.vocab_fingerprint": vocabulary_fingerprint(
            metadata(model / "target.gguf")["tokenizer.ggml.tokens"]
        ),
        "frspec.ranks.tokens_counted": expected.sum(),
        "frspec.ranks.source": ", ".join(file.name for file in files),
    }


def test_thread_count_does_not_matter(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "input.jsonl"
    texts = [f"{text} {i}" for i in range(500) for text in TEXTS]
    file.write_text("\n".join(json.dumps(text) for text in texts))
    for threads in (0, 1, 2, 5):
        ranks = rank(model / "target.gguf", [file], tmp_path / "ranks.gguf", threads=threads, quiet=True)
        np.testing.assert_array_equal(ranks.counts, reference_counts(model, texts))


def test_long_texts_are_cut_between_lines(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_CHUNK", 64)
    text = "\n".join(f"{'  ' * (i % 3)}line {i} of\n\n déjà vu {i * i}" for i in range(300)) + "\n"
    (tmp_path / "long.txt").write_text(text)
    read = list(read_texts(tmp_path / "long.txt", None, lambda _: None))
    assert len(read) > 50
    assert "".join(read) == text
    ranks = rank(model / "target.gguf", [tmp_path / "long.txt"], tmp_path / "ranks.gguf", quiet=True)
    np.testing.assert_array_equal(ranks.counts, reference_counts(model, [text]))


@pytest.mark.parametrize("text", ["x" * 10_000, "\n" * 10_000, "word " * 2_000, "a\n  " * 2_500])
def test_pieces_are_bounded_and_whole(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_CHUNK", 64)
    cut = list(pieces(text[i : i + 37] for i in range(0, len(text), 37)))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 2 * 64
    assert min(map(len, cut)) > 0


def test_limit(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "input.txt"
    file.write_text("The river carries the snow.\n" * 400_000)
    ranks = rank(model / "target.gguf", [file], tmp_path / "ranks.gguf", limit=1000, quiet=True)
    one_line = int(reference_counts(model, ["The river carries the snow.\n"]).sum())
    assert 1000 <= ranks.tokens_counted < 400_000 * one_line


def test_ranking_rule() -> None:
    counts = np.array([5, 0, 7, 7, 0, 1])
    assert rank_by_count(counts, [4]).tolist() == [4, 2, 3, 0, 5, 1]
    assert rank_by_count(counts, [5, 0]).tolist() == [0, 5, 2, 3, 1, 4]


def test_coverage_table() -> None:
    counts = np.ones(4000, dtype=np.int64)
    counts[:1024] = 3
    table = coverage_table(np.arange(4000, dtype=np.int32), counts).splitlines()
    total = 3 * 1024 + 2976
    assert [line.split() for line in table[1:]] == [
        ["1k", f"{100 * 3 * 1024 / total:.2f}", "%"],
        ["2k", f"{100 * (3 * 1024 + 1024) / total:.2f}", "%"],
        ["4000", "100.00", "%"],
    ]


def test_import_of_saved_lists(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save([7, 1, 5], tmp_path / "freq_3.pt")
    arguments = ["--tokenizer", str(model / "target.gguf"), "-o", str(tmp_path / "ranks.gguf"), "--import-pt"]
    assert main([*arguments, str(tmp_path / "freq_3.pt")]) == 0
    assert tensors(tmp_path / "ranks.gguf")["token_ranks"].tolist() == [0, 1, 7, 5]
    assert "token_counts" not in tensors(tmp_path / "ranks.gguf")
    torch.save([7, 400], tmp_path / "wrong.pt")
    assert main([*arguments, str(tmp_path / "wrong.pt")]) == 1
    assert "found token id 400, expected ids below 400" in capsys.readouterr().err


def test_command_line(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.txt").write_text(TEXTS[0])
    arguments = ["--tokenizer", str(model / "target.gguf"), "-o", str(tmp_path / "ranks.gguf")]
    assert main([*arguments, str(tmp_path / "input.txt")]) == 0
    shown = capsys.readouterr()
    assert "tokens counted" in shown.out
    assert "100.00 %" in shown.out
    assert shown.err == ""
    assert main([*arguments, str(tmp_path / "absent.txt")]) == 1
    failed = capsys.readouterr()
    assert failed.out == ""
    assert failed.err.count("\n") == 1
    assert "absent.txt" in failed.err
    for usage in (
        [],
        [str(tmp_path / "input.txt"), "--import-pt", "x.pt"],
        ["x.txt", "--threads", "-1"],
        ["x.txt", "--generate"],
        ["x.txt", "--generate", "-m", "x.gguf"],  # with --tokenizer
        ["x.txt", "-m", "x.gguf"],
        ["x.txt", "-d", "x.gguf"],
    ):
        with pytest.raises(SystemExit) as exit_code:
            main([*arguments, *usage])
        assert exit_code.value.code == 2


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl: line 2: not valid JSON"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"body": "b", "n": 1}\n',
            r"line 2: found the fields 'body', 'n', expected 'text'",
        ),
        ("a.jsonl", b'\n{"text": 5}\n', r"line 2: field 'text': found 5, expected a string"),
        ("a.jsonl", b'{"text": null}', r"line 1: field 'text': found None"),
        ("a.jsonl", b'"a"\n7\n', r"line 2: found a int, expected a string or an object"),
        ("a.jsonl", b'"a"\n"\xff"\n', r"line 2: not valid UTF-8 \(byte 1 of the line\)"),
        ("a.jsonl", b'"a \\ud800 b"\n', r"line 1: holds an unpaired UTF-16 surrogate"),
        ("a.jsonl", b"[" * 100_000, r"line 1: not valid JSON"),
        ("a.jsonl", b"", "no text to count"),
        ("a.txt", b"", "no text to count"),
        ("a.txt", b"caf\xc3\xa9 \xc3", r"a\.txt: byte 6: not valid UTF-8"),
        ("a.txt", b"x" * 70 + b"\xffyy", r"a\.txt: byte 70: not valid UTF-8"),
        ("a.json", b"{}", r"a\.json: found the name ending '\.json', expected \.txt"),
        ("a.parquet.gz", b"", r"found the name ending '\.parquet\.gz'"),
        ("a", b"text", "found the name ending ''"),
        ("a.txt.gz", b"no gzip at all", "damaged gzip data"),
        ("a.txt.gz", gzip.compress(b"whole text" * 100, mtime=0)[:-9], "damaged gzip data"),
    ],
)
def test_bad_input(tmp_path: Path, model: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        rank(model / "target.gguf", [tmp_path / name], tmp_path / "ranks.gguf", quiet=True)
    assert not list(tmp_path.glob("*ranks.gguf*"))


def test_utf8_errors_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_CHUNK", 7)
    text = "aé東\U0001f30a" * 20
    (tmp_path / "good.txt").write_text(text, encoding="utf-8")
    assert "".join(read_texts(tmp_path / "good.txt", None, lambda _: None)) == text
    for at in (13, 14, 50):
        (tmp_path / "bad.txt").write_bytes(b"x" * at + b"\xe6\x9d" + b"yy" * 20)
        with pytest.raises(ValueError, match=f"byte {at}: not valid UTF-8"):
            list(read_texts(tmp_path / "bad.txt", None, lambda _: None))


def test_bad_parquet_and_zstandard(tmp_path: Path, model: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "noise.parquet").write_bytes(b"PAR1 noise PAR1")
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "field.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "null.parquet")
    (tmp_path / "noise.txt.zst").write_bytes(b"no zstandard")
    (tmp_path / "cut.txt.zst").write_bytes(zstandard.ZstdCompressor().compress(b"text " * 1000)[:-3])
    for name, expected in {
        "noise.parquet": "not a whole Parquet file",
        "field.parquet": "found the fields 'body', expected 'text'",
        "null.parquet": "row 2: field 'text': found None",
        "noise.txt.zst": "damaged zstd data",
        "cut.txt.zst": "damaged zstd data: it ends too early",
    }.items():
        with pytest.raises(ValueError, match=expected) as error:
            rank(model / "target.gguf", [tmp_path / name], tmp_path / "ranks.gguf", quiet=True)
        assert name in str(error.value)


@pytest.mark.parametrize(("package", "name"), [("pyarrow.parquet", "a.parquet"), ("zstandard", "a.txt.zst")])
def test_missing_packages(
    tmp_path: Path, model: Path, package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=f"needs the '{package}' package: pip install"):
        rank(model / "target.gguf", [tmp_path / name], tmp_path / "ranks.gguf", quiet=True)


def test_progress_reaches_the_size(tmp_path: Path) -> None:
    for form in ("txt", "objects", "gz", "zst", "parquet"):
        files = write_inputs(tmp_path / form, form)
        told: list[int] = []
        for file in files:
            list(read_texts(file, None, told.append))
        assert sum(told) == sum(file.stat().st_size for file in files)


def test_coverage_of_the_shared_corpus(shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    convert(data / "pair" / "target", tmp_path / "target.gguf", "q8_0", quiet=True)
    corpus = data / "corpus" / "mixed.jsonl.gz"
    ranks = rank(tmp_path / "target.gguf", [corpus], tmp_path / "ranks.gguf", quiet=True)
    counts: Any = ranks.counts
    covered = np.cumsum(counts[ranks.tokens]) / counts.sum()
    # The published shares count one BOS and one EOS per text, too, which are left out here.
    published = {2048: 0.755, 4096: 0.826, 8192: 0.888, 16384: 0.938, 32768: 0.976}
    for size, share in published.items():
        assert covered[size - 1] == pytest.approx(share, abs=0.003)
    assert ranks.tokens[:2].tolist() == [0, 1]


# --- What the target writes itself ---


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"))


def plain_tokens(pair: TinyPair, prompt: list[int], **options: Any) -> list[int]:
    generation = _core.Engine(str(pair.target_gguf)).begin(prompt, **options)
    return [token for token, _, _ in generation.run()]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("with_drafter", [False, True])
def test_generated(tmp_path: Path, pair: TinyPair, temperature: float, with_drafter: bool) -> None:
    """The tokens of the texts, without their prompts; a drafter changes nothing."""
    file = tmp_path / "input.jsonl"
    texts = [*TEXTS, "a long text " * 100]
    file.write_text("\n".join(json.dumps(text) for text in texts))
    ranks = rank_generated(
        pair.target_gguf,
        [file],
        tmp_path / "ranks.gguf",
        drafter=pair.drafter_gguf if with_drafter else None,
        max_tokens=30,
        temperature=temperature,
        quiet=True,
    )
    tokenizer = Tokenizer(pair.target_gguf)
    expected = np.zeros(400, dtype=np.int64)
    prompts = [tokenizer.encode(text)[:64] for text in texts if text]
    assert len(prompts[-1]) == 64
    for seed, prompt in enumerate(prompts):
        np.add.at(expected, plain_tokens(pair, prompt, max_tokens=30, temperature=temperature, seed=seed), 1)
    assert expected.sum() > 60
    np.testing.assert_array_equal(tensors(tmp_path / "ranks.gguf")["token_counts"], expected)
    assert ranks.tokens.tolist() == ranked(expected, [0, 1])
    found = metadata(tmp_path / "ranks.gguf")
    assert found["frspec.ranks.tokens_counted"] == expected.sum()
    assert found["frspec.ranks.source"] == "generated by target.gguf behind input.jsonl"
    engine = _core.Engine(
        str(pair.target_gguf),
        str(pair.drafter_gguf),
        ranks=str(tmp_path / "ranks.gguf"),
        head="ranked:60",
        tree_size=20,
    )
    assert engine.begin([5, 6], max_tokens=5).run()


def test_generated_up_to_a_limit(tmp_path: Path, pair: TinyPair, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.jsonl").write_text("\n".join(json.dumps(f"text {i}") for i in range(50)))
    arguments = ["--generate", "-m", str(pair.target_gguf), "-d", str(pair.drafter_gguf), "--max-tokens", "10"]
    arguments += ["-o", str(tmp_path / "ranks.gguf"), "--limit-tokens", "25", str(tmp_path / "input.jsonl")]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    counted = metadata(tmp_path / "ranks.gguf")["frspec.ranks.tokens_counted"]
    assert 25 <= counted < 35
    assert shown.out.startswith(f"{tmp_path / 'ranks.gguf'}: {counted} tokens generated\n")
    assert "100.00 %" in shown.out
    assert shown.err == ""


def test_generating_is_interrupted(tmp_path: Path, pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves nothing that is half written, and the old file."""
    (tmp_path / "input.txt").write_text("The river\n" * 10)
    (tmp_path / "ranks.gguf").write_bytes(b"old")
    rounds = iter(range(3))

    def interrupt(*_: Any) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(np, "add", type("Add", (), {"at": staticmethod(interrupt)}))
    (tmp_path / "input.jsonl").write_text("\n".join(json.dumps(f"text {i}") for i in range(9)))
    arguments = ["--generate", "-m", str(pair.target_gguf), "-o", str(tmp_path / "ranks.gguf")]
    assert main([*arguments, str(tmp_path / "input.jsonl"), "--max-tokens", "5"]) == 130
    assert (tmp_path / "ranks.gguf").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.jsonl", "input.txt", "ranks.gguf"]


def test_generating_without_what_it_needs(
    tmp_path: Path, pair: TinyPair, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "input.jsonl").write_text('"text"')
    (tmp_path / "empty.jsonl").write_text('""')
    arguments = ["--generate", "-o", str(tmp_path / "ranks.gguf")]
    target = ["-m", str(pair.target_gguf)]
    for wrong, expected in {
        ("-m", str(tmp_path / "absent.gguf"), "input.jsonl"): "absent.gguf",
        (*target, "absent.jsonl"): "absent.jsonl",
        (*target, "empty.jsonl"): "no text to begin with",
        (*target, "-d", str(model / "target.gguf"), "input.jsonl", "--max-tokens", "0"): "max_tokens: found 0",
        (*target, "input.jsonl", "--max-tokens", "512"): "max_tokens: found 512, expected 1 to 511",
        (*target, "input.jsonl", "--temperature", "-1"): "temperature",
    }.items():
        files = [str(tmp_path / part) if part.endswith(".jsonl") else part for part in wrong]
        assert main([*arguments, *files]) == 1
        message = capsys.readouterr().err
        assert expected in message
        assert message.count("\n") == 1
    assert not (tmp_path / "ranks.gguf").exists()
