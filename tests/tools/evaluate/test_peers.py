"""Other engines: skipped by name where they are absent; with stand-ins, what they are asked for and what is counted."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.evaluate.drafters import DrafterFile, look_at
from frspec_cpp.tools.evaluate.engines import Engine
from frspec_cpp.tools.evaluate.hf_transformers import KINDS as TRANSFORMERS
from frspec_cpp.tools.evaluate.hf_transformers import Transformers
from frspec_cpp.tools.evaluate.llama_cpp import LlamaCpp
from frspec_cpp.tools.evaluate.peer_rows import PeerChoice, PeerOptions, PeerRow
from frspec_cpp.tools.evaluate.peers import load_peer, peer_rows, unsupported_sampling
from frspec_cpp.tools.evaluate.records import Method
from tiny_pair import TinyPair, make_tiny_pair

import frspec_cpp
from frspec_cpp import _core


class FakeLlama:
    """llama_cpp.Llama, as far as it is used; writes the prompt's last token and its successors."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.resets = 0
        self.asked: dict[str, Any] = {}

    def reset(self) -> None:
        """Noted: a text must not begin with what another left behind."""
        self.resets += 1

    def eval(self, tokens: Sequence[int]) -> None:
        """A pass; counted by who calls."""

    def generate(self, tokens: list[int], **options: Any) -> Iterator[int]:
        """One token of the prompt's pass; then one a pass, or three with a draft model."""
        self.asked = options
        token = tokens[-1]
        self.eval(tokens)
        yield token
        while True:
            self.eval([token])
            for _ in range(3 if "draft_model" in self.options else 1):
                token += 1
                yield token


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package."""
    module: Any = ModuleType("llama_cpp")
    module.Llama = FakeLlama
    speculative: Any = ModuleType("llama_cpp.llama_speculative")
    speculative.LlamaPromptLookupDecoding = lambda ngram, tokens: ("lookup", ngram, tokens)
    for each in (module, speculative):
        each.__spec__ = SimpleNamespace(name=each.__name__)
        monkeypatch.setitem(sys.modules, each.__name__, each)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A tiny target."""
    return make_tiny_pair(tmp_path_factory.mktemp("peers") / "pair")


def options_of(pair: TinyPair, **writing: Any) -> PeerOptions:
    return PeerOptions(
        target=pair.target_gguf, choice=PeerChoice(hf_target=pair.target, hf_drafter=pair.target),
        threads=1, context=128,
        writing={"max_tokens": 8, "ignore_eos": False, "temperature": 0.0, "seed": 0, **writing}, gpu=False,
    )  # fmt: skip


def load(kind: str, options: PeerOptions, tokenizer: _core.Tokenizer) -> Engine:
    """The first row's."""
    rows = peer_rows(kind, options.choice)
    assert not isinstance(rows, str), rows
    return load_peer(rows[0].method, options, tokenizer)


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("llama.cpp", "llama_cpp"),
        ("transformers", "transformers"),
        ("transformers", "accelerate"),  # only GGUF files are read with it
        ("openvino", "openvino_genai"),
        ("openvino-draft", "openvino_genai"),
    ],
)
def test_absent_packages_are_named(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real("json"))
    assert peer_rows(kind, PeerChoice()) == f"the '{package}' package is not installed"


