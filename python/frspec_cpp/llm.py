"""LLM: a model in a GGUF file that generates, perhaps with a drafter."""

from __future__ import annotations

import functools
import operator
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from frspec_cpp import _core
from frspec_cpp.chat import ChatTemplate
from frspec_cpp.generation import Generation
from frspec_cpp.options import Options, takes_options
from frspec_cpp.options import native as native_options
from frspec_cpp.progress import Report, reporting

if TYPE_CHECKING:
    from typing_extensions import Unpack

_INT32_MAX = 2**31 - 1


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

    One text is written at a time: calls from several threads wait for each other. Several LLMs work side by
    side.

    Args:
        model_path: GGUF file of the target (the first part of a split one).
        drafter: GGUF file of its EAGLE drafter, or of a smaller language model, which may have another
            vocabulary; None: plain decoding.
        head: The rows of the vocabulary that drafts are chosen from: ``"auto"``, whichever of the following pays best,
            and trees of the shape that pays best, no larger than asked for; ``"full"``; ``"ranked:N"``, the N most
            frequent tokens; ``"learned"``, the drafter's own reduced head; ``"speculated[:N]"``, the N best of a sketch
            of the head, at every step anew; ``"contextual[:N]"``, N rows that follow the text; or a union such as
            ``"ranked:8192+contextual:1024"``.
        translate: How a drafter of another vocabulary is understood: ``"tli"`` takes the tokens that both have,
            ``"slem"`` tokenizes again what it writes, ``"slrs"`` adds up what a drafter of characters may write;
            ``"auto"``: ``"tli"`` where both have at least half of the
            target's tokens.
        ngram: Draft from the text itself, too: what followed its last tokens, at most so many, when they stood
            there before. 0: do not. Works with a drafter and without.
        ranks: GGUF file with token ranks; None: those in the drafter's file.
        sketch: GGUF file with a sketch of the head, for ``"speculated"``; None: the one in the drafter's file.
        adapt: A ranks file of your own that follows what is written: tokens are counted when they are generated, the
            latest most, and before each text some rows of the head change to what has become frequent. Needs a
            ``"ranked:N"`` or ``"contextual"`` head (or a union with one). It begins with the other ranks, is made where
            it is not there, saved now and then and at the end (see :meth:`save_ranks`), and may be shared by several
            processes. The text stays what it is without; rejection sampling, where a seed's text would depend on
            earlier ones, is refused.
        tree: The draft tree: ``"auto"``, as far as pays, step by step; or ``"DEPTH,BRANCH,SIZE"``, or these three
            numbers, for trees of a fixed shape.
        tree_depth: Depth of trees of a fixed shape (EAGLE's d; 5): they have one level of drafted tokens more. Each
            of these three fixes the shape.
        tree_branch: Nodes expanded per level, and children of each (EAGLE's k; 10).
        tree_size: Nodes that are verified at once, the last token of the text included (EAGLE's N; 60).
        n_ctx: Tokens that prompt and text may have together; 0: as many as the model was trained for, at most
            4096.
        n_batch: Prompt tokens per pass.
        n_threads: CPU threads; 0: one per available core.
        cache_type: How keys and values are kept: ``"f16"``, or ``"q8_0"`` in about half the memory, which changes the
            text a little (with and without a drafter alike).
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None: what the environment variable FRSPEC_DEVICE says, else the
            CPU.
        n_gpu_layers: Layers of the target that a GPU keeps, the last ones; the CPU runs the others. -1: all. Without
            effect on the CPU.
        head_on_host: Leave the target's head in host memory, from where the GPU reads it in every pass: slow, for
            cards with little memory. Ranked rows for drafting are kept on the GPU all the same.
        progress: Show a bar while the weights are loaded (where tqdm is installed and standard error is a terminal),
            or a function that is called with ``"loading"``, the bytes that are ready and those of all.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is damaged or of an unknown kind, the drafter or the ranks do not belong to the target,
            or an argument is out of its range.
        MemoryError: Weights and caches do not fit into memory; the message says what is needed for what.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        drafter: str | os.PathLike[str] | None = None,
        head: str = "auto",
        translate: str = "auto",
        ngram: int = 0,
        ranks: str | os.PathLike[str] | None = None,
        sketch: str | os.PathLike[str] | None = None,
        adapt: str | os.PathLike[str] | None = None,
        tree: str | tuple[int, int, int] = "auto",
        tree_depth: int | None = None,
        tree_branch: int | None = None,
        tree_size: int | None = None,
        n_ctx: int = 0,
        n_batch: int = 512,
        n_threads: int = 0,
        cache_type: str = "f16",
        device: str | None = None,
        n_gpu_layers: int = -1,
        head_on_host: bool = False,
        progress: bool | Report = False,
    ) -> None:
        self._path = os.fspath(model_path)
        self._lock = threading.RLock()  # the engine refuses calls from inside a call, instead of waiting for ever
        with reporting(progress) as report:
            self._engine = _core.Engine(
                self._path,
                None if drafter is None else os.fspath(drafter),
                None if ranks is None else os.fspath(ranks),
                None if sketch is None else os.fspath(sketch),
                None if adapt is None else os.fspath(adapt),
                head=head,
                translate=translate,
                ngram=ngram,
                tree=tree if isinstance(tree, str) else ",".join(str(operator.index(number)) for number in tree),
                tree_depth=tree_depth,
                tree_branch=tree_branch,
                tree_size=tree_size,
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_threads=n_threads,
                cache_type=cache_type,
                device=device or _core.default_device(),
                n_gpu_layers=n_gpu_layers,
                head_on_host=head_on_host,
                progress=None if report is None else functools.partial(report, "loading"),
            )
        self._tokenizer = self._engine.tokenizer
        if adapt is not None:
            # The engine saves when it goes, but at the end of Python it may not go, and it could not say what failed.
            weakref.finalize(self, self._engine.save_ranks)

    def __repr__(self) -> str:
        return f"LLM({self._path!r}, architecture={self.architecture!r}, device={self.device!r})"

    @property
    def tokenizer(self) -> _core.Tokenizer:
        """The target's tokenizer."""
        return self._tokenizer

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
    def has_drafter(self) -> bool:
        """Whether it has a drafter."""
        return self._engine.has_drafter

    def set_head(self, head: str) -> None:
        """Another head policy for the drafter, as ``head`` of the constructor. Streams that are open end with an error.

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

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: Any Unicode text.
            add_special: Add the tokens that the vocabulary wants around a text (mostly: BOS before it).
            parse_special: Take the text of a control token for that token.

        Raises:
            ValueError: The text holds a lone surrogate.
        """
        return list(self._tokenizer.encode(_check_text(text), add_special, parse_special))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text that ``ids`` spell, without control tokens; what is not UTF-8 becomes U+FFFD.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        return self._tokenizer.decode(_check_ids(ids, self.vocab_size))

    def forward(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after each of ``tokens``: (len(tokens), vocab_size) float32.

        Raises:
            ValueError: There are no tokens, more than the context holds, or an id is not in the vocabulary.
        """
        ids = _check_ids(tokens, self.vocab_size)
        with self._lock:
            return self._engine.forward(ids)

    @takes_options
    def generate(self, prompt: str | Sequence[int], max_tokens: int = 128, **options: Unpack[Options]) -> Generation:
        """Continues ``prompt``. Ctrl-C stops it with KeyboardInterrupt; the LLM stays usable.

        Args:
            prompt: A text, or token ids, which are taken as they are.
            max_tokens: Tokens to generate at most; at least 1.
            options: How tokens are chosen and where the text ends: see :class:`Options`.

        Raises:
            ValueError: The prompt is empty, does not leave room in the context or is not Unicode, or an argument
                is out of its range.
        """
        with self._lock:
            native = self._begin(prompt, max_tokens, options)
            tokens = native.run()
        return Generation.from_native(native, tokens, options.get("logprobs") is not None, options.get("trace", False))

    @takes_options
    def stream(self, prompt: str | Sequence[int], max_tokens: int = 128, **options: Unpack[Options]) -> Iterator[str]:
        """Continues ``prompt`` and gives the text in pieces, as it comes. No piece ends inside a character.

        The pieces together are :meth:`generate`'s text, whose arguments these are. The iterator may be left
        early; once the LLM begins another text, it raises RuntimeError.

        Raises:
            ValueError: As :meth:`generate`, at once.
        """
        with self._lock:
            native = self._begin(prompt, max_tokens, options)
        return self._pieces(native)

    @takes_options
    def chat(
        self, messages: Sequence[Mapping[str, str]], max_tokens: int = 128, **options: Unpack[Options]
    ) -> Generation:
        """Answers ``messages``, dictionaries with ``role`` and ``content``, by the model's own chat template.

        The other arguments are those of :meth:`generate`.

        Raises:
            ValueError: The model has no chat template, the messages are malformed or not what the template
                accepts, or as :meth:`generate`.
        """
        return self.generate(self._chat_prompt(messages), max_tokens, **options)

    def _begin(self, prompt: str | Sequence[int], max_tokens: int, options: Options) -> _core.Generation:
        ids = self.tokenize(prompt) if isinstance(prompt, str) else _check_ids(prompt, self.vocab_size)
        limit = operator.index(max_tokens)
        if limit < 1:
            raise ValueError(f"max_tokens: found {limit}, expected at least 1")
        # No context is longer than 32 bits can count.
        return self._engine.begin(ids, max_tokens=min(limit, _INT32_MAX), **native_options(self.vocab_size, **options))

    def _pieces(self, native: _core.Generation) -> Iterator[str]:
        while native.finish_reason is None:
            piece = "".join([text for _, _, text in native.step()])
            if piece:
                yield piece
        if native.closing_text:
            yield native.closing_text

    @functools.cached_property
    def _chat_template(self) -> ChatTemplate:
        source = self._tokenizer.chat_template
        if source is None:
            raise ValueError(f"{self._path}: found no key 'tokenizer.chat_template': the model has no chat template")
        bos, eos = (
            "" if token is None else self._tokenizer.token_text(token)
            for token in (self._tokenizer.bos_id, self._tokenizer.eos_id)
        )
        return ChatTemplate(source, self._path, bos, eos)

    def _chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of the rendered template, which writes its own special tokens; a BOS it omits is added."""
        text = self._chat_template.render(messages)
        ids = self.tokenize(text, add_special=False, parse_special=True)
        bos = self._tokenizer.bos_id
        if self._tokenizer.adds_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids
