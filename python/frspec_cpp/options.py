"""The options of a text: how its tokens are chosen and where it ends."""

from __future__ import annotations

import functools
import inspect
import operator
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from frspec_cpp.chat import TEMPLATE_DEFAULTS, TemplateOptions
from frspec_cpp.grammar import Grammar, grammar_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

_INT32_MAX = 2**31 - 1

LogitsProcessor = Callable[[npt.NDArray[np.int32], npt.NDArray[np.float32]], "npt.NDArray[np.float32] | None"]


class Options(TypedDict, total=False):
    """Keyword arguments of :meth:`LLM.generate` and :meth:`LLM.stream`, and among those of :meth:`LLM.chat`.

    Names, order and defaults of the sampler chain are llama.cpp's (bias, penalties, top-k, typical-p, top-p, min-p,
    temperature), but for the temperature, which is 0.

    Attributes:
        temperature: 0 (the default) takes the most probable token; above it, tokens are drawn.
        top_k: Only the k most probable tokens; 0 or -1: all. Default 40.
        top_p: Only the most probable tokens that hold this share together, above 0, at most 1. Default 0.95.
        min_p: Only tokens that are at least this times as probable as the best, 0 to 1. Default 0.05.
        typical_p: Only the tokens whose information is nearest to the entropy, and that hold this share together,
            above 0, at most 1 (Meister et al., 2202.00666). Default 1.
        dynatemp_range: The temperature moves by so much around its value, with the entropy. Default 0.
        dynatemp_exponent: How: above 0. Default 1.
        repeat_penalty: Divides positive logits of recent tokens (multiplies negative ones); above 0. Default 1.
        frequency_penalty: Subtracted for each time a token stands among the recent ones. Default 0.
        presence_penalty: Subtracted once for each recent token. Default 0.
        repeat_last_n: How many tokens of prompt and text are recent; 0: none, -1: all. Default 64.
        logit_bias: Token ids, and what is added to their logits; ``-inf`` forbids one. Default none.
        logits_processor: A function of the token ids so far, int32 (n), and the processed logits, float32
            (vocab_size), which are ``-inf`` where a token is out. It changes them in place or returns others, and has
            the last word. It must depend on its arguments alone: then drafted and plain text are the same. It is
            called for every token of the text, in order, and for no other; it cannot use the LLM that calls it. Default
            none.
        grammar: What the text may be: a :class:`Grammar`, or its text in GBNF (llama.cpp's form), or in llguidance's
            own syntax, where it begins with ``%llguidance``. Needs the extra ``grammar``, like the next two, of which
            one may be given. The text is the same with and without a drafter: what the grammar forbids is not
            verified, and what it forces is drafted by itself. Default none.
        json_schema: A JSON schema (or its text) that the text is to follow. Default none.
        response_format: OpenAI's form of it: ``{"type": "json_object"}`` for any object, ``{"type": "json_schema",
            "json_schema": {"schema": ...}}``, ``{"type": "text"}`` for any text. Default none.
        seed: 0 to 2^64 - 1. The same seed gives the same text, with or without a drafter. None or -1: a random one,
            below 2^32, which ``stats.seed`` tells. Default 0.
        stop: A string, or several, that end the text and are not part of it. Default none.
        stop_token_ids: Token ids that do. Default none.
        min_tokens: So many tokens are generated before anything ends the text. Default 0.
        ignore_eos: Go on after an end-of-generation token. Default False.
        logprobs: Give the log-probability of every token, and of so many best ones beside it (0: of none), before
            the sampler chain and at temperature 1. Default None: no.
        reuse: Where the prompt begins like earlier texts (the turns of a chat do), use what these have left in the
            cache instead of reading it again (``stats.cached_tokens``), and leave it in turn. The text is the same
            without. Default True.
        salt: Texts of different salts share nothing, so that the time one takes tells nothing of the other. Default
            "".
        trace: Tell of every step what it did and cost (:class:`Step`). The tokens are the same; on a GPU the text is
            slower, since no step begins before the last one was told of. Default False.
        cancel: A ``threading.Event``; once it is set, from whatever thread, the text ends with what there is (within
            some milliseconds and a pass; a prompt is left between two layers). Default None.
        draft: ``"auto"`` drafts as long as it pays, ``"always"`` or True always, ``"never"`` or False never; the
            tokens are the same. Default ``"auto"``.
        verify: How drafts are verified. ``"keyed"`` (the default): the text of a seed is the same with any drafter.
            ``"rejection"`` (2211.17192) and ``"block"`` (2403.10444): exact in distribution only, and for chains
            (``tree_branch=1``); a seed's text depends on the drafter, and ``draft="auto"`` means always. Offered
            because published methods are defined by them.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    dynatemp_range: float
    dynatemp_exponent: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    repeat_last_n: int
    logit_bias: Mapping[int, float] | None
    logits_processor: LogitsProcessor | None
    grammar: str | Grammar | None
    json_schema: Mapping[str, Any] | str | bool | None
    response_format: Mapping[str, Any] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    min_tokens: int
    ignore_eos: bool
    logprobs: int | None
    reuse: bool
    salt: str
    trace: bool
    cancel: threading.Event | None
    draft: Literal["auto", "always", "never"] | bool
    verify: Literal["keyed", "rejection", "block"]


DEFAULTS = Options(
    temperature=0.0,
    top_k=40,
    top_p=0.95,
    min_p=0.05,
    typical_p=1.0,
    dynatemp_range=0.0,
    dynatemp_exponent=1.0,
    repeat_penalty=1.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repeat_last_n=64,
    logit_bias=None,
    logits_processor=None,
    grammar=None,
    json_schema=None,
    response_format=None,
    seed=0,
    stop=None,
    stop_token_ids=None,
    min_tokens=0,
    ignore_eos=False,
    logprobs=None,
    reuse=True,
    salt="",
    trace=False,
    cancel=None,
    draft="auto",
    verify="keyed",
)


class ChatOptions(TemplateOptions, Options, total=False):
    """Keyword arguments of :meth:`LLM.chat`."""


F = TypeVar("F", bound=Callable[..., Any])


def takes_options(function: F) -> F:
    """Shows every option with its default in the signature of ``function``, which takes ``**options: Unpack[Options]``.

    An unknown name is a TypeError.
    """
    return _taking(function, Options.__annotations__, dict(DEFAULTS))


def takes_chat_options(function: F) -> F:
    """The same for ``**options: Unpack[ChatOptions]``."""
    return _taking(function, ChatOptions.__annotations__, {**TEMPLATE_DEFAULTS, **DEFAULTS})


def _taking(function: F, kinds: Mapping[str, Any], defaults: Mapping[str, Any]) -> F:
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=_words(kinds[name]))
        for name, value in defaults.items()
    ]

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        for name in options.keys() - signature.parameters.keys() - defaults.keys():
            message = f"{function.__name__}: found an unknown keyword argument {name!r}, expected one of "
            raise TypeError(message + ", ".join(defaults))
        return function(*arguments, **options)

    checked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


def _words(kind: Any) -> str:
    """An annotation as it is written."""
    return str(getattr(kind, "__forward_arg__", kind))


def _index(name: str, value: object) -> int:
    """``value`` as an int; TypeError where it is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: found {value!r} of type {type(value).__name__}, expected an int") from None


