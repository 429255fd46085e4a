#!/usr/bin/env python3
"""Tokenizer throughput in MB/s: frspec_cpp beside Hugging Face tokenizers and tiktoken, on the same vocabulary.

Usage: tokenizer_throughput.py VOCABULARY.gguf CORPUS [--megabytes 20] [--repeats 5] [--threads 1 2]

VOCABULARY is a GGUF file with a byte-level BPE vocabulary that splits like Llama 3's (pre-tokenizer llama-bpe or
smaug-bpe) or Qwen2's; CORPUS is a .jsonl or .jsonl.gz file of strings, or of objects with a "text". All three count the
tokens of all texts; their counts must agree. They take turns, and the medians of all repeats are printed as a Markdown
table. Needs `gguf`, `tokenizers` and `tiktoken`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import tiktoken
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

import frspec_cpp

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "llama-bpe": PATTERN.replace("DIGITS", "{1,3}"),
    "smaug-bpe": PATTERN.replace("DIGITS", "{1,3}"),
    "qwen2": PATTERN.replace("DIGITS", ""),
}


def read_texts(path: Path, megabytes: float) -> list[str]:
    """The first texts of a corpus that together have about `megabytes` (10^6 bytes)."""
    texts: list[str] = []
    left = megabytes * 1e6
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            texts.append(record if isinstance(record, str) else record["text"])
            left -= len(texts[-1].encode())
            if left <= 0:
                break
    return texts


def hugging_face(path: Path, pattern: str) -> tokenizers.Tokenizer:
    """The vocabulary of a GGUF file as a Hugging Face tokenizer."""
    reader = gguf.GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    ignore_merges = reader.fields["tokenizer.ggml.pre"].contents() == "llama-bpe"
    model = models.BPE({text: i for i, text in enumerate(tokens)}, merges, ignore_merges=ignore_merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def contestants(path: Path, threads: int) -> dict[str, Callable[[list[str]], int]]:
    """Functions from texts to the number of tokens, each using `threads` threads."""
    ours = frspec_cpp.Tokenizer(path)
    pattern = PATTERNS.get(ours.pre)
    if pattern is None:
        sys.exit(f"{path}: found pre-tokenizer {ours.pre!r}, expected one of {', '.join(PATTERNS)}")
    hf = hugging_face(path, pattern)
    # tiktoken merges by the order of ids, which is the order of merges in vocabularies of this kind.
    normal = [i for i in range(len(ours)) if ours.token_type(i) == 1]
    ranks = {ours.token_bytes(i): i for i in normal}
    tik = tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    counts = np.zeros(len(ours), np.int64)

    def run_tiktoken(texts: list[str]) -> int:
        if threads == 1:
            return sum(len(tik.encode_ordinary(text)) for text in texts)
        return sum(map(len, tik.encode_ordinary_batch(texts, num_threads=threads)))

    return {
        "frspec_cpp `count`": lambda texts: ours.count(texts, counts, threads=threads),
        "frspec_cpp `encode_batch`": lambda texts: sum(
            map(len, ours.encode_batch(texts, threads=threads, add_special=False))
        ),
        "tiktoken": run_tiktoken,
        "Hugging Face tokenizers": lambda texts: sum(map(len, hf.encode_batch_fast(texts, add_special_tokens=False))),
    }


def measure(args: argparse.Namespace, threads: int) -> dict[str, list[float]]:
    """Seconds of all repeats per contestant, which take turns; prints them as JSON when run as a child."""
    texts = read_texts(args.corpus, args.megabytes)
    candidates = contestants(args.vocabulary, threads)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    numbers: dict[str, int] = {}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, run in candidates.items():
            start = time.perf_counter()
            numbers[name] = run(texts)
            if repeat > 0:
                seconds[name].append(time.perf_counter() - start)
    if len(set(numbers.values())) != 1:
        print(f"warning: numbers of tokens differ: {numbers}", file=sys.stderr)
    seconds["bytes"] = [float(sum(len(text.encode()) for text in texts))]
    return seconds


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(args, args.child)))
        return
    results = {}
    for threads in args.threads:
        # Rayon, which Hugging Face tokenizers use, reads its number of threads once per process.
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(threads)]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        results[threads] = json.loads(output.splitlines()[-1])
    size = results[args.threads[0]].pop("bytes")[0]
    print(f"{args.vocabulary.name}, {size / 1e6:.1f} MB of text, medians of {args.repeats} runs, MB/s:\n")
    print("| | " + " | ".join(f"{n} thread{'s' if n > 1 else ''}" for n in args.threads) + " |")
    print("|---|" + "---|" * len(args.threads))
    for name in results[args.threads[0]]:
        speeds = [size / 1e6 / statistics.median(results[n][name]) for n in args.threads]
        print(f"| {name} | " + " | ".join(f"{speed:.1f}" for speed in speeds) + " |")


if __name__ == "__main__":
    main()
