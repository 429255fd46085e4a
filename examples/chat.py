"""A conversation with a model that has a chat template: chat.py TARGET.gguf [DRAFTER.gguf]."""

import sys

import frspec_cpp

if len(sys.argv) < 2:
    sys.exit("usage: chat.py TARGET.gguf [DRAFTER.gguf]")
llm = frspec_cpp.LLM(sys.argv[1], drafter=sys.argv[2] if len(sys.argv) > 2 else None)
messages: list[dict[str, str]] = []
try:
    while True:
        messages.append({"role": "user", "content": input("> ")})
        answer = ""
        for piece in llm.chat(messages, max_tokens=512, stream=True):
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append({"role": "assistant", "content": answer})
except (EOFError, KeyboardInterrupt):
    print()
