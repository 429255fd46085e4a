"""OpenVINO GenAI as a peer, on the same GGUF file: plain, with its prompt lookup, or with a draft model."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import _core
from .engines import Text
from .peer_rows import PeerChoice, PeerOptions, PeerRow, absent, drafted_rows, engine_name
from .peer_texts import Passes, Peer, collect, ends_of, named, text_of
from .records import Method

DRAFTED = "openvino-draft"
#: What each kind is.
KINDS = {
    "openvino": "OpenVINO GenAI, plain",
    "openvino-lookup": "its prompt lookup",
    DRAFTED: "it with a language model of -d that has the target's vocabulary and drafts --draft-max tokens",
}
# Its own samples' values: there is no default.
ASSISTANT_TOKENS = 5
LOOKUP_NGRAM = 3

_DEVICE = "CPU"


def openvino_rows(kind: str, choice: PeerChoice) -> list[PeerRow] | str:
    """The rows of a kind, one for each drafter that fits and each number of tokens; or why it must be skipped.

    Raises:
        ValueError: None of the drafters fits.
        RuntimeError: The package is there, and cannot be imported or asked what it computes in.
    """
    if (reason := absent("openvino_genai", "openvino")) is not None:
        return reason
    with named(kind):
        settings = _types()
    if kind == "openvino-lookup":
        settings |= {"num_assistant_tokens": ASSISTANT_TOKENS, "max_ngram_size": LOOKUP_NGRAM}
    row = Method(kind, kind, engine=engine_name("openvino-genai"), settings=settings, exact=False)
    if kind != DRAFTED:
        return [PeerRow(row)]
    # It refuses a draft model of another vocabulary.
    fit = [drafter for drafter in choice.drafters if drafter.kind == "model" and drafter.same_vocabulary]
    return drafted_rows(row, fit, choice, KINDS[kind], "num_assistant_tokens", ASSISTANT_TOKENS)


class OpenVino(Peer):
    """A pipeline of OpenVINO GenAI, on the processor.

    Args:
        method: A row of `openvino_rows`.
        options: What peers are started with.
        tokenizer: The target's.

    Raises:
        RuntimeError: It cannot read or convert a file; the message names the architecture and the types of its tensors.
    """

    def __init__(self, method: Method, options: PeerOptions, tokenizer: _core.Tokenizer) -> None:
        super().__init__(method, options, tokenizer)
        self._genai: Any = importlib.import_module("openvino_genai")
        self._tensor: Any = importlib.import_module("openvino").Tensor
        self._config = self._generation_config()
        scheduler = self._genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # nothing of an earlier text: the whole prompt is read
        scheduler.max_num_batched_tokens = options.context  # at once
        more: dict[str, Any] = {"scheduler_config": scheduler, "INFERENCE_NUM_THREADS": options.threads}
        if method.kind == "openvino-lookup":
            more["prompt_lookup"] = True
        elif method.kind == DRAFTED and options.drafter is not None:
            more["draft_model"] = self._draft_model(options.drafter, options.threads)
        with named(f"cannot read {_told(options.target)}"):
            self._pipeline = self._genai.LLMPipeline(str(options.target), _DEVICE, **more)

    def _draft_model(self, path: Path, threads: int) -> Any:
        """A draft model cannot be a GGUF file: it is converted, into a folder that is gone once it is loaded."""
        with tempfile.TemporaryDirectory() as folder, named(f"cannot convert or load {_told(path)}"):
            link = Path(folder) / path.name
            link.symlink_to(path.resolve())
            self._genai.LLMPipeline(str(link), _DEVICE, enable_save_ov_model=True)
            return self._genai.draft_model(folder, _DEVICE, INFERENCE_NUM_THREADS=threads)

    def _generation_config(self) -> Any:
        """Of our options alone."""
        writing = self._writing
        config = self._genai.GenerationConfig()
        config.max_new_tokens = writing["max_tokens"]
        config.ignore_eos = bool(writing.get("ignore_eos"))
        ends = ends_of(self._tokenizer)
        if ends and not config.ignore_eos:
            config.eos_token_id = ends[0]
            config.stop_token_ids = set(ends)
        temperature = float(writing.get("temperature", 0.0))
        if temperature > 0.0:
            config.do_sample = True
            config.temperature = temperature
            config.rng_seed = int(writing.get("seed", 0)) % 2**32
            for name in ("top_k", "top_p", "min_p"):
                if writing.get(name):  # 0 turns a filter off, which is its default
                    setattr(config, name, writing[name])
        settings = self._method.settings
        if "num_assistant_tokens" in settings:
            config.num_assistant_tokens = settings["num_assistant_tokens"]
        if "max_ngram_size" in settings:
            config.max_ngram_size = settings["max_ngram_size"]
        return config

    def _write(self, prompt: Sequence[int]) -> Text:
        ids = np.array([list(prompt)], dtype=np.int64)
        inputs = self._genai.TokenizedInputs(self._tensor(ids), self._tensor(np.ones_like(ids)))
        go_on = self._genai.StreamingStatus.RUNNING
        clock = type("Streamer", (_Streamer, self._genai.StreamerBase), {"answer": go_on})()
        start = time.perf_counter()
        out = self._pipeline.generate(inputs, self._config, clock)
        total = time.perf_counter() - start
        tokens, reason, _ = collect(out.tokens[0], start, self._writing, self._tokenizer)
        drafts = self._method.kind != "openvino"
        return text_of(tokens, reason, clock.since(start), total, clock.passes, clock.of_prompt, drafts)


class _Streamer(Passes):
    """As OpenVINO calls it: a base of its own is needed, too."""

    answer: Any = None  # "go on", as OpenVINO says it

    def write(self, token: int | Sequence[int]) -> Any:
        """Called with what each pass gave."""
        self.note(1 if isinstance(token, int) else len(token))
        return self.answer

    def end(self) -> None:
        """Nothing."""


def _types() -> dict[str, Any]:
    """What it computes in on this machine, and keeps keys and values in."""
    core = importlib.import_module("openvino").Core()
    asked = {"compute_type": "INFERENCE_PRECISION_HINT", "kv_cache_type": "KV_CACHE_PRECISION"}
    return {name: core.get_property(_DEVICE, key).get_type_name() for name, key in asked.items()}


def _told(path: Path) -> str:
    """A file in words: whether it is read depends on its architecture and on the types of its tensors."""
    file = _core.GgufFile(str(path))
    types = sorted({tensor.type for tensor in file.tensors})
    return f"{path.name} (architecture '{file.metadata['general.architecture']}', tensors of {', '.join(types)})"