def _whole(name: str, value: object) -> int:
    """``value`` as an int that fits 32 bits; larger ones mean the same as the largest."""
    return max(-_INT32_MAX, min(_index(name, value), _INT32_MAX))


def _token(name: str, value: object, vocab_size: int) -> int:
    """``value`` as a token id of the vocabulary."""
    number = _index(name, value)
    if not 0 <= number < vocab_size:
        raise ValueError(f"{name}: found token id {number}, expected 0 to {vocab_size - 1}")
    return number


def _seed(value: object) -> int:
    """``value`` as a seed; a random one for None and -1."""
    number = -1 if value is None else _index("seed", value)
    if number == -1:
        return secrets.randbits(32)  # any JSON reader keeps so many bits
    if not 0 <= number < 2**64:
        raise ValueError(f"seed: found {number}, expected 0 to {2**64 - 1}, or -1 or None for a random one")
    return number


def _stop_strings(stop: object) -> list[str]:
    """The strings of ``stop``."""
    if stop is None:
        return []
    found: list[object] = [stop] if isinstance(stop, (str, bytes)) else list(stop)  # type: ignore[call-overload]
    texts = []
    for text in found:
        if not isinstance(text, str):
            raise TypeError(f"stop: found {text!r} of type {type(text).__name__}, expected str")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"stop: found {text!r}, which holds a lone surrogate, expected Unicode") from None
        texts.append(text)
    return texts


