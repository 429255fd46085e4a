"""frspec-sketch: a low-rank sketch of an LM head, for the draft head "speculated".

The sketch is a factorisation E ~ B W of the head E (V, d), with W (r, d) and B (V, r), that is best in the metric of
the states h it meets: it minimises ||(E - B W) C^(1/2)|| (Frobenius), where C is the second moment of h. With the
leading r right singular vectors U of E C^(1/2), B = E C^(1/2) U and W = U^T C^(-1/2). The states are noted while the
drafter drafts on texts of the user's. Trained factors (SpecVocab, 2602.13836) can be brought into the same form.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from .console import progress_bar, require, run
from .gguf_output import Encoded, Entry, OutputTensor, f32, string, u32, write_gguf
from .safetensors_file import read_safetensors
from .target import drafter_file, has_mtp, mtp_head, open_gguf
from .text_files import check_input, read_texts

PROGRAM = "frspec-sketch"
ARCHITECTURE = "frspec_sketch"
COVERAGE_ROWS = (512, 2048)  # candidates whose coverage is reported
_TYPES = ("q8_0", "q4_0", "f16", "f32")
_BLOCK = 32
_ROWS = 4096  # of the head that are dequantized at once
_PROMPT, _NEW = 64, 32  # tokens of a text that are read, and written behind them
_PART = 1024  # characters of a text that give one prompt
_HELD_OUT = 8  # the last one of so many states tells how good the sketch is: they are of other texts
_RIDGE = 1e-5  # of C's mean eigenvalue, added to all: states may not span the whole space
_NOTED = 8  # texts between two looks at the states


@dataclasses.dataclass(frozen=True)
class Head:
    """The matrix that a drafter's states are multiplied with: `rows(start, stop)` float32, (stop - start, width)."""

    path: Path
    size: int
    width: int
    rows: Callable[[int, int], np.ndarray]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All rows, some at a time, with the index of the first."""
        for start in range(0, self.size, _ROWS):
            yield start, self.rows(start, min(start + _ROWS, self.size))


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Share of states whose best token, and share of the ten best tokens, are among a number of candidates."""

    rows: int
    top_1: float
    top_10: float


def read_head(target: Path, drafter: Path) -> Head:
    """The head that the drafter's states meet: its own, where it has one, else the target's.

    Raises FileNotFoundError, or ValueError naming the file.
    """
    for path in (drafter, target):
        tensors = {tensor.name: tensor for tensor in open_gguf(path).tensors}
        name = _own_head(path, tensors) if path == drafter else None
        if path == target:
            name = name or ("output.weight" if "output.weight" in tensors else "token_embd.weight")
        if name in tensors:
            return _head_of(path, tensors[name])
    raise ValueError(f"{target}: tensor 'output.weight' is missing, and so is 'token_embd.weight': expected a head")


def _own_head(path: Path, tensors: Collection[str]) -> str | None:
    """The tensor of a drafter's own head; None: it uses the target's, of which an MTP block's file may have a copy."""
    if has_mtp(tensors):
        return mtp_head(tensors)
    architecture = str(_core.GgufFile(str(path)).metadata["general.architecture"])
    names = ["output.weight"] if architecture.startswith("eagle") else ["output.weight", "token_embd.weight"]
    return next((name for name in names if name in tensors), None)


def _head_of(path: Path, tensor: Any) -> Head:
    dequantize = require("gguf", "reading GGUF files").quants.dequantize
    width, size = (int(n) for n in tensor.shape)

    def rows(start: int, stop: int) -> np.ndarray:
        return np.asarray(dequantize(tensor.data[start:stop], tensor.tensor_type), dtype=np.float32)

    return Head(path, size, width, rows)


def note_states(
    target: Path,
    drafter: Path,
    files: Sequence[Path],
    count: int,
    field: str | None = None,
    threads: int = 0,
    quiet: bool = False,
) -> np.ndarray:
    """The states that the drafter's head meets on the given texts: float32, (n, d) with n <= count.

    Every text gives its first tokens as a prompt; the states are those of the trees that are drafted behind it.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: the pair does not fit, or the texts are too few (fewer states than twice their width).
    """
    for file in files:
        check_input(file)
    engine = _core.Engine(str(target), str(drafter), head="full", tree="5,10,60", n_threads=threads, states=count)
    taken: list[np.ndarray] = []
    noted = 0
    texts = (part for file in files for text in read_texts(file, field, lambda _: None) for part in _parts(text))
    with progress_bar(count, "noting states", quiet) as bar:
        while noted < count:
            some = list(itertools.islice(texts, _NOTED))
            if not some:
                break
            for text in some:
                _draft_behind(engine, text)
            states = engine.take_states()[: count - noted]
            taken.append(states)
            noted += len(states)
            bar.update(len(states))
    width = taken[0].shape[1] if taken else 0
    if noted < 2 * max(width, 1):
        raise ValueError(
            f"{', '.join(str(file) for file in files)}: found text for {noted} states, expected at least twice their "
            f"width, {2 * width}"
        )
    return np.concatenate(taken)


