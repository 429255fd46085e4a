"""Options of a text that random requests take some of, in Python's names and the server's, which are the same."""

from __future__ import annotations

from typing import Any

SAMPLERS: tuple[dict[str, Any], ...] = (
    {"repeat_penalty": 1.3, "repeat_last_n": 20},
    {"frequency_penalty": 0.6, "presence_penalty": 0.3, "repeat_last_n": -1},
    {"top_k": 5},
    {"top_p": 0.6, "min_p": 0.0},
    {"typical_p": 0.7},
    {"dynatemp_range": 0.4},
)
ENDS: tuple[dict[str, Any], ...] = ({"stop": ["e", "th"]}, {"stop_token_ids": [17, 33, 71]}, {"min_tokens": 1})
