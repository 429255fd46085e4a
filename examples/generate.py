"""Generates with and without drafting on the demo pair, or on your own: generate.py [TARGET.gguf DRAFTER.gguf]."""

import sys

import frspec_cpp

target, drafter = sys.argv[1:3] if len(sys.argv) > 2 else frspec_cpp.demo_paths()
llm = frspec_cpp.LLM(target, drafter=drafter)
prompt = "def fibonacci(n):"

for piece in llm.stream(prompt, max_tokens=64):
    print(piece, end="", flush=True)
print()

drafted = llm.generate(prompt, max_tokens=64)
plain = llm.generate(prompt, max_tokens=64, draft=False)
assert drafted.tokens == plain.tokens  # lossless: the same tokens
print(f"accepted length {drafted.stats.accepted_length:.2f} in {drafted.stats.steps} steps")
print(f"drafted {drafted.stats.tokens_per_second:.1f}, plain {plain.stats.tokens_per_second:.1f} tokens/s")