def _parts(text: str) -> Iterator[str]:
    """Beginnings of prompts: a long text gives several."""
    for start in range(0, len(text), _PART):
        yield text[start : start + _PART]


def _draft_behind(engine: Any, text: str) -> None:
    tokens = engine.tokenizer.encode(text)[:_PROMPT]
    if not tokens:
        return
    generation = engine.begin(tokens, max_tokens=_NEW, draft="always")
    while generation.finish_reason is None:
        generation.step()


def factorise(head: Head, states: np.ndarray, rank: int, quiet: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The best factors of the head in the metric of the states: W (rank, d) and B (V, rank), float32."""
    width = head.width
    moment = (states.T.astype(np.float64) @ states) / len(states)
    values, vectors = np.linalg.eigh(moment + _RIDGE * np.trace(moment) / width * np.eye(width))
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    gram = np.zeros((width, width))
    with progress_bar(2 * head.size, "factorising", quiet) as bar:
        for _, rows in head.blocks():
            gram += rows.T @ rows
            bar.update(len(rows))
        _, directions = np.linalg.eigh(root @ gram @ root)
        leading = directions[:, ::-1][:, :rank]
        up = np.empty((head.size, rank), dtype=np.float32)
        project = (root @ leading).astype(np.float32)
        for start, rows in head.blocks():
            up[start : start + len(rows)] = rows @ project
            bar.update(len(rows))
    return (leading.T @ inverse_root).astype(np.float32), up


def coverage(
    head: Head, down: np.ndarray, up: np.ndarray, states: np.ndarray, rows: Sequence[int] = COVERAGE_ROWS
) -> list[Coverage]:
    """How often the sketch's best `rows` candidates hold what the whole head finds best, over the given states."""
    best = min(10, head.size)
    found = {count: [0, 0] for count in rows}
    for start in range(0, len(states), 256):
        some = states[start : start + 256]
        exact = np.concatenate([some @ part.T for _, part in head.blocks()], axis=1)
        top = np.argpartition(-exact, best - 1, axis=1)[:, :best]
        first = exact.argmax(axis=1)
        scores = (some @ down.T) @ up.T
        for count in rows:
            bar = -np.partition(-scores, min(count, head.size) - 1, axis=1)[:, min(count, head.size) - 1]
            found[count][0] += int((np.take_along_axis(scores, first[:, None], 1)[:, 0] >= bar).sum())
            found[count][1] += int((np.take_along_axis(scores, top, 1) >= bar[:, None]).sum())
    return [Coverage(count, one / len(states), ten / len(states) / best) for count, (one, ten) in found.items()]


def read_factors(folder: Path, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """Trained factors, as frspec-train writes them: W_down (r, d) and W_vocab (V, r).

    Raises FileNotFoundError, or ValueError where they are not this head's.
    """
    path = folder / "model.safetensors"
    tensors = read_safetensors(path)
    factors = []
    for name, shape in (("W_down", (None, head.width)), ("W_vocab", (head.size, None))):
        tensor = tensors.get(name)
        if (
            tensor is None
            or len(tensor.shape) != 2
            or any(w not in (None, n) for w, n in zip(shape, tensor.shape, strict=True))
        ):
            wanted = ", ".join("rank" if n is None else str(n) for n in shape)
            found = "nothing" if tensor is None else f"shape {tensor.shape}"
            raise ValueError(f"{path}: tensor '{name}': found {found}, expected shape ({wanted})")
        factors.append(tensor.floats(0, tensor.shape[0]))
    down, up = factors
    if down.shape[0] != up.shape[1]:
        raise ValueError(
            f"{path}: tensor 'W_vocab': found {up.shape[1]} columns, expected {down.shape[0]}, W_down's rows"
        )
    return down, up


def write_sketch(
    path: Path, down: np.ndarray, up: np.ndarray, kind: str, fingerprint: str, source: str, found: Sequence[Coverage]
) -> None:
    """Writes the factors: W_down as F16, W_vocab in the type of the given name."""
    gguf = require("gguf", "writing GGUF files")
    number = gguf.GGMLQuantizationType[kind.upper()]
    tensors = [
        OutputTensor("sketch_down.weight", values=down.astype(np.float16)),
        OutputTensor(
            "sketch_vocab.weight", encoded=Encoded(kind.upper(), up.shape, lambda: gguf.quants.quantize(up, number))
        ),
    ]
    entries: list[Entry] = [
        u32("frspec.sketch.vocab_size", up.shape[0]),
        u32("frspec.sketch.rank", up.shape[1]),
        string("frspec.sketch.vocab_fingerprint", fingerprint),
        string("frspec.sketch.source", source),
    ]
    for one in found:
        entries.append(f32(f"frspec.sketch.coverage_{one.rows}.top_1", one.top_1))
        entries.append(f32(f"frspec.sketch.coverage_{one.rows}.top_10", one.top_10))
    write_gguf(path, ARCHITECTURE, entries, tensors)


def make_sketch(
    target: Path,
    drafter: Path,
    files: Sequence[Path],
    output: Path,
    rank: int | None = None,
    type: str = "q8_0",  # noqa: A002 - named as the option
    states: int = 20000,
    factors: Path | None = None,
    field: str | None = None,
    threads: int = 0,
    quiet: bool = False,
) -> list[Coverage]:
    """Makes a sketch of the head that `drafter` uses and writes it; returns its coverage on states held out.

    Args:
        target: GGUF file.
        drafter: GGUF file of its drafter; "mtp": the block in the target's file.
        files: texts to draft on: .txt, .jsonl (both also .gz or .zst) or .parquet.
        output: the GGUF file to write.
        rank: of the factors, a multiple of 32; None: an eighth of the states' width, at least 32.
        type: of the large factor: q8_0, q4_0, f16 or f32.
        states: states to note; an eighth of them are held out.
        factors: a folder of trained factors to bring into this form, instead of a factorisation.
        field: of JSON and Parquet records.
        threads: 0 for all processors.
        quiet: show no progress bar.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: bad input; the message names it.
    """
    for package in ("gguf", "tqdm"):
        require(package, PROGRAM)
    drafter = drafter_file(target, drafter)
    head = read_head(target, drafter)
    if rank is None:
        rank = max(_BLOCK, head.width // 8 // _BLOCK * _BLOCK)
    if not _BLOCK <= rank <= head.width or rank % _BLOCK:
        raise ValueError(f"rank: found {rank}, expected a multiple of {_BLOCK} up to {head.width}, the states' width")
    met = note_states(target, drafter, files, states, field, threads, quiet)
    if met.shape[1] != head.width:
        raise ValueError(f"{head.path}: the head is {head.width} wide, expected {met.shape[1]}, as the states are")
    held_out = np.arange(len(met)) >= len(met) - len(met) // _HELD_OUT
    if factors is None:
        down, up = factorise(head, met[~held_out], rank, quiet)
    else:
        down, up = read_factors(factors, head)
    stored = _as_stored(up, type)
    found = coverage(head, down.astype(np.float16).astype(np.float32), stored, met[held_out][:4096])
    fingerprint = _core.Tokenizer(str(target)).fingerprint
    write_sketch(output, down, up, type, fingerprint, "trained" if factors else "states", found)
    return found


def _as_stored(up: np.ndarray, type: str) -> np.ndarray:  # noqa: A002
    gguf = require("gguf", "writing GGUF files")
    kind = gguf.GGMLQuantizationType[type.upper()]
    return np.asarray(gguf.quants.dequantize(gguf.quants.quantize(up, kind), kind), dtype=np.float32)


def parser() -> argparse.ArgumentParser:
    """The command line of frspec-sketch."""
    result = argparse.ArgumentParser(
        prog=PROGRAM, description="Make a low-rank sketch of the LM head that a drafter uses, for head 'speculated'."
    )
    result.add_argument("files", type=Path, nargs="+", metavar="TEXT", help=".txt or .jsonl (also .gz, .zst), .parquet")
    result.add_argument("-m", "--model", type=Path, required=True, metavar="TARGET.gguf")
    result.add_argument(
        "-d", "--drafter", type=Path, required=True, metavar="DRAFTER.gguf", help="mtp: the block in the target's file"
    )
    result.add_argument("-o", "--output", type=Path, required=True, metavar="SKETCH.gguf", help="the file to write")
    result.add_argument("--rank", type=int, metavar="R", help="default: an eighth of the states' width")
    result.add_argument("--type", choices=_TYPES, default="q8_0", help="of the large factor; default: q8_0")
    result.add_argument("--states", type=int, default=20000, metavar="N", help="states to note; default: 20000")
    result.add_argument("--factors", type=Path, metavar="FOLDER", help="trained factors (frspec-train specvocab)")
    result.add_argument("--field", metavar="NAME", help="of JSON and Parquet records; default: the common ones")
    result.add_argument("--threads", type=int, default=0, metavar="N", help="default: all processors")
    result.add_argument("-q", "--quiet", action="store_true", help="show neither progress nor the coverage")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)

    def command() -> None:
        found = make_sketch(
            options.model,
            options.drafter,
            options.files,
            options.output,
            options.rank,
            options.type,
            options.states,
            options.factors,
            options.field,
            options.threads,
            options.quiet,
        )
        if options.quiet:
            return
        print(
            f"{options.output}: share of the head's own best tokens among the sketch's candidates, on states held out"
        )
        print("candidates     top 1    top 10")
        for one in found:
            print(f"{one.rows:>10}  {100 * one.top_1:6.2f} %  {100 * one.top_10:6.2f} %")

    return run(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
