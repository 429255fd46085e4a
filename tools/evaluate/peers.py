"""Other engines in the same run: llama-cpp-python on the same GGUF file, transformers on the Hugging Face checkpoint.

They get the same token ids and write as many tokens. They compute otherwise (another order of sums, other types), so
their texts may differ from ours. Whatever is not installed is skipped by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import _core
from .engines import Text
from .peer_texts import SAMPLING, collect, named, text_of
from .records import Method

#: What each kind is: the package, the name it is installed by, what it does.
KINDS = {
    "llama.cpp": ("llama_cpp", "llama-cpp-python", "llama-cpp-python, plain"),
    "llama.cpp-lookup": ("llama_cpp", "llama-cpp-python", "its prompt lookup"),
    "transformers": ("transformers", "transformers", "transformers, plain (needs --hf-target)"),
    "transformers-lookup": ("transformers", "transformers", "its prompt lookup (needs --hf-target)"),
    "transformers-assisted": ("transformers", "transformers", "assisted (needs --hf-target and --hf-drafter)"),
}
LOOKUP_TOKENS = 10  # drafted at once by prompt lookup: the default of both
LOOKUP_NGRAM = 2
# What a checkpoint says of how it drafts as an assistant; all else that it says is a default of texts.
_ASSISTANT = (
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "target_lookbehind",
)


@dataclass(frozen=True)
class PeerOptions:
    """What peers are started with.

    Attributes:
        target: The GGUF file.
        hf_target: Folder of the target's checkpoint.
        hf_drafter: Folder of the assistant's.
        threads: CPU threads.
        context: Tokens that prompt and text may have together.
        writing: Keyword arguments of `LLM.generate` for all methods.
        gpu: Whether they may use one.
    """

    target: Path
    hf_target: Path | None
    hf_drafter: Path | None
    threads: int
    context: int
    writing: dict[str, Any]
    gpu: bool


def peer_method(kind: str, hf_target: Path | None, hf_drafter: Path | None) -> Method | str:
    """The row of a peer, or why it must be skipped.

    Raises:
        ValueError: A folder that it needs was not given, or is none.
    """
    package, distribution, _ = KINDS[kind]
    if package == "transformers":
        _check_folder(kind, "--hf-target", hf_target)
    if kind == "transformers-assisted":
        _check_folder(kind, "--hf-drafter", hf_drafter)
    for needed in (package, "torch") if package == "transformers" else (package,):
        if importlib.util.find_spec(needed) is None:
            return f"the '{needed}' package is not installed"
    settings: dict[str, Any] = {}
    if kind.endswith("-lookup"):
        settings = {"lookup_tokens": LOOKUP_TOKENS, "lookup_ngram": LOOKUP_NGRAM}
    drafter = hf_drafter.resolve().name if kind == "transformers-assisted" and hf_drafter is not None else None
    engine = f"{distribution} {_version(distribution)}"
    return Method(kind, kind, engine=engine, drafter=drafter, settings=settings, exact=False)


def unsupported_sampling(writing: dict[str, Any]) -> str | None:
    """Why peers cannot write by these options; None: they can."""
    neutral = {"typical_p": 1.0, "repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    for name, value in neutral.items():
        if writing.get(name, value) != value:
            return f"found {name} {writing[name]}; only {', '.join(SAMPLING)} mean the same everywhere"
    return None


def load_peer(kind: str, options: PeerOptions, tokenizer: _core.Tokenizer) -> LlamaCpp | Transformers:
    """The engine of a peer that is installed.

    Raises:
        RuntimeError: The package or the checkpoint cannot be loaded; the message names the method.
        MemoryError: Likewise.
    """
    with named(f"method '{kind}': cannot be loaded"):
        if KINDS[kind][0] == "llama_cpp":
            return LlamaCpp(kind, options, tokenizer)
        return Transformers(kind, options, tokenizer)


class LlamaCpp:
    """llama-cpp-python, plain or with its prompt lookup."""

    def __init__(self, kind: str, options: PeerOptions, tokenizer: _core.Tokenizer) -> None:
        llama_cpp: Any = importlib.import_module("llama_cpp")
        extra: dict[str, Any] = {}
        if kind == "llama.cpp-lookup":
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
        self._kind = kind
        self._writing = options.writing
        self._tokenizer = tokenizer
        self._passes = 0
        self._llm.eval = self._counted(self._llm.eval)

    def write(self, prompt: Sequence[int], traced: bool) -> Text:
        """Continues `prompt`; there is no trace. Errors are RuntimeErrors behind the method's name."""
        del traced
        with named(self._kind):
            return self._write(prompt)

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
        return text_of(tokens, reason, first, total, self._passes, 1, self._kind != "llama.cpp")

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self._passes += 1
            return function(*arguments, **keywords)

        return counted


