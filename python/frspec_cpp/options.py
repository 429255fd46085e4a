"""The options of a text and of an engine, as functions take them and as the extension does."""

from __future__ import annotations

import functools
import inspect
import operator
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from frspec_cpp.chat import TEMPLATE_DEFAULTS, TemplateOptions
from frspec_cpp.grammar import grammar_of
from frspec_cpp.option_table import DEFAULTS, ENGINE_DEFAULTS, ROWS, EngineOptions, Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

_INT32_MAX = 2**31 - 1

LogitsProcessor = Callable[[npt.NDArray[np.int32], npt.NDArray[np.float32]], "npt.NDArray[np.float32] | None"]


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


def takes_engine_options(function: F) -> F:
    """The same for what an engine is made with."""
    return _taking(function, EngineOptions.__annotations__, dict(ENGINE_DEFAULTS))


def _taking(function: F, kinds: Mapping[str, Any], defaults: Mapping[str, Any]) -> F:
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=_words(kinds[name]))
        for name, value in defaults.items()
        if name not in signature.parameters
    ]

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        for name in options.keys() - signature.parameters.keys() - defaults.keys():
            found = f"{function.__qualname__.removesuffix('.__init__')}: found an unknown keyword argument {name!r}"
            raise TypeError(f"{found}, expected one of {', '.join(defaults)}")
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


def random_seed() -> int:
    """A seed where none was given. It has 32 bits, which any JSON reader keeps."""
    return secrets.randbits(32)


def seed_of(value: object) -> int:
    """``value`` as a seed; a random one for None and -1.

    Raises:
        ValueError: It is out of range.
        TypeError: It is no int.
    """
    number = -1 if value is None else _index("seed", value)
    if number == -1:
        return random_seed()
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
    if name == "prediction":  # a list of ids already
        return len(value) > 0 and all(item is None or isinstance(item, (str, list, tuple)) for item in value)
    if name in ("stop", "stop_token_ids"):  # lists already
        return len(value) > 0 and all(item is None or isinstance(item, (list, tuple)) for item in value)
    return True


def native_engine(options: EngineOptions) -> dict[str, Any]:
    """The options of an engine as the extension takes them.

    Raises:
        ValueError: There is no scaling of that number.
        TypeError: A number of the tree is none.
    """
    values: dict[str, Any] = dict(options)
    if values.get("n_parallel") is None:
        values["n_parallel"] = int(ROWS["n_parallel"]["none"])
    memory = values.get("kv_memory")
    if memory is not None and not isinstance(memory, str):
        values["kv_memory"] = str(_index("kv_memory", memory))
    tree = values.get("tree", "auto")
    if not isinstance(tree, str):
        values["tree"] = ",".join(str(operator.index(number)) for number in tree)
    scaling = values.get("rope_scaling_type")
    if isinstance(scaling, int):  # llama.cpp's number
        words = ROWS["rope_scaling_type"]["value"].split("|")
        if not -1 <= scaling < len(words):
            known = ", ".join(f"{number} ({word})" for number, word in enumerate(words))
            raise ValueError(f"rope_scaling_type: found {scaling}, expected -1 (the file's), {known}")
        values["rope_scaling_type"] = None if scaling == -1 else words[scaling]
    return values


def native(vocab_size: int, **options: Unpack[Options]) -> dict[str, Any]:
    """The options as the extension takes them; ``grammar`` and a ``prediction`` that is a text still want a vocabulary.

    Raises:
        ValueError: A value is out of its range (the extension checks the rest).
        TypeError: A value is of a wrong type.
    """
    values: dict[str, Any] = dict(options)
    for name, value in options.items():
        if value is not None and name != "seed" and ROWS[name]["type"] in ("int", "int | None"):
            values[name] = _whole(name, value)
    if "seed" in values:
        values["seed"] = seed_of(values["seed"])
    values["stop"] = _stop_strings(values.get("stop"))
    stop_tokens = values.get("stop_token_ids")
    if stop_tokens is not None and not isinstance(stop_tokens, Sequence):
        raise TypeError(f"stop_token_ids: found {stop_tokens!r}, expected a sequence of token ids")
    values["stop_token_ids"] = [_token("stop_token_ids", token, vocab_size) for token in stop_tokens or ()]
    prediction = () if values.get("prediction") is None else values["prediction"]
    values["prediction"] = prediction
    if not isinstance(prediction, str):
        if not isinstance(prediction, (Sequence, np.ndarray)):
            raise TypeError(f"prediction: found {prediction!r}, expected a text or a sequence of token ids")
        values["prediction"] = [_token("prediction", token, vocab_size) for token in prediction]
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
    if grammar is not None and grammar.kind != "tokens" and values.get("ignore_eos"):
        raise ValueError("ignore_eos: found a grammar beside it, which says itself where the text may end")
    values["grammar"] = grammar
    cancel = values.get("cancel")
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise TypeError(f"cancel: found {type(cancel).__name__}, expected a threading.Event")
    return values
