"""frspec-rank: counts the tokens of a text corpus and ranks the vocabulary by frequency."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .._core import Tokenizer
from .console import progress_bar, require, run
from .ranks_file import Ranks, check_ids, read_ranks, write_ranks
from .text_files import check_input, read_texts

PROGRAM = "frspec-rank"
_BATCH = 4 << 20  # characters counted in one parallel call


def count_tokens(
    tokenizer: Tokenizer,
    files: Sequence[Path],
    field: str | None = None,
    threads: int = 0,
    limit: int | None = None,
    quiet: bool = False,
) -> np.ndarray:
    """How often each token occurs in `files`: int64, (V).

    Args:
        tokenizer: splits the texts; nothing is added to them, and control tokens are not parsed.
        files: .txt, .jsonl (both also .gz or .zst) and .parquet files.
        field: of JSON and Parquet records; None: a plain string, or one of text, content, prompt, completion.
        threads: 0 for all processors.
        limit: stop after the batch (about 4M characters) in which so many tokens are reached.
        quiet: show no progress bar.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: bad input (the message names file and line), or no tokens at all.
    """
    counts = np.zeros(tokenizer.size, dtype=np.int64)
    total = sum(check_input(file) for file in files)
    with progress_bar(total, "counting tokens", quiet) as bar:
        for batch in _batches(text for file in files for text in read_texts(file, field, bar.update)):
            tokenizer.count(batch, counts, threads=threads)
            if limit is not None and int(counts.sum()) >= limit:
                break
    if not counts.any():
        raise ValueError(f"{', '.join(str(file) for file in files)}: no text to count")
    return counts


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def rank_by_count(counts: np.ndarray, control_ids: Sequence[int]) -> np.ndarray:
    """Token ids, most frequent first, ties by id: int32, (V).

    Control tokens come before all others: a draft head that keeps only the first ranks must be able to end a
    text.
    """
    first = np.array(sorted(set(control_ids)), dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    return np.concatenate((first, order[~np.isin(order, first)])).astype(np.int32)


def coverage_table(ranks: np.ndarray, counts: np.ndarray) -> str:
    """What share of the counted tokens the first 1k, 2k ... 64k ranks and the whole vocabulary cover."""
    covered = np.cumsum(counts[ranks])
    sizes = [1024 << i for i in range(7) if 1024 << i < ranks.size]
    rows = [(f"{size // 1024}k", covered[size - 1]) for size in sizes] + [(str(ranks.size), covered[-1])]
    lines = ["first ranks  share of tokens"]
    lines += [f"{name:>11}  {100.0 * int(count) / int(covered[-1]):13.2f} %" for name, count in rows]
    return "\n".join(lines)


def rank(
    tokenizer_file: Path,
    files: Sequence[Path],
    output: Path,
    field: str | None = None,
    threads: int = 0,
    limit: int | None = None,
    quiet: bool = False,
) -> Ranks:
    """Counts `files` with the tokenizer of a GGUF file and writes the ranks; see count_tokens."""
    _require_packages()
    tokenizer = Tokenizer(str(tokenizer_file))
    counts = count_tokens(tokenizer, files, field, threads, limit, quiet)
    ranks = Ranks(
        tokens=rank_by_count(counts, tokenizer.control_ids()),
        vocabulary=tokenizer.size,
        fingerprint=tokenizer.fingerprint,
        counts=counts,
        tokens_counted=int(counts.sum()),
        source=", ".join(file.name for file in files),
    )
    write_ranks(output, ranks)
    return ranks


def import_list(tokenizer_file: Path, list_file: Path, output: Path) -> Ranks:
    """Writes the ids of FR-Spec's `freq_*.pt` as a ranks file, control tokens first.

    Raises ValueError where the ids are no distinct tokens of the vocabulary.
    """
    _require_packages()
    tokenizer = Tokenizer(str(tokenizer_file))
    imported = read_ranks(list_file).checked(list_file, tokenizer.size, tokenizer.fingerprint, tokenizer_file)
    first = np.array(sorted(tokenizer.control_ids()), dtype=np.int32)
    rest = imported.tokens[~np.isin(imported.tokens, first)]
    ranks = dataclasses.replace(imported, tokens=np.concatenate((first, rest)).astype(np.int32))
    check_ids(list_file, ranks.tokens, tokenizer.size)
    write_ranks(output, ranks)
    return ranks


def _require_packages() -> None:
    for package in ("gguf", "tqdm"):
        require(package, PROGRAM)


def _count(text: str) -> int:
    """A whole number of 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def parser() -> argparse.ArgumentParser:
    """The command line of frspec-rank."""
    result = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Count the tokens of a corpus and write them, most frequent first, to a ranks file.",
    )
    result.add_argument(
        "files", type=Path, nargs="*", metavar="TEXT", help=".txt or .jsonl (also .gz, .zst), or .parquet"
    )
    result.add_argument("--tokenizer", type=Path, required=True, metavar="TARGET.gguf", help="the vocabulary to rank")
    result.add_argument("-o", "--output", type=Path, required=True, metavar="RANKS.gguf", help="the file to write")
    result.add_argument("--threads", type=_count, default=0, metavar="N", help="default: all processors")
    result.add_argument("--field", metavar="NAME", help="of JSON and Parquet records; default: the common ones")
    result.add_argument("--limit-tokens", type=_count, metavar="N", help="stop after about so many tokens")
    result.add_argument("--import-pt", type=Path, metavar="FREQ.pt", help="instead of counting: FR-Spec's saved list")
    result.add_argument("-q", "--quiet", action="store_true", help="show neither progress nor the coverage table")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    if bool(options.files) == bool(options.import_pt):
        parser().error("expected either TEXT files or --import-pt")

    def command() -> None:
        if options.import_pt:
            ranks = import_list(options.tokenizer, options.import_pt, options.output)
        else:
            ranks = rank(
                options.tokenizer,
                options.files,
                options.output,
                options.field,
                options.threads,
                options.limit_tokens,
                options.quiet,
            )
        if options.quiet:
            return
        if ranks.counts is None:
            print(f"{options.output}: {ranks.tokens.size} token ids of {options.import_pt.name}")
        else:
            print(f"{options.output}: {ranks.tokens_counted} tokens counted")
            print(coverage_table(ranks.tokens, ranks.counts))

    return run(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