class Transformers:
    """Hugging Face transformers: plain, with prompt lookup, or with an assistant."""

    def __init__(self, kind: str, options: PeerOptions, tokenizer: _core.Tokenizer) -> None:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        transformers.utils.logging.set_verbosity_error()  # its remarks would tear the progress bar
        transformers.utils.logging.disable_progress_bar()
        self._torch = torch
        self._threads = options.threads
        self._writing = options.writing
        self._tokenizer = tokenizer
        self._kind = kind
        self._device = "cuda" if options.gpu and torch.cuda.is_available() else "cpu"
        self._model = self._load(transformers, options.hf_target)
        self._extra: dict[str, Any] = {}
        self._config = _generation_config(transformers, options.writing, tokenizer)
        if kind == "transformers-lookup":
            self._config.prompt_lookup_num_tokens = LOOKUP_TOKENS
            self._config.max_matching_ngram_size = LOOKUP_NGRAM
        elif kind == "transformers-assisted":
            assistant = self._load(transformers, options.hf_drafter)
            self._extra = {"assistant_model": assistant, **_tokenizers(transformers, options)}
        self._passes = 0
        self._model.register_forward_hook(self._count)

    def _load(self, transformers: Any, folder: Path | None) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto").to(self._device).eval()
        # What our configuration leaves open is filled from the model's: another end of the text, for instance.
        own = {name: getattr(model.generation_config, name, None) for name in _ASSISTANT}
        kept = {name: value for name, value in own.items() if value is not None}
        model.generation_config = transformers.GenerationConfig(**kept)
        return model

    def write(self, prompt: Sequence[int], traced: bool) -> Text:
        """Continues `prompt`; there is no trace. Errors are RuntimeErrors behind the method's name."""
        del traced
        with named(self._kind):
            return self._write(prompt)

    def _write(self, prompt: Sequence[int]) -> Text:
        torch = self._torch
        torch.set_num_threads(self._threads)
        torch.manual_seed(int(self._writing.get("seed", 0)) % 2**63)
        ids = torch.tensor([list(prompt)], device=self._device)
        clock = _FirstPass()
        self._passes = 0
        start = time.perf_counter()
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config,
                streamer=clock,
                **self._extra,
            )
        total = time.perf_counter() - start
        written = out[0, ids.shape[1] :].tolist()
        tokens, reason, _ = collect(written, start, self._writing, self._tokenizer)
        first = None if clock.at is None else clock.at - start
        return text_of(tokens, reason, first, total, self._passes, clock.tokens, self._kind != "transformers")

    def _count(self, *_: Any) -> None:
        self._passes += 1


class _FirstPass:
    """A streamer of transformers' that notes when the tokens of the first pass are there, and how many."""

    def __init__(self) -> None:
        self._calls = 0
        self.at: float | None = None
        self.tokens = 1

    def put(self, value: Any) -> None:
        """The prompt comes first, then the tokens of each pass."""
        self._calls += 1
        if self._calls == 2:
            self.at = time.perf_counter()
            self.tokens = int(value.numel())

    def end(self) -> None:
        """Nothing."""


def _generation_config(transformers: Any, writing: dict[str, Any], tokenizer: _core.Tokenizer) -> Any:
    """Of our options alone: a checkpoint's own defaults would be others."""
    temperature = float(writing.get("temperature", 0.0))
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0.0:
        sampling = {name: writing[name] for name in ("top_k", "top_p", "min_p") if name in writing}
        sampling |= {"do_sample": True, "temperature": temperature}
    ends = [token for token in range(tokenizer.size) if tokenizer.is_eog(token)]
    return transformers.GenerationConfig(
        max_new_tokens=writing["max_tokens"],
        eos_token_id=None if writing.get("ignore_eos") else ends,
        pad_token_id=ends[0] if ends else 0,
        **sampling,
    )


def _tokenizers(transformers: Any, options: PeerOptions) -> dict[str, Any]:
    """What assisted generation needs where the assistant has another vocabulary."""
    load = transformers.AutoTokenizer.from_pretrained
    target, drafter = load(str(options.hf_target)), load(str(options.hf_drafter))
    if target.get_vocab() == drafter.get_vocab():
        return {}
    return {"tokenizer": target, "assistant_tokenizer": drafter}


def _check_folder(kind: str, option: str, folder: Path | None) -> None:
    if folder is None:
        raise ValueError(f"--methods {kind}: found no {option}, expected the folder of a Hugging Face checkpoint")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{option} {folder}: found no config.json in it, expected a Hugging Face checkpoint")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
