"""Grammars: what a text may be, as a JSON schema, GBNF or llguidance's own syntax. Needs the extra ``grammar``."""

from __future__ import annotations

import json
import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from frspec_cpp import _core

# Between the parts of JSON text: as llama.cpp's grammars have it, since a small model may write spaces without end.
_SPACE = r" |\n{1,2}[ \t]{0,20}"
# Compiled grammars that are kept.
_KEPT = 64
# llama.cpp's mark of llguidance's syntax.
_LARK_MARK = "%llguidance"


@dataclass(frozen=True)
class Grammar:
    """What a text may be. It belongs to no model; the names of the constructors are those of llama-cpp-python.

    Attributes:
        kind: ``"gbnf"`` (llama.cpp's form), ``"lark"`` (llguidance's own), ``"json_schema"``, ``"regex"`` or
            ``"tokens"``.
        source: It, as it is written.
    """

    kind: Literal["gbnf", "lark", "json_schema", "regex", "tokens"]
    source: str

    @classmethod
    def from_string(cls, grammar: str) -> Grammar:
        """A grammar in GBNF, or in llguidance's syntax, where it begins with ``%llguidance``, as in llama.cpp.

        Raises:
            TypeError: It is no text.
        """
        if not isinstance(grammar, str):
            raise TypeError(f"grammar: found {type(grammar).__name__}, expected str")
        return cls("lark" if grammar.lstrip().startswith(_LARK_MARK) else "gbnf", grammar)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str]) -> Grammar:
        """The same, from a file.

        Raises:
            FileNotFoundError: There is none.
        """
        return cls.from_string(Path(file).read_text(encoding="utf-8"))

    @classmethod
    def from_json_schema(cls, schema: Mapping[str, Any] | str | bool) -> Grammar:
        """JSON that a schema allows: the schema, or its text.

        Raises:
            ValueError: It cannot be JSON.
        """
        try:
            return cls("json_schema", schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"json_schema: found what is no JSON: {error}") from None

    @classmethod
    def from_regex(cls, regex: str) -> Grammar:
        """Texts that a regular expression matches as a whole (those of Rust's crate ``regex``)."""
        return cls("regex", regex)

    @classmethod
    def from_tokens(cls, tokens: Sequence[int]) -> Grammar:
        """Texts that begin with these tokens, whatever they spell; what follows them is free. Needs no package.

        With ``logprobs`` it tells how probable a text is that is there already. ``ignore_eos`` may stand beside it:
        then tokens that end texts may be among them.
        """
        return cls("tokens", json.dumps([operator.index(token) for token in tokens]))


def grammar_of(options: Mapping[str, Any]) -> Grammar | None:
    """The grammar that the options of a text ask for: ``grammar``, ``json_schema`` or ``response_format``.

    Raises:
        ValueError: Two of them do, or one is malformed.
        TypeError: One is of another type.
    """
    names = [name for name in ("grammar", "json_schema", "response_format") if options.get(name) is not None]
    found = {name: _grammar(name, options[name]) for name in names}
    asked = {name: grammar for name, grammar in found.items() if grammar is not None}
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)}: found {len(asked)} grammars, expected one")
    return next(iter(asked.values()), None)


def _grammar(name: str, value: Any) -> Grammar | None:
    if name == "json_schema":
        return Grammar.from_json_schema(value)
    if name == "response_format":
        return _response_format(value)
    return value if isinstance(value, Grammar) else Grammar.from_string(value) if value != "" else None


def _response_format(form: Any) -> Grammar | None:
    """OpenAI's form: text, json_object (with ``schema``, as llama.cpp takes it), json_schema."""
    if not isinstance(form, Mapping):
        raise TypeError(f"response_format: found {type(form).__name__}, expected a dictionary")
    kind = form.get("type")
    if kind == "text":
        return None
    schema = form.get("schema")
    if kind == "json_object":
        return Grammar.from_json_schema({"type": "object"} if schema is None else schema)
    if kind == "json_schema":
        outer = form.get("json_schema")
        if isinstance(outer, Mapping):
            schema = outer.get("schema")
        if schema is None:
            raise ValueError(
                "response_format: found no schema, expected {'type': 'json_schema', 'json_schema': {'schema': ...}}"
            )
        return Grammar.from_json_schema(schema)
    raise ValueError(f"response_format.type: found {kind!r}, expected 'text', 'json_object' or 'json_schema'")


