"""OpenVINO GenAI as a peer: with a stand-in, what it is asked for and what is counted; the real one, where it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.evaluate.drafters import DrafterFile
from frspec_cpp.tools.evaluate.openvino import OpenVino
from frspec_cpp.tools.evaluate.peer_rows import PeerChoice, PeerOptions
from frspec_cpp.tools.evaluate.peers import load_peer, peer_rows
from frspec_cpp.tools.evaluate.records import Method
from tiny_pair import TinyPair, make_tiny_pair

import frspec_cpp
from frspec_cpp import _core

PROMPT = list(range(5, 25))
END = 1005  # of a text of the stand-in's


class FakePipeline:
    """openvino_genai.LLMPipeline, as far as it is used: writes the prompt's last token and its successors."""

    def __init__(self, path: str, device: str, **properties: Any) -> None:
        self.path = Path(path)
        self.properties = properties
        self.asked: Any = None
        assert device == "CPU"
        assert self.path.is_file()
        if properties.get("enable_save_ov_model"):
            (self.path.parent / "openvino_model.xml").write_text(str(self.path.resolve()))

    def generate(self, inputs: Any, config: Any, streamer: Any) -> Any:
        """One token a pass; three with lookup or a draft model, from the prompt's on."""
        self.asked = config
        (ids,) = inputs.input_ids.tolist()
        assert inputs.attention_mask.tolist() == [[1] * len(ids)]
        at_once = 3 if {"prompt_lookup", "draft_model"} & self.properties.keys() else 1
        text = [ids[-1] + place for place in range(config.max_new_tokens)]
        if not config.ignore_eos and END in text:
            text = text[: text.index(END) + 1]
        for place in range(0, len(text), at_once):
            # One token is told as a number or as a list.
            given = text[place : place + at_once]
            assert streamer.write(given[0] if len(given) == 1 and place else given) == "go on"
        streamer.end()
        return SimpleNamespace(tokens=[text])


class FakeTokenizer:
    """A vocabulary with two ends."""

    size = 1010

    def is_eog(self, token: int) -> bool:
        """Whether a text ends with it."""
        return token in (END, 1007)


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand-ins for both packages."""
    genai: Any = ModuleType("openvino_genai")
    genai.LLMPipeline = FakePipeline
    genai.GenerationConfig = genai.SchedulerConfig = SimpleNamespace
    genai.TokenizedInputs = lambda ids, mask: SimpleNamespace(input_ids=ids, attention_mask=mask)
    genai.StreamerBase = type("StreamerBase", (), {})
    genai.StreamingStatus = SimpleNamespace(RUNNING="go on")
    genai.draft_model = lambda folder, device, **properties: (
        Path(folder), (Path(folder) / "openvino_model.xml").read_text(), properties,
    )  # fmt: skip
    module: Any = ModuleType("openvino")
    module.Tensor = np.array
    types = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "u8"}
    module.Core = lambda: SimpleNamespace(
        get_property=lambda device, name: SimpleNamespace(get_type_name=lambda: types[name])
    )
    for each in (genai, module):
        each.__spec__ = SimpleNamespace(name=each.__name__)
        monkeypatch.setitem(sys.modules, each.__name__, each)
    return genai


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A tiny target."""
    return make_tiny_pair(tmp_path_factory.mktemp("openvino") / "pair")


def load(kind: str, pair: TinyPair, tokenizer: Any, draft_max: Sequence[int] = (), **writing: Any) -> OpenVino:
    """With the target as its own drafter."""
    options = PeerOptions(
        target=pair.target_gguf, choice=PeerChoice([DrafterFile(pair.target_gguf, "model", 400)], draft_max),
        threads=2, context=128, gpu=False, drafter=pair.target_gguf if kind == "openvino-draft" else None,
        writing={"max_tokens": 8, "ignore_eos": True, "temperature": 0.0, "seed": 5, **writing},
    )  # fmt: skip
    rows = peer_rows(kind, options.choice)
    assert not isinstance(rows, str), rows
    peer = load_peer(rows[0].method, options, tokenizer)
    assert isinstance(peer, OpenVino)
    return peer


