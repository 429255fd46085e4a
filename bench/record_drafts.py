"""Records what a drafter offers at every position of some texts: traces for tests/engine/test_tuner.py.

    python bench/record_drafts.py -m target.gguf -d drafter.gguf [--translate slem] -n 96 -o trace.json.gz PROMPTS.jsonl

Each line of the prompts is {"prompt": ...}; the chat template is applied. Every position's tree is wide, and none of it
is verified, so a simulation can say what any policy would have made of it. A node is kept as (parent, score, hit):
its parent's index from 0 (the root), -100 times its log-probability given the parent, and whether the text goes on
like that.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import frspec_cpp


def record(llm: frspec_cpp.LLM, prompt: str, tokens: int) -> dict[str, object]:
    """The trace of one text."""
    ids = llm.tokenize(llm._chat_template.render([{"role": "user", "content": prompt}]), False, True)
    native = llm._engine.begin(ids, max_tokens=tokens, draft="watch", trace=True, ignore_eos=False)
    text = [token for token, _, _ in native.run()]
    positions = []
    # The first token came with the prompt; the tree of step i stands behind token i.
    for at, nodes in enumerate(native.watched):
        hits = [True]
        depth = [0]
        kept = []
        for token, parent, score in nodes:
            place = at + depth[parent] + 1
            hit = hits[parent] and place < len(text) and text[place] == token
            hits.append(hit)
            depth.append(depth[parent] + 1)
            kept.append((parent, round(-100 * max(score, -20.0)), int(hit)))
        positions.append(kept)
    return {"prompt": ids, "text": text, "positions": positions}


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
