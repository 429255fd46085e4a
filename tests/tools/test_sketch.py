"""frspec-sketch: the factors are the best ones, its coverage is counted right, and the engine reads what it writes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from frspec_cpp.tools import sketch
from frspec_cpp.tools.evaluate.drafters import look_at
from frspec_cpp.tools.target import drafter_file
from qwen35 import make_qwen35
from safetensors.numpy import save_file

from frspec_cpp import LLM, Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep. def add(a, b): return a + b\n"


def head_of(matrix: np.ndarray) -> sketch.Head:
    return sketch.Head(Path("head"), *matrix.shape, lambda start, stop: matrix[start:stop])


@pytest.fixture
def matrix() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((5000, 64)) * np.linspace(0.2, 2, 64)).astype(np.float32)


@pytest.fixture
def states() -> np.ndarray:
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((64, 64)) * np.geomspace(1, 0.01, 64)
    return (rng.standard_normal((800, 64)) @ mixed.T).astype(np.float32)


def test_factors_are_the_best_in_the_metric_of_the_states(matrix: np.ndarray, states: np.ndarray) -> None:
    """No factorisation of that rank is better: the error is that of the singular values left out (Eckart, Young)."""
    down, up = sketch.factorise(head_of(matrix), states, 32, quiet=True)
    assert down.shape == (32, 64)
    assert up.shape == (5000, 32)
    moment = states.T.astype(np.float64) @ states / len(states)
    values, vectors = np.linalg.eigh(moment)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    error = np.linalg.norm((matrix - up @ down) @ root)
    singular = np.linalg.svd(matrix @ root, compute_uv=False)
    assert error == pytest.approx(np.sqrt((singular[32:] ** 2).sum()), rel=2e-3)
    plain = np.linalg.svd(matrix, full_matrices=False)
    by_svd = (plain[0][:, :32] * plain[1][:32]) @ plain[2][:32]
    assert error < 0.7 * np.linalg.norm((matrix - by_svd) @ root)


def test_coverage_is_counted(matrix: np.ndarray, states: np.ndarray) -> None:
    down, up = sketch.factorise(head_of(matrix), states, 3, quiet=True)
    found = sketch.coverage(head_of(matrix), down, up, states[:300], rows=(20, 400))
    exact, scores = states[:300] @ matrix.T, (states[:300] @ down.T) @ up.T
    for one in found:
        chosen = np.argsort(-scores, axis=1)[:, : one.rows]
        top = np.argsort(-exact, axis=1)[:, :10]
        assert one.top_1 == pytest.approx(np.mean([t[0] in c for t, c in zip(top, chosen, strict=True)]))
        assert one.top_10 == pytest.approx(np.mean([np.isin(t, c).mean() for t, c in zip(top, chosen, strict=True)]))
    assert found[0].top_1 < found[1].top_1 <= 1
    whole = sketch.coverage(head_of(matrix), np.eye(64, dtype=np.float32), matrix, states[:100], rows=(10,))
    assert (whole[0].top_1, whole[0].top_10) == (1, 1)


def test_a_sketch_of_the_demo_pair(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    """From texts to a file that the engine drafts with; the same states give the same file."""
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join(TEXT * (i % 7 + 1) + str(i) for i in range(40)))
    path = tmp_path / "sketch.gguf"
    found = sketch.make_sketch(demo_target, demo_drafter, [corpus], path, states=600, type="q4_0", quiet=True)
    assert [one.rows for one in found] == [512, 2048]
    assert all(one.top_1 > 0.9 for one in found)
    reader = gguf.GGUFReader(path)
    assert {t.name: (tuple(t.shape), t.tensor_type.name) for t in reader.tensors} == {
        "sketch_down.weight": ((256, 32), "F16"),
        "sketch_vocab.weight": ((32, 65536), "Q4_0"),
    }
    assert reader.fields["frspec.sketch.coverage_2048.top_1"].contents() == pytest.approx(found[1].top_1)
    assert reader.fields["frspec.sketch.rank"].contents() == 32
    llm = LLM(demo_target, demo_drafter, head="speculated:600", sketch=path, tree=(3, 4, 12))
    text = llm.generate("def main():", 60, ignore_eos=True, draft=True)
    assert text.tokens == LLM(demo_target).generate("def main():", 60, ignore_eos=True).tokens
    assert text.stats.accepted_length > 1.5


def test_a_sketch_of_an_mtp_block(tmp_path: Path) -> None:
    """Its head is the target's, in the same file or beside it, or one of its own; a copy of an embedding is not."""
    made = make_qwen35(tmp_path, layers=4, interval=2, disturbance=0.2)
    whole = made.write(tmp_path / "whole.gguf", "trunk", "nextn")
    copy = made.shared.pop("output.weight")
    beside = made.write(tmp_path / "beside.gguf", "nextn")
    made.nextn["nextn.shared_head_head.weight"] = own = 2 * copy
    other = made.write(tmp_path / "other.gguf", "nextn")
    for drafter, expected in ((whole, copy), (beside, copy), (other, own)):
        head = sketch.read_head(whole, drafter)
        np.testing.assert_array_equal(head.rows(0, head.size), expected)
    made.extra["d2t"] = np.zeros(len(own) // 2, dtype=np.int64)
    made.nextn.pop("nextn.shared_head_head.weight")
    made.shared["output.weight"] = half = copy[: len(own) // 2]
    trimmed = made.write(tmp_path / "trimmed.gguf", "nextn")
    head = sketch.read_head(whole, trimmed)
    np.testing.assert_array_equal(head.rows(0, head.size), half)
    found = [look_at(path, Tokenizer(whole)) for path in (whole, other, trimmed)]
    assert [(one.kind, one.rows, one.reduced) for one in found] == [
        ("mtp", len(own), False),
        ("mtp", len(own), False),
        ("mtp", len(half), True),
    ]
    plain = made.write(tmp_path / "plain.gguf", "trunk")
    with pytest.raises(ValueError, match=r"plain\.gguf: found no tensor 'blk\.N\.nextn"):
        drafter_file(plain, Path("mtp"))
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join(TEXT + str(i) for i in range(40)))
    path = tmp_path / "sketch.gguf"
    sketch.make_sketch(whole, Path("mtp"), [corpus], path, states=200, quiet=True)
    llm = LLM(whole, "mtp", head="speculated:40", sketch=path)
    text = llm.generate("def main():", 40, ignore_eos=True, draft=True)
    assert text.tokens == LLM(whole).generate("def main():", 40, ignore_eos=True).tokens
    assert text.stats.drafted_steps > 0


def test_trained_factors(demo_target: Path, demo_drafter: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join(TEXT + str(i) for i in range(80)))
    rng = np.random.default_rng(0)
    factors = {
        "W_down": rng.standard_normal((32, 256)).astype(np.float32),
        "W_vocab": rng.standard_normal((65536, 32)).astype(np.float32),
    }
    folder = tmp_path / "factors"
    folder.mkdir()
    save_file(factors, folder / "model.safetensors")
    path = tmp_path / "sketch.gguf"
    sketch.make_sketch(demo_target, demo_drafter, [corpus], path, type="f32", states=600, factors=folder, quiet=True)
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    np.testing.assert_array_equal(tensors["sketch_vocab.weight"].data, factors["W_vocab"])
    np.testing.assert_array_equal(tensors["sketch_down.weight"].data, factors["W_down"].astype(np.float16))
    save_file({**factors, "W_vocab": factors["W_vocab"][:99]}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"W_vocab.*\(99, 32\).*\(65536, rank\)"):
        sketch.make_sketch(demo_target, demo_drafter, [corpus], path, states=600, factors=folder, quiet=True)


def test_bad_input(demo_target: Path, demo_drafter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "texts.txt"
    corpus.write_text(TEXT)
    options = ["-m", str(demo_target), "-d", str(demo_drafter), "-o", str(tmp_path / "s.gguf"), "-q"]
    cases: dict[str, list[str]] = {
        "rank: found 33": [str(corpus), "--rank", "33"],
        "rank: found 512": [str(corpus), "--rank", "512"],
        "at least twice": [str(corpus)],
        "nowhere.txt": [str(tmp_path / "nowhere.txt")],
    }
    for message, arguments in cases.items():
        assert sketch.main([*options, *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "s.gguf").exists()