def test_folders_that_are_none(pair: TinyPair, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--hf-target .*found no config\.json"):
        peer_rows("transformers", PeerChoice(hf_target=tmp_path))
    with pytest.raises(ValueError, match=r"--hf-drafter .*found no config\.json"):
        peer_rows("transformers-assisted", PeerChoice(hf_target=pair.target, hf_drafter=tmp_path))


def test_rows_of_peers(llama_cpp: None) -> None:
    (row,) = peer_rows("llama.cpp-lookup", PeerChoice())
    assert isinstance(row, PeerRow)
    method = row.method
    assert method.name == "llama.cpp-lookup"
    assert method.engine.startswith("llama-cpp-python ")
    assert not method.exact
    assert method.settings == {"lookup_tokens": 10, "lookup_ngram": 2}


def told(rows: list[PeerRow] | str) -> list[tuple[Any, ...]]:
    """What tells rows from one another."""
    assert not isinstance(rows, str), rows
    return [(row.method.name, row.method.drafter, row.method.settings, row.drafter) for row in rows]


def test_assistants(pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint, or each drafter that is a language model, whatever its vocabulary."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    drafters = [
        DrafterFile(Path("/m/small.gguf"), "model", 1000),
        DrafterFile(Path("/m/eagle.gguf"), "eagle3", 1000),
        DrafterFile(Path("/m/other.gguf"), "model", 500, same_vocabulary=False),
    ]
    rows = peer_rows("transformers-assisted", PeerChoice(drafters, draft_max=[3]))
    assert told(rows) == [
        ("transformers-assisted small", "small.gguf", {"weights": "float32"}, Path("/m/small.gguf")),
        ("transformers-assisted other", "other.gguf", {"weights": "float32"}, Path("/m/other.gguf")),
    ]
    rows = peer_rows("transformers-assisted", PeerChoice(drafters, hf_target=pair.target, hf_drafter=pair.target))
    assert told(rows) == [("transformers-assisted", "target", {}, None)]
    with pytest.raises(ValueError, match=r"transformers-assisted: found eagle\.gguf is an EAGLE-3 drafter.*; expected"):
        peer_rows("transformers-assisted", PeerChoice(drafters[1:2]))
    with pytest.raises(ValueError, match="transformers-assisted: found no drafter; expected"):
        peer_rows("transformers-assisted", PeerChoice())


def test_sampling_that_others_mean_otherwise() -> None:
    assert unsupported_sampling({"temperature": 0.8, "top_k": 5, "repeat_penalty": 1.0}) is None
    assert "found repeat_penalty 1.1" in str(unsupported_sampling({"repeat_penalty": 1.1}))


def test_llama_cpp_plain(llama_cpp: None, pair: TinyPair) -> None:
    tokenizer = _core.Tokenizer(str(pair.target_gguf))
    peer = load("llama.cpp", options_of(pair, ignore_eos=True, top_k=3), tokenizer)
    assert isinstance(peer, LlamaCpp)
    for _ in range(2):
        text = peer.write([7, 8, 20], traced=True)
        assert text.tokens == list(range(20, 28))
        assert text.finish_reason == "length"
        assert (text.steps, text.step_tokens, text.drafted_steps, text.trace) == (7, 7, 0, None)
        assert text.prefill_seconds is not None
        assert 0.0 < text.prefill_seconds <= text.total_seconds
    llama = peer._llm
    assert llama.resets == 2
    assert llama.asked == {"temp": 0.0, "top_k": 3}
    assert llama.options["n_ctx"] == 128
    assert llama.options["n_threads"] == llama.options["n_threads_batch"] == 1
    assert "draft_model" not in llama.options


def test_llama_cpp_lookup_counts_passes(llama_cpp: None, pair: TinyPair) -> None:
    tokenizer = _core.Tokenizer(str(pair.target_gguf))
    peer = load("llama.cpp-lookup", options_of(pair, ignore_eos=True), tokenizer)
    text = peer.write([7, 8, 20], traced=False)
    assert (text.steps, text.step_tokens, text.drafted_steps) == (3, 7, None)
    assert isinstance(peer, LlamaCpp)
    assert peer._llm.options["draft_model"] == ("lookup", 2, 10)
    assert peer._llm.options["logits_all"] is True


def test_a_text_ends_at_the_models_end(llama_cpp: None, pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = SimpleNamespace(is_eog=lambda token: token == 23)
    peer = load("llama.cpp", options_of(pair), tokenizer)  # type: ignore[arg-type]
    text = peer.write([20], traced=False)
    assert (text.tokens, text.finish_reason) == ([20, 21, 22], "stop")
    assert (text.steps, text.step_tokens) == (3, 3)  # the token that ended it was given, too
    peer = load("llama.cpp", options_of(pair, ignore_eos=True), tokenizer)  # type: ignore[arg-type]
    text = peer.write([20], traced=False)
    assert (text.tokens, text.finish_reason) == (list(range(20, 28)), "length")


@pytest.mark.parametrize(
    ("ignore_eos", "found"),
    [(True, "3 tokens, expected"), (False, "3 tokens and no end-of-generation token, expected")],
)
def test_a_text_that_ends_too_early(
    ignore_eos: bool, found: str, llama_cpp: None, pair: TinyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLlama, "generate", lambda self, tokens, **options: (token for token in (20, 21, 22)))
    peer = load("llama.cpp", options_of(pair, ignore_eos=ignore_eos), _core.Tokenizer(str(pair.target_gguf)))
    with pytest.raises(RuntimeError, match=f"^llama.cpp: found a text of {found} 8 tokens$"):
        peer.write([20], traced=False)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ImportError("libllama.so: no such file"), "ImportError: libllama.so: no such file"),
        (TypeError("unexpected keyword"), "TypeError: unexpected keyword"),
        (AssertionError(), "AssertionError"),
        (ValueError("Failed to load\nmodel"), "ValueError: Failed to load model"),
        (RuntimeError("no such kernel"), "no such kernel"),
    ],
)
def test_errors_name_the_method(
    error: Exception, what: str, llama_cpp: None, pair: TinyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise error

    tokenizer = _core.Tokenizer(str(pair.target_gguf))
    peer = load("llama.cpp", options_of(pair), tokenizer)
    monkeypatch.setattr(FakeLlama, "generate", fails)
    with pytest.raises(RuntimeError, match=f"^llama.cpp: {what}$"):
        peer.write([7, 8], traced=False)
    monkeypatch.setattr(FakeLlama, "__init__", fails)
    with pytest.raises(RuntimeError, match=f"^method 'llama.cpp-lookup': cannot be loaded: {what}$"):
        load("llama.cpp-lookup", options_of(pair), tokenizer)
    monkeypatch.setattr(importlib, "import_module", fails)  # installed, but broken
    with pytest.raises(RuntimeError, match=f"^method 'transformers': cannot be loaded: {what}$"):
        load_peer(Method("transformers", "transformers"), options_of(pair), tokenizer)


def test_memory_that_is_not_there(llama_cpp: None, pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise MemoryError("of the cache")

    monkeypatch.setattr(FakeLlama, "__init__", fails)
    with pytest.raises(MemoryError, match=r"^method 'llama\.cpp': cannot be loaded: of the cache$"):
        load("llama.cpp", options_of(pair), _core.Tokenizer(str(pair.target_gguf)))


PROMPT = list(range(5, 25))


def from_gguf(options: PeerOptions, drafter: Path) -> PeerOptions:
    """The same without checkpoints."""
    return replace(options, choice=PeerChoice([DrafterFile(drafter, "model", 400)]), drafter=drafter)


@pytest.mark.parametrize("source", ["checkpoint", "gguf"])
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_write_the_same_as_we_do(kind: str, source: str, pair: TinyPair) -> None:
    pytest.importorskip("transformers")
    options = options_of(pair, ignore_eos=True)
    if source == "gguf":
        pytest.importorskip("accelerate")
        options = from_gguf(options, pair.target_gguf)
    llm = frspec_cpp.LLM(pair.target_gguf, n_ctx=128, n_threads=1)
    expected = llm.generate(PROMPT, max_tokens=8, ignore_eos=True)
    text = load(kind, options, llm.tokenizer).write(PROMPT, traced=False)
    assert text.tokens == expected.tokens
    assert text.finish_reason == "length"
    assert text.prefill_seconds is not None
    assert 0.0 < text.prefill_seconds < text.total_seconds
    if kind == "transformers":
        assert (text.steps, text.step_tokens, text.drafted_steps) == (7, 7, 0)


def test_an_assistant_of_another_vocabulary(pair: TinyPair, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = make_checkpoint(tmp_path / "other", "mistral", vocab_size=416)
    convert(folder, folder.with_suffix(".gguf"), "f32", quiet=True)
    llm = frspec_cpp.LLM(pair.target_gguf, n_ctx=128, n_threads=1)
    options = from_gguf(options_of(pair, ignore_eos=True), folder.with_suffix(".gguf"))
    peer = load("transformers-assisted", options, llm.tokenizer)
    assert isinstance(peer, Transformers)
    assert set(peer._extra) == {"assistant_model", "tokenizer", "assistant_tokenizer"}
    assert peer.write(PROMPT, traced=False).tokens == llm.generate(PROMPT, max_tokens=8, ignore_eos=True).tokens


def vocabulary_swapped(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose vocabulary has two tokens the other way round."""
    shutil.copytree(source, folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    first, second = (next(text for text, number in vocabulary.items() if number == wanted) for wanted in (50, 51))
    vocabulary[first], vocabulary[second] = 51, 50
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("source", ["checkpoint", "gguf"])
def test_an_assistant_of_another_vocabulary_of_the_same_size(source: str, pair: TinyPair, tmp_path: Path) -> None:
    """It would take its tokens for the target's."""
    pytest.importorskip("accelerate")
    folder = vocabulary_swapped(pair.target, tmp_path / "swapped")
    options = options_of(pair)
    options = replace(options, choice=replace(options.choice, hf_drafter=folder))
    tokenizer = _core.Tokenizer(str(pair.target_gguf))
    if source == "gguf":
        convert(folder, tmp_path / "swapped.gguf", "f32", quiet=True)
        choice = PeerChoice([look_at(tmp_path / "swapped.gguf", tokenizer)], hf_target=pair.target)
        options = replace(options, choice=choice, drafter=tmp_path / "swapped.gguf")
    with pytest.raises(RuntimeError, match=r": swapped.*: found another vocabulary than the target's; both have 400 t"):
        load("transformers-assisted", options, tokenizer)


@pytest.fixture(scope="module")
def ending(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """The target with an end of generation that it comes to in the midst of a text, told in generation_config.json."""
    text = frspec_cpp.LLM(pair.target_gguf, n_ctx=128, n_threads=1).generate(PROMPT, max_tokens=8, ignore_eos=True)
    end = next(token for place, token in enumerate(text.tokens) if place >= 3 and token not in text.tokens[:place])
    folder = tmp_path_factory.mktemp("peers") / "ending"
    shutil.copytree(pair.target, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, end], "max_length": 24}))
    gguf = folder.with_suffix(".gguf")
    convert(folder, gguf, "f32", quiet=True)
    return TinyPair(folder, pair.drafter, gguf, pair.drafter_gguf)


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_the_checkpoints_own_end(kind: str, ignore_eos: bool, ending: TinyPair) -> None:
    pytest.importorskip("transformers")
    llm = frspec_cpp.LLM(ending.target_gguf, n_ctx=128, n_threads=1)
    expected = llm.generate(PROMPT, max_tokens=8, ignore_eos=ignore_eos)
    assert expected.finish_reason == ("length" if ignore_eos else "stop")
    text = load(kind, options_of(ending, ignore_eos=ignore_eos), llm.tokenizer).write(PROMPT, traced=False)
    assert (text.tokens, text.finish_reason) == (expected.tokens, expected.finish_reason)


def test_an_end_that_the_target_does_not_know(ending: TinyPair, pair: TinyPair) -> None:
    pytest.importorskip("transformers")
    llm = frspec_cpp.LLM(pair.target_gguf, n_ctx=128, n_threads=1)
    text = load("transformers", options_of(ending), llm.tokenizer).write(PROMPT, traced=False)
    expected = llm.generate(PROMPT, max_tokens=8)
    assert (text.tokens, text.finish_reason) == (expected.tokens, expected.finish_reason)


@pytest.mark.parametrize("kind", ["transformers-lookup", "transformers-assisted"])
def test_drafts_before_the_first_pass(kind: str, pair: TinyPair) -> None:
    """What the prompt's pass gave is no step's."""
    torch = pytest.importorskip("torch")
    llm = frspec_cpp.LLM(pair.target_gguf, n_ctx=128, n_threads=1)
    text = llm.generate(PROMPT, max_tokens=40, ignore_eos=True).tokens
    prompt = text + text[:2]  # its third token is to be expected behind it
    peer = load(kind, options_of(pair, ignore_eos=True, max_tokens=20), llm.tokenizer)
    assert isinstance(peer, Transformers)
    handed = Handed()
    peer._model.generate(torch.tensor([prompt]), generation_config=peer._config, streamer=handed, **peer._extra)
    _, first, *rest = handed.counts
    assert first > 1
    found = peer.write(prompt, traced=False)
    assert (found.steps, found.step_tokens) == (len(rest), sum(rest))
    assert found.step_tokens == len(found.tokens) - first
    short = load(kind, options_of(pair, ignore_eos=True, max_tokens=2), llm.tokenizer).write(prompt, traced=False)
    assert (len(short.tokens), short.steps, short.step_tokens) == (2, 0, 0)


class Handed:
    """A streamer of transformers': how many tokens the prompt had, and what each pass gave."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def put(self, value: Any) -> None:
        """Once for the prompt, then once a pass."""
        self.counts.append(value.numel())

    def end(self) -> None:
        """Nothing."""