class GrammarCompiler:
    """Grammars over one vocabulary. Any thread may use it.

    Args:
        tokenizer: The target's.

    Raises:
        ImportError: The package llguidance is not installed.
        ValueError: The vocabulary has no token that ends a text.
    """

    def __init__(self, tokenizer: _core.Tokenizer) -> None:
        try:
            import llguidance
        except ImportError:
            raise ImportError("grammars need the package llguidance: pip install 'frspec_cpp[grammar]'") from None
        self._ends = frozenset(token for token in range(tokenizer.size) if tokenizer.is_eog(token))
        if not self._ends:
            raise ValueError("grammar: found a vocabulary without an end-of-generation token, expected one")
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Vocabulary(tokenizer, min(self._ends))),
            n_vocab=tokenizer.size,
            eos_token=sorted(self._ends),
        )
        self._words = (tokenizer.size + 31) // 32
        self._llguidance = llguidance
        self._kept: OrderedDict[Grammar, Any] = OrderedDict()
        self.renew_lock()

    def renew_lock(self) -> None:
        """In a forked process, where whoever held it does not exist."""
        self._lock = threading.Lock()

    def text(self, grammar: Grammar) -> TextGrammar:
        """The grammar for one text.

        Raises:
            ValueError: It is malformed, or has something that is not supported; the message says what and where.
        """
        with self._lock:
            matcher = self._kept.pop(grammar, None) or self._compile(grammar)
            self._kept[grammar] = matcher
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return TextGrammar(matcher.deep_copy(), self._ends, self._words)

    def _compile(self, grammar: Grammar) -> Any:
        matcher = self._llguidance.LLMatcher
        name = "json_schema" if grammar.kind == "json_schema" else "grammar"
        try:
            if grammar.kind == "json_schema":
                source = matcher.grammar_from_json_schema(grammar.source, defaults={"whitespace_pattern": _SPACE})
            elif grammar.kind == "regex":
                source = matcher.grammar_from_regex(grammar.source)
            elif grammar.kind == "lark":
                source = matcher.grammar_from_lark(grammar.source)
            else:
                source = self._llguidance.grammar_from("gbnf", grammar.source)
        except Exception as error:  # of the converters
            raise ValueError(f"{name}: {error}") from None
        limits = self._llguidance.LLParserLimits(verbose_errors=False)
        made = matcher(self._tokenizer, source, log_level=0, limits=limits)
        if made.is_error():
            raise ValueError(f"{name}: {_said(made)}")
        return made


def _said(matcher: Any) -> str:
    """What went wrong, without the mark of what was left out."""
    message: str = matcher.get_error().replace("<non-verbose/>", "").strip()
    if message == "NoExtensionBias":
        return "found no token of the vocabulary that spells what must follow"
    return message


class _Vocabulary:
    """A vocabulary as llguidance asks for it."""

    def __init__(self, tokenizer: _core.Tokenizer, end: int) -> None:
        self._tokenizer = tokenizer
        kinds = (_core.TokenType.CONTROL, _core.TokenType.UNKNOWN, _core.TokenType.UNUSED)
        ids = range(tokenizer.size)
        # These spell nothing: a grammar names them or has them not.
        self.special_token_ids = [token for token in ids if tokenizer.token_type(token) in kinds]
        self.tokens = [tokenizer.token_bytes(token) for token in ids]
        self.eos_token_id = end
        self.bos_token_id = tokenizer.bos_id
        # A vocabulary may put a space before a text. In the middle of one there is none: what is tokenized stands
        # behind a character that joins no other.
        self._before = "" if self._spell(self._encode("a")) == b"a" else "\x02"
        self._tokens_before = self._encode(self._before)

    def __call__(self, text: bytes) -> list[int]:
        found = self._encode(self._before + text.decode())[len(self._tokens_before) :]
        # A vocabulary that lacks some bytes has other texts than this.
        return found if self._spell(found) == text else []

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special=False, parse_special=False))

    def _spell(self, tokens: list[int]) -> bytes:
        return b"".join([self.tokens[token] for token in tokens])


