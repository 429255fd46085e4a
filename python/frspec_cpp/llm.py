"""LLM: a model in a GGUF file that generates, perhaps with a drafter."""

from __future__ import annotations

import functools
import json
import operator
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast, overload

import numpy as np
import numpy.typing as npt

from frspec_cpp import _core
from frspec_cpp.chat import TEMPLATE_DEFAULTS, ChatPrompts, TemplateOptions
from frspec_cpp.conversation import Conversation
from frspec_cpp.generation import Generation
from frspec_cpp.grammar import GivenTokens, Grammar, GrammarCompiler, TextGrammar
from frspec_cpp.hub import find_model
from frspec_cpp.option_table import EngineOptions, Options
from frspec_cpp.options import (
    ChatOptions,
    native_engine,
    per_text,
    takes_chat_options,
    takes_engine_options,
    takes_options,
)
from frspec_cpp.options import native as native_options
from frspec_cpp.progress import Report, reporting
from frspec_cpp.texts import LOWEST_PRIORITY, PendingText, TextQueue, TextRequest

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_INT32_MAX = 2**31 - 1

_living: weakref.WeakSet[LLM] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process, where those who held them do not exist."""
    for llm in _living:
        llm._lock = threading.RLock()
        llm._texts = TextQueue(llm._n_parallel, llm._lock)
        if (grammars := llm.__dict__.get("_grammars")) is not None:
            grammars.renew_lock()


os.register_at_fork(after_in_child=_renew_locks)


def _save_at_end(engine: _core.Engine) -> None:
    engine.cancel()  # of a daemon thread, whose text would be waited for
    engine.save_ranks()


def _check_text(text: str) -> str:
    """``text``; raises ValueError where it cannot be UTF-8."""
    if not isinstance(text, str):
        raise TypeError(f"text: found {type(text).__name__}, expected str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        message = f"text: found a lone surrogate, {found}, at index {error.start}, expected Unicode"
        raise ValueError(message) from None
    return text


def _check_ids(ids: Sequence[int], vocab_size: int) -> list[int]:
    """``ids`` as ints; raises ValueError where one is not in the vocabulary."""
    if isinstance(ids, (str, bytes, bytearray)):
        raise TypeError(f"tokens: found {type(ids).__name__}, expected a sequence of token ids")
    checked = [operator.index(token) for token in ids]
    for i, token in enumerate(checked):
        if not 0 <= token < vocab_size:
            raise ValueError(f"tokens[{i}]: found id {token}, expected 0 to {vocab_size - 1}")
    return checked


class LLM:
    """A target model, perhaps with a drafter that makes it faster. Its text does not depend on the drafter.

    Several texts are written at once, in passes for all of them (``n_parallel``): those of a list, those of several
    threads, and those that were submitted; each is what it is alone. Several LLMs work side by side. A forked process
    may go on with an LLM that was idle, and shares its weights; on a GPU it has to load its own.
    :meth:`close`, or the end of ``with LLM(...) as llm:``, frees all memory.

    Args:
        model_path: GGUF file of the target (the first part of a split one).
        drafter: GGUF file of its EAGLE or MTP drafter, or of a smaller language model, which may have another
            vocabulary; ``"mtp"``: the MTP block in the target's own file; None: plain decoding.
        progress: Show a bar while the weights are loaded (where tqdm is installed and standard error is a terminal),
            or a function that is called with ``"loading"``, the bytes that are ready and those of all.
        options: How it drafts, its context, cache and device: see :class:`EngineOptions`.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is damaged or of an unknown kind, the drafter or the ranks do not belong to the target,
            or an argument is out of its range.
        MemoryError: Weights and caches do not fit into memory; the message says what is needed for what.

    Warns:
        ModelWarning: Something in a file was put right, as llama.cpp does.
    """

    @takes_engine_options
    def __init__(
        self,
        model_path: str | os.PathLike[str],
        drafter: str | os.PathLike[str] | None = None,
        *,
        progress: bool | Report = False,
        **options: Unpack[EngineOptions],
    ) -> None:
        self._path = os.fspath(model_path)
        self._closed = False
        self._lock = threading.RLock()  # the engine refuses calls from inside a call, instead of waiting for ever
        with reporting(progress) as report:
            self._engine = _core.Engine(
                self._path,
                None if drafter is None else os.fspath(drafter),
                progress=None if report is None else functools.partial(report, "loading"),
                **native_engine(options),
            )
        self._n_parallel = self._engine.n_parallel
        self._texts = TextQueue(self._n_parallel, self._lock)
        # The engine saves when it goes, but at the end of Python it may not go, and it could not say what failed.
        self._save = None if options.get("adapt") is None else weakref.finalize(self, _save_at_end, self._engine)
        _living.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an LLM cannot be pickled or copied: every process that needs one has to load it from its file")

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        *,
        drafter: str | os.PathLike[str] | None = None,
        drafter_filename: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **options: Unpack[EngineOptions],
    ) -> LLM:
        """A model by its name on the Hugging Face Hub, fetched where it is not in the hub's cache yet.

        Needs the extra ``hub``. Files that are split come with all their parts; downloads that broke off go on; there
        is a bar on a terminal. Without a connection, or with HF_HUB_OFFLINE set, the cache is what there is.

        Args:
            repo_id: ``"USER/REPO"``, or ``"USER/REPO:QUANT"`` with a quantization such as Q8_0; without one it is
                Q4_K_M, or the first file where there is none.
            filename: Instead of QUANT: the file's path in the repository, or a pattern of it (``"*q8_0.gguf"``).
            drafter: A file, as in the constructor (it exists, or its name ends with ``.gguf``), or another name on the
                hub like ``repo_id``.
            drafter_filename: Likewise of the drafter.
            revision: A branch, a tag or a commit of the model; None: ``main``.
            token: An access token; None: HF_TOKEN, or as logged in with ``hf auth login``.
            cache_dir: The hub's cache; None: the usual one.
            local_dir: A folder of your own for the files, instead of the cache.
            local_files_only: Never ask the hub.
            options: How it drafts, its context, cache and device: see :class:`EngineOptions`.

        Raises:
            ImportError: The package huggingface_hub is not installed.
            FileNotFoundError: There is no such repository, or no connection, and the file is not in the cache.
            ValueError: The repository has no such file, or several that match; or as the constructor.
            PermissionError: The repository's terms were not accepted.
            ConnectionError: A download broke off.
        """
        places: dict[str, Any] = {
            "token": token,
            "cache_dir": cache_dir,
            "local_dir": local_dir,
            "local_files_only": local_files_only,
        }
        if drafter_filename is not None and drafter is None:
            raise ValueError("drafter_filename: found no drafter, expected the name of its repository, too")
        named = drafter is not None and os.fspath(drafter) != "mtp" and not os.fspath(drafter).endswith(".gguf")
        if drafter is not None and named and not Path(drafter).exists():
            drafter = find_model(os.fspath(drafter), drafter_filename, is_drafter=True, **places)
        return cls(find_model(repo_id, filename, revision=revision, **places), drafter, **options)

    def __repr__(self) -> str:
        if self._closed:
            return f"LLM({self._path!r}, closed)"
        return f"LLM({self._path!r}, architecture={self.architecture!r}, device={self.device!r})"

    @property
    def tokenizer(self) -> _core.Tokenizer:
        """The target's tokenizer."""
        return self._engine.tokenizer

    @property
    def n_ctx(self) -> int:
        """Tokens that prompt and text may have together."""
        return self._engine.n_ctx

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self._engine.vocab_size

    @property
    def architecture(self) -> str:
        """The target's architecture: ``"llama"``, ``"qwen2"`` ..."""
        return self._engine.architecture

    @property
    def device(self) -> str:
        """Where it runs, in words: ``"cpu (avx2, 8 threads)"``."""
        return self._engine.device

    @property
    def memory_plan(self) -> dict[str, int] | None:
        """Bytes of the GPU's memory that were expected before loading, by purpose; None on the CPU.

        ``total`` is their sum, ``free`` what there was, and ``context`` the tokens that the caches are for.
        """
        return self._engine.memory_plan

    @property
    def n_parallel(self) -> int:
        """Texts that are written at once, at most. 1 with a drafter that is translated by ``"slrs"``."""
        return self._n_parallel

    @property
    def displaced(self) -> int:
        """How often a text had to make room for others so far, and was read again later."""
        return self._engine.displaced

    @property
    def pages(self) -> tuple[int, int, int]:
        """Pages of 64 tokens in the target's cache behind the last pass: all, those that texts hold, those kept."""
        return self._engine.pages

    @property
    def ngram(self) -> int:
        """Tokens that are looked up in a text, and in its ``prediction``, at most; 0: none are."""
        return self._engine.ngram

    @property
    def has_drafter(self) -> bool:
        """Whether it has a drafter."""
        return self._engine.has_drafter

    def cancel(self) -> None:
        """Ends the texts that are being written, from any thread: ``finish_reason`` is ``"cancelled"``.

        The pass that is running is the last one; a prompt that is being read is left between two layers. Texts that
        wait for their turn are not meant: to end a certain one, give it an Event (``cancel`` of :class:`Options`).
        """
        self._engine.cancel()

    def close(self) -> None:
        """Ends the texts that are being written and frees all memory; whatever is asked of it later is a RuntimeError.

        Ranks that adapt are saved before, with the errors of :meth:`save_ranks`; it is closed all the same. Closing it
        twice does nothing.

        Raises:
            RuntimeError: It is called from inside a call, by a logits processor; the LLM stays open.
        """
        if self._engine.is_closed:
            return
        if self._engine.works_here:
            raise RuntimeError("this LLM is writing a text: a logits processor cannot close it")
        self._closed = True  # whoever comes now is refused
        self.cancel()
        self._texts.wait()
        with self._lock:
            try:
                if self._save is not None:
                    self._save()
            finally:
                self._engine.close()

    def set_head(self, head: str) -> None:
        """Another head policy for the drafter, as ``head`` of the constructor.

        Raises:
            ValueError: There is no drafter, or the head is unknown or not possible; the old one stays then.
        """
        with self._lock:
            self._engine.set_head(head)

    def save_ranks(self) -> None:
        """Brings what was counted to the file of ``adapt``, together with what others have written there.

        It is done after every 10,000 tokens, when a text ends, and when the LLM goes. Where that fails,
        ``stats.adapt_error`` of the text says why, and nothing that was counted is lost.

        Raises:
            ValueError: The ranks do not adapt, the file is damaged, or its folder cannot be written to.
            FileNotFoundError: Its folder is gone.
            RuntimeError: Writing failed (a full disk), or another process kept the file locked. The file is what it
                was.
        """
        with self._lock:
            self._engine.save_ranks()

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``, as :meth:`generate` takes a prompt.

        Args:
            text: Any Unicode text.
            add_special: Add the tokens that the vocabulary wants around a text (mostly: BOS before it, where the text
                does not begin with it).
            parse_special: Take the text of a control token (``<|im_start|>``) for that token, as llama.cpp and
                transformers do with a prompt. False: letter by letter, for text that must not steer the model.

        Raises:
            ValueError: The text holds a lone surrogate.
        """
        return list(self.tokenizer.encode(_check_text(text), add_special, parse_special))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text that ``ids`` spell, without control tokens; what is not UTF-8 becomes U+FFFD.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        return self.tokenizer.decode(_check_ids(ids, self.vocab_size))

    def check_grammar(self, grammar: str | Grammar) -> None:
        """Compiles a grammar, which is kept for the texts to come.

        Raises:
            ValueError: It is malformed, or has something that is not supported; the message says what and where.
            ImportError: The package llguidance is not installed.
        """
        self._guide(grammar if isinstance(grammar, Grammar) else Grammar.from_string(grammar))

    def forward(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after each of ``tokens``: (len(tokens), vocab_size) float32.

        Raises:
            ValueError: There are no tokens, more than the context holds, or an id is not in the vocabulary.
        """
        ids = _check_ids(tokens, self.vocab_size)
        with self._lock:
            return self._engine.forward(ids)

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 128,
        *,
        parse_special: bool = True,
        committed: Sequence[int] = (),
        **options: Unpack[Options],
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        max_tokens: int | list[int | None] | None = 128,
        *,
        parse_special: bool = True,
        **options: Any,
    ) -> list[Generation]: ...

    @takes_options
    def generate(
        self,
        prompt: str | Sequence[int] | list[str] | list[list[int]],
        max_tokens: int | list[int | None] | None = 128,
        *,
        parse_special: bool = True,
        committed: Sequence[int] = (),
        **options: Any,
    ) -> Generation | list[Generation]:
        """Continues ``prompt``. Ctrl-C stops it with KeyboardInterrupt; the LLM stays usable.

        A list of prompts gives a list of texts, in order; an option may then be a list, too, with a value for each
        prompt (for ``stop`` and ``stop_token_ids``, which are lists already, a list of lists or None). Each text is
        what it is alone; up to ``n_parallel`` of them are written at once.

        Args:
            prompt: A text, or token ids, which are taken as they are; or a list of such.
            max_tokens: Tokens to generate at most; None or -1: as many as the context holds.
            parse_special: How a text is read: see :meth:`tokenize`. Ids are taken as they are.
            committed: Tokens of the text that an earlier call, perhaps of another process, has given. The text goes on
                behind them and is what it would have been: with the same options, which are those of the whole text
                (``max_tokens`` and ``stop`` among them). What is returned begins behind them; its ``prompt_tokens``
                count them.
            options: How tokens are chosen and where the text ends: see :class:`Options`.

        Raises:
            ValueError: The prompt is empty, does not leave room in the context or is not Unicode, or an argument
                is out of its range.
        """
        one: Any = prompt
        if isinstance(one, (list, tuple)) and one and isinstance(one[0], (str, Sequence, np.ndarray)):
            if len(committed) > 0:
                raise ValueError("committed: found a list of prompts, expected one prompt")
            return self._generate_all(one, max_tokens, parse_special, options)
        limit: Any = max_tokens
        request = self._request(one, limit, parse_special, 0, cast(Options, options), committed=committed)
        waits = self._texts.works and not self._engine.works_here  # inside a call the engine refuses, instead
        lock = self._lock  # a forked process has another one
        if waits or not lock.acquire(blocking=False):
            return self._results([PendingText(self._texts, request, self._begun)])[0]
        try:
            native, tokens = self._write_alone(request)
        finally:
            lock.release()
        if native.finish_reason is None:  # others have come
            return self._results([PendingText(self._texts, request, self._begun, native, tokens)])[0]
        return Generation.from_native(native, tokens, options.get("logprobs") is not None, options.get("trace", False))

    def _write_alone(self, request: TextRequest) -> tuple[_core.Generation, list[tuple[int, bool, str]]]:
        """Writes a text in this thread, which has the lock, until others come: then it goes on among them."""
        texts = self._texts
        before = texts.alone  # that this one is asked for by, from inside: the engine refuses it
        try:
            native = self._begun(request)
            if request.options.get("verify", "keyed") == "keyed":  # else others would not do
                texts.alone = native
                texts.ask_for_the_lock()
            return native, native.run()
        finally:
            texts.alone = before

    def _generate_all(
        self, prompts: Sequence[str | Sequence[int]], max_tokens: object, parse_special: bool, options: dict[str, Any]
    ) -> list[Generation]:
        """The texts of several prompts; all of them are checked before one is written."""
        texts = [self._ids(prompt, parse_special) for prompt in prompts]
        each = per_text(len(texts), {"max_tokens": max_tokens, **options})
        requests = []
        for ids, own in zip(texts, each, strict=True):
            limit = own.pop("max_tokens")
            requests.append(self._request(ids, limit, parse_special, 0, cast(Options, own)))
        return self._results([PendingText(self._texts, request, self._begun) for request in requests])

    @staticmethod
    def _results(texts: list[PendingText]) -> list[Generation]:
        """Waits for texts; where one fails, or Ctrl-C was pressed, the others are ended."""
        try:
            return [text.result() for text in texts]
        except BaseException:
            for text in texts:
                text.cancel()
            raise

    @takes_options
    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 128,
        *,
        parse_special: bool = True,
        **options: Unpack[Options],
    ) -> Iterator[str]:
        """Continues ``prompt`` and gives the text in pieces, as it comes. No piece ends inside a character.

        The pieces together are :meth:`generate`'s text, whose arguments these are. The iterator may be left
        early; once the LLM is closed, it raises RuntimeError. A stream is written as far as it is asked for, others
        beside it. One that is verified by rejection sampling ends with a RuntimeError when its place is needed.

        Raises:
            ValueError: As :meth:`generate`, at once.
        """
        with self._lock:
            native = self._begin(prompt, max_tokens, parse_special, options)
        return self._pieces(native)

    @takes_options
    def submit(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 128,
        *,
        priority: int = 0,
        parse_special: bool = True,
        committed: Sequence[int] = (),
        **options: Unpack[Options],
    ) -> PendingText:
        """Puts a text into the queue, and returns at once. Texts begin in order of priority and arrival.

        Args:
            prompt: As in :meth:`generate`, like all arguments but this:
            max_tokens: As in :meth:`generate`.
            priority: 0, first, to 9, last. Who has waited for 10 s is among the first.
            parse_special: As in :meth:`generate`.
            committed: As in :meth:`generate`.
            options: As in :meth:`generate`.

        Returns:
            The text to come: ``result()`` waits for it, iterating over it gives its pieces, ``cancel()`` ends it.

        Raises:
            ValueError: As :meth:`generate`; where the engine refuses an option, ``result()`` raises it.
        """
        request = self._request(prompt, max_tokens, parse_special, priority, options, committed=committed)
        return PendingText(self._texts, request, self._begun)

    def conversation(
        self, system: str | None = None, *, max_tokens: int | None = None, **options: Unpack[ChatOptions]
    ) -> Conversation:
        """A chat that keeps its messages.

        Args:
            system: What the model is told before; None: nothing.
            max_tokens: Of each answer; None or -1: as many as the context holds.
            options: Of each answer, as in :meth:`chat`.
        """
        return Conversation(self, system, max_tokens=max_tokens, **options)

    @overload
    def chat(
        self,
        messages: Sequence[Any],
        max_tokens: int | None = 128,
        *,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: Sequence[Any],
        max_tokens: int | None = 128,
        *,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> Iterator[str]: ...

    @takes_chat_options
    def chat(
        self,
        messages: Sequence[Any],
        max_tokens: int | None = 128,
        *,
        stream: bool = False,
        **options: Unpack[ChatOptions],
    ) -> Generation | Iterator[str]:
        """Answers ``messages`` by the model's own chat template.

        The messages are OpenAI's: dictionaries (or dataclasses, or the client's own objects) with ``role`` and
        ``content``, a text or a list of text parts. Beside ``tool_calls`` the content may be None or absent. All their
        keys reach the template.

        Args:
            messages: The conversation so far.
            max_tokens: As in :meth:`generate`.
            stream: Give the answer's text in pieces, as :meth:`stream` does.
            options: What the template is given besides: see :class:`ChatOptions`; how tokens are chosen and where the
                text ends: see :class:`Options`.

        Raises:
            ValueError: The model has no chat template, the messages are malformed or not what the template
                accepts (its own words are in the message), or as :meth:`generate`.
            FileNotFoundError: There is no such file with a template.
        """
        given: dict[str, Any] = dict(options)
        prompt = self.chat_prompt(messages, **{name: given.pop(name) for name in TEMPLATE_DEFAULTS if name in given})
        return self.stream(prompt, max_tokens, **given) if stream else self.generate(prompt, max_tokens, **given)

    def chat_prompt(self, messages: Sequence[Any], **options: Unpack[TemplateOptions]) -> list[int]:
        """Token ids of the prompt that :meth:`chat` continues.

        The template writes its own special tokens; a BOS that it omits is added where the vocabulary wants one.

        Raises:
            ValueError: As :meth:`chat`.
            FileNotFoundError: As :meth:`chat`.
        """
        return self.chat_prompts.tokens(messages, **options)

    def _begin(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None,
        parse_special: bool,
        options: Options,
        committed: Sequence[int] = (),
    ) -> _core.Generation:
        ids = [*self._ids(prompt, parse_special), *_check_ids(committed, self.vocab_size)]
        if self._closed:
            raise RuntimeError("this LLM is closed")
        # No context is longer than 32 bits can count.
        limit = -1 if max_tokens is None else min(max(operator.index(max_tokens), -_INT32_MAX), _INT32_MAX)
        native = self._engine.begin(ids, committed=len(committed), max_tokens=limit, **self._native(options))
        if self._is_closed():  # meanwhile, when there was no text to cancel
            native.cancel()
        return native

    def _request(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None,
        parse_special: bool,
        priority: int,
        options: Options,
        max_seconds: float | None = None,
        committed: Sequence[int] = (),
    ) -> TextRequest:
        """A checked request; raises ValueError as :meth:`generate`, as far as it can be known before."""
        ids = self._ids(prompt, parse_special)
        self._native(options)
        if not 0 <= operator.index(priority) <= LOWEST_PRIORITY:
            raise ValueError(f"priority: found {priority}, expected 0 to {LOWEST_PRIORITY}")
        return TextRequest(ids, max_tokens, options, priority, max_seconds, _check_ids(committed, self.vocab_size))

    def _native(self, options: Options) -> dict[str, Any]:
        """The options as the engine takes them; raises ValueError, TypeError or, for a grammar, ImportError."""
        values = native_options(self.vocab_size, **options)
        if isinstance(values["prediction"], str):
            values["prediction"] = self.tokenize(values["prediction"], add_special=False, parse_special=False)
        if values["grammar"] is not None:
            values["grammar"] = self._guide(values["grammar"])
        return values

    def _guide(self, grammar: Grammar) -> TextGrammar | GivenTokens:
        """A grammar for one text; raises as :meth:`check_grammar`."""
        if grammar.kind == "tokens":
            return GivenTokens(json.loads(grammar.source), self.vocab_size)
        return self._grammars.text(grammar)

    def _begun(self, request: TextRequest) -> _core.Generation:
        return self._begin(request.prompt, request.max_tokens, True, request.options, request.committed)

    def _ids(self, prompt: str | Sequence[int], parse_special: bool) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenize(prompt, parse_special=parse_special)
        return _check_ids(prompt, self.vocab_size)

    def _is_closed(self) -> bool:  # asked anew, whatever was known before
        return self._closed

    def _pieces(self, native: _core.Generation) -> Iterator[str]:
        while native.finish_reason is None:
            piece = "".join([text for _, _, text in native.step()])
            if piece:
                yield piece
        if native.closing_text:
            yield native.closing_text

    @functools.cached_property
    def _grammars(self) -> GrammarCompiler:
        """Compiles grammars for its vocabulary."""
        return GrammarCompiler(self.tokenizer)

    @functools.cached_property
    def chat_prompts(self) -> ChatPrompts:
        """Renders its chat templates."""
        return ChatPrompts(self.tokenizer, self._path)
