"""Lets a model call functions, until it has an answer: openai_tools.py [http://127.0.0.1:8080/v1].

Needs `pip install openai`, and a server whose model's chat template tells it of tools (Qwen, Llama 3, Mistral).
"""

import json
import sys
from typing import Any

import openai
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str


def weather(city: str) -> str:
    """What the model is told."""
    return f"12 degrees and rain in {city}"


url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
client = openai.OpenAI(base_url=url, api_key="none")
model = client.models.list().data[0].id
tools: Any = [openai.pydantic_function_tool(Weather, name="weather")]
messages: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
for _ in range(4):  # turns at most
    answer = client.chat.completions.create(model=model, messages=messages, tools=tools, max_tokens=128, temperature=0)
    message = answer.choices[0].message
    messages.append(message)
    if not message.tool_calls:
        print(message.content)
        break
    for call in message.tool_calls:
        if call.type == "function":
            print(f"calls {call.function.name}({call.function.arguments})")
            told = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
