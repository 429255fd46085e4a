"""One pass of n rows here and in llama.cpp: the same GGUF file, the same threads, in turn.

Usage:
    python bench/against_llama_cpp.py MODEL.gguf... [--rows 1,16,64] [--prompt 512] [--rounds 3]

Needs llama-cpp-python, built for this machine. A pass of n rows is timed as a tree of n nodes with the verdict on each
(here) and as a batch of n tokens with logits for each (llama.cpp); a prompt with logits for its last token only. Each
round times both, one after the other, so that drift of the machine hits both; shown are medians over all repetitions
of llama.cpp and over the rounds' medians here. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp

import frspec_cpp


@llama_cpp.llama_log_callback
def _quiet(*_: object) -> None:
    pass


def silence() -> None:
    """Nothing that llama.cpp logs is printed."""
    llama_cpp.llama_log_set(_quiet, None)


class LlamaCpp:
    """A model in llama.cpp, through its C interface."""

    def __init__(self, path: Path, threads: int, batch: int) -> None:
        model_options = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_options)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = 2 * batch
        options.n_batch = options.n_ubatch = batch
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)

    def close(self) -> None:
        """Frees everything."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def time(self, rows: int, all_logits: bool, repetitions: int) -> list[float]:
        """Milliseconds of passes of `rows` tokens into an empty context; the first one warms up."""
        times = []
        for _ in range(repetitions + 1):
            batch = llama_cpp.llama_batch_init(rows, 0, 1)
            batch.n_tokens = rows
            for i in range(rows):
                batch.token[i], batch.pos[i] = 1000 + i, i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = int(all_logits or i == rows - 1)
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
            start = time.perf_counter()
            if llama_cpp.llama_decode(self._context, batch) != 0:
                raise RuntimeError("llama_decode failed")
            llama_cpp.llama_synchronize(self._context)
            times.append(1e3 * (time.perf_counter() - start))
            llama_cpp.llama_batch_free(batch)
        return times[1:]


def compare(path: Path, rows: Sequence[int], prompt: int, threads: int, rounds: int) -> list[tuple[str, float, float]]:
    """(test, milliseconds here, milliseconds in llama.cpp) for each test."""
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    for _ in range(rounds):
        report = frspec_cpp.bench(
            path, n_prompt=[prompt], n_gen=[], n_verify=rows, n_threads=threads, repetitions=3, progress=False
        )
        for row in report["rows"]:
            ours.setdefault(row["test"], []).append(row["ms"])
        model = LlamaCpp(path, threads, max(prompt, *rows))
        for n in rows:
            theirs.setdefault(f"verify {n}", []).extend(model.time(n, True, 3))
        theirs.setdefault(f"pp{prompt}", []).extend(model.time(prompt, False, 1))
        model.close()
    return [(test, statistics.median(times), statistics.median(theirs[test])) for test, times in ours.items()]


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--rows", default="1,16,64", help="rows of the passes")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    arguments = parser.parse_args()
    silence()
    llama_cpp.llama_backend_init()
    rows = [int(n) for n in arguments.rows.split(",")]
    print("| model | test | here, ms | llama.cpp, ms | ratio |\n|---|---|---|---|---|")
    for path in arguments.models:
        for test, here, there in compare(path, rows, arguments.prompt, arguments.threads, arguments.rounds):
            print(f"| {path.stem} | {test} | {here:.1f} | {there:.1f} | {there / here:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
