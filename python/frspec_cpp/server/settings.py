"""What the server is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frspec_cpp.option_table import DEFAULTS, Options

#: llama.cpp's, which differ from the library's: no seed is a random one.
SERVER_DEFAULTS = Options(temperature=0.8, seed=None)


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
        body_timeout: Seconds after which one that sends nothing more of its body is.
        ping: Seconds without a word in a stream after which a comment is sent.
        grace: Seconds that texts have to end when the server is told to.
        slots: Show `/slots` even where keys are set.
        page: Give the chat page at `/`.
        reasoning_format: `none` leaves what stands between `<think>` and `</think>` in the content, `deepseek` makes it
            `reasoning_content`.
        template: Options of the chat template: `chat_template`, `chat_template_kwargs`.
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
    body_timeout: float = 10.0
    ping: float = 15.0
    grace: float = 30.0
    slots: bool = False
    page: bool = True
    reasoning_format: str = "deepseek"
    template: dict[str, Any] = field(default_factory=dict)

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
