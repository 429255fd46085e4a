"""frspec-convert: Hugging Face checkpoints of target models and EAGLE drafters to GGUF."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from . import eagle, eagle3
from .architectures import ARCHITECTURES, Architecture, collect, is_tied, model_tensors, read_sizes
from .checkpoint import Checkpoint
from .config import Config
from .console import note, progress_bar, require, run
from .fingerprint import vocabulary_fingerprint
from .gguf_output import FILE_TYPES, Entry, OutputTensor, string, u32, write_gguf
from .hf_tokenizer import read_tokenizer
from .ranks_file import RANKS, read_ranks
from .target import Target, read_target

PROGRAM = "frspec-convert"


def convert(
    source: Path,
    output: Path,
    type: str = "f16",  # noqa: A002 - named as the option
    target: Path | None = None,
    ranks: Path | None = None,
    quiet: bool = False,
    target_layers: Sequence[int] | None = None,
    name: str | None = None,
) -> list[str]:
    """Converts the checkpoint folder `source` to the GGUF file `output`; returns remarks for the user.

    Args:
        source: a folder with config.json, weights and (for a target model) a tokenizer.
        output: the file to write; an existing one is replaced once the new one is complete.
        type: element type of matrices: f32, f16, bf16, q8_0 or q4_0.
        target: for an EAGLE drafter, its target model: a GGUF file or a checkpoint folder.
        ranks: for an EAGLE drafter, token ranks to embed: a file of frspec-rank or FR-Spec's freq_*.pt.
        quiet: show no progress bar.
        target_layers: for an EAGLE-3 drafter, the target's layers whose inputs it taps, instead of its config's.
        name: what the model is called; None: as the folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or describes what cannot be converted; the message names it.
        OSError: the output cannot be written. Nothing is left behind then.
    """
    _require_packages()
    if type not in FILE_TYPES:
        raise ValueError(f"found type {type!r}, expected one of {', '.join(FILE_TYPES)}")
    if target is not None and output.exists() and output.samefile(target):
        raise ValueError(f"{output}: is the target, expected another file to write")
    checkpoint = Checkpoint(source)
    telling = eagle3.telling_tensor(checkpoint)
    if target_layers is not None and telling is None:
        raise ValueError(f"{source}: --target-layers is for EAGLE-3 drafters, but the checkpoint is none")
    if telling is not None or eagle.is_drafter(checkpoint):
        if target is None:
            raise ValueError(f"{source}: is an EAGLE drafter: give its target model with --target")
        of = read_target(target)
        if telling is not None:
            arch, entries, tensors, remarks = _eagle3(checkpoint, of, target_layers)
        else:
            arch, entries, tensors, remarks = _eagle2(checkpoint, of)
        if ranks is not None:
            _add_ranks(entries, tensors, of, ranks)
            if arch == eagle3.ARCHITECTURE:
                remarks.append(
                    "the file has ranks: llama.cpp refuses an EAGLE-3 drafter with more tensors than its own"
                )
    elif target is not None or ranks is not None:
        option = "--target" if target is not None else "--ranks"
        raise ValueError(f"{source}: {option} is for EAGLE drafters, but the checkpoint is none (no 'fc.weight')")
    else:
        arch, entries, tensors, remarks = _model(checkpoint)
    header = _general(name or checkpoint.folder.resolve().name, tensors, type)
    total = sum(tensor.weights.nbytes for tensor in tensors if tensor.weights is not None)
    with progress_bar(total, output.name, quiet) as bar:
        fell_back = write_gguf(output, arch, [*header, *entries], tensors, type, bar.update)
    if fell_back:
        shown = ", ".join(fell_back[:3]) + (" ..." if len(fell_back) > 3 else "")
        remarks.append(
            f"{len(fell_back)} tensors have rows that are no multiple of 32 and are stored as F16 instead of "
            f"{type.upper()}: {shown}"
        )
    return remarks


_Parts = tuple[str, list[Entry], list[OutputTensor], list[str]]  # architecture, metadata, tensors, remarks


def _model(checkpoint: Checkpoint) -> _Parts:
    config = checkpoint.text_config
    architecture = ARCHITECTURES.get(checkpoint.architecture)
    if architecture is None:
        raise checkpoint.config.wrong("architectures", f"one of {', '.join(ARCHITECTURES)}")
    sizes = read_sizes(config, architecture)
    vocabulary = read_tokenizer(checkpoint.folder, config)
    remarks = [*vocabulary.remarks, *_window_remarks(config, architecture)]
    tied = is_tied(checkpoint, architecture, remarks)
    tensors = [
        *sizes.rope.tensors(),
        *collect(checkpoint, list(model_tensors(sizes, checkpoint, architecture, tied)), arch=architecture),
    ]
    own = architecture.entries(config, architecture.gguf) if architecture.entries is not None else []
    entries = [*sizes.entries(architecture.gguf), *own, *vocabulary.entries()]
    return architecture.gguf, entries, tensors, remarks


def _window_remarks(config: Config, architecture: Architecture) -> list[str]:
    window = config.get("sliding_window")
    if architecture.entries is not None:  # which has a place for it
        return []
    uses = config.flag("use_sliding_window", not architecture.gguf.startswith("qwen"))
    if not isinstance(window, int) or not uses or window >= config.integer("max_position_embeddings", 2048):
        return []
    return [f"sliding_window {window} has no place in this GGUF architecture: all tokens are attended to"]


def _eagle2(checkpoint: Checkpoint, target: Target) -> _Parts:
    entries = [*eagle.drafter_entries(checkpoint, target), *target.tokenizer]
    tensors, remarks = eagle.drafter_tensors(checkpoint, target)
    return eagle.ARCHITECTURE, entries, tensors, remarks


def _eagle3(checkpoint: Checkpoint, target: Target, target_layers: Sequence[int] | None) -> _Parts:
    drafter = eagle3.Eagle3(checkpoint, target, target_layers)
    entries, tensors = [*drafter.entries(), *target.tokenizer], drafter.tensors()
    return eagle3.ARCHITECTURE, entries, tensors, drafter.remarks


def _add_ranks(entries: list[Entry], tensors: list[OutputTensor], target: Target, file: Path) -> None:
    fingerprint = vocabulary_fingerprint(target.tokens)
    ranks = read_ranks(file).checked(file, target.vocabulary, fingerprint, target.path)
    entries += ranks.entries()
    tensors.append(OutputTensor(RANKS, values=ranks.tokens.astype("<i4")))


def _general(name: str, tensors: list[OutputTensor], type_name: str) -> list[Entry]:
    gguf = require("gguf", PROGRAM)
    parameters = sum(math.prod(tensor.shape) for tensor in tensors if tensor.weights is not None)
    return [
        string("general.type", "model"),
        string("general.name", name),
        string("general.size_label", gguf.size_label(parameters, parameters, 0, 0)),
        u32("general.file_type", FILE_TYPES[type_name][1]),
        u32("general.quantization_version", gguf.GGML_QUANT_VERSION),
    ]


def _require_packages() -> None:
    for package in ("gguf", "tqdm"):
        require(package, PROGRAM)


def parser() -> argparse.ArgumentParser:
    """The command line of frspec-convert."""
    result = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Convert a Hugging Face checkpoint (target model or EAGLE drafter) to GGUF.",
    )
    result.add_argument("source", type=Path, metavar="HF_DIR", help="folder with config.json, weights and tokenizer")
    result.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.gguf", help="the file to write")
    result.add_argument("--type", choices=list(FILE_TYPES), default="f16", help="type of matrices (default: f16)")
    result.add_argument(
        "--target",
        type=Path,
        metavar="TARGET",
        help="for a drafter: its target model, a GGUF file or a folder",
    )
    result.add_argument(
        "--ranks",
        type=Path,
        metavar="FILE",
        help="for a drafter: embed these token ranks (frspec-rank, freq_*.pt)",
    )
    result.add_argument(
        "--target-layers",
        type=_layers,
        metavar="A,B,C",
        help="for an EAGLE-3 drafter: the target's layers whose inputs it taps (default: as its config says, else "
        "2, half and all but 3 of the layers)",
    )
    result.add_argument("-q", "--quiet", action="store_true", help="show neither progress nor remarks")
    return result


def _layers(text: str) -> list[int]:
    """A list of layers as it is written on the command line."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected numbers with commas, as 2,16,29") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)

    def command() -> None:
        remarks = convert(
            options.source,
            options.output,
            options.type,
            options.target,
            options.ranks,
            options.quiet,
            options.target_layers,
        )
        if not options.quiet:
            for remark in remarks:
                note(f"{PROGRAM}: note: {remark}")

    return run(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
