"""Accepted length and speed by drafter and kind of prompt, and proof that the text never changes.

Usage:
    python bench/drafters.py PROMPTS.jsonl... [-m TARGET] --drafter NAME=FILE[,option=value...] [--drafter ...]

FILE is a GGUF drafter, empty for none (n-grams alone) or "demo"; options are keyword arguments of frspec_cpp.LLM.
Prompts are read as by head_sizes.py; Spec-Bench's categories are kept apart, further files are a category each. Every
drafted text is compared with the plain one; the first difference ends the run. Prints a Markdown table: one row for
each drafter, one column for each category with the accepted length; then tokens/s over plain decoding.

    python bench/drafters.py spec_bench.jsonl --drafter eagle2=demo,head=ranked:8192 --drafter ngram=,ngram=8
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from head_sizes import choose, read_prompts
from tqdm import tqdm

import frspec_cpp


def parse_drafter(text: str) -> tuple[str, str | None, dict[str, Any]]:
    """NAME=FILE,option=value,... as name, file and options; numbers become int."""
    name, _, rest = text.partition("=")
    file, *pairs = rest.split(",")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        options[key] = int(value) if value.lstrip("-").isdigit() else value
    if file == "demo":
        file = str(frspec_cpp.demo_paths()[1])
    return name, file or None, options


def parse_sampling(text: str) -> dict[str, float]:
    """option=value,... as keyword arguments of generate; numbers of tokens are whole."""
    pairs = [pair.split("=") for pair in text.split(",") if pair]
    return {key: int(value) if key in ("top_k", "seed") else float(value) for key, value in pairs}


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default=str(frspec_cpp.demo_paths()[0]), help="target; default: the demo's")
    parser.add_argument("--drafter", action="append", required=True, help="NAME=FILE[,option=value...]")
    parser.add_argument("--count", type=int, default=3, help="prompts of each category")
    parser.add_argument("--tokens", type=int, default=128, help="tokens after each prompt")
    parser.add_argument("--sampling", default="temperature=0", help="option=value,... of generate")
    parser.add_argument("-t", "--threads", type=int, default=0)
    arguments = parser.parse_args()

    plain_llm = frspec_cpp.LLM(arguments.model, n_threads=arguments.threads)
    room = plain_llm.n_ctx - arguments.tokens
    by_category: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in arguments.prompts:
        for name, prompt in read_prompts(path):
            if len(plain_llm.tokenize(prompt)) < room:
                by_category[path.stem if "/" in name else name].append((name, prompt))
    chosen = {name: choose(prompts, arguments.count) for name, prompts in by_category.items()}

    options: dict[str, Any] = {"max_tokens": arguments.tokens, "ignore_eos": True}
    options |= parse_sampling(arguments.sampling)
    drafters = [parse_drafter(text) for text in arguments.drafter]
    models = [
        frspec_cpp.LLM(arguments.model, drafter=file, n_threads=arguments.threads, **keywords)
        for _, file, keywords in drafters
    ]
    lengths: dict[str, dict[str, float]] = defaultdict(dict)
    speeds: dict[str, list[float]] = defaultdict(list)
    total = 0
    for category, prompts in tqdm(chosen.items(), unit="category"):
        steps: dict[str, int] = defaultdict(int)
        for _, prompt in prompts:
            plain = plain_llm.generate(prompt, **options)
            for (name, _, _), llm in zip(drafters, models, strict=True):
                drafted = llm.generate(prompt, draft=True, **options)
                if drafted.tokens != plain.tokens:
                    print(f"{name}: a prompt of {category} gives another text than plain decoding", file=sys.stderr)
                    return 1
                steps[name] += drafted.stats.steps
                speeds[name].append(drafted.stats.tokens_per_second / plain.stats.tokens_per_second)
                total += len(drafted.tokens)
        for name, count in steps.items():
            lengths[name][category] = len(prompts) * (arguments.tokens - 1) / count
    print(f"{total} drafted tokens, each as plain decoding has it; {arguments.sampling}; {plain_llm.device}\n")
    columns = list(chosen)
    print("| drafter | " + " | ".join(columns) + " | mean | speed over plain |")
    print("|---" * (len(columns) + 3) + "|")
    for name, row in lengths.items():
        cells = [f"{row[column]:.2f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} | {statistics.mean(row.values()):.2f} | "
              f"{statistics.median(speeds[name]):.2f} |")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
