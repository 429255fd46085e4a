"""Accepted length and speed by drafter, head and kind of prompt, and proof that the text never changes.

Usage:
    python bench/drafters.py PROMPTS.jsonl... [-m TARGET] --drafter NAME=FILE[,option=value...] [--drafter ...]

FILE is a GGUF drafter, empty for none (n-grams alone) or "demo"; options are keyword arguments of frspec_cpp.LLM, and
`draft=auto` (default: every step drafts). Spec-Bench or MT-Bench questions (`turns`: the first is taken), HumanEval
tasks (`prompt`) or plain `text` are read from JSONL. Spec-Bench's categories are kept apart, MT-Bench's are one;
further files are a category each. Every prompt is continued plainly and then with each drafter in turn, so that drift
of the machine hits all alike; the first difference from the plain text ends the run with an error that names prompt
and position. Prints Markdown tables: one row for each drafter; over all prompts, then accepted length and speed by
category.

    python bench/drafters.py spec_bench.jsonl human_eval.jsonl --drafter ranked=demo,head=ranked:8192 \
        --drafter auto=demo,head=auto,draft=auto --drafter ngram=,ngram=8
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

import frspec_cpp

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
Stats = list[frspec_cpp.Stats]


@dataclass
class Contender:
    """One row of the tables."""

    name: str
    llm: frspec_cpp.LLM
    draft: bool | str
    stats: dict[str, Stats] = field(default_factory=lambda: defaultdict(list))  # by category

    @property
    def all_stats(self) -> Stats:
        """Of all prompts."""
        return [stats for some in self.stats.values() for stats in some]


def read_prompts(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (category, prompt) for every row of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            category = str(row.get("category") or path.stem)
            prompt = row["turns"][0] if "turns" in row else row.get("prompt") or row.get("text")
            if not isinstance(prompt, str):
                raise ValueError(f"{path}, line {number}: found no 'turns', 'prompt' or 'text'")
            yield "mt_bench" if category in MT_BENCH else category, prompt


def choose(prompts: list[str], count: int) -> list[str]:
    """Returns `count` prompts, evenly spread."""
    step = max(1.0, len(prompts) / count)
    return [prompts[int(i * step)] for i in range(min(count, len(prompts)))]


def make_contender(text: str, target: str, threads: int) -> Contender:
    """Of NAME=FILE,option=value,...; numbers become int."""
    name, _, rest = text.partition("=")
    file, *pairs = rest.split(",")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        options[key] = int(value) if value.lstrip("-").isdigit() else value
    if file == "demo":
        file = str(frspec_cpp.demo_paths()[1])
    draft = options.pop("draft", True)
    return Contender(name, frspec_cpp.LLM(target, drafter=file or None, n_threads=threads, **options), draft)


def parse_sampling(text: str) -> dict[str, float]:
    """option=value,... as keyword arguments of generate; numbers of tokens are whole."""
    pairs = [pair.split("=") for pair in text.split(",") if pair]
    return {key: int(value) if key in ("top_k", "seed") else float(value) for key, value in pairs}


def accepted_length(stats: Stats) -> float:
    """Mean tokens of all passes (Spec-Bench's mean accepted tokens)."""
    return sum(s.accepted_length * s.steps for s in stats) / sum(s.steps for s in stats)


def speed(stats: Stats) -> float:
    """Tokens per second after the prompts: the median over prompts."""
    return statistics.median(s.tokens_per_second for s in stats)


def per_step(stats: Stats, seconds: Callable[[frspec_cpp.Stats], float]) -> float:
    """Milliseconds of something per step."""
    return 1e3 * sum(map(seconds, stats)) / sum(s.steps for s in stats)


def print_by_category(title: str, contenders: list[Contender], value: Callable[[Stats], float], digits: int) -> None:
    """A table with a column for each category."""
    categories = list(contenders[0].stats)
    print(f"\n{title}\n")
    print(f"| | {' | '.join(categories)} | all |")
    print("|---" * (len(categories) + 2) + "|")
    for one in contenders:
        cells = [value(one.stats[category]) for category in categories] + [value(one.all_stats)]
        print(f"| {one.name} | " + " | ".join(f"{cell:.{digits}f}" for cell in cells) + " |")


def print_tables(contenders: list[Contender]) -> None:
    """Over all prompts, then by category."""
    print("\n| | accepted length | drafted steps | draft ms/step | verify ms/step | tokens/s | over plain |")
    print("|---|---|---|---|---|---|---|")
    plain = speed(contenders[0].all_stats)
    for one in contenders:
        stats = one.all_stats
        drafted = sum(s.drafted_steps for s in stats) / sum(s.steps for s in stats)
        draft, verify = (per_step(stats, lambda s, k=k: getattr(s, k)) for k in ("draft_seconds", "verify_seconds"))
        print(
            f"| {one.name} | {accepted_length(stats):.2f} | {100 * drafted:.0f} % | {draft:.2f} | {verify:.2f} "
            f"| {speed(stats):.0f} | {speed(stats) / plain:.2f} |"
        )
    print_by_category("Accepted length:", contenders[1:], accepted_length, 2)
    print_by_category("Tokens/s (median over prompts):", contenders, speed, 0)


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default=str(frspec_cpp.demo_paths()[0]), help="target; default: the demo's")
    parser.add_argument("--drafter", action="append", required=True, help="NAME=FILE[,option=value...]")
    parser.add_argument("--count", type=int, default=3, help="prompts of each category")
    parser.add_argument("--tokens", type=int, default=128, help="tokens after each prompt")
    parser.add_argument("--sampling", default="temperature=0", help="option=value,... of generate")
    parser.add_argument("--stop-at-eos", action="store_true", help="end a text where the model ends it")
    parser.add_argument("-t", "--threads", type=int, default=0)
    arguments = parser.parse_args()

    plain_llm = frspec_cpp.LLM(arguments.model, n_threads=arguments.threads)
    contenders = [make_contender(text, arguments.model, arguments.threads) for text in arguments.drafter]
    sampling = parse_sampling(arguments.sampling)
    by_category: dict[str, list[str]] = defaultdict(list)
    for path in arguments.prompts:
        for category, prompt in read_prompts(path):
            if len(plain_llm.tokenize(prompt)) < plain_llm.n_ctx - arguments.tokens:
                by_category[category].append(prompt)
    chosen = [(name, prompt) for name, texts in by_category.items() for prompt in choose(texts, arguments.count)]

    plain = Contender("plain", plain_llm, False)
    compared = 0
    for number, (category, prompt) in enumerate(tqdm(chosen, unit="prompt")):
        options: dict[str, Any] = {"max_tokens": arguments.tokens, "ignore_eos": not arguments.stop_at_eos, **sampling}
        options.setdefault("seed", number)
        reference = plain_llm.generate(prompt, **options)
        plain.stats[category].append(reference.stats)
        for one in contenders:
            found = one.llm.generate(prompt, draft=one.draft, **options)
            one.stats[category].append(found.stats)
            compared += len(found.tokens)
            if found.tokens != reference.tokens:
                pairs = zip(found.tokens, reference.tokens, strict=False)
                position = next((i for i, (a, b) in enumerate(pairs) if a != b), "end")
                print(f"{one.name}: prompt {number} ({category}) differs at token {position}", file=sys.stderr)
                return 1
    print(
        f"{len(chosen)} prompts of {len(by_category)} kinds, {arguments.tokens} tokens each, {arguments.sampling}; "
        f"{plain_llm.device}; {compared} tokens compared, every text equal to the plain one"
    )
    print_tables([plain, *contenders])
    return 0


if __name__ == "__main__":
    sys.exit(main())
