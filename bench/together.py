"""Tokens per second of several texts at once, beside one after the other.

Usage:
    python bench/together.py TARGET.gguf [-d DRAFTER.gguf] [--texts 1,2,4,8] [--tokens 128] [--rounds 3]

Each line is the median of the rounds, in which the numbers of texts take turns: eight chats, so many at a time. All
texts must be those of one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import time

from against_llama_server import TASKS

from frspec_cpp import LLM, Generation


def write(llm: LLM, prompts: list[list[int]], at_once: int, tokens: int) -> tuple[float, list[Generation]]:
    """Seconds, and the texts."""
    start = time.perf_counter()
    texts: list[Generation] = []
    for first in range(0, len(prompts), at_once):
        texts += llm.generate(prompts[first : first + at_once], tokens, ignore_eos=True, reuse=False)
    return time.perf_counter() - start, texts


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("-d", "--drafter")
    parser.add_argument("--texts", default="1,2,4,8")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    numbers = [int(number) for number in options.texts.split(",")]
    llm = LLM(options.target, options.drafter, n_ctx=1024, n_parallel=max(numbers))
    prompts = [
        llm.chat_prompt([{"role": "user", "content": f"Write a Python function that {task}."}]) for task in TASKS
    ]
    expected = [text.tokens for text in write(llm, prompts, 1, options.tokens)[1]]
    rates: dict[int, list[float]] = {number: [] for number in numbers}
    drafted: dict[int, float] = {}
    for _ in range(options.rounds):
        for number in numbers:
            seconds, texts = write(llm, prompts, number, options.tokens)
            if [text.tokens for text in texts] != expected:
                raise SystemExit(f"{number} texts at once differ from one after the other")
            rates[number].append(sum(len(text.tokens) for text in texts) / seconds)
            drafted[number] = sum(text.stats.drafted_steps for text in texts) / sum(text.stats.steps for text in texts)
    print("| texts at once | tokens/s | to one | steps with drafts |\n|---|---|---|---|")
    for number in numbers:
        rate = statistics.median(rates[number])
        to_one = rate / statistics.median(rates[numbers[0]])
        print(f"| {number} | {rate:.1f} | {to_one:.2f} | {drafted[number]:.0%} |")


if __name__ == "__main__":
    main()
