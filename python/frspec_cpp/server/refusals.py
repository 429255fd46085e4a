"""Fields that are not heeded: those that would change the answer are refused, the others are ignored and named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frspec_cpp.server.errors import refused

_NO_SAMPLER = "the sampler chain has no such part (see the fields of the documentation)"
_GRAMMAR = "expected response_format, json_schema or grammar"

# What would change the answer, and why it is not done.
_REFUSED = {
    "functions": "this is the old form: expected tools",
    "function_call": "this is the old form: expected tool_choice",
    "audio": "the model writes text only",
    "web_search_options": "this server does not search the web",
    "moderation": "this server moderates nothing",
    "suffix": "texts are continued, not filled in",
    "chat_template": "a template is a program: the server's own is changed with --chat-template-file",
    "n_probs": "llama-server's name: expected logprobs",
    "mirostat": _NO_SAMPLER,
    "xtc_probability": _NO_SAMPLER,
    "dry_multiplier": _NO_SAMPLER,
    "top_n_sigma": _NO_SAMPLER,
    "adaptive_target": _NO_SAMPLER,
    "samplers": "the order of samplers is fixed",
    "lora": "this server has no adapters",
    "length_penalty": "this server does not search with beams",
    "use_beam_search": "this server does not search with beams",
    "repetition_penalty": "expected repeat_penalty, which looks at the last repeat_last_n tokens",
    "bad_words": "expected logit_bias, with false for what is forbidden",
    "allowed_token_ids": "expected logit_bias",
    "include_stop_str_in_output": "a stop string is never part of the text",
    "truncate_prompt_tokens": "prompts are never cut",
    "prompt_logprobs": "expected echo and logprobs, of /v1/completions",
    "audio_url": "the model reads text only",
    "guided_json": _GRAMMAR,
    "guided_regex": _GRAMMAR,
    "guided_choice": _GRAMMAR,
    "guided_grammar": _GRAMMAR,
    "structured_outputs": _GRAMMAR,
    "grammar_lazy": "a grammar holds from the first token on",
}
# Values beside null, false, 0, "", [] and {} that mean: as if it were not there.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "top_n_sigma": (-1,),
    "adaptive_target": (-1,),
}
# Without effect, as everybody knows: they are not named in the answer.
_HARMLESS = {
    "user",
    "safety_identifier",
    "metadata",
    "store",
    "verbosity",
    "prompt_cache_retention",
    "prompt_cache_options",
    "include_obfuscation",
}


def ignored_fields(others: Mapping[str, Any]) -> list[str]:
    """The names among `others`, the fields that are none here, of those that are ignored.

    Raises:
        ApiError: One would change the answer.
    """
    for name, reason in _REFUSED.items():
        value = others.get(name)
        if value and value not in _NEUTRAL.get(name, ()):
            raise refused(name, reason)
    return sorted(name for name in others if name not in _HARMLESS)


def header(names: list[str]) -> dict[str, str]:
    """The header that names the fields that were ignored; nothing where there are none."""
    shown = ", ".join(name for name in names if name.isascii() and name.isprintable() and "," not in name)
    return {"x-ignored-fields": shown[:1000]} if shown else {}
