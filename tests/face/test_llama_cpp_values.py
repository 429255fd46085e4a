"""Values and habits that users of llama.cpp and llama-cpp-python bring."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import frspec_cpp
from frspec_cpp import LLM

Runner = Callable[..., subprocess.CompletedProcess[bytes]]
PROMPT = "def add(a, b):"


@pytest.fixture(scope="module")
def small(demo_target: Path) -> LLM:
    return LLM(demo_target, n_ctx=64)


def generate(run: Runner, *arguments: str | bytes, stdin: bytes = b"") -> dict[str, Any]:
    result = run("generate", "--json", "-c", "64", "--no-draft", *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def tokenized(run: Runner, *arguments: str | bytes, stdin: bytes = b"") -> list[int]:
    result = run("tokenize", "--json", *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    tokens: list[int] = json.loads(result.stdout)["tokens"]
    return tokens


# ---- lengths


def test_to_the_end_of_the_context(run: Runner, small: LLM) -> None:
    expected = small.generate(PROMPT, 1000, ignore_eos=True)
    assert expected.prompt_tokens + len(expected.tokens) == 64
    for limit in (None, -1, -2):
        found = small.generate(PROMPT, limit, ignore_eos=True)
        assert (found.tokens, found.finish_reason) == (expected.tokens, "length")
    assert "".join(small.stream(PROMPT, None, ignore_eos=True)) == expected.text
    for name in ("-n", "--n-predict", "--predict", "--max-tokens"):
        assert generate(run, "-p", PROMPT, name, "-1", "--ignore-eos")["tokens"] == expected.tokens
    assert generate(run, "-p", PROMPT, "-n", "-2", "--ignore-eos")["tokens"] == expected.tokens
    # It may end before, and min_tokens is not measured by it.
    tokens = expected.tokens
    end = next(i for i in range(5, len(tokens)) if tokens[i] not in tokens[:i])
    found = small.generate(PROMPT, -1, min_tokens=5, stop_token_ids=[tokens[end]], ignore_eos=True)
    assert (found.tokens, found.finish_reason) == (tokens[:end], "stop")


def test_a_context_of_0_is_the_models_own(run: Runner, demo_target: Path, small: LLM) -> None:
    assert LLM(demo_target, n_ctx=0).n_ctx == LLM(demo_target).n_ctx == 2048
    assert run("generate", "-c", "0", "-p", PROMPT, "-n", "2").returncode == 0


# ---- seeds


@pytest.mark.random_seeds
def test_a_random_seed_is_told(run: Runner, small: LLM) -> None:
    seeds = set()
    for seed in (None, -1, None):
        found = small.generate(PROMPT, 12, temperature=1.5, seed=seed, top_k=0, ignore_eos=True)
        again = small.generate(PROMPT, 12, temperature=1.5, seed=found.stats.seed, top_k=0, ignore_eos=True)
        assert found.tokens == again.tokens
        assert again.stats.seed == found.stats.seed
        assert 0 <= found.stats.seed < 2**32
        seeds.add(found.stats.seed)
    arguments = ("-p", PROMPT, "-n", "12", "--temp", "1.5", "--top-k", "0", "--ignore-eos")
    drawn = [generate(run, *arguments, "-s", "-1") for _ in range(2)]
    for text in drawn:
        seed = text["stats"]["seed"]
        assert generate(run, *arguments, "--seed", str(seed))["tokens"] == text["tokens"]
        assert small.generate(PROMPT, 12, temperature=1.5, seed=seed, top_k=0, ignore_eos=True).tokens == text["tokens"]
        seeds.add(seed)
    assert len(seeds) == 5
    line = run("generate", "-p", PROMPT, "-n", "2", "-s", "77").stderr
    assert b"seed 77;" in line
    assert small.generate(PROMPT, 2).stats.seed == 0
    assert small.generate(PROMPT, 2, seed=2**64 - 1).stats.seed == 2**64 - 1


# ---- threads, layers, batches, drafts


@pytest.mark.threads
def test_all_threads(run: Runner, demo_target: Path) -> None:
    usual = LLM(demo_target, n_ctx=16).device
    for threads in (-1, 0, None):
        assert LLM(demo_target, n_ctx=16, n_threads=threads).device == usual
    for arguments in (("-t", "-1"), ("--threads=-1",), ("-b", "7")):
        assert run("generate", "-p", PROMPT, "-n", "2", *arguments).returncode == 0, arguments


def test_the_same_words_for_drafts(run: Runner) -> None:
    llm = LLM(*frspec_cpp.demo_paths(), head="full", tree="3,4,8")  # of a fixed shape: steps are counted
    words: tuple[Any, ...] = ("auto", "always", "never", True, False)
    texts = {word: llm.generate(PROMPT, 20, draft=word, ignore_eos=True) for word in words}
    assert len({tuple(text.tokens) for text in texts.values()}) == 1
    for word in ("always", True):
        assert texts[word].stats.drafted_steps == texts[word].stats.steps
    assert texts["never"].stats.drafted_steps == texts[False].stats.drafted_steps == 0
    for word in ("auto", "always", "never"):
        assert run("generate", "-p", PROMPT, "-n", "2", "--draft", word).returncode == 0


# ---- escapes and line ends

ESCAPES = [
    (r"a\nb", "a\nb"),
    (r"\r\t\'\"", "\r\t'\""),
    (r"\\n", r"\n"),
    (r"\\\n", "\\\n"),
    (r"\x41\x7a", "Az"),
    (r"\xc3\xa9", "é"),
    (r"\x4", r"\x4"),
    (r"\xg1\q\0", r"\xg1\q\0"),
    ("end\\", "end\\"),
    ("\\x", "\\x"),
]


@pytest.mark.parametrize(("written", "meant"), ESCAPES)
def test_escapes(run: Runner, small: LLM, written: str, meant: str) -> None:
    """llama.cpp's: string_process_escapes."""
    assert tokenized(run, "-p", written) == small.tokenize(meant)