class TextGrammar:
    """A grammar and how far one text has come in it, as the engine asks for it."""

    def __init__(self, matcher: Any, ends: frozenset[int], words: int) -> None:
        self._matcher = matcher
        self._ends = ends
        self._words = words
        self._count = 0

    def advance(self, tokens: list[int]) -> None:
        """The text goes on with these tokens."""
        if not self._matcher.consume_tokens(tokens):
            self._check()
            raise RuntimeError(f"grammar: after token {self._count}: found {tokens}, which it does not allow")
        self._count += len(tokens)

    def forced(self, most: int) -> list[int]:
        """The tokens that must follow, as far as they are known."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return tokens[:most]

    def fill(self, tokens: Sequence[int], parents: Sequence[int], sets: npt.NDArray[np.uint32]) -> None:
        """Writes what may follow each node of a tree: row i of ``sets``, (nodes, words), which are zero.

        The root is the last token of the text, so it is known; parents stand before their children.
        """
        matcher = self._matcher
        children: list[list[int]] = [[] for _ in tokens]
        for node in range(len(tokens) - 1, 0, -1):
            children[parents[node]].append(node)
        size = 4 * self._words
        first, stride = sets.ctypes.data, sets.strides[0]
        depths = [0] * len(tokens)
        waiting, depth = [0], 0
        while waiting:
            node = waiting.pop()
            if node > 0:
                if tokens[node] in self._ends:  # nothing follows
                    continue
                above = depths[parents[node]]
                if depth > above:
                    matcher.rollback(depth - above)
                    depth = above
                if matcher.try_consume_tokens([tokens[node]]) == 0:
                    continue
                depth = depths[node] = above + 1
            matcher.unsafe_compute_mask_ptr(first + node * stride, size)
            waiting += children[node]
        if depth > 0:
            matcher.rollback(depth)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"grammar: after token {self._count} of the text: {_said(self._matcher)}")


class GivenTokens:
    """The tokens that a text must begin with, as the engine asks for them. See :class:`TextGrammar`.

    Args:
        tokens: They.
        vocab_size: Of the vocabulary.

    Raises:
        ValueError: One is not in the vocabulary.
    """

    def __init__(self, tokens: Sequence[int], vocab_size: int) -> None:
        for token in tokens:
            if not 0 <= token < vocab_size:
                raise ValueError(f"grammar: found token id {token}, expected 0 to {vocab_size - 1}")
        self._tokens = list(tokens)
        self._vocab_size = vocab_size
        self._count = 0

    def advance(self, tokens: list[int]) -> None:
        """The text goes on with these tokens."""
        expected = self._tokens[self._count : self._count + len(tokens)]
        if tokens[: len(expected)] != expected:
            raise RuntimeError(f"grammar: after token {self._count}: found {tokens}, expected {expected}")
        self._count += len(tokens)

    def forced(self, most: int) -> list[int]:
        """The tokens that must follow."""
        return self._tokens[self._count : self._count + most]

    def fill(self, tokens: Sequence[int], parents: Sequence[int], sets: npt.NDArray[np.uint32]) -> None:
        """Writes what may follow each node of a tree."""
        places = [self._count] + [-1] * (len(tokens) - 1)  # of what follows; -1: the node may not be there
        for node, place in enumerate(places):
            above = places[parents[node]] if node > 0 else -1
            if above >= 0 and self._tokens[above : above + 1] in ([], [tokens[node]]):
                place = places[node] = above + 1
            if 0 <= place < len(self._tokens):
                token = self._tokens[place]
                sets[node, token // 32] = 1 << token % 32
            elif place >= 0:
                sets[node, : self._vocab_size // 32] = 0xFFFFFFFF
                if self._vocab_size % 32:
                    sets[node, -1] = (1 << self._vocab_size % 32) - 1
