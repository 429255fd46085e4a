"""Renders chat templates for the binary, which cannot run Jinja programs itself: ``frspec-chat-template``.

Each line on standard input is a JSON object: ``template``, ``name`` (where it comes from), ``bos_token``,
``eos_token``, ``messages``, and perhaps ``variables``, JSON text of an object. The answer is the line ``ok N`` or
``error N``, and N bytes: the prompt, or a message.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from typing import Any

from frspec_cpp.chat import ChatTemplate

_template = functools.cache(ChatTemplate)


def answer(line: bytes) -> str:
    """The prompt for one request.

    Raises:
        ValueError: The variables are no JSON object, or as :meth:`ChatTemplate.render`.
        ImportError: As :class:`ChatTemplate`.
    """
    request = json.loads(line)
    template = _template(request["template"], request["name"], request["bos_token"], request["eos_token"])
    return template.render(request["messages"], variables=_variables(request.get("variables")))


def _variables(text: str | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--chat-template-kwargs: found no valid JSON ({error}), expected an object") from None
    if not isinstance(found, dict):
        raise ValueError(f"--chat-template-kwargs: found {type(found).__name__}, expected a JSON object")
    return found


def main() -> None:
    """Answers requests until standard input ends."""
    for line in sys.stdin.buffer:
        try:
            state, text = b"ok", answer(line).encode()
        except (ValueError, ImportError) as error:
            state, text = b"error", str(error).encode(errors="replace")
        sys.stdout.buffer.write(b"%s %d\n%s" % (state, len(text), text))
        sys.stdout.buffer.flush()
