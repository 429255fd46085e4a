"""Bad input to the Python face: the right exception, whose message names the culprit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import frspec_cpp
from frspec_cpp import LLM

# Arguments of LLM beside the target, and what the message must say.
CONSTRUCTOR: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"head": "half"}, ValueError, "half"),
    ({"head": "ranked:0"}, ValueError, "ranked:0"),
    ({"head": "ranked:-5"}, ValueError, "ranked:-5"),
    ({"head": "ranked:65537"}, ValueError, "65537"),
    ({"tree_depth": -1}, ValueError, "depth: found -1"),
    ({"tree_branch": 257}, ValueError, "branch: found 257"),
    ({"tree_size": 0}, ValueError, "size: found 0"),
    ({"n_ctx": 1}, ValueError, "found 1 tokens"),
    ({"n_ctx": 10**8}, ValueError, "100000000"),
    ({"n_batch": 0}, ValueError, "batch: found 0"),
    ({"n_threads": -2}, ValueError, "threads: found -2"),
    ({"device": "tpu"}, ValueError, "tpu"),
    ({"drafter": "/no/drafter.gguf"}, FileNotFoundError, "/no/drafter.gguf"),
    ({"ranks": "/no/ranks.gguf", "head": "ranked:10"}, FileNotFoundError, "/no/ranks.gguf"),
    ({"drafter": "/dev/null"}, ValueError, "/dev/null"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CONSTRUCTOR, ids=lambda value: str(value)[:50])
def test_constructor(
    demo_target: Path, demo_drafter: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        LLM(demo_target, **{"drafter": demo_drafter, **arguments})
    assert message in str(caught.value)


def test_no_such_model() -> None:
    with pytest.raises(FileNotFoundError, match=r"/no/such\.gguf"):
        LLM("/no/such.gguf")


# Arguments of generate, and what the message must say.
GENERATE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_tokens": 0}, ValueError, "max_tokens: found 0"),
    ({"max_tokens": -3}, ValueError, "max_tokens: found -3"),
    ({"max_tokens": -(10**30)}, ValueError, "max_tokens: found -2147483647"),
    ({"draft": "sometimes"}, ValueError, "found 'sometimes', expected 'auto', 'always' (True) or 'never' (False)"),
    ({"max_tokens": 1.5}, TypeError, "float"),
    ({"temperature": -0.5}, ValueError, "temperature: found -0.5"),
    ({"temperature": float("nan")}, ValueError, "temperature: found nan"),
    ({"temperature": float("inf")}, ValueError, "temperature: found inf"),
    ({"temperature": "hot"}, TypeError, "temperature: found 'hot'"),
    ({"top_k": -2}, ValueError, "top_k: found -2"),
    ({"top_k": 1.5}, TypeError, "top_k: found 1.5"),
    ({"top_p": 0.0}, ValueError, "top_p: found 0, expected a number above 0, at most 1"),
    ({"top_p": 1.01}, ValueError, "top_p: found 1.01"),
    ({"top_p": float("nan")}, ValueError, "top_p: found nan"),
    ({"min_p": -0.1}, ValueError, "min_p: found -0.1"),
    ({"min_p": 1.5}, ValueError, "min_p: found 1.5"),
    ({"typical_p": 0.0}, ValueError, "typical_p: found 0"),
    ({"dynatemp_range": -1.0}, ValueError, "dynatemp_range: found -1"),
    ({"dynatemp_exponent": 0.0}, ValueError, "dynatemp_exponent: found 0"),
    ({"repeat_penalty": 0.0}, ValueError, "repeat_penalty: found 0"),
    ({"frequency_penalty": float("inf")}, ValueError, "frequency_penalty: found inf"),
    ({"presence_penalty": float("nan")}, ValueError, "presence_penalty: found nan"),
    ({"repeat_last_n": -2}, ValueError, "repeat_last_n: found -2"),
    ({"logit_bias": {65536: 1.0}}, ValueError, "logit_bias: found token id 65536, expected 0 to 65535"),
    ({"logit_bias": {-1: 1.0}}, ValueError, "logit_bias: found token id -1"),
    ({"logit_bias": {5: float("nan")}}, ValueError, "logit_bias: token 5: found nan"),
    ({"logit_bias": {5: float("inf")}}, ValueError, "logit_bias: token 5: found inf"),
    ({"logit_bias": [5]}, TypeError, "logit_bias: found list"),
    ({"stop": ""}, ValueError, "stop: found an empty string at index 0"),
    ({"stop": ["a", ""]}, ValueError, "stop: found an empty string at index 1"),
    ({"stop": [5]}, TypeError, "stop: found 5 of type int"),
    ({"stop_token_ids": [65536]}, ValueError, "stop_token_ids: found token id 65536"),
    ({"stop_token_ids": [-1]}, ValueError, "stop_token_ids: found token id -1"),
    ({"stop_token_ids": [10**12]}, ValueError, "stop_token_ids: found token id 1000000000000"),
    ({"stop_token_ids": 5}, TypeError, "stop_token_ids: found 5"),
    ({"stop": "\ud800"}, ValueError, "stop: found '\\ud800', which holds a lone surrogate"),
    ({"stop": b"x"}, TypeError, "stop: found b'x' of type bytes"),
    ({"seed": 1.5}, TypeError, "seed: found 1.5"),
    ({"logit_bias": {5: None}}, TypeError, "logit_bias: token 5: found None"),
    ({"logit_bias": {"5": 1}}, TypeError, "logit_bias: found '5'"),
    ({"min_tokens": -1}, ValueError, "min_tokens: found -1"),
    ({"min_tokens": 129}, ValueError, "min_tokens: found 129, expected 0 to 128, max_tokens"),
    ({"logprobs": -1}, ValueError, "logprobs: found -1"),
    ({"logprobs": 1001}, ValueError, "logprobs: found 1001, expected 0 to 1000"),
    ({"trace": "yes"}, TypeError, "trace: found 'yes' of type str"),
    ({"logits_processor": 5}, TypeError, "logits_processor: found int"),
    ({"topp": 0.5}, TypeError, "found an unknown keyword argument 'topp', expected one of temperature, top_k"),
    ({"seed": -2}, ValueError, "seed: found -2"),
    ({"seed": 2**64}, ValueError, "seed: found 18446744073709551616"),
    ({"prompt": []}, ValueError, "no tokens"),
    ({"prompt": [0, 65536]}, ValueError, "tokens[1]: found id 65536, expected 0 to 65535"),
    ({"prompt": [-1]}, ValueError, "tokens[0]: found id -1"),
    ({"prompt": [10**30]}, ValueError, "tokens[0]: found id 1000"),
    ({"prompt": [0, "a"]}, TypeError, "str"),
    ({"prompt": b"bytes"}, TypeError, "bytes"),
    ({"prompt": "a\ud800b"}, ValueError, "U+D800, at index 1"),
    ({"prompt": [5] * 2048}, ValueError, "found 2048 tokens"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), GENERATE, ids=lambda value: str(value)[:50])
def test_generate_and_stream(llm: LLM, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    for method in (llm.generate, llm.stream, frspec_cpp.generate):
        with pytest.raises(error) as caught:
            method(**{"prompt": "x", **arguments})  # stream() checks at once, not at the first piece
        assert message in str(caught.value)
    assert llm.generate("def", 2).tokens  # still usable


def test_prompt_longer_than_the_context_names_both_numbers(demo_target: Path) -> None:
    small = LLM(demo_target, n_ctx=16)
    with pytest.raises(ValueError, match=r"100 tokens.* 15.* 16"):
        small.generate([7] * 100)


def test_forward(llm: LLM) -> None:
    for tokens, message in [
        ([], "0 tokens"),
        ([65536], "65536"),
        ([-1], "-1"),
        ([1] * (llm.n_ctx + 1), str(llm.n_ctx)),
    ]:
        with pytest.raises(ValueError, match=message):
            llm.forward(tokens)


def test_detokenize(llm: LLM) -> None:
    for ids in ([65536], [-1], [2**40]):
        with pytest.raises(ValueError, match=str(ids[0])):
            llm.detokenize(ids)


def test_tokenize(llm: LLM) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        llm.tokenize("\udfff")


def test_demo_pair_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRSPEC_DEMO_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"demo-target\.gguf"):
        frspec_cpp.demo_paths()