def test_escapes_can_be_turned_off_and_on(run: Runner, small: LLM, tmp_path: Path) -> None:
    plain, meant = small.tokenize(r"a\nb"), small.tokenize("a\nb")
    assert tokenized(run, "--no-escape", "-p", r"a\nb") == plain
    assert tokenized(run, "--no-escape", "-e", "-p", r"a\nb") == meant
    assert tokenized(run, "-e", "-p", r"a\nb", "--no-escape") == plain
    # What a file holds is no argument that a shell makes hard to write.
    path = tmp_path / "prompt"
    path.write_text(r"a\nb")
    assert tokenized(run, "-f", str(path)) == tokenized(run, stdin=rb"a\nb") == plain
    assert generate(run, "-p", r"a\nb", "-n", "1")["prompt_tokens"] == len(meant)
    assert generate(run, "-p", r"a\nb", "-n", "1", "--no-escape")["prompt_tokens"] == len(plain)


@pytest.mark.parametrize("name", ["--stop", "-r", "--reverse-prompt"])
def test_escapes_in_stop_strings(run: Runner, small: LLM, name: str) -> None:
    whole = small.generate(PROMPT, 30).text
    assert "\n" in whole
    found = generate(run, "-p", PROMPT, "-n", "30", name, r"\n")
    assert (found["text"], found["finish_reason"]) == (whole.split("\n")[0], "stop")
    assert generate(run, "-p", PROMPT, "-n", "30", name, r"\n", "--no-escape")["text"] == whole


