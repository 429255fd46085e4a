"""LangChain's ChatOpenAI on a running `frspec serve`: langchain_chat.py [http://127.0.0.1:8080/v1].

Needs `pip install langchain-openai`; a server whose model's chat template tells it of tools, for those.
"""

import sys

try:
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
except ImportError:
    sys.exit("langchain_chat.py: found no langchain-openai: pip install langchain-openai")


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"12 degrees and rain in {city}"


url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
model = ChatOpenAI(model="my-model", base_url=url, api_key="none", temperature=0, max_completion_tokens=64)
print(model.invoke("Name three rivers.").content)
for chunk in model.stream("Name three rivers."):
    print(chunk.content, end="", flush=True)
print()
for call in model.bind_tools([weather]).invoke("What is the weather in Oslo?").tool_calls:
    print(call["name"], call["args"], weather.invoke(call["args"]))
