"""Accepted length over a stream of requests with ranks that stay and with ranks that adapt; the text never changes.

Usage:
    python bench/adapting.py PROMPTS.jsonl [--category NAME] [--head ranked:2048] [-m TARGET -d DRAFTER --ranks RANKS]

Reads prompts as frspec-eval does (of several turns the first), all of one category in order, and writes `--tokens`
tokens after each: with the head as it is, with ranks that adapt, and with the full head. The first difference between
the texts ends the run. Prints a Markdown table of the accepted lengths over windows of requests, how many rows changed,
and how long that took before the text began.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from frspec_cpp.tools.evaluate.prompts import read_file
from tqdm import tqdm

import frspec_cpp


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--category", help="of the prompts; default: all of them")
    parser.add_argument("-m", "--model", default=str(frspec_cpp.demo_paths()[0]), help="target; default: the demo's")
    parser.add_argument("-d", "--drafter", default=str(frspec_cpp.demo_paths()[1]), help="default: the demo's")
    parser.add_argument("--ranks", default=None, help="ranks to begin with; default: the drafter's")
    parser.add_argument("--head", default="ranked:2048")
    parser.add_argument("--count", type=int, default=0, help="requests; default: all")
    parser.add_argument("--window", type=int, default=20, help="requests to a line of the table")
    parser.add_argument("--tokens", type=int, default=128, help="tokens after each prompt")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--stop-at-eos", action="store_true", help="end a text where the model ends it")
    parser.add_argument("-t", "--threads", type=int, default=0)
    arguments = parser.parse_args()

    common = {"drafter": arguments.drafter, "n_threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder:
        ranked = {"head": arguments.head, "ranks": arguments.ranks}
        models = {
            "static": frspec_cpp.LLM(arguments.model, **common, **ranked),
            "adapted": frspec_cpp.LLM(arguments.model, **common, **ranked, adapt=f"{folder}/ranks.gguf"),
            "full": frspec_cpp.LLM(arguments.model, **common, head="full"),
        }
        room = models["full"].n_ctx - arguments.tokens
        prompts = [
            question.turns[0]
            for question in read_file(arguments.prompts)
            if arguments.category in (None, question.category)
            and len(models["full"].tokenize(question.turns[0])) < room
        ]
        if arguments.count:
            prompts = prompts[: arguments.count]
        stats: dict[str, list[frspec_cpp.Stats]] = {name: [] for name in models}
        for number, prompt in enumerate(tqdm(prompts, unit="request")):
            texts = {}
            for name, llm in models.items():
                out = llm.generate(prompt, arguments.tokens, ignore_eos=not arguments.stop_at_eos, draft=True,
                                   temperature=arguments.temperature, seed=number)  # fmt: skip
                texts[name] = out.tokens
                stats[name].append(out.stats)
            if texts["adapted"] != texts["static"] or texts["full"] != texts["static"]:
                print(f"request {number}: the texts differ", file=sys.stderr)
                return 1
        models.clear()

    def length(name: str, first: int, last: int) -> float:
        some = stats[name][first:last]
        # Every text has one token of its prompt's pass.
        return sum(s.generated_tokens - 1 for s in some) / max(1, sum(s.steps for s in some))

    print(f"{len(prompts)} requests, {arguments.head}, temperature {arguments.temperature}; all texts are equal\n")
    print("| requests | static | adapted | full | rows changed | delay, ms |\n|---|---|---|---|---|---|")
    windows = [(i, min(i + arguments.window, len(prompts))) for i in range(0, len(prompts), arguments.window)]
    for first, last in [*windows, (0, len(prompts))]:
        lengths = " | ".join(f"{length(name, first, last):.3f}" for name in ("static", "adapted", "full"))
        some = stats["adapted"][first:last]
        rows = sum(s.adapted_rows for s in some)
        delay = 1000 * statistics.median(s.adapt_seconds for s in some)
        print(f"| {first + 1} to {last} | {lengths} | {rows} | {delay:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
