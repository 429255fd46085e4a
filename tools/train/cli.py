"""The command line of frspec-train."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..console import count, require, run, whole
from ..evaluate.prompts import TEMPLATES
from ..gguf_output import FILE_TYPES
from .settings import KINDS, Settings

PROGRAM = "frspec-train"
EXTRA = "frspec_cpp[train]"


def _positive(text: str) -> float:
    """A finite number above 0, for argparse."""
    value = _amount(text)
    if value == 0.0:
        raise ValueError
    return value


def _amount(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise ValueError
    return value


def _share(text: str) -> float:
    """A number above 0 and at most 1, for argparse."""
    value = _positive(text)
    if value > 1.0:
        raise ValueError
    return value


def parser() -> argparse.ArgumentParser:
    """The command line of frspec-train."""
    result = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train an EAGLE-2 or EAGLE-3 drafter for a target in a GGUF file, as the engine runs it; or one of "
        "these, or SpecVocab factors, for a Hugging Face folder.",
    )
    result.add_argument("kind", choices=KINDS, help="what to train")
    result.add_argument("target", type=Path, metavar="TARGET", help="the target's GGUF file, or a Hugging Face folder")
    result.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a new GGUF file; for a folder, a new folder"
    )
    result.add_argument("--resume", action="store_true", help="go on with the run of OUT, with the same options")
    result.add_argument("-q", "--quiet", action="store_true", help="show neither progress nor remarks")
    _add_prompts(result.add_argument_group("prompts (of a GGUF file)"))
    _add_data(result.add_argument_group("text"))
    _add_generation(result.add_argument_group("texts to continue (of a folder)"))
    _add_network(result.add_argument_group("what is trained"))
    _add_training(result.add_argument_group("training"))
    return result


def _add_prompts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prompts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="what the target is asked: .jsonl (messages, turns, prompt or text), .txt or .parquet",
    )
    group.add_argument(
        "--template", choices=TEMPLATES, help="whether prompts get the chat template; auto: where there is one"
    )
    group.add_argument("--data", type=Path, metavar="DIR", help="of the target's states (OUT.train/data)")
    group.add_argument("--disk", type=_positive, metavar="GB", help="most that the states may take (20)")
    group.add_argument("--draft-with", type=Path, metavar="GGUF", help="a drafter for the target's answers; for speed")
    group.add_argument(
        "--prompt-weight", type=_amount, metavar="X", help="of prompts in the loss, where answers have 1 (0)"
    )
    group.add_argument("--eval-prompts", type=count, metavar="N", help="held-out prompts of a validation (16)")
    group.add_argument("--eval-new-tokens", type=count, metavar="N", help="tokens of each (64)")


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--text", type=Path, nargs="+", metavar="FILE", help=".txt, .jsonl (also .gz, .zst) or .parquet")
    group.add_argument("--text-tokens", type=count, metavar="N", help="take about so many of --text (all)")
    group.add_argument("--field", metavar="NAME", help="of JSON and Parquet records; default: the common ones")
    group.add_argument(
        "--generate-tokens",
        type=count,
        metavar="N",
        help="of the target's own in all (folder: 1,000,000; GGUF: 300,000)",
    )
    group.add_argument("--max-new-tokens", type=count, metavar="N", help="longest answer or continuation (256)")
    group.add_argument(
        "--temperature",
        type=_amount,
        nargs="+",
        metavar="T",
        help="of these; several take turns (folder: 0; GGUF: 0 0.8)",
    )
    group.add_argument("--length", type=count, metavar="N", help="tokens of a training row (512; GGUF: 1024 at most)")


def _add_generation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--generate", type=Path, nargs="+", metavar="FILE", help="let the target continue the beginnings of these texts"
    )
    group.add_argument("--prompt-tokens", type=count, metavar="N", help="of each text that are the prompt (64)")
    group.add_argument("--generate-batch", type=count, metavar="N", help="texts continued together (32)")


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--drafter", type=Path, metavar="DIR", help="weights to start from; specvocab: the drafter to make a sketch for"
    )
    group.add_argument("--unroll", type=count, metavar="N", help="draft steps that are trained (3)")
    group.add_argument("--decay", type=_amount, metavar="X", help="weight of a step relative to the one before (0.8)")
    group.add_argument(
        "--thin", type=_share, metavar="X", help="GGUF: share of a step's positions that the next one has, too (0.5)"
    )
    group.add_argument("--samples", type=whole, metavar="N", help="rows of the vocabulary per batch; 0: all")
    group.add_argument("--feature-loss", type=_amount, metavar="X", help="eagle2: weight of the feature regression (0)")
    group.add_argument("--taps", type=whole, nargs=3, metavar="LAYER", help="eagle3: layers whose inputs are read")
    group.add_argument("--own-head", action="store_true", help="eagle3: train a head, begun as the target's")
    group.add_argument("--draft-vocab", type=count, metavar="N", help="eagle3: train a head of the N likeliest tokens")
    group.add_argument("--ranks", type=Path, metavar="FILE", help="eagle3: of frspec-rank; default: count the text")
    group.add_argument("--fc-norm", action="store_true", help="eagle3: norm each tap before fc (EAGLE-3.1)")
    group.add_argument("--norm-before-fc", action="store_true", help="eagle3: instead, norm the joined taps")
    group.add_argument("--norm-output", action="store_true", help="eagle3: feed back normed states (EAGLE-3.1)")
    group.add_argument("--ffn", type=count, metavar="N", help="width of a new drafter's feed-forward (the target's)")
    group.add_argument(
        "--start-layer", type=whole, metavar="LAYER", help="of the target, that a new drafter begins as (the last)"
    )
    group.add_argument("--type", choices=list(FILE_TYPES), help="of a GGUF drafter's matrices (q8_0)")
    group.add_argument("--rank", type=count, metavar="N", help="specvocab: of the factors (hidden size / 8)")


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=count, metavar="N", help="default: one epoch; GGUF: 8")
    group.add_argument("--epochs", type=_positive, metavar="X", help="instead of --steps")
    group.add_argument("--tokens-per-batch", type=count, metavar="N", help="tokens of a step (4096; GGUF: 1024)")
    group.add_argument("--lr", type=_positive, metavar="X", help="peak learning rate; default: by the target's width")
    group.add_argument("--warmup", type=whole, metavar="N", help="steps up to the peak (5 %% of all, at most 100)")
    group.add_argument("--betas", type=_amount, nargs=2, metavar="B", help="of AdamW (0.9 0.95)")
    group.add_argument("--weight-decay", type=_amount, metavar="X", help="of AdamW (0)")
    group.add_argument("--clip", type=_positive, metavar="X", help="largest norm of the gradient (0.5)")
    group.add_argument("--save-every", type=count, metavar="N", help="steps between validations and checkpoints (500)")
    group.add_argument("--eval-tokens", type=count, metavar="N", help="held-out tokens of a validation (8192)")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: auto")
    group.add_argument("--dtype", choices=("bf16", "f32"), help="of matrix products; default: what is fast here")
    group.add_argument("--seed", type=whole, metavar="N", help="default: 0")
    group.add_argument(
        "--threads", type=whole, metavar="N", help="default: as many as are fastest here, measured now and then"
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """The options as Settings; what was not given keeps the default there."""
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if value is not None
    }
    return Settings(**given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    settings = settings_of(parser().parse_args(arguments))

    def command() -> None:
        # Threads that wait by turning round take the processor from those that work, as soon as there is other work.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        own = ("gguf",) if settings.from_gguf else ("transformers",)
        for package in ("torch", "safetensors", "matplotlib", "tqdm", *own):
            require(package, PROGRAM, EXTRA)
        # These import torch: not before it is known to be there.
        if settings.from_gguf:
            from .gguf_job import train
        else:
            from .job import train
        train(settings)

    return run(PROGRAM, command)
