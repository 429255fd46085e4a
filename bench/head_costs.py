"""What each head policy costs over the full head: bytes that are read, and time.

Usage:
    python bench/head_costs.py [-m TARGET -d DRAFTER --ranks RANKS.gguf] [--rank 512] [--rounds 5]

For any pair, random weights included (frspec-make-random-model --shape llama3-8b --layers 1 ...): without --sketch a
sketch of random factors is made, which costs what a good one does. Every policy is timed as an engine times it when it
is made, over --rounds such rounds; medians. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import gguf
import numpy as np
from frspec_cpp.tools.sketch import read_head, write_sketch
from tqdm import trange

import frspec_cpp
from frspec_cpp import _core

BRANCH = 10


def random_sketch(path: Path, target: Path, drafter: Path, rank: int) -> None:
    """Writes factors of noise."""
    head = read_head(target, drafter)
    rng = np.random.default_rng(0)
    down = rng.standard_normal((rank, head.width), dtype=np.float32)
    up = rng.standard_normal((head.size, rank), dtype=np.float32)
    write_sketch(path, down, up, "q4_0", _core.Tokenizer(str(target)).fingerprint, "noise", [])


def bytes_of(policy: str, rows: int, row_bytes: int, rank: int) -> int:
    """Bytes of weights that a level reads, at most: every state's candidates apart."""
    name, _, size = policy.partition(":")
    if name == "speculated":
        return rows * rank * 18 // 32 + BRANCH * int(size) * row_bytes
    return (int(size) if size else rows) * row_bytes


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target, drafter = (str(path) for path in frspec_cpp.demo_paths())
    parser.add_argument("-m", "--model", default=target)
    parser.add_argument("-d", "--drafter", default=drafter)
    parser.add_argument("--ranks")
    parser.add_argument("--sketch")
    parser.add_argument("--rank", type=int, default=0, help="of a random sketch; default: an eighth of the width")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=0)
    arguments = parser.parse_args()

    head = read_head(Path(arguments.model), Path(arguments.drafter))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(head.path).tensors}
    tensor = tensors.get("output.weight") or tensors["token_embd.weight"]
    row_bytes = int(tensor.n_bytes) // head.size
    rank = arguments.rank or head.width // 8
    with tempfile.TemporaryDirectory() as folder:
        sketch = arguments.sketch
        if sketch is None:
            sketch = str(Path(folder) / "sketch.gguf")
            random_sketch(Path(sketch), Path(arguments.model), Path(arguments.drafter), rank)
        options = {"ranks": arguments.ranks, "sketch": sketch, "n_threads": arguments.threads, "tree_branch": BRANCH}
        engine = _core.Engine(arguments.model, arguments.drafter, head="auto", n_ctx=512, **options)
        times: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in trange(arguments.rounds, unit="round"):
            for name, root, level in engine.head_costs:
                times[name].append((root, level))
            engine.set_head("auto")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    full = next(iter(medians))
    print(f"{head.size} rows of {head.width}, {tensor.tensor_type.name}, sketch of rank {rank}; {engine.device}\n")
    print("| head | MB of a level | over full | ms, 1 state | over full | ms, a level of 10 | over full |")
    print("|---|---|---|---|---|---|---|")
    whole = bytes_of(full, head.size, row_bytes, rank)
    for name, (root, level) in medians.items():
        read = bytes_of(name, head.size, row_bytes, rank)
        print(
            f"| {name} | {read / 1e6:.1f} | {read / whole:.2f} | {1e3 * root:.2f} | {root / medians[full][0]:.2f} "
            f"| {1e3 * level:.2f} | {level / medians[full][1]:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
