"""Asks a running `frspec serve` with the `openai` client: openai_chat.py [http://127.0.0.1:8080/v1].

Needs `pip install openai`; a server with a chat template; its extra `grammar` for the answer as an object.
"""

import sys
from typing import Any, Literal

import openai
from pydantic import BaseModel

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
client = openai.OpenAI(base_url=url, api_key="none")  # the key of --api-key, where there is one
model = client.models.list().data[0].id
messages: Any = [{"role": "user", "content": "Name three rivers."}]

# An answer in one piece. Its seed gives it again.
answer = client.chat.completions.create(model=model, messages=messages, max_tokens=32)
seed = answer.timings["seed"]  # type: ignore[attr-defined]
print(answer.choices[0].message.content)
again = client.chat.completions.create(model=model, messages=messages, max_tokens=32, seed=seed)
assert again.choices[0].message.content == answer.choices[0].message.content

# The same as it is written, with the numbers of tokens behind it.
with client.chat.completions.create(
    model=model, messages=messages, max_tokens=32, seed=seed, stream=True, stream_options={"include_usage": True}
) as stream:
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        elif chunk.usage is not None:
            print(f"\n{chunk.usage.completion_tokens} tokens")


class River(BaseModel):
    """What is wanted to be known."""

    continent: Literal["Africa", "America", "Asia", "Europe"]
    is_long: bool


# An answer that is an object: a grammar sees to it.
parsed = client.chat.completions.parse(model=model, messages=messages, response_format=River, max_tokens=256)
print(parsed.choices[0].message.parsed)

# Without drafts the text is the same, and slower where they pay.
slow = client.chat.completions.create(
    model=model, messages=messages, max_tokens=32, seed=seed, extra_body={"speculative.type": "none"}
)
assert slow.choices[0].message.content == answer.choices[0].message.content

# Errors are the client's own.
try:
    client.chat.completions.create(model=model, messages=messages, temperature=-1)
except openai.BadRequestError as error:
    print(error.param, error.body)
