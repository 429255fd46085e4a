"""Hugging Face transformers as a peer, on the target's checkpoint or on the GGUF file, which it dequantizes."""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import _core
from .engines import Text
from .peer_rows import (
    LOOKUP_NGRAM,
    LOOKUP_SETTINGS,
    LOOKUP_TOKENS,
    PeerChoice,
    PeerOptions,
    PeerRow,
    absent,
    drafted_rows,
    engine_name,
)
from .peer_texts import Passes, Peer, collect, ends_of, text_of
from .records import Method

ASSISTED = "transformers-assisted"
#: What each kind is.
KINDS = {
    "transformers": "transformers, plain; it dequantizes the file, or reads --hf-target",
    "transformers-lookup": "its prompt lookup",
    ASSISTED: "assisted by a language model of -d, of any vocabulary, or by --hf-drafter instead",
}
GGUF_DTYPE = "float32"  # what transformers makes of a GGUF file: its own default
# What a checkpoint says of how it drafts as an assistant; all else that it says is a default of texts.
_ASSISTANT = (
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "target_lookbehind",
)


def transformers_rows(kind: str, choice: PeerChoice) -> list[PeerRow] | str:
    """The rows of a kind, one for each assistant; or why it must be skipped.

    Raises:
        ValueError: A folder that was given is no checkpoint, or there is no assistant.
    """
    _check_folder("--hf-target", choice.hf_target)
    _check_folder("--hf-drafter", choice.hf_drafter)
    assisted = kind == ASSISTED
    reads_gguf = choice.hf_target is None or (assisted and choice.hf_drafter is None)
    needed = ("transformers", "torch", *(("gguf", "accelerate") if reads_gguf else ()))
    if (reason := absent(*needed)) is not None:
        return reason
    settings: dict[str, Any] = dict(LOOKUP_SETTINGS) if kind == "transformers-lookup" else {}
    if choice.hf_target is None:
        settings["weights"] = GGUF_DTYPE
    row = Method(kind, kind, engine=engine_name("transformers"), settings=settings, exact=False)
    if not assisted:
        return [PeerRow(row)]
    if choice.hf_drafter is not None:
        return [PeerRow(replace(row, drafter=choice.hf_drafter.resolve().name))]
    return drafted_rows(row, [one for one in choice.drafters if one.kind == "model"], choice, KINDS[kind])


class Transformers(Peer):
    """Hugging Face transformers: plain, with prompt lookup, or with an assistant."""

    def __init__(self, method: Method, options: PeerOptions, tokenizer: _core.Tokenizer) -> None:
        super().__init__(method, options, tokenizer)
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        transformers.utils.logging.set_verbosity_error()  # its remarks would tear the progress bar
        transformers.utils.logging.disable_progress_bar()
        self._torch = torch
        self._threads = options.threads
        self._device = "cuda" if options.gpu and torch.cuda.is_available() else "cpu"
        target = _source(options.choice.hf_target, options.target)
        self._model = self._load(transformers, target)
        self._extra: dict[str, Any] = {}
        self._config = _generation_config(transformers, options.writing, tokenizer)
        if method.kind == "transformers-lookup":
            self._config.prompt_lookup_num_tokens = LOOKUP_TOKENS
            self._config.max_matching_ngram_size = LOOKUP_NGRAM
        elif method.kind == ASSISTED:
            drafter = _source(options.choice.hf_drafter, options.drafter)
            assistant = self._load(transformers, drafter)
            self._extra["assistant_model"] = assistant
            # By these numbers it tells vocabularies apart, and takes tokenizers only where they differ.
            size = _vocabulary(self._model)
            if _vocabulary(assistant) == size:
                if not _same_vocabulary(transformers, options):
                    name = method.drafter
                    raise ValueError(
                        f"{name}: found another vocabulary than the target's; both have {size} tokens, by which "
                        "transformers tells vocabularies apart; expected the same one, or one of another size"
                    )
            else:
                for name, source in (("tokenizer", target), ("assistant_tokenizer", drafter)):
                    self._extra[name] = transformers.AutoTokenizer.from_pretrained(**source)

    def _load(self, transformers: Any, source: dict[str, str]) -> Any:
        # Blocks of a GGUF file become floats, whatever they were.
        dtype = getattr(self._torch, GGUF_DTYPE) if "gguf_file" in source else "auto"
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of such a file that nothing turns off
            model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
        model = model.to(self._device).eval()
        # What our configuration leaves open is filled from the model's: another end of the text, for instance.
        own = {name: getattr(model.generation_config, name, None) for name in _ASSISTANT}
        kept = {name: value for name, value in own.items() if value is not None}
        model.generation_config = transformers.GenerationConfig(**kept)
        return model

    def _write(self, prompt: Sequence[int]) -> Text:
        torch = self._torch
        torch.set_num_threads(self._threads)
        torch.manual_seed(int(self._writing.get("seed", 0)) % 2**63)
        ids = torch.tensor([list(prompt)], device=self._device)
        clock = _Streamer()
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
        drafts = self._method.kind != "transformers"
        return text_of(tokens, reason, clock.since(start), total, clock.passes, clock.of_prompt, drafts)


class _Streamer(Passes):
    """As transformers calls it."""

    def __init__(self) -> None:
        super().__init__()
        self._has_prompt = False

    def put(self, value: Any) -> None:
        """The prompt comes first, then the tokens of each pass."""
        if self._has_prompt:
            self.note(int(value.numel()))
        self._has_prompt = True

    def end(self) -> None:
        """Nothing."""


def _generation_config(transformers: Any, writing: dict[str, Any], tokenizer: _core.Tokenizer) -> Any:
    """Of our options alone: a checkpoint's own defaults would be others."""
    temperature = float(writing.get("temperature", 0.0))
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0.0:
        sampling = {name: writing[name] for name in ("top_k", "top_p", "min_p") if name in writing}
        sampling |= {"do_sample": True, "temperature": temperature}
    ends = ends_of(tokenizer)
    return transformers.GenerationConfig(
        max_new_tokens=writing["max_tokens"],
        eos_token_id=None if writing.get("ignore_eos") else ends,
        pad_token_id=ends[0] if ends else 0,
        **sampling,
    )


def _vocabulary(model: Any) -> int:
    """Tokens, padding included."""
    return int(model.config.get_text_config().vocab_size)


def _same_vocabulary(transformers: Any, options: PeerOptions) -> bool:
    """Whether the assistant's tokens are the target's. Of a checkpoint, those that were added to it do not count."""
    folder = options.choice.hf_drafter
    if folder is None:
        return all(one.same_vocabulary for one in options.choice.drafters if one.path == options.drafter)
    tokens: Any = _core.GgufFile(str(options.target)).metadata["tokenizer.ggml.tokens"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    added = tokenizer.get_added_vocab()
    own = {number: text for text, number in tokenizer.get_vocab().items() if text not in added}
    return all(own.get(number, text) == text for number, text in enumerate(tokens))


def _source(folder: Path | None, file: Path | None) -> dict[str, str]:
    """Where transformers finds a model: in a checkpoint's folder, or in a GGUF file."""
    if folder is not None:
        return {"pretrained_model_name_or_path": str(folder)}
    if file is None:
        raise ValueError("found neither a checkpoint nor a GGUF file")
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}


def _check_folder(option: str, folder: Path | None) -> None:
    if folder is not None and not (folder / "config.json").is_file():
        raise ValueError(f"{option} {folder}: found no config.json in it, expected a Hugging Face checkpoint")