@pytest.mark.parametrize(
    ("held", "meant"),
    [(b"a", "a"), (b"a\n", "a"), (b"a\n\n", "a\n"), (b"a\r\n", "a"), (b"a\r", "a\r"), (b"\n", ""), (b"", "")],
)
def test_a_line_end_of_a_file(run: Runner, small: LLM, tmp_path: Path, held: bytes, meant: str) -> None:
    path = tmp_path / "prompt"
    path.write_bytes(held)
    for arguments in (("-f", str(path)), ("-f", "-"), ()):
        assert tokenized(run, *arguments, stdin=held) == small.tokenize(meant)
    assert tokenized(run, "-p", held) == small.tokenize(held.decode())


@pytest.mark.parametrize(
    ("held", "kept"),
    [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", True),
        ("<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", True),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n", True),
        ("<|im_start|>assistant\n\n", False),
        ("[INST] Hi [/INST]\n", False),
        ("<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>\n", False),
        ("The assistant\n", False),
    ],
)
def test_the_line_end_of_a_turns_header(run: Runner, small: LLM, held: str, kept: bool) -> None:
    """Chat templates write it: the model was trained on it."""
    assert tokenized(run, stdin=held.encode()) == small.tokenize(held if kept else held[:-1])


# ---- names


def test_underscores_are_dashes(run: Runner) -> None:
    expected = generate(run, "-p", PROMPT, "--n-predict", "3")["tokens"]
    assert generate(run, "--prompt", PROMPT, "--n_predict", "3", "--ctx_size=32")["tokens"] == expected


@pytest.mark.parametrize(
    ("option", "help_"),
    [
        ("--maxtokens", "did you mean --max-tokens?"),
        ("--n-predcit", "did you mean --n-predict?"),
        ("--temprature", "did you mean --temperature?"),
        ("-temp", "did you mean --temp?"),
        ("--min_q", "did you mean --min-p?"),
        ("--rope-freq", "did you mean --rope-freq-base?"),
        ("--threds=4", "did you mean --threads?"),
        ("--hlp", "did you mean --help?"),
        ("-fa", "leave it out"),
        ("--mlock", "leave it out"),
        ("--flash_attn", "leave it out"),
        ("-ctk", "--cache-type"),
        ("--ubatch-size", "--batch-size"),
        ("--spec-draft-n-max", "--draft-max"),
        ("-tb", "--threads"),
        ("--interactive", "frspec chat"),
    ],
)
def test_unknown_options(run: Runner, option: str, help_: str) -> None:
    result = run("generate", "-p", "x", option)
    message = result.stderr.decode()
    assert result.returncode == 1
    assert f'unknown option "{option.split("=")[0]}"' in message
    assert help_ in message


def test_nothing_is_near(run: Runner) -> None:
    for option in ("-z", "--zzzzzz", "--xyzzy", "--9", "-Q"):
        assert run("generate", option).stderr.decode() == f'frspec: error: unknown option "{option}"\n'


# ---- long contexts


def test_rope_options_of_the_binary(run: Runner, demo_target: Path) -> None:
    options: dict[str, Any] = {"rope_scaling_type": "yarn", "rope_freq_scale": 1 / 4, "yarn_beta_fast": 16.0}
    expected = LLM(demo_target, n_ctx=64, **options).generate(PROMPT, 30, ignore_eos=True).tokens
    assert expected != LLM(demo_target, n_ctx=64).generate(PROMPT, 30, ignore_eos=True).tokens
    arguments = ("-p", PROMPT, "-n", "30", "--ignore-eos", "--rope-scaling", "yarn", "--yarn-beta-fast", "16")
    assert generate(run, *arguments, "--rope-scale", "4")["tokens"] == expected
    assert generate(run, *arguments, "--rope-freq-scale", "0.25")["tokens"] == expected
    names = ("--yarn-orig-ctx", "2048", "--yarn-ext-factor", "1", "--yarn-attn-factor", "1", "--yarn-beta-slow", "1")
    assert generate(run, *arguments, "--rope-scale", "4", "--rope-freq-base", "10000", *names)["tokens"] == expected
    assert run("generate", *arguments, "--rope-scale", "4", "-c", "8192", "-n", "1").returncode == 0
