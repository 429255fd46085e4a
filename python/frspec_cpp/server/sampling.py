"""A request's fields as the options of its texts."""

from __future__ import annotations

import math
import sys
from typing import Any, cast

from frspec_cpp import _core
from frspec_cpp.option_table import Options
from frspec_cpp.options import seed_of
from frspec_cpp.server.fields import TextFields
from frspec_cpp.server.settings import Settings

# Fields that have the names and the values of options.
_SAME = (
    "temperature",
    "top_k",
    "min_p",
    "typical_p",
    "dynatemp_range",
    "dynatemp_exponent",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
)
_LEAST_SHARE = 1e-6  # OpenAI's clients write top_p 0 for the most probable token alone


def text_options(fields: TextFields, settings: Settings, tokenizer: _core.Tokenizer) -> Options:
    """The options of the request's first text.

    Raises:
        ValueError: A value is not possible.
    """
    values: dict[str, Any] = {**settings.defaults()}
    values.update({name: getattr(fields, name) for name in _SAME if getattr(fields, name) is not None})
    if fields.top_p is not None:
        values["top_p"] = max(fields.top_p, _LEAST_SHARE)
    if fields.logit_bias is not None:
        values["logit_bias"] = _bias(fields.logit_bias, tokenizer)
    # Known here, and told, so that any answer can be repeated.
    values["seed"] = seed_of(values["seed"] if fields.seed is None else fields.seed)
    limits = {
        "draft_max": fields.speculative_n_max,
        "draft_min": fields.speculative_n_min,
        "draft_p_min": fields.speculative_p_min,
    }
    values.update({name: value for name, value in limits.items() if value is not None})
    if fields.speculative_n_max == 0 or fields.speculative_type == "none":
        values["draft"] = "never"
    return cast(Options, values)


def with_seed(options: Options, number: int) -> Options:
    """The options of the request's text with this number."""
    seed = options["seed"]
    assert seed is not None
    return {**options, "seed": (seed + number) % 2**64}


def _bias(bias: dict[str, Any] | list[list[Any]], tokenizer: _core.Tokenizer) -> dict[int, float]:
    """OpenAI's dictionary of ids, or llama.cpp's pairs of an id or a text and a number or false."""
    pairs = [[_number(key), value] for key, value in bias.items()] if isinstance(bias, dict) else bias
    found: dict[int, float] = {}
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"logit_bias: found {pair!r}, expected a token and a number")
        token, value = pair
        if isinstance(value, bool) and not value:
            value = -math.inf
        elif isinstance(value, (bool, str)) or not abs(value) <= sys.float_info.max:
            raise ValueError(f"logit_bias: token {token!r}: found {str(value)[:20]!r}, expected a number or false")
        if isinstance(token, str):
            ids = list(tokenizer.encode(token, add_special=False, parse_special=True))
        elif isinstance(token, int) and not isinstance(token, bool):
            ids = [token]
        else:
            raise ValueError(f"logit_bias: found {token!r}, expected a token id or a text")
        for number in ids:
            if not 0 <= number < tokenizer.size:
                raise ValueError(f"logit_bias: found token id {number}, expected 0 to {tokenizer.size - 1}")
            found[number] = float(value)
    return found


def _number(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise ValueError(f"logit_bias: found {key[:100]!r}, expected a token id") from None
