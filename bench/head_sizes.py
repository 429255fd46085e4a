"""Accepted length and draft time by size of the draft head, and proof that the text never changes.

Usage:
    python bench/head_sizes.py PROMPTS.jsonl... [-m TARGET -d DRAFTER] [--heads full,ranked:16384,...]

Reads Spec-Bench or MT-Bench questions (`turns`: the first is taken), HumanEval tasks (`prompt`) or plain `text` from
JSONL and takes `--count` prompts, spread evenly over the files. After each it writes `--tokens` tokens: plainly, then
with each head in turn, so that drift of the machine hits all alike. The first difference from the plain text ends the
run with an error that names prompt and position. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

import frspec_cpp


def read_prompts(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (name, prompt) for every row of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            name = str(row.get("category") or row.get("task_id") or path.stem)
            prompt = row["turns"][0] if "turns" in row else row.get("prompt") or row.get("text")
            if not isinstance(prompt, str):
                raise ValueError(f"{path}, line {number}: found no 'turns', 'prompt' or 'text'")
            yield name, prompt


def choose(prompts: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """Returns `count` prompts, evenly spread."""
    step = max(1.0, len(prompts) / count)
    return [prompts[int(i * step)] for i in range(min(count, len(prompts)))]


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default=None, help="target GGUF; default: the demo pair")
    parser.add_argument("-d", "--drafter", default=None)
    parser.add_argument("--heads", default="full,ranked:16384,ranked:8192,ranked:2048")
    parser.add_argument("--count", type=int, default=40, help="prompts")
    parser.add_argument("--tokens", type=int, default=256, help="tokens after each prompt")
    parser.add_argument("--tree", default="5,10,60", help="depth,branch,size")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--stop-at-eos", action="store_true", help="end a text where the model ends it")
    parser.add_argument("-t", "--threads", type=int, default=0)
    arguments = parser.parse_args()

    target, drafter = frspec_cpp.demo_paths()
    if arguments.model is not None:
        target, drafter = arguments.model, arguments.drafter
    depth, branch, size = (int(part) for part in arguments.tree.split(","))
    heads = arguments.heads.split(",")
    models = {
        head: frspec_cpp.LLM(
            target,
            drafter=drafter,
            head=head,
            tree_depth=depth,
            tree_branch=branch,
            tree_size=size,
            n_threads=arguments.threads,
        )
        for head in heads
    }
    first = models[heads[0]]
    room = first.n_ctx - arguments.tokens
    prompts = [(name, text) for path in arguments.prompts for name, text in read_prompts(path)]
    prompts = choose([(name, text) for name, text in prompts if len(first.tokenize(text)) < room], arguments.count)

    rows: dict[str, list[frspec_cpp.Stats]] = {name: [] for name in ["plain", *heads]}
    options = {
        "max_tokens": arguments.tokens,
        "temperature": arguments.temperature,
        "ignore_eos": not arguments.stop_at_eos,
    }
    for number, (name, prompt) in enumerate(tqdm(prompts, unit="prompt")):
        plain = first.generate(prompt, draft=False, **options)
        rows["plain"].append(plain.stats)
        for head, llm in models.items():
            drafted = llm.generate(prompt, draft=True, **options)
            rows[head].append(drafted.stats)
            if drafted.tokens != plain.tokens:
                pairs = zip(drafted.tokens, plain.tokens, strict=False)
                position = next((i for i, (a, b) in enumerate(pairs) if a != b), "end")
                print(f"{head}: prompt {number} ({name}) differs at token {position}", file=sys.stderr)
                return 1

    total = sum(stats.generated_tokens for stats in rows["plain"])
    print(
        f"{len(prompts)} prompts, {total} tokens, tree depth {depth}, branch {branch}, size {size}, "
        f"temperature {arguments.temperature:g}; {first.device}; every text equal to the plain one\n"
    )
    print("| head | accepted length | draft ms/step | verify ms/step | tokens/s (median) |")
    print("|---|---|---|---|---|")
    for name, stats in rows.items():
        steps = sum(s.steps for s in stats)
        accepted = sum(s.accepted_length * s.steps for s in stats) / steps
        draft = 1e3 * sum(s.draft_seconds for s in stats) / steps
        verify = 1e3 * sum(s.verify_seconds for s in stats) / steps
        speed = statistics.median(s.tokens_per_second for s in stats)
        print(f"| {name} | {accepted:.2f} | {draft:.2f} | {verify:.2f} | {speed:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
