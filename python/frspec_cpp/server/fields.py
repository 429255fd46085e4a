"""The fields of requests. What is not here is ignored and named, or refused (:mod:`frspec_cpp.server.refusals`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from frspec_cpp.option_table import ROWS, described

Number = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Limit = Annotated[int, Field(ge=-1)]
TokenId = Annotated[int, Field(ge=0)]
# Characters of a grammar, or of a schema as JSON: compiling one of this size takes a tenth of a second, and a larger
# one more than so many times as long.
MOST_GRAMMAR = 2**16
_OBJECT = {"type": "object"}
# What more they have reaches the template. What is wrong with them is told by those who read them, with better words.
Message = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            **_OBJECT,
            "properties": {
                "role": {"type": "string"},
                "content": {"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]},
            },
            "required": ["role"],
        }
    ),
]
Tool = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            **_OBJECT,
            "properties": {
                "type": {"const": "function"},
                "function": {
                    **_OBJECT,
                    "properties": {
                        "name": {"type": "string"},
                        "description": {"type": "string"},
                        "parameters": _OBJECT,
                        "strict": {"type": "boolean"},
                    },
                    "required": ["name"],
                },
            },
            "required": ["function"],
        }
    ),
]
StopText = Annotated[str, Field(min_length=1)]


def _option(name: str) -> Any:
    return Field(None, description=described(ROWS[name]))


class Fields(BaseModel):
    """A request's body. A field that is null is one that is not there."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=(), populate_by_name=True)

    def others(self) -> dict[str, Any]:
        """What is no field of this server."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}


class StreamOptions(Fields):
    """How a stream is sent."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage")


class TextFields(Fields):
    """What chats and completions share: how tokens are chosen, and where a text ends."""

    model: str | None = Field(None, description="A name or an alias of the model")
    max_tokens: Limit | None = Field(None, description="-1: as many as the context holds, the default")
    max_completion_tokens: Limit | None = Field(None, description="The same")
    n_predict: Limit | None = Field(None, description="The same, llama.cpp's name")
    temperature: NotNegative | None = _option("temperature")
    top_p: Share | None = _option("top_p")
    top_k: Limit | None = _option("top_k")
    min_p: Share | None = _option("min_p")
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = _option("typical_p")
    dynatemp_range: NotNegative | None = _option("dynatemp_range")
    dynatemp_exponent: Positive | None = _option("dynatemp_exponent")
    frequency_penalty: Number | None = _option("frequency_penalty")
    presence_penalty: Number | None = _option("presence_penalty")
    repeat_penalty: Positive | None = _option("repeat_penalty")
    repeat_last_n: Limit | None = _option("repeat_last_n")
    logit_bias: dict[str, float | Literal[False]] | list[list[int | float | str | bool]] | None = Field(
        None, description="Ids, or texts in the form of pairs, and what is added; false forbids"
    )
    seed: Annotated[int, Field(ge=-1, lt=2**64)] | None = _option("seed")
    n: Annotated[int, Field(ge=1, le=64)] | None = Field(None, description="Texts for a prompt; number i has seed + i")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = _option("stop")
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = _option("stop_token_ids")
    min_tokens: Annotated[int, Field(ge=0)] | None = _option("min_tokens")
    ignore_eos: bool | None = _option("ignore_eos")
    t_max_predict_ms: int | None = Field(None, le=2**53, description="The text ends then, from its first token on")
    stream: bool | None = Field(None, description="Server-sent events")
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = Field(None, description="0, first, to 9, last")
    timeout: Positive | None = Field(None, description="Seconds in the queue")
    cache_prompt: bool | None = Field(None, description="false: read the prompt anew, and leave nothing in the cache")
    service_tier: str | None = Field(None, description="flex: priority 9, where none is given; others: no effect")
    cache_salt: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -~]+$")] | None = Field(
        None, description="Requests of different salts share nothing in the cache"
    )
    prompt_cache_key: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Where there are several replicas, requests of the same key go to the same one"
    )
    timings_per_token: bool | None = Field(None, description="Timings in each chunk")
    return_tokens: bool | None = Field(None, description="Token ids in each choice")
    response_format: dict[str, Any] | None = Field(None, description="text, json_object or json_schema")
    json_schema: dict[str, Any] | bool | None = Field(None, description="The same by the schema alone")
    grammar: Annotated[str, Field(max_length=MOST_GRAMMAR)] | None = Field(
        None, description="GBNF, or llguidance's syntax behind %llguidance"
    )
    speculative_n_max: Annotated[int, Field(ge=0)] | None = Field(
        None, alias="speculative.n_max", description="Drafted tokens of a pass at most; the text is the same"
    )
    speculative_n_min: Annotated[int, Field(ge=0)] | None = Field(
        None, alias="speculative.n_min", description="Where fewer are drafted, none are"
    )
    speculative_p_min: Share | None = Field(
        None, alias="speculative.p_min", description="Only drafts that are at least so probable"
    )
    prediction: dict[str, Any] | None = Field(
        None, description="OpenAI's form of what the answer is likely to be: drafts are taken from it"
    )
    return_progress: bool | None = Field(None, description="Streams tell how far the prompt was read")
    speculative_type: Literal["none", "auto"] | None = Field(
        None, alias="speculative.type", description="none: without drafts; the text is the same"
    )

    def limit(self, default: int) -> int:
        """Tokens at most; ValueError where the names for it say different things."""
        names = ("max_completion_tokens", "max_tokens", "n_predict")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if len(set(given.values())) > 1:
            found = " and ".join(f"{name} {value}" for name, value in given.items())
            raise ValueError(f"{next(iter(given))}: found {found}, expected one of them")
        return next(iter(given.values()), default)


class ChatFields(TextFields):
    """A request of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    logprobs: bool | None = Field(None, description="Log-probabilities, before the sampler chain")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="Best tokens beside each")
    tools: list[Tool] | None = Field(None, description="Functions that the model may call")
    tool_choice: str | dict[str, Any] | None = Field(None, description="none, auto, required, or a function")
    parallel_tool_calls: bool | None = Field(None, description="false: the first call ends the answer")
    modalities: list[str] | None = Field(None, description='["text"]')
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables of the template")
    reasoning_effort: str | None = Field(None, description="One of them")
    add_generation_prompt: bool | None = Field(None, description="Another one")
    continue_final_message: bool | None = Field(None, description="Go on with the last message")
    reasoning_format: Literal["none", "auto", "deepseek"] | None = Field(
        None, description="none: thoughts stay in the content"
    )


class CompletionFields(TextFields):
    """A request of ``/v1/completions``."""

    prompt: str | list[TokenId] | list[str | list[TokenId]]
    echo: bool | None = Field(None, description="The prompt before the text")
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = Field(None, description="Best tokens beside each")
    best_of: Annotated[int, Field(ge=1)] | None = Field(None, description="At most n")


class TokenizeFields(Fields):
    """A request of ``/tokenize``, as llama-server has it."""

    content: str
    add_special: bool = Field(False, description="Add BOS where the vocabulary wants one")
    parse_special: bool = Field(True, description="Take the text of a control token for that token")
    with_pieces: bool = Field(False, description="Tell what each token spells")


class DetokenizeFields(Fields):
    """A request of ``/detokenize``."""

    tokens: list[TokenId]


class TemplateFields(Fields):
    """A request of ``/apply-template``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
