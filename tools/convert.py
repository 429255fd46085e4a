"""frspec-convert: Hugging Face checkpoints of target models and EAGLE drafters to GGUF."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from . import eagle, eagle3
from .architectures import ARCHITECTURES, Architecture
from .checkpoint import Checkpoint
from .config import Config
from .console import note, progress_bar, require, run
from .fingerprint import vocabulary_fingerprint
from .gguf_output import FILE_TYPES, MXFP4_EXPERTS, Entry, OutputTensor, string, u32, write_gguf
from .hf_tokenizer import read_tokenizer
from .mtp import Parts
from .ranks_file import RANKS, Ranks, read_ranks
from .sizes import read_sizes
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
    parts: Parts | None = None,
) -> list[str]:
    """Converts the checkpoint folder `source` to the GGUF file `output`; returns remarks for the user.

    Args:
        source: a folder with config.json, weights and (for a target model) a tokenizer.
        output: the file to write; an existing one is replaced once the new one is complete.
        type: element type of matrices: f32, f16, bf16, q8_0 or q4_0.
        target: for an EAGLE drafter, its target model: a GGUF file or a checkpoint folder.
        ranks: for a drafter, token ranks to embed: a file of frspec-rank or FR-Spec's freq_*.pt. With
            `parts.head_rows`: to choose the rows of its head by.
        quiet: show no progress bar.
        target_layers: for an EAGLE-3 drafter, the target's layers whose inputs it taps, instead of its config's.
        name: what the model is called; None: as the folder.
        parts: of a model that may have an MTP block, what is taken; None: all there is.

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
    is_eagle = telling is not None or eagle.is_drafter(checkpoint)
    if is_eagle and parts is not None:
        raise ValueError(f"{source}: is an EAGLE drafter, which has no MTP block")
    if is_eagle:
        if target is None:
            raise ValueError(f"{source}: is an EAGLE drafter: give its target model with --target")
        of = read_target(target)
        if telling is not None:
            arch, entries, tensors, remarks = _eagle3(checkpoint, of, target_layers)
        else:
            arch, entries, tensors, remarks = _eagle2(checkpoint, of)
        if ranks is not None:
            _add_ranks(entries, tensors, _ranks(ranks, of.tokens, of.path))
            if arch == eagle3.ARCHITECTURE:
                remarks.append(
                    "the file has ranks: llama.cpp refuses an EAGLE-3 drafter with more tensors than its own"
                )
    elif target is not None:
        raise ValueError(f"{source}: --target is for EAGLE drafters, but the checkpoint is none (no 'fc.weight')")
    else:
        arch, entries, tensors, remarks = _model(checkpoint, parts or Parts(), ranks)
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


def _model(checkpoint: Checkpoint, parts: Parts, ranks_file: Path | None) -> _Parts:
    config = checkpoint.text_config
    architecture = ARCHITECTURES.get(checkpoint.architecture)
    if architecture is None:
        raise checkpoint.config.wrong("architectures", f"one of {', '.join(ARCHITECTURES)}")
    if ranks_file is not None and parts.layers:
        raise ValueError(f"{checkpoint.folder}: --ranks is for drafters: EAGLE's, and MTP blocks alone (--mtp)")
    vocabulary = read_tokenizer(checkpoint.folder, config)
    remarks = [*vocabulary.remarks, *_window_remarks(config, architecture)]
    sizes = parts.sizes(read_sizes(config, architecture), checkpoint, architecture, remarks)
    tensors = [*sizes.rope.tensors(), *parts.tensors(sizes, checkpoint, architecture, remarks)]
    own = architecture.entries(config, architecture.gguf) if architecture.entries is not None else []
    entries = [*sizes.entries(architecture.gguf), *own, *vocabulary.entries()]
    if parts.head_rows is not None and ranks_file is None:
        raise ValueError(f"{checkpoint.folder}: --draft-vocab: found no --ranks to choose rows by")
    if ranks_file is not None:
        ranks = _ranks(ranks_file, vocabulary.tokens, checkpoint.folder)
        if parts.head_rows is None:
            _add_ranks(entries, tensors, ranks)
        else:
            parts.trim(tensors, vocabulary, ranks, ranks_file)
    if not parts.head or ranks_file is not None:
        remarks.append("llama.cpp refuses an MTP file with other tensors than its own: this one is for frspec_cpp")
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


def _ranks(file: Path, tokens: list[str], target: Path) -> Ranks:
    return read_ranks(file).checked(file, len(tokens), vocabulary_fingerprint(tokens), target)


def _add_ranks(entries: list[Entry], tensors: list[OutputTensor], ranks: Ranks) -> None:
    entries += ranks.entries()
    tensors.append(OutputTensor(RANKS, values=ranks.tokens.astype("<i4")))


def _general(name: str, tensors: list[OutputTensor], type_name: str) -> list[Entry]:
    gguf = require("gguf", PROGRAM)
    is_packed = any(tensor.encoded is not None and tensor.encoded.kind == "MXFP4" for tensor in tensors)
    return [
        string("general.type", "model"),
        string("general.name", name),
        string("general.size_label", _size_label(tensors)),
        u32("general.file_type", MXFP4_EXPERTS if is_packed else FILE_TYPES[type_name][1]),
        u32("general.quantization_version", gguf.GGML_QUANT_VERSION),
    ]


def _size_label(tensors: list[OutputTensor]) -> str:
    """As llama.cpp writes it: "7B", or "8x7B" with experts, of which one counts."""
    shared = of_one = experts = 0
    for tensor in tensors:
        size = math.prod(tensor.shape)
        if "_exps." in tensor.name and len(tensor.shape) > 2:
            experts = tensor.shape[0]
            of_one += size // experts
        elif tensor.values is None:
            shared += size
    return str(require("gguf", PROGRAM).size_label(shared + of_one * experts, shared, of_one, experts))


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
        help="for a drafter (EAGLE's, or --mtp): embed these token ranks (frspec-rank, freq_*.pt)",
    )
    result.add_argument(
        "--target-layers",
        type=_layers,
        metavar="A,B,C",
        help="for an EAGLE-3 drafter: the target's layers whose inputs it taps (default: as its config says, else "
        "2, half and all but 3 of the layers)",
    )
    mtp = result.add_mutually_exclusive_group()
    mtp.add_argument("--mtp", action="store_true", help="the MTP block alone, a drafter beside the model's file")
    mtp.add_argument("--no-mtp", action="store_true", help="the model without its MTP block")
    result.add_argument(
        "--headless",
        action="store_true",
        help="with --mtp: without embedding and head, which are the target's",
    )
    result.add_argument(
        "--draft-vocab",
        type=int,
        metavar="N",
        help="with --mtp and --ranks: a head of N rows, for control tokens and the most frequent ones",
    )
    result.add_argument("-q", "--quiet", action="store_true", help="show neither progress nor remarks")
    return result


def _asked_parts(options: argparse.Namespace) -> Parts | None:
    parts = Parts(not options.mtp, not options.no_mtp, not options.headless, options.draft_vocab)
    return None if parts == Parts() else parts


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
            parts=_asked_parts(options),
        )
        if not options.quiet:
            for remark in remarks:
                note(f"{PROGRAM}: note: {remark}")

    return run(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