def _salt(salt: object) -> str:
    """``salt`` as a text that is UTF-8."""
    if not isinstance(salt, str):
        raise TypeError(f"salt: found {salt!r} of type {type(salt).__name__}, expected str")
    try:
        salt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"salt: found {salt!r}, which holds a lone surrogate, expected Unicode") from None
    return salt


def _bias(bias: object, vocab_size: int) -> list[tuple[int, float]]:
    """The pairs of ``logit_bias``."""
    if bias is None:
        return []
    if not isinstance(bias, Mapping):
        raise TypeError(f"logit_bias: found {type(bias).__name__}, expected a dictionary of token ids and numbers")
    pairs = []
    for token, value in bias.items():
        number = _token("logit_bias", token, vocab_size)
        if not isinstance(value, (int, float, np.number)):
            raise TypeError(f"logit_bias: token {number}: found {value!r}, expected a number")
        pairs.append((number, float(value)))
    return pairs


def per_text(count: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each of ``count`` texts. A list has a value for each; what is no list holds for all.

    Raises:
        ValueError: A list has another length.
    """
    each: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, value in options.items():
        values = list(value) if _is_per_text(name, value) else [value] * count
        if len(values) != count:
            raise ValueError(f"{name}: found a list of {len(values)}, expected one value, or {count}: one per prompt")
        for own, its_value in zip(each, values, strict=True):
            own[name] = its_value
    return each


def _is_per_text(name: str, value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    if name in ("stop", "stop_token_ids"):  # lists already
        return len(value) > 0 and all(item is None or isinstance(item, (list, tuple)) for item in value)
    return True


def native(vocab_size: int, **options: Unpack[Options]) -> dict[str, Any]:
    """The options as the extension takes them; ``grammar`` is still to be compiled for its vocabulary.

    Raises:
        ValueError: A value is out of its range (the extension checks the rest).
        TypeError: A value is of a wrong type.
    """
    values: dict[str, Any] = dict(options)
    for name in ("top_k", "repeat_last_n", "min_tokens", "logprobs"):
        if values.get(name) is not None:
            values[name] = _whole(name, values[name])
    if "seed" in values:
        values["seed"] = _seed(values["seed"])
    values["stop"] = _stop_strings(values.get("stop"))
    stop_tokens = values.get("stop_token_ids")
    if stop_tokens is not None and not isinstance(stop_tokens, Sequence):
        raise TypeError(f"stop_token_ids: found {stop_tokens!r}, expected a sequence of token ids")
    values["stop_token_ids"] = [_token("stop_token_ids", token, vocab_size) for token in stop_tokens or ()]
    values["logit_bias"] = _bias(values.get("logit_bias"), vocab_size)
    draft = values.get("draft", "auto")
    if draft not in (True, False, "auto", "always", "never"):
        raise ValueError(f"draft: found {draft!r}, expected 'auto', 'always' (True) or 'never' (False)")
    values["draft"] = draft if isinstance(draft, str) else "always" if draft else "never"
    if "salt" in values:
        values["salt"] = _salt(values["salt"])
    processor = values.get("logits_processor")
    if processor is not None and not callable(processor):
        raise TypeError(f"logits_processor: found {type(processor).__name__}, expected a function")
    grammar = grammar_of(values)
    for name in ("json_schema", "response_format"):
        values.pop(name, None)
    if grammar is not None and values.get("ignore_eos"):
        raise ValueError("ignore_eos: found a grammar beside it, which says itself where the text may end")
    values["grammar"] = grammar
    cancel = values.get("cancel")
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise TypeError(f"cancel: found {type(cancel).__name__}, expected a threading.Event")
    return values
