"""What the server is told when it starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frspec_cpp.option_table import DEFAULTS, Options

#: llama.cpp's, which differ from the library's: no seed is a random one.
SERVER_DEFAULTS = Options(temperature=0.8, seed=None)

_MOST_FLOAT = 3.4028234e38  # of 32 bits, which the sampler has


class _Range:
    """What a number may be.

    Args:
        words: It, in words.
        holds: Tells whether a number is one; those that are none never are.
        whole: It must be an integer.
    """

    def __init__(self, words: str, holds: Callable[[float], bool], whole: bool = False) -> None:
        self._words = words
        self._holds = holds
        self._whole = whole

    def check(self, name: str, value: Any) -> None:
        """ValueError where a value is outside, or no number."""
        kinds = (int,) if self._whole else (int, float)
        if (
            not isinstance(value, kinds)
            or isinstance(value, bool)
            or (isinstance(value, float) and math.isnan(value))
            or not self._holds(value)
        ):
            raise ValueError(f"{name}: found {value!r}, expected {self._words}")


def _whole(words: str, holds: Callable[[float], bool]) -> _Range:
    return _Range(words, holds, whole=True)


_COUNT = _whole("at least 1", lambda x: x >= 1)
_SECONDS = _Range("seconds, at least 0", lambda x: x >= 0)
_PAUSE = _Range("seconds, above 0", lambda x: x > 0)
_NOT_NEGATIVE = _Range("a number of at least 0", lambda x: 0 <= x <= _MOST_FLOAT)
_POSITIVE = _Range("a number above 0", lambda x: 0 < x <= _MOST_FLOAT)
_SHARE = _Range("a number from 0 to 1", lambda x: 0 <= x <= 1)
_PART = _Range("a number above 0, at most 1", lambda x: 0 < x <= 1)
_ANY = _Range("a number", lambda x: abs(x) <= _MOST_FLOAT)
_OR_ALL = _whole("at least 0, or -1", lambda x: x >= -1)
_RANGES = {
    # -2 is llama.cpp's word for the same as -1.
    "max_tokens": _whole("at least 1, or -1 for as many as the context holds", lambda x: x >= 1 or x in (-1, -2)),
    "max_queue": _COUNT,
    "max_body": _COUNT,
    "max_requests": _COUNT,
    "queue_timeout": _SECONDS,
    "grace": _SECONDS,
    "write_timeout": _PAUSE,
    "body_timeout": _PAUSE,
    "ping": _PAUSE,
}
_SAMPLING_RANGES = {
    "temperature": _NOT_NEGATIVE,
    "top_k": _OR_ALL,
    "top_p": _PART,
    "min_p": _SHARE,
    "typical_p": _PART,
    "dynatemp_range": _NOT_NEGATIVE,
    "dynatemp_exponent": _POSITIVE,
    "repeat_penalty": _POSITIVE,
    "frequency_penalty": _ANY,
    "presence_penalty": _ANY,
    "repeat_last_n": _OR_ALL,
    "min_tokens": _whole("at least 0", lambda x: x >= 0),
    "draft_max": _OR_ALL,
    "draft_min": _whole("at least 0", lambda x: x >= 0),
    "draft_p_min": _SHARE,
}
_SEED = _whole("0 to 2^64 - 1, or -1 for a random one", lambda x: -1 <= x < 2**64)
_WORDS = {"cache_scope": ("key", "shared"), "reasoning_format": ("none", "auto", "deepseek")}


@dataclass(frozen=True)
class Settings:
    """Settings of the HTTP side; those of the model go to :class:`frspec_cpp.LLM`.

    Attributes:
        alias: The model's name for clients; several are separated by commas, the first one is shown.
        any_model: Take any name of a model.
        keys: API keys, one of which a request must show; none: anybody may ask.
        cache_scope: `key`: what a key's texts leave in the cache is for that key alone; `shared`: for all.
        cors_origins: Origins whose pages may read answers.
        sampling: Defaults of requests, beside llama.cpp's.
        max_tokens: Of a text where a request does not say; -1: as many as the context holds.
        max_queue: Texts that may wait.
        max_body: Bytes of a request.
        max_requests: That are being answered at once.
        queue_timeout: Seconds that a text may wait for its turn where its request does not say.
        write_timeout: Seconds after which a client that takes nothing of a stream is given up.
        body_timeout: Seconds that the body of a request may take to come.
        ping: Seconds without a word in a stream after which a comment is sent.
        grace: Seconds that texts have to end when the server is told to.
        slots: Show `/slots` even where keys are set.
        page: Give the chat page at `/`.
        reasoning_format: `none` leaves what stands between `<think>` and `</think>` in the content, `deepseek` makes it
            `reasoning_content`.
        template: Options of the chat template: `chat_template`, `chat_template_kwargs`.

    Raises:
        ValueError: A value is not possible. Else every request that does not say better would be refused for it.
    """

    alias: str = ""
    any_model: bool = False
    keys: tuple[str, ...] = ()
    cache_scope: str = "key"
    cors_origins: tuple[str, ...] = ()
    sampling: Options = field(default_factory=lambda: SERVER_DEFAULTS)
    max_tokens: int = -1
    max_queue: int = 64
    max_body: int = 4 * 2**20
    max_requests: int = 256
    queue_timeout: float = 60.0
    write_timeout: float = 30.0
    body_timeout: float = 30.0
    ping: float = 15.0
    grace: float = 30.0
    slots: bool = False
    page: bool = True
    reasoning_format: str = "deepseek"
    template: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks what was given."""
        for name, allowed in _RANGES.items():
            allowed.check(name, getattr(self, name))
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name}: found {getattr(self, name)!r}, expected {' or '.join(words)}")
        for name, value in self.sampling.items():
            if name not in DEFAULTS:
                raise ValueError(f"sampling: found an unknown option {name!r}, expected some of {', '.join(DEFAULTS)}")
            if name in _SAMPLING_RANGES:
                _SAMPLING_RANGES[name].check(name, value)
        if self.sampling.get("seed") is not None:
            _SEED.check("seed", self.sampling["seed"])

    def defaults(self) -> Options:
        """The options of a text whose request says nothing."""
        return Options(**{**DEFAULTS, **self.sampling})


def keep_apart(keys: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the engine, so that no text follows those of another key, whose speed would tell of its words.

    Args:
        keys: API keys.
        options: Of the engine, without those that are None.

    Raises:
        ValueError: There are several keys, and an option wants what they would share.
    """
    if len(keys) < 2:
        return dict(options)
    for name in ("adapt", "head"):
        found = options.get(name)
        if found is not None and (name == "adapt" or "contextual" in str(found)):
            raise ValueError(
                f"{name} {found} and several API keys: found both, expected one of them: what one key's texts are "
                "would show in the speed of another's"
            )
    return {**options, "contextual": False}
