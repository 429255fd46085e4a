"""Records what a drafter offers at every position of some texts: traces for tests/engine/test_tuner.py.

    python bench/record_drafts.py -m target.gguf -d drafter.gguf [--translate slem] -n 96 -o trace.json.gz PROMPTS.jsonl

Each line of the prompts is {"prompt": ...}; the chat template is applied. Every position's tree is wide, and none of it
is verified, so a simulation can say what any policy would have made of it. A node is kept as (parent, score, hit):
its parent's index from 0 (the root), -100 times its log-probability given the parent, and whether the text goes on
like that. Nodes that no policy would verify, with less than half a percent by the drafter's own word, are left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path

import frspec_cpp

LEAST = math.log(0.005)


def record(llm: frspec_cpp.LLM, prompt: str, tokens: int) -> list[list[tuple[int, int, int]]]:
    """The trace of one text."""
    ids = llm.tokenize(llm._chat_template.render([{"role": "user", "content": prompt}]), False, True)
    native = llm._engine.begin(ids, max_tokens=tokens, draft="watch", trace=True, ignore_eos=False)
    text = [token for token, _, _ in native.run()]
    # The first token came with the prompt; the tree of step i stands behind token i.
    return [keep(nodes, text[at + 1 :]) for at, nodes in enumerate(native.watched)]


def keep(nodes: list[tuple[int, int, float]], text: list[int]) -> list[tuple[int, int, int]]:
    """A tree as it is kept; ``text`` is what followed in truth."""
    places, depths, hits, sums = {0: 0}, [0], [True], [0.0]
    kept: list[tuple[int, int, int]] = []
    for i, (token, parent, score) in enumerate(nodes, 1):
        depths.append(depths[parent] + 1)
        sums.append(sums[parent] + score)
        hits.append(hits[parent] and depths[i] <= len(text) and text[depths[i] - 1] == token)
        if parent in places and (sums[i] > LEAST or hits[i]):
            kept.append((places[parent], round(-100 * max(score, -20.0)), int(hits[i])))
            places[i] = len(kept)
    return kept


def main() -> None:
    """Reads the arguments, writes the traces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-d", "--drafter", required=True)
    parser.add_argument("--translate", default="auto")
    parser.add_argument("--head", default="full")
    parser.add_argument("-n", "--tokens", type=int, default=96)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("prompts", type=Path)
    args = parser.parse_args()
    llm = frspec_cpp.LLM(args.model, drafter=args.drafter, translate=args.translate, head=args.head, n_ctx=2048)
    prompts = [json.loads(line)["prompt"] for line in args.prompts.read_text().splitlines()]
    traces = [record(llm, prompt, args.tokens) for prompt in prompts]
    with gzip.open(args.output, "wt") as out:
        json.dump(traces, out, separators=(",", ":"))


if __name__ == "__main__":
    main()