def methods_of(kind: str, choice: PeerChoice) -> list[Method]:
    rows = peer_rows(kind, choice)
    assert not isinstance(rows, str), rows
    return [row.method for row in rows]


def test_rows(openvino: Any) -> None:
    types = {"compute_type": "f32", "kv_cache_type": "u8"}
    (plain,) = methods_of("openvino", PeerChoice())
    assert (plain.name, plain.settings, plain.drafter, plain.exact) == ("openvino", types, None, False)
    assert plain.engine.startswith("openvino-genai ")
    (lookup,) = methods_of("openvino-lookup", PeerChoice())
    assert lookup.settings == {**types, "num_assistant_tokens": 5, "max_ngram_size": 3}
    small = DrafterFile(Path("/m/small.gguf"), "model", 1000)
    other = DrafterFile(Path("/m/other.gguf"), "model", 500, same_vocabulary=False)
    (row,) = methods_of("openvino-draft", PeerChoice([small, other]))
    assert (row.name, row.drafter, row.settings["num_assistant_tokens"]) == ("openvino-draft", "small.gguf", 5)
    rows = methods_of("openvino-draft", PeerChoice([small], [2, 4]))
    assert [row.name for row in rows] == ["openvino-draft n-max 2", "openvino-draft n-max 4"]
    assert [row.settings["num_assistant_tokens"] for row in rows] == [2, 4]
    with pytest.raises(
        ValueError, match=r"openvino-draft: found other\.gguf is a language model with another voc.*; exp"
    ):
        peer_rows("openvino-draft", PeerChoice([other]))


