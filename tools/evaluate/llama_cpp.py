"""llama-cpp-python as a peer, on the same GGUF file."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from ... import _core
from .engines import Text
from .peer_rows import LOOKUP_NGRAM, LOOKUP_SETTINGS, LOOKUP_TOKENS, PeerOptions, PeerRow, absent, engine_name
from .peer_texts import Peer, collect, text_of
from .records import Method

#: What each kind is.
KINDS = {"llama.cpp": "llama-cpp-python, plain", "llama.cpp-lookup": "its prompt lookup"}


def llama_cpp_rows(kind: str) -> list[PeerRow] | str:
    """The row of a kind, or why it must be skipped."""
    if (reason := absent("llama_cpp")) is not None:
        return reason
    settings: dict[str, Any] = dict(LOOKUP_SETTINGS) if kind == "llama.cpp-lookup" else {}
    return [PeerRow(Method(kind, kind, engine=engine_name("llama-cpp-python"), settings=settings, exact=False))]


class LlamaCpp(Peer):
    """llama-cpp-python, plain or with its prompt lookup."""

    def __init__(self, method: Method, options: PeerOptions, tokenizer: _core.Tokenizer) -> None:
        super().__init__(method, options, tokenizer)
        llama_cpp: Any = importlib.import_module("llama_cpp")
        extra: dict[str, Any] = {}
        if method.kind == "llama.cpp-lookup":
            speculative: Any = importlib.import_module("llama_cpp.llama_speculative")
            # It keeps the logits of the whole context; without logits_all it makes room for one batch only.
            extra = {
                "draft_model": speculative.LlamaPromptLookupDecoding(LOOKUP_NGRAM, LOOKUP_TOKENS),
                "logits_all": True,
            }
        self._llm = llama_cpp.Llama(
            model_path=str(options.target),
            n_ctx=options.context,
            n_threads=options.threads,
            n_threads_batch=options.threads,
            n_gpu_layers=-1 if options.gpu else 0,
            seed=int(options.writing.get("seed", 0)) % 2**32,
            verbose=False,
            **extra,
        )
        self._passes = 0
        self._llm.eval = self._counted(self._llm.eval)

    def _write(self, prompt: Sequence[int]) -> Text:
        self._llm.reset()  # nothing of an earlier text: the whole prompt is read
        self._passes = 0
        options = {name: self._writing[name] for name in ("top_k", "top_p", "min_p") if name in self._writing}
        start = time.perf_counter()
        ids = self._llm.generate(list(prompt), temp=float(self._writing.get("temperature", 0.0)), **options)
        tokens, reason, first = collect(ids, start, self._writing, self._tokenizer)
        total = time.perf_counter() - start
        ids.close()
        # It drafts from the first token on: the prompt's pass gives that one alone.
        return text_of(tokens, reason, first, total, self._passes, 1, self._method.kind != "llama.cpp")

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self._passes += 1
            return function(*arguments, **keywords)

        return counted