def test_a_package_that_cannot_be_asked(openvino: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ImportError("libopenvino.so: no such file")

    monkeypatch.setattr(sys.modules["openvino"], "Core", fails)
    with pytest.raises(RuntimeError, match=r"^openvino: ImportError: libopenvino\.so: no such file$"):
        peer_rows("openvino", PeerChoice())


def test_plain(openvino: Any, pair: TinyPair) -> None:
    peer = load("openvino", pair, FakeTokenizer(), temperature=0.7, top_k=3, top_p=0.9, min_p=0.0)
    for _ in range(2):
        text = peer.write([4, 1002], traced=True)
        assert (text.tokens, text.finish_reason) == (list(range(1002, 1010)), "length")
        assert (text.steps, text.step_tokens, text.drafted_steps, text.trace) == (7, 7, 0, None)
        assert text.prefill_seconds is not None
        assert 0.0 < text.prefill_seconds <= text.total_seconds
    properties = peer._pipeline.properties
    assert properties.keys() == {"scheduler_config", "INFERENCE_NUM_THREADS"}
    assert properties["INFERENCE_NUM_THREADS"] == 2
    assert vars(properties["scheduler_config"]) == {"enable_prefix_caching": False, "max_num_batched_tokens": 128}
    assert vars(peer._pipeline.asked) == {
        "max_new_tokens": 8, "ignore_eos": True, "do_sample": True, "temperature": 0.7, "rng_seed": 5, "top_k": 3,
        "top_p": 0.9,
    }  # fmt: skip


def test_a_text_that_ends(openvino: Any, pair: TinyPair) -> None:
    peer = load("openvino", pair, FakeTokenizer(), ignore_eos=False)
    text = peer.write([1002], traced=False)
    assert (text.tokens, text.finish_reason, text.steps, text.step_tokens) == ([1002, 1003, 1004], "stop", 3, 3)
    assert vars(peer._pipeline.asked) == {
        "max_new_tokens": 8, "ignore_eos": False, "eos_token_id": 1005, "stop_token_ids": {1005, 1007},
    }  # fmt: skip
    peer._config.max_new_tokens = 2
    with pytest.raises(RuntimeError, match=r"^openvino: found a text of 2 tokens and no end-of-generation token, exp"):
        peer.write([1002], traced=False)


@pytest.mark.parametrize("kind", ["openvino-lookup", "openvino-draft"])
def test_drafts(kind: str, openvino: Any, pair: TinyPair) -> None:
    peer = load(kind, pair, FakeTokenizer(), [4] if kind == "openvino-draft" else [])
    text = peer.write([4, 20], traced=False)
    assert text.tokens == list(range(20, 28))
    # Three passes; the prompt's gave three tokens.
    assert (text.steps, text.step_tokens, text.drafted_steps) == (2, 5, None)
    asked, properties = vars(peer._pipeline.asked), peer._pipeline.properties
    if kind == "openvino-lookup":
        assert properties["prompt_lookup"] is True
        assert (asked["num_assistant_tokens"], asked["max_ngram_size"]) == (5, 3)
        return
    folder, converted, given = properties["draft_model"]
    assert converted == str(pair.target_gguf.resolve())
    assert given == {"INFERENCE_NUM_THREADS": 2}
    assert not folder.exists()
    assert not (pair.target_gguf.parent / "openvino_model.xml").exists()
    assert asked["num_assistant_tokens"] == 4
    assert "max_ngram_size" not in asked


@pytest.mark.parametrize("kind", ["openvino", "openvino-draft"])
def test_a_file_that_it_does_not_read(
    kind: str, openvino: Any, pair: TinyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **properties: Any) -> None:
        raise RuntimeError("Exception from gguf.cpp:42:\n[load_gguf] gguf_tensor_to_f16 failed")

    monkeypatch.setattr(FakePipeline, "__init__", fails)
    failed = "cannot convert or load" if kind == "openvino-draft" else "cannot read"
    expected = (
        rf"^method '{kind}': cannot be loaded: {failed} {pair.target_gguf.name} \(architecture 'llama', "
        r"tensors of F32\): .*gguf_tensor_to_f16 failed$"
    )
    with pytest.raises(RuntimeError, match=expected):
        load(kind, pair, FakeTokenizer())


@pytest.fixture(scope="module")
def real(pair: TinyPair) -> TinyPair:
    """The target in a type that the real one reads."""
    if find_spec("openvino_genai") is None:
        pytest.skip("the 'openvino_genai' package is not installed")
    file = pair.target.with_suffix(".q8_0.gguf")
    convert(pair.target, file, "q8_0", quiet=True)
    return replace(pair, target_gguf=file)


@pytest.mark.parametrize("kind", ["openvino", "openvino-lookup", "openvino-draft"])
def test_the_real_one_writes_the_same_as_we_do(kind: str, real: TinyPair) -> None:
    llm = frspec_cpp.LLM(real.target_gguf, n_ctx=128, n_threads=1)
    expected = llm.generate(PROMPT, max_tokens=8, ignore_eos=True)
    text = load(kind, real, llm.tokenizer).write(PROMPT, traced=False)
    assert (text.tokens, text.finish_reason) == (expected.tokens, "length")
    assert text.prefill_seconds is not None
    assert 0.0 < text.prefill_seconds < text.total_seconds
    assert text.steps is not None
    # Its own drafts are all accepted.
    assert text.steps < 7 if kind == "openvino-draft" else text.steps == 7
    ending = SimpleNamespace(size=400, is_eog=lambda token: token == expected.tokens[5])
    text = load(kind, real, ending, ignore_eos=False).write(PROMPT, traced=False)
    assert (text.tokens, text.finish_reason) == (expected.tokens[:5], "stop")
    # A pass for each token behind the first, the end's included; drafts give several at once.
    assert text.steps is not None
    assert text.step_tokens == 5
    assert text.steps < 5 if kind == "openvino-draft" else text.steps == 5


def test_the_real_one_refuses_types(real: TinyPair, pair: TinyPair) -> None:
    tokenizer = _core.Tokenizer(str(pair.target_gguf))
    with pytest.raises(
        RuntimeError, match=r"cannot read target\.gguf \(architecture 'llama', tensors of F32\): .*Unsupp"
    ):
        load("openvino", pair, tokenizer)
